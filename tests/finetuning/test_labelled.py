"""`recipes/finetune.py` on own labels, from files to a model that stock pipelines and exports answer with."""

import csv
import json
import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from mobilebert_hf.deployment import export
from mobilebert_hf.deployment.scoring import score_export
from mobilebert_hf.finetuning.encoder import EncoderArguments
from mobilebert_hf.finetuning.labelled import (
    LabelledArguments,
    LabelledTrainingArguments,
    finetune_labelled,
    weighted_loss,
)
from mobilebert_hf.runs.facts import ModelRecord
from mobilebert_hf.tasks.labelled_data import ColumnNames

from ..data.helpers import WORDS
from ..helpers import mobilebert

TRAINING = {
    "learning_rate": 3e-3,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 8,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}
FILLERS = [word for word in WORDS.split() if word not in ("mountain", "river", "planet")]


def text(rng, *words):
    chosen = [*rng.choices(FILLERS, k=4), *words]
    rng.shuffle(chosen)
    return chosen


def write(path, kind, count, seed=0):
    """Examples whose labels are in their words."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        first, second = rng.random() < 0.5, rng.random() < 0.3
        words = [*(["mountain"] if first else ["river"]), *(["planet"] if second else [])]
        if kind == "classify":
            rows.append({"text": " ".join(text(rng, *words)), "label": "high" if first else "low"})
        elif kind == "multilabel":
            marks = [name for name, mark in (("high", first), ("far", second)) if mark]
            rows.append({"text": " ".join(text(rng, *words)), "labels": "|".join(marks)})
        elif kind == "regress":
            rows.append({"text": " ".join(text(rng, *words)), "score": 1.5 * first})
        elif kind == "rerank":
            rows.append({"query": "the mountain", "passage": " ".join(text(rng, *words)), "relevance": int(first)})
        else:
            tokens = text(rng, *words)
            rows.append({"tokens": tokens, "tags": ["B-TOP" if token == "mountain" else "O" for token in tokens]})
    if kind == "tag":
        path = path.with_suffix(".conll")
        lines = ("\n".join(map("\t".join, zip(*row.values(), strict=True))) for row in rows)
        path.write_text("\n\n".join(lines))
    else:
        with path.open("w", newline="") as stream:
            table = csv.DictWriter(stream, rows[0])
            table.writeheader()
            table.writerows(rows)
    return str(path)


def run(kind, model, folder, training=None, encoder=None, count=300, **task):
    train = task.pop("train", None) or write(folder / "train.csv", kind, count)
    return finetune_labelled(
        EncoderArguments(model, **(encoder or {})),
        LabelledArguments([kind], train=train, max_seq_length=32, **task),
        LabelledTrainingArguments(str(folder / "run"), **{**TRAINING, **(training or {})}),
    )


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("multilabel", "regress", "rerank")]


@pytest.fixture(scope="module", params=["classify", "tag", *SLOW])
def finished(request, pretrained, tmp_path_factory):
    """The kind, the folder and the results of a run."""
    folder = tmp_path_factory.mktemp(request.param)
    test = write(folder / "test.csv", request.param, 40, seed=1)
    # Scores and several labels are learned more slowly than one of two classes.
    training = {"num_train_epochs": 12 if request.param in ("multilabel", "regress") else 4}
    return request.param, folder, test, run(request.param, pretrained, folder, training, test=test)


def test_what_can_be_learned_is_learned(finished):
    _, folder, _, results = finished
    assert set(results["scores"]) == {"validation", "test"}
    assert next(iter(results["scores"]["test"].values())) > 0.6
    assert json.loads((folder / "run" / "results.json").read_text()) == results
    assert results["examples"]["validation"] in (29, 30, 31), "a tenth, as well as labels can be divided"
    assert any("held out" in note for note in results["notes"])


def test_the_report_has_classes_and_worst_examples(finished):
    kind, folder, test, results = finished
    report = (folder / "run" / "results.md").read_text()
    assert "| test, 40 examples |" in report
    for name in results["classes"]["scores"]:
        assert f"| {name} |" in report
    worst = [json.loads(line) for line in (folder / "run" / "worst_examples.jsonl").read_text().splitlines()]
    assert [one["loss"] for one in worst] == sorted((one["loss"] for one in worst), reverse=True)
    assert all(one["where"].startswith(f"{test}, line") for one in worst)
    assert (folder / "run" / "confusion.png").exists() is (kind == "classify")
    record = ModelRecord.read(folder / "run")
    assert record.facts.source.role == "base"
    assert "fine-tuned on train" in record.facts.summary
    for published in ("README.md", "results.json"):
        assert str(folder) not in (folder / "run" / published).read_text()


@pytest.mark.slow
def test_exported_graphs_have_the_scores_of_the_run(finished):
    kind, folder, test, results = finished
    export(folder / "run", folder / "out")
    scores = score_export(folder / "out", None, test, max_length=32)
    for found in scores.values():
        assert found == pytest.approx({name: 100 * results["scores"]["test"][name] for name in found}, abs=1)
    graphs = json.loads((folder / "out" / "export.json").read_text())["graphs"]
    assert set(graphs["onnx/model.onnx"]["scores"]) == {kind}


def test_a_pipeline_answers_with_tuned_thresholds(pretrained, tmp_path):
    train = write(tmp_path / "train.csv", "multilabel", 80)
    results = run("multilabel", pretrained, tmp_path, train=train, validation=train, training={"num_train_epochs": 1})
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert set(config["tuned_thresholds"]) == {"far", "high"}
    assert any(value != 0.5 for value in config["tuned_thresholds"].values())
    with (tmp_path / "train.csv").open() as stream:
        rows = [(row["text"], set(filter(None, row["labels"].split("|")))) for row in csv.DictReader(stream)]
    answers = pipeline("text-classification", str(tmp_path / "run"), top_k=None)([text for text, _ in rows])
    found = [{answer["label"] for answer in answer if answer["score"] > 0.5} for answer in answers]
    hits = sum(len(one & labels) for one, (_, labels) in zip(found, rows, strict=True))
    micro = 2 * hits / (sum(map(len, found)) + sum(len(labels) for _, labels in rows))
    assert micro == pytest.approx(results["scores"]["validation"]["micro_f1"], abs=0.02)
    assert "validation examples are also training examples" in results["notes"][0]


def test_a_finished_run_is_not_trained_again_and_seeds_count(pretrained, tmp_path):
    first = run("classify", pretrained, tmp_path, count=60, training={"num_train_epochs": 1})
    again = run("classify", pretrained, tmp_path, count=60, training={"num_train_epochs": 1})
    assert again == first
    weights = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").classifier.weight
    (tmp_path / "other").mkdir()
    run("classify", pretrained, tmp_path / "other", count=60, training={"num_train_epochs": 1, "seed": 7})
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path / "other" / "run").classifier.weight
    assert not torch.equal(weights, other)


def test_early_stopping_and_adapters(pretrained, tmp_path):
    results = run(
        "multilabel",
        pretrained,
        tmp_path,
        count=60,
        early_stopping=1,
        encoder={"adapter": "lora", "adapter_options": {"r": 4}},
        training={"num_train_epochs": 20, "learning_rate": 1e-9},
    )
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["epoch"] == 2
    assert results["scores"]["validation"]["macro_f1"] is not None
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert set(model.config.tuned_thresholds) == {"far", "high"}


def test_class_weights_give_every_class_the_same_weight():
    labels = np.array([0, 0, 0, 1])
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    loss = weighted_loss(labels, 2)({"logits": logits}, torch.from_numpy(labels), torch.tensor(4))
    parts = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")
    assert loss == pytest.approx(float((parts[:3].mean() + parts[3]) / 2))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"holdout": 1.5}, "holdout=1.5: expected a share between 0 and 1"),
        ({"kind": "regress", "class_weights": True}, "class_weights=True: regress has no loss by class"),
        ({"max_seq_length": 65}, "max_seq_length=65, but .* takes 64 tokens"),
    ],
)
def test_what_makes_no_sense_is_refused_before_training(pretrained, tmp_path, task, message):
    kind = task.pop("kind", "classify")
    train = write(tmp_path / "train.csv", kind, 20)
    with pytest.raises(ValueError, match=message):
        finetune_labelled(
            EncoderArguments(pretrained),
            LabelledArguments([kind], **{"train": train, **task}),
            LabelledTrainingArguments(str(tmp_path / "run"), **TRAINING),
        )
    assert not (tmp_path / "run").exists()


@pytest.fixture
def table(tmp_path):
    """A table without names of columns, whose labels are indices."""
    rng, path = random.Random(0), tmp_path / "train.tsv"
    rows = [
        (" ".join(text(rng, word)), str(index)) for _ in range(30) for index, word in enumerate(("river", "planet"))
    ]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def finetune_table(table, pretrained, folder, monkeypatch):
    words = ["--task", "classify", "--train", table, "--model", pretrained, "--output", folder]
    columns = ["--text-column", "1", "--label-column", "2", "--class-names", "water", "sky"]
    options = ["--use_cpu", "true", "--max_steps", "2", "--report_to", "none", "--disable_tqdm", "true"]
    assert mobilebert(monkeypatch, "finetune", *words, *columns, *options) == 0


def test_the_command_shows_labels_and_writes_a_model(table, pretrained, tmp_path, monkeypatch, capsys):
    finetune_table(table, pretrained, tmp_path / "run", monkeypatch)
    shown = capsys.readouterr().err
    assert "classify, 2 classes" in shown
    assert "water" in shown
    assert AutoTokenizer.from_pretrained(tmp_path / "run")("a").input_ids
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["id2label"] == {"0": "water", "1": "sky"}


@pytest.mark.slow
def test_the_command_scores_an_export(table, pretrained, tmp_path, monkeypatch, capsys):
    finetune_table(table, pretrained, tmp_path / "run", monkeypatch)
    export(tmp_path / "run", tmp_path / "out")
    columns = ["--text-column", "1", "--label-column", "2", "--class-names", "water", "--class-names", "sky"]
    assert mobilebert(monkeypatch, "score", tmp_path / "out", "--data", table, *columns) == 0
    assert "macro_f1" in capsys.readouterr().out
    given = ColumnNames("1", None, ("2",), ("water", "sky"))
    scores = score_export(tmp_path / "out", "classify", str(table), columns=given)
    assert set(scores["pytorch"]) == {"accuracy", "macro_f1"}
