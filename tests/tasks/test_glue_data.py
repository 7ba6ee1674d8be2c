"""GLUE from local files and the Hub, and invalid files."""

import gzip
import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from mobilebert_hf.tasks.glue_data import load_glue, tokenize_glue
from mobilebert_hf.tasks.glue_tasks import TASKS

# The first lines of the original files.
OFFICIAL = {
    "CoLA/train.tsv": "gj04\t1\t\tThe cat sat.\ngj04\t0\t*\tCat the sat.\n",
    "CoLA/dev.tsv": 'gj04\t1\t\tShe said "no.\n',
    "CoLA/test.tsv": "index\tsentence\n0\tIt rains.\n",
    "SST-2/train.tsv": "sentence\tlabel\nhide new secretions \t0\nit 's charming \t1\n",
    "SST-2/dev.tsv": "sentence\tlabel\nunflinchingly bleak \t0\n",
    "MRPC/train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA fox .\tOne fox .\n",
    "MRPC/dev.tsv": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tA fox .\tA dog .\n",
    "STS-B/train.tsv": "index\tgenre\tsentence1\tsentence2\tscore\n0\tmain\tA plane.\tAn air plane.\t5.000\n",
    "STS-B/dev.tsv": "index\tgenre\tsentence1\tsentence2\tscore\n0\tmain\tA man.\tA dog.\t0.250\n",
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tWhy so?\t1\n",
    "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\t\t0\n",
    "MNLI/train.tsv": "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tA.\tB.\tneutral\tentailment\n",
    "MNLI/dev_matched.tsv": "index\tsentence1\tsentence2\tgold_label\n0\tA.\tB.\tcontradiction\n",
    "MNLI/dev_mismatched.tsv": "index\tsentence1\tsentence2\tgold_label\n0\tA.\tB.\tneutral\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tHe did.\tentailment\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tIt rained.\tnot_entailment\n",
    "AX/diagnostic.tsv": "index\tsentence1\tsentence2\n0\tA.\tB.\n",
}
EXPECTED = {
    "cola": {"sentence1": "The cat sat.", "label": 1},
    "sst2": {"sentence1": "hide new secretions ", "label": 0},
    "mrpc": {"sentence1": "A fox .", "sentence2": "One fox .", "label": 1},
    "stsb": {"sentence1": "A plane.", "sentence2": "An air plane.", "label": 5.0},
    "qqp": {"sentence1": "Why?", "sentence2": "Why so?", "label": 1},
    "mnli": {"sentence1": "A.", "sentence2": "B.", "label": 0},
    "qnli": {"sentence1": "Who?", "sentence2": "He did.", "label": 0},
}


@pytest.fixture
def folder(tmp_path):
    for name, text in OFFICIAL.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("key", EXPECTED)
def test_the_original_files_are_read(folder, key):
    splits = load_glue(TASKS[key], str(folder))
    assert splits["train"][0] == EXPECTED[key]
    assert set(TASKS[key].validation_splits) <= set(splits)
    if not TASKS[key].regression:
        assert splits["train"].features["label"] == ClassLabel(names=list(TASKS[key].labels))


def test_quotes_have_no_special_meaning(folder):
    assert load_glue(TASKS["cola"], str(folder))["validation"][0]["sentence1"] == 'She said "no.'


def test_test_splits_need_no_labels(folder):
    assert load_glue(TASKS["cola"], str(folder))["test"][0] == {"sentence1": "It rains.", "label": -1}
    assert load_glue(TASKS["ax"], str(folder)).keys() == {"test"}


def test_other_names_and_compression(tmp_path):
    (tmp_path / "RTE").mkdir()
    text = "sentence1\tsentence2\tlabel\tidx\nA\tB\tnot_entailment\t0\n"
    (tmp_path / "RTE" / "train_sample.tsv.gz").write_bytes(gzip.compress(text.encode()))
    assert load_glue(TASKS["rte"], str(tmp_path))["train"][0]["label"] == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.tsv", "", r"train\.tsv, line 1: no column 'sentence1' among none"),
        ("train.tsv", "sentence1\tsentence2\tlabel\n", r"train\.tsv is empty"),
        ("train.tsv", "sentence1\tlabel\nA\t0\n", r"line 1: no column 'sentence2' among sentence1, label"),
        (
            "train.tsv",
            "sentence1\tsentence2\nA\tB\n",
            r"line 1: no column 'label'.* expected one of label, gold_label",
        ),
        ("train.tsv", "sentence1\tsentence2\tlabel\nA\tB\t1\nA\tB\n", r"line 3: 2 columns, expected 3"),
        (
            "train.tsv",
            "sentence1\tsentence2\tlabel\nA\tB\tmaybe\n",
            r"line 2: label 'maybe' is not a label of RTE: expected enta",
        ),
        ("train.tsv", "sentence1\tsentence2\tlabel\nA\tB\t2\n", r"line 2: label '2' is not a label of RTE"),
        ("train.tsv", "sentence1\tsentence2\tlabel\nA\tB\t-1\n", r"line 2: label '-1'"),
        ("dev.tsv", "sentence1\tsentence2\tlabel\nA\tB\t\n", r"dev\.tsv, line 2: label ''"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, name, text, message):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_glue(TASKS["rte"], str(tmp_path))


