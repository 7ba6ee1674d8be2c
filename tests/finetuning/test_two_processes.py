"""Fine-tuning on two processes, as `accelerate launch` starts them."""

import json
import sys

import pytest

from ..workshop import RECIPES, Workshop, free_port
from .helpers import WINDOWS, write_squad

COMMON = {
    "learning_rate": 3e-3,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "use_cpu": True,
    "save_strategy": "no",
}


def launch(workshop, processes, **options):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    command += ["--multi_gpu", "--main_process_port", str(free_port())] if processes > 1 else ["--cpu"]
    command += [str(RECIPES / "finetune.py")]
    for name, value in {**COMMON, **options}.items():
        command += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    finished = workshop.run(*command)
    assert finished.returncode == 0, finished.stderr[-3000:]


@pytest.mark.slow
def test_glue(pretrained, glue_folder, tmp_path, tiny_corpus):
    workshop = Workshop(tmp_path, tiny_corpus)
    options = {"model": pretrained, "data": glue_folder, "task": ["mnli", "rte", "ax"], "max_seq_length": 32}
    launch(
        workshop,
        2,
        **options,
        output_dir=tmp_path / "two",
        seeds=[1, 2],
        mnli_init=True,
        predict=True,
        adapter="lora",
    )
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert list(results["tasks"]) == ["mnli", "rte"]
    written = sorted(path.stem for path in (tmp_path / "two" / "predictions").iterdir())
    assert written == ["AX", "MNLI-m", "MNLI-mm", "RTE"]
    assert len((tmp_path / "two" / "predictions" / "RTE.tsv").read_text().splitlines()) == 25


@pytest.mark.slow
def test_pairs_apart(pretrained, glue_folder, tmp_path, tiny_corpus):
    workshop = Workshop(tmp_path, tiny_corpus)
    options = {"model": pretrained, "data": glue_folder, "task": ["rte"], "max_seq_length": 32}
    launch(workshop, 2, **options, output_dir=tmp_path / "two", bi_encoder=True, predict=True)
    [rte] = json.loads((tmp_path / "two" / "results.json").read_text())["tasks"].values()
    assert rte["median"] > 0.8
    assert len((tmp_path / "two" / "predictions" / "RTE.tsv").read_text().splitlines()) == 25


@pytest.mark.slow
def test_squad(pretrained, tmp_path, tiny_corpus):
    workshop = Workshop(tmp_path, tiny_corpus)
    train = write_squad(tmp_path / "train.json", 100, seed=0)
    dev = write_squad(tmp_path / "dev.json", 31, seed=1, impossible=0.3)
    options = {"model": pretrained, "task": "squad", "train": train, "validation": dev, **WINDOWS}
    launch(workshop, 2, **options, output_dir=tmp_path / "two")
    results = json.loads((tmp_path / "two" / "eval_results.json").read_text())
    assert results["eval_total"] == 31
    assert len(json.loads((tmp_path / "two" / "predictions.json").read_text())) == 31
