import zipfile

import numpy as np
import pytest

from mobilebert_hf.tasks.glue_tasks import TASKS, find_task
from mobilebert_hf.tasks.submission import write_predictions, write_submission


@pytest.mark.parametrize(
    ("key", "name", "predictions", "lines"),
    [
        ("cola", "CoLA", [1, 0], ["0\t1", "1\t0"]),
        ("mnli", "MNLI-mm", [2, 1], ["0\tcontradiction", "1\tneutral"]),
        ("qnli", "QNLI", np.array([0, 1]), ["0\tentailment", "1\tnot_entailment"]),
        ("wnli", "WNLI", [1], ["0\t1"]),
        ("stsb", "STS-B", np.float32([-0.2, 2.71828, 5.3]), ["0\t0.000", "1\t2.718", "2\t5.000"]),
    ],
)
def test_files_have_the_servers_format(tmp_path, key, name, predictions, lines):
    path = write_predictions(TASKS[key], name, predictions, tmp_path)
    assert path.name == f"{name}.tsv"
    assert path.read_text().splitlines() == ["index\tprediction", *lines]


def write_all(folder):
    for task in TASKS.values():
        for name, rows in task.test_rows.items():
            write_predictions(task, name, np.zeros(rows), folder)


def test_the_archive_has_eleven_files_without_folders(tmp_path):
    write_all(tmp_path / "predictions")
    said = write_submission(tmp_path / "predictions", tmp_path / "submission.zip")
    assert "is ready" in said
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        names = ["AX", "CoLA", "MNLI-m", "MNLI-mm", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI"]
        assert sorted(archive.namelist()) == [f"{name}.tsv" for name in names]
        assert archive.testzip() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions", "submission.zip"]


def test_an_incomplete_set_is_not_packed(tmp_path):
    write_all(tmp_path)
    (tmp_path / "AX.tsv").unlink()
    write_predictions(TASKS["rte"], "RTE", [0, 1], tmp_path)
    said = write_submission(tmp_path, tmp_path / "submission.zip")
    assert "RTE.tsv has 2 rows, expected 3,000; AX.tsv is missing" in said
    assert not (tmp_path / "submission.zip").exists()


def test_tasks_are_found_by_key_and_name():
    assert find_task("STS-B") is find_task("stsb") is TASKS["stsb"]
    with pytest.raises(ValueError, match="'sts' is not a task of GLUE: expected one of cola, sst2"):
        find_task("sts")