@pytest.mark.parametrize("score", ["5.1", "-0.1", "nan", "much"])
def test_scores_are_from_0_to_5(tmp_path, score):
    (tmp_path / "STS-B").mkdir()
    (tmp_path / "STS-B" / "train.tsv").write_text(f"sentence1\tsentence2\tscore\nA\tB\t{score}\n")
    with pytest.raises(ValueError, match=rf"line 2: label '{score}' is not a number from 0 to 5"):
        load_glue(TASKS["stsb"], str(tmp_path))


def test_bytes_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "CoLA" / "train.tsv").write_bytes(b"sentence\tlabel\nna\xefve\t1\n")
    with pytest.raises(ValueError, match=r"train\.tsv, line 2: not UTF-8"):
        load_glue(TASKS["cola"], str(tmp_path))


def test_missing_and_ambiguous_files_are_refused(folder):
    with pytest.raises(FileNotFoundError, match="no folder RTE"):
        load_glue(TASKS["rte"], str(folder))
    (folder / "WNLI").mkdir()
    with pytest.raises(FileNotFoundError, match=r"WNLI has no train\*\.tsv"):
        load_glue(TASKS["wnli"], str(folder))
    (folder / "CoLA" / "train_old.tsv").write_text("sentence\tlabel\nA\t1\n")
    with pytest.raises(ValueError, match=r"train\.tsv and train_old\.tsv both match split 'train'"):
        load_glue(TASKS["cola"], str(folder))


def hub_copy(folder, task, rows, features):
    """A local copy of the Hub dataset, with a configuration per task."""
    for split in ("train", "validation", "test"):
        path = folder / task.key / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True, parents=True)
        split_rows = [{**row, "label": -1} for row in rows] if split == "test" else rows
        Dataset.from_list(split_rows, features=features).to_parquet(path)
    files = "".join(
        f"  - split: {split}\n    path: {task.key}/{split}-*\n" for split in ("train", "validation", "test")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {task.key}\n  data_files:\n{files}---\n")


def test_the_hub_dataset_is_read(tmp_path):
    task = TASKS["qqp"]
    features = Features(
        {
            "question1": Value("string"),
            "question2": Value("string"),
            "label": ClassLabel(names=list(task.labels)),
            "idx": Value("int32"),
        }
    )
    rows = [{"question1": "Why?", "question2": "Why so?", "label": index % 2, "idx": index} for index in range(4)]
    hub_copy(tmp_path, task, rows, features)
    splits = load_glue(task, str(tmp_path))
    assert splits["train"][1] == {"sentence1": "Why?", "sentence2": "Why so?", "label": 1}
    assert splits["test"]["label"] == [-1] * 4


def test_labels_in_another_order_are_refused(tmp_path):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["positive", "negative"])})
    hub_copy(tmp_path, TASKS["sst2"], [{"sentence": "good", "label": 0}], features)
    with pytest.raises(ValueError, match="labels are positive, negative; expected negative, positive in this"):
        load_glue(TASKS["sst2"], str(tmp_path))


def test_an_invalid_label_of_a_hub_dataset_is_named(tmp_path):
    features = Features({"sentence": Value("string"), "label": Value("int64")})
    hub_copy(tmp_path, TASKS["sst2"], [{"sentence": "good", "label": label} for label in (0, 7)], features)
    with pytest.raises(ValueError, match="sst2, split train, row 1: label 7 is not from 0 to 1"):
        load_glue(TASKS["sst2"], str(tmp_path))


