"""`recipes/finetune.py` on SQuAD, on small official files: answers, scores, and interrupted runs."""

import json
import os
import signal
from pathlib import Path

import pytest
from datasets import load_dataset
from transformers import AutoModelForQuestionAnswering, TrainingArguments, pipeline

from mobilebert_hf.data.squad import load_squad
from mobilebert_hf.finetuning.encoder import EncoderArguments
from mobilebert_hf.finetuning.squad import (
    RECIPE_ARGUMENTS,
    QuestionAnsweringTrainer,
    SquadArguments,
    finetune_squad,
)
from mobilebert_hf.recipe import parse_recipe
from mobilebert_hf.tasks.squad_scores import squad_scores, squad_v2_scores
from mobilebert_hf.training import DurableTrainer

from ..workshop import RECIPES, fork_with
from .helpers import WINDOWS, write_squad


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squad")
    return {
        "train": write_squad(folder / "train.json", 200, seed=0),
        "dev": write_squad(folder / "dev.json", 40, seed=1),
        "train_v2": write_squad(folder / "train-v2.json", 200, seed=2, impossible=0.4),
        "dev_v2": write_squad(folder / "dev-v2.json", 40, seed=3, impossible=0.4),
    }


def run(model, output, train, validation, encoder=None, **training):
    arguments = {
        "learning_rate": 3e-3,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        **training,
    }
    return finetune_squad(
        EncoderArguments(model=model, **(encoder or {})),
        SquadArguments(["squad"], train=train, validation=validation, **WINDOWS),
        TrainingArguments(str(output), **arguments),
    )


def truths(path):
    data = json.loads(Path(path).read_text())["data"]
    return {q["id"]: [a["text"] for a in q["answers"]] for p in data[0]["paragraphs"] for q in p["qas"]}


def test_version_1_ends_with_scored_answers_in_official_files(pretrained, files, tmp_path):
    scores = run(pretrained, tmp_path, files["train"], files["dev"])
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    official = squad_scores(predictions, truths(files["dev"]))
    assert scores["eval_f1"] == pytest.approx(official["f1"])
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert results["eval_exact_match"] == pytest.approx(official["exact_match"])
    assert results["train_windows"] >= 200
    assert f"| SQuAD v1.1 dev, f1 | {official['f1']:.2f} |" in (tmp_path / "README.md").read_text()
    nbest = json.loads((tmp_path / "nbest_predictions.json").read_text())
    assert {key: answers[0]["text"] for key, answers in nbest.items()} == predictions
    assert not (tmp_path / "null_odds.json").exists()
    assert not (tmp_path / ".lock").exists() or (tmp_path / "recipe.yaml").is_file()
    # One question at a time, and by other code, the answers are the same.
    answerer = pipeline("question-answering", model=str(tmp_path), align_to_words=False, max_answer_len=30)
    questions = load_squad(files["dev"], "validation")
    answers = [answerer(question=row["question"], context=row["context"])["answer"] for row in questions]
    assert answers == list(predictions.values())


def test_version_2_searches_the_threshold(pretrained, files, tmp_path):
    scores = run(pretrained, tmp_path, files["train_v2"], files["dev_v2"])
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    odds = json.loads((tmp_path / "null_odds.json").read_text())
    official = squad_v2_scores(predictions, truths(files["dev_v2"]))
    assert scores["eval_f1"] == pytest.approx(official["f1"])
    assert scores["eval_NoAns_total"] + scores["eval_HasAns_total"] == 40
    assert {key for key, text in predictions.items() if not text} == {
        key for key, value in odds.items() if value > scores["eval_null_threshold"]
    }
    never = 100 * scores["eval_NoAns_total"] / 40
    assert scores["eval_f1"] >= never - 1e-9


def test_an_adapter_leaves_a_plain_model(pretrained, files, tmp_path):
    run(pretrained, tmp_path, files["train"], files["dev"], encoder={"adapter": "lora"}, num_train_epochs=1)
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert results["trained_parameters"] < results["parameters"] / 3
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert not [name for name in model.state_dict() if "lora" in name]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_windows_longer_than_the_network_are_refused(pretrained, files, tmp_path):
    with pytest.raises(ValueError, match=r"max_seq_length=384, but .* takes 64 tokens at most"):
        finetune_squad(
            EncoderArguments(model=pretrained),
            SquadArguments(["squad"], train=files["train"], validation=files["dev"]),
            TrainingArguments(str(tmp_path), use_cpu=True),
        )


def test_evaluation_batches_have_hardly_any_padding(pretrained, files, tmp_path, monkeypatch):
    shapes = []
    real = QuestionAnsweringTrainer.prediction_step

    def step(self, model, inputs, *args, **kwargs):
        shapes.append((inputs["attention_mask"].sum().item(), inputs["attention_mask"].numel()))
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(QuestionAnsweringTrainer, "prediction_step", step)
    run(pretrained, tmp_path, files["train"], files["dev"], max_steps=1)
    tokens, places = map(sum, zip(*shapes, strict=True))
    assert len(shapes) > 4
    assert tokens > 0.95 * places


@pytest.mark.parametrize("recipe", ["finetune_squad.yaml", "finetune_squad_v2.yaml"])
def test_the_recipes_files_are_understood(recipe):
    arguments = ["--config", str(RECIPES / recipe), "--model", "m", "--use_cpu", "true"]
    encoder, squad, training = parse_recipe(RECIPE_ARGUMENTS, arguments)
    assert encoder.model == "m"
    assert squad.max_seq_length == 384
    assert training.output_dir


def interrupt_at_step_6():
    real = DurableTrainer.training_step

    def step(self, *args, **kwargs):
        if self.state.global_step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args, **kwargs)

    DurableTrainer.training_step = step


def test_an_interrupted_run_goes_on_to_the_same_answers(pretrained, files, tmp_path):
    options = {
        "model": pretrained,
        "task": ["squad"],
        "train": files["train"],
        "validation": files["dev"],
        **WINDOWS,
        "learning_rate": 3e-3,
        "max_steps": 12,
        "save_steps": 4,
        "use_cpu": True,
    }

    def launch(output, before=None):
        return fork_with("finetune", tmp_path / "squad.yaml", before, **options, output_dir=str(output))

    whole = launch(tmp_path / "whole")
    assert whole.exit_code == 0, whole.output[-2000:]
    stopped = launch(tmp_path / "parts", interrupt_at_step_6)
    assert stopped.exit_code == 0, stopped.output[-2000:]
    assert signal.Signals.SIGTERM.name in stopped.output
    assert not (tmp_path / "parts" / "predictions.json").exists()
    resumed = launch(tmp_path / "parts")
    assert resumed.exit_code == 0, resumed.output[-2000:]
    for name in ("model.safetensors", "predictions.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_local_copy_of_the_hub_data_set_is_read(pretrained, files, tmp_path):
    for split, name in (("train", "train"), ("validation", "dev")):
        (tmp_path / "hub").mkdir(exist_ok=True)
        load_squad(files[name], split).to_parquet(tmp_path / "hub" / f"{split}-00000.parquet")
    assert set(load_dataset(str(tmp_path / "hub"))) == {"train", "validation"}
    scores = run(pretrained, tmp_path / "out", str(tmp_path / "hub"), str(tmp_path / "hub"), max_steps=2)
    assert 0 <= scores["eval_f1"] <= 100
