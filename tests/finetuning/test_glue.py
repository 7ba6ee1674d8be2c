"""`recipes/finetune.py` on GLUE, small files: runs that go on, a table, and what the server takes."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from mobilebert_hf import MobileBertConfig, MobileBertForPreTraining
from mobilebert_hf.deployment import export
from mobilebert_hf.deployment.scoring import score_export
from mobilebert_hf.finetuning import glue
from mobilebert_hf.finetuning.glue import RECIPE_ARGUMENTS, finetune_glue
from mobilebert_hf.recipe import parse_recipe
from mobilebert_hf.runs.facts import ModelRecord

from ..workshop import RECIPES, fork_with
from .helpers import SIZES, TRAINING, glue_arguments


@pytest.fixture(scope="module")
def finished(pretrained, glue_folder, tmp_path_factory):
    """A folder with runs of four tasks, two seeds each, and answers for the server."""
    output = tmp_path_factory.mktemp("glue") / "runs"
    tasks = ["ax", "rte", "stsb", "mnli", "cola", "RTE"]
    finetune_glue(*glue_arguments(pretrained, glue_folder, output, {"seeds": [1, 2]}, task=tasks, predict=True))
    return output


def test_every_task_and_seed_has_its_results(finished):
    results = json.loads((finished / "results.json").read_text())
    assert list(results["tasks"]) == ["cola", "stsb", "mnli", "rte"]
    assert results["average_of"].startswith("mean of 4 of 9 tasks, not the GLUE score; without SST-2, MRPC")
    for task in results["tasks"].values():
        assert list(task["seeds"]) == ["1", "2"]
        assert task["median"] == pytest.approx(sum(task["seeds"].values()) / 2)
        assert task["setting"] == {"batch_size": 16, "learning_rate": 5e-3, "epochs": 6}
    assert set(results["tasks"]["mnli"]["metrics"]) == {"acc matched", "acc mismatched"}
    assert results["tasks"]["stsb"]["majority"] is None, "a constant has no correlation"


def test_what_can_be_learned_is_learned(finished):
    results = json.loads((finished / "results.json").read_text())["tasks"]
    assert results["cola"]["median"] > 0.5 > results["cola"]["majority"]
    assert results["stsb"]["median"] > 0.3


def test_the_table_is_readable(finished):
    table = (finished / "results.md").read_text()
    assert table.startswith("| task | majority | each seed | median | metrics | batch, learning rate, epochs | runs |")
    assert "| STS-B | undefined |" in table
    assert not (finished / "sweep.png").exists(), "there was one setting"


def test_the_best_model_is_kept_and_loads(finished):
    folders = [path.parent for path in (finished / "MNLI").glob("*/model.safetensors")]
    assert len(folders) == 1
    classify = pipeline("text-classification", model=str(folders[0]))
    [answer] = classify([{"text": "mountain", "text_pair": "mountain"}])
    assert answer["label"] in ("entailment", "neutral", "contradiction")
    assert not list(finished.glob("*/*/checkpoint-*"))
    record = ModelRecord.read(folders[0])
    assert {(score.dataset, score.config) for score in record.facts.scores} == {("nyu-mll/glue", "mnli")}
    assert record.facts.source.role == "base"
    assert record.arguments["learning_rate"] == 5e-3


def test_the_answers_are_in_the_servers_form(finished):
    written = {path.stem: path.read_text().splitlines() for path in (finished / "predictions").iterdir()}
    assert set(written) == {"CoLA", "MNLI-m", "MNLI-mm", "RTE", "AX"}, "STS-B has no test split here"
    assert all(len(lines) == 25 and lines[0] == "index\tprediction" for lines in written.values())
    assert {line.split("\t")[1] for line in written["AX"][1:]} <= {"entailment", "neutral", "contradiction"}
    assert not (finished / "submission.zip").exists()


def test_the_answers_are_in_the_order_of_the_questions(finished, glue_folder):
    [best] = [path.parent for path in (finished / "CoLA").glob("*/model.safetensors")]
    classify = pipeline("text-classification", model=str(best))
    sentences = [
        line.split("\t")[1] for line in (Path(glue_folder) / "CoLA" / "test.tsv").read_text().splitlines()[1:]
    ]
    expected = [str(int(answer["label"] == "acceptable")) for answer in classify(sentences)]
    assert len(set(expected)) == 2
    lines = (finished / "predictions" / "CoLA.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == expected


def test_only_what_is_missing_is_run(finished, pretrained, glue_folder, tmp_path, monkeypatch):
    output = tmp_path / "runs"
    shutil.copytree(finished, output)
    again = glue_arguments(pretrained, glue_folder, output, {"seeds": [1, 2]}, task=["cola"])
    before = {path: path.stat().st_mtime_ns for path in output.glob("CoLA/*/results.json")}
    finetune_glue(*again)
    assert {path: path.stat().st_mtime_ns for path in output.glob("CoLA/*/results.json")} == before
    grid = {"seeds": [1, 2], "learning_rates": [5e-3, 1e-4]}
    runs = finetune_glue(*glue_arguments(pretrained, glue_folder, output, grid, task=["cola"]))
    assert len(runs["cola"]) == 4
    after = {path: path.stat().st_mtime_ns for path in output.glob("CoLA/*/results.json")}
    assert len(after) == 4
    assert before.items() <= after.items()
    assert (output / "sweep.png").stat().st_size > 10_000
    # The table has the other tasks' earlier runs, too.
    assert len(json.loads((output / "results.json").read_text())["tasks"]) == 4


def test_rte_starts_from_mnli(finished, pretrained, glue_folder, tmp_path):
    output = tmp_path / "runs"
    shutil.copytree(finished / "MNLI", output / "MNLI")
    call = glue_arguments(pretrained, glue_folder, output, task=["rte"], mnli_init=True)
    [run] = finetune_glue(*call)["rte"]
    assert Path(run.details["model"]).parent == output / "MNLI"
    with pytest.raises(ValueError, match="MNLI has no finished run: add mnli to the tasks"):
        finetune_glue(*glue_arguments(pretrained, glue_folder, tmp_path / "other", task=["rte"], mnli_init=True))


def test_early_stopping_takes_the_best_epoch(pretrained, glue_folder, tmp_path):
    training = {"num_train_epochs": 20, "seed": 1}
    call = glue_arguments(pretrained, glue_folder, tmp_path, task=["cola"], early_stopping=3, training=training)
    [run] = finetune_glue(*call)["cola"]
    [folder] = (tmp_path / "CoLA").iterdir()
    assert run.score > 0.5
    assert run.details["trained_epochs"] < 20
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.id2label[1] == "acceptable"


def test_an_adapter_leaves_a_plain_model(pretrained, glue_folder, tmp_path):
    call = glue_arguments(
        pretrained, glue_folder, tmp_path, task=["cola"], encoder={"adapter": "lora", "adapter_options": {"r": 4}}
    )
    [run] = finetune_glue(*call)["cola"]
    assert run.details["trained_parameters"] < run.details["parameters"] / 3
    [folder] = (tmp_path / "CoLA").iterdir()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert (folder / "adapter" / "adapter_config.json").is_file()


@pytest.mark.usefixtures("instant_exports")
def test_a_quantization_aware_run_goes_to_the_device_with_its_ranges(glue_folder, tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    fields = {**SIZES, "normalization_type": "no_norm"}
    student = MobileBertForPreTraining(MobileBertConfig(vocab_size=len(tiny_tokenizer), **fields))
    student.save_pretrained(tmp_path / "student")
    tiny_tokenizer.save_pretrained(tmp_path / "student")
    settings = glue_arguments(
        str(tmp_path / "student"),
        glue_folder,
        tmp_path / "runs",
        encoder={"quantization_aware": True},
        training={"num_train_epochs": 1},
        task=["cola"],
        predict=True,
    )
    [run] = finetune_glue(*settings)["cola"]
    assert (tmp_path / "runs" / "predictions" / "CoLA.tsv").is_file()
    folder = tmp_path / "runs" / "CoLA" / run.cell.name
    assert json.loads((folder / "config.json").read_text())["quantization_aware"] is True
    export(folder, tmp_path / "out", quantize="int8-static")
    scores = score_export(tmp_path / "out", "cola", glue_folder)
    assert scores["pytorch"] == {"matthews_correlation": pytest.approx(100 * run.score)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": ["ax"], "predict": True}, "MNLI has no finished run"),
        ({"task": ["colla"]}, "'colla' is not a task of GLUE"),
        (
            {"task": ["cola"], "grid": {"batch_sizes": [7]}, "training": {"gradient_accumulation_steps": 2}},
            "7 examples",
        ),
        ({"task": ["cola"], "grid": {"seeds": []}}, r"seeds=\[\]"),
        ({"task": ["cola"], "training": {"push_to_hub": True}}, "push_to_hub: here each task has a model"),
    ],
)
def test_what_makes_no_sense_is_refused_before_training(pretrained, glue_folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        finetune_glue(*glue_arguments(pretrained, glue_folder, tmp_path, **changes))
    assert not list(tmp_path.glob("*/*/model.safetensors"))


def test_a_task_without_dev_set_says_what_to_do(pretrained, glue_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(Path(glue_folder) / "CoLA", data / "CoLA")
    (data / "CoLA" / "dev.tsv").unlink()
    with pytest.raises(ValueError, match=r"needs train and validation.* set holdout"):
        finetune_glue(*glue_arguments(pretrained, str(data), tmp_path / "runs", task=["cola"]))
    call = glue_arguments(pretrained, str(data), tmp_path / "runs", task=["cola"], holdout=0.25)
    [run] = finetune_glue(*call)["cola"]
    assert run.details["train_examples"] == 300


@pytest.mark.parametrize("recipe", ["finetune_glue.yaml", "finetune_glue_paper.yaml"])
def test_the_recipes_files_are_understood(recipe):
    encoder, glue, grid, training = parse_recipe(
        RECIPE_ARGUMENTS, ["--config", str(RECIPES / recipe), "--model", "m", "--use_cpu", "true"]
    )
    assert encoder.model == "m"
    assert glue.task
    assert training.output_dir
    assert grid.seeds


def die_after_the_first_run():
    real = glue.keep_best_model
    glue.keep_best_model = lambda folder: (real(folder), os.kill(os.getpid(), signal.SIGKILL))


def test_a_killed_sweep_goes_on(pretrained, glue_folder, tmp_path):
    output = tmp_path / "runs"
    values = {"model": pretrained, "data": glue_folder, "task": ["cola"], "max_seq_length": 32, "seeds": [1, 2]}
    options = {**values, **TRAINING, "output_dir": str(output), "save_strategy": "steps", "save_steps": 40}
    killed = fork_with("finetune", tmp_path / "killed.yaml", die_after_the_first_run, **options)
    assert killed.exit_code == -signal.SIGKILL, killed.output[-2000:]
    [first] = output.glob("CoLA/*/results.json")
    before = first.read_bytes()
    ended = fork_with("finetune", tmp_path / "ended.yaml", **options)
    assert ended.exit_code == 0, ended.output[-2000:]
    assert first.read_bytes() == before
    assert len(list(output.glob("CoLA/*/results.json"))) == 2
    assert "GLUE, dev" in ended.output