def test_a_missing_validation_split_is_held_out(tmp_path):
    (tmp_path / "WNLI").mkdir()
    rows = "".join(f"A {index}\tB\t{int(index % 4 == 0)}\n" for index in range(40))
    (tmp_path / "WNLI" / "train.tsv").write_text("sentence1\tsentence2\tlabel\n" + rows)
    assert "validation" not in load_glue(TASKS["wnli"], str(tmp_path))
    splits, again = (load_glue(TASKS["wnli"], str(tmp_path), holdout=0.2) for _ in range(2))
    assert (len(splits["train"]), len(splits["validation"])) == (32, 8)
    assert sum(splits["validation"]["label"]) == 2
    assert splits["validation"]["sentence1"] == again["validation"]["sentence1"]
    assert not set(splits["validation"]["sentence1"]) & set(splits["train"]["sentence1"])


def test_examples_are_tokenized_as_pairs(folder, tiny_tokenizer):
    splits = tokenize_glue(load_glue(TASKS["mrpc"], str(folder)), tiny_tokenizer, max_length=8)
    row = splits["train"][0]
    assert row["input_ids"] == tiny_tokenizer("A fox .", "One fox .", truncation=True, max_length=8)["input_ids"]
    assert len(row["input_ids"]) <= 8
    assert row["label"] == 1


HEADER = "question1\tquestion2\tis_duplicate\n"


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (HEADER + "x\ty\t0\nA\rB\tC\t1\n", ["x", "A\rB"]),
        (HEADER + "x\ty\t0\n\n", ["x"]),
        (HEADER + "x\ty\t0\n\np\tq\t1\n", ["x", "p"]),
        ((HEADER + "x\ty\t0\n\n").replace("\n", "\r\n"), ["x"]),
        ((HEADER + "x\ty\t0\np\tq\t1\n").replace("\n", "\r"), ["x", "p"]),
        (HEADER + "x" * 140_000 + "\ty\t0\n", ["x" * 140_000]),
        (HEADER + "a\0b\ty\t0\n", ["a\0b"]),
        (HEADER + "a\u2028b\x85c\ty\t0\n", ["a\u2028b\x85c"]),
    ],
)
def test_lines_end_where_they_should(tmp_path, text, sentences):
    (tmp_path / "QQP").mkdir()
    (tmp_path / "QQP" / "train.tsv").write_bytes(text.encode())
    assert load_glue(TASKS["qqp"], str(tmp_path))["train"]["sentence1"][:] == sentences


def test_all_faults_of_a_file_are_named_or_left_out(tmp_path, caplog):
    (tmp_path / "QQP").mkdir()
    lines = [*(f"bad {number}" for number in range(25)), "x\ty\t0", "x\ty\tmaybe"]
    (tmp_path / "QQP" / "train.tsv").write_text(HEADER + "\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"(?s)line 2: 1 columns.*line 21: .*and 6 more\n26 of 27 rows") as raised:
        load_glue(TASKS["qqp"], str(tmp_path))
    assert "line 22" not in str(raised.value)
    splits = load_glue(TASKS["qqp"], str(tmp_path), skipped=tmp_path / "bad")
    assert splits["train"]["sentence1"][:] == ["x"]
    left_out = [json.loads(line) for line in (tmp_path / "bad" / "qqp-train.jsonl").read_text().splitlines()]
    assert len(left_out) == 26
    assert left_out[-1]["row"] == ["x", "y", "maybe"]
    assert "26 of 27 rows are left out" in caplog.text


def test_a_file_of_faults_alone_is_an_error_also_when_they_are_skipped(tmp_path):
    (tmp_path / "QQP").mkdir()
    (tmp_path / "QQP" / "train.tsv").write_text(HEADER + "x\n")
    with pytest.raises(ValueError, match="No row is without a fault"):
        load_glue(TASKS["qqp"], str(tmp_path), skipped=tmp_path / "bad")


def test_the_list_of_pairs_in_mrpc_is_no_split(folder):
    (folder / "MRPC" / "dev_ids.tsv").write_text("0\t1\n")
    assert len(load_glue(TASKS["mrpc"], str(folder))["validation"]) == 1


def test_missing_values_of_a_hub_dataset_are_named(tmp_path):
    features = Features({"sentence": Value("string"), "label": Value("float64")})
    rows = [{"sentence": None, "label": 0}, {"sentence": "a", "label": float("nan")}, {"sentence": "b", "label": None}]
    hub_copy(tmp_path, TASKS["sst2"], [*rows, {"sentence": "good", "label": 1}], features)
    with pytest.raises(ValueError, match=r"(?s)row 0: sentence1 is None.*row 1: label nan is.*row 2: label None is"):
        load_glue(TASKS["sst2"], str(tmp_path))
