"""Scores of an export's graphs, by their real runtimes."""

import json
import random
import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification, TrainingArguments, pipeline
from typer.testing import CliRunner

from mobilebert_hf import fold
from mobilebert_hf.deployment import export, scoring
from mobilebert_hf.deployment.check import run_pytorch
from mobilebert_hf.deployment.scoring import score_export
from mobilebert_hf.deployment.student import sample_inputs
from mobilebert_hf.finetuning.encoder import EncoderArguments
from mobilebert_hf.finetuning.squad import SquadArguments, finetune_squad
from mobilebert_hf.models.fake_quantization import disable_fake_quantization
from mobilebert_hf_cli import app

from ..data.helpers import WORDS
from ..finetuning.helpers import write_squad
from .helpers import save

LABELS = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """SST-2's dev file with sentences of many lengths."""
    folder, rng, words = tmp_path_factory.mktemp("glue"), random.Random(0), WORDS.split()
    sentences = [" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(50)]
    labels = [rng.randint(0, 1) for _ in sentences]
    (folder / "SST-2").mkdir()
    rows = [f"{sentence}\t{label}" for sentence, label in zip(sentences, labels, strict=True)]
    (folder / "SST-2" / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder, sentences, labels


@pytest.mark.parametrize("formats", ["instant_exports", pytest.param("real", marks=pytest.mark.slow)])
def test_glue_scores_are_those_of_the_pipeline(formats, request, glue, tiny_tokenizer, tiny_corpus, tmp_path):
    if formats != "real":
        request.getfixturevalue(formats)
    folder, sentences, labels = glue
    model = save(tmp_path / "model", tiny_tokenizer, "ForSequenceClassification", **LABELS)
    export(model, tmp_path / "out")
    export(model, tmp_path / "out", quantize="int8-static", calibration=[str(tiny_corpus)])
    scores = score_export(tmp_path / "out", "sst2", str(folder))
    answers = pipeline("text-classification", model=model)(sentences)
    right = sum(LABELS["label2id"][answer["label"]] == label for answer, label in zip(answers, labels, strict=True))
    assert scores["pytorch"] == scores["onnx/model.onnx"] == {"accuracy": pytest.approx(100 * right / len(labels))}
    assert abs(scores["onnx/model_int8.onnx"]["accuracy"] - scores["pytorch"]["accuracy"]) <= 20
    graphs = json.loads((tmp_path / "out" / "export.json").read_text())["graphs"]
    for file, graph in graphs.items():
        where = {"dataset": folder.name, "split": "validation"}
        assert graph["scores"] == {"sst2": {**where, "pytorch": scores["pytorch"], "graph": scores[file]}}


@pytest.mark.parametrize("impossible", [0.0, 0.4])
def test_squad_scores_are_those_of_the_recipe(impossible, exported, tmp_path):
    shutil.copytree(exported("onnx"), tmp_path / "out")
    model = str(exported("onnx").parent / "model")
    questions = write_squad(tmp_path / "dev.json", 30, seed=0, impossible=impossible)
    squad = SquadArguments(
        ["squad"],
        train=questions,
        validation=questions,
        max_seq_length=64,
        doc_stride=21,
        max_question_length=16,
    )
    training = TrainingArguments(
        str(tmp_path / "run"), learning_rate=0.0, max_steps=1, use_cpu=True, disable_tqdm=True, report_to="none"
    )
    expected = finetune_squad(EncoderArguments(model), squad, training)
    scores = score_export(tmp_path / "out", "squad", questions, max_length=64)
    exact = "exact" if impossible else "exact_match"
    for found in scores.values():
        assert found == pytest.approx({exact: expected[f"eval_{exact}"], "f1": expected["eval_f1"]})


@pytest.mark.usefixtures("instant_exports")
def test_labels_may_be_in_another_order(glue, tiny_tokenizer, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer, "ForSequenceClassification", **LABELS)
    export(model, tmp_path / "out")
    expected = score_export(tmp_path / "out", "sst2", str(glue[0]))
    student = AutoModelForSequenceClassification.from_pretrained(model)
    for parameter in student.classifier.parameters():
        parameter.data = parameter.data.flip(0)
    student.config.id2label, student.config.label2id = {0: "POSITIVE", 1: "NEGATIVE"}, {"POSITIVE": 0, "NEGATIVE": 1}
    student.save_pretrained(model)
    export(model, tmp_path / "flipped")
    assert score_export(tmp_path / "flipped", "sst2", str(glue[0])) == expected


@pytest.mark.usefixtures("instant_exports")
def test_the_command_shows_what_each_graph_loses(glue, tiny_tokenizer, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer, "ForSequenceClassification", **LABELS)
    export(model, tmp_path / "out")
    words = ["score", str(tmp_path / "out"), "--task", "sst2", "--data", str(glue[0])]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "onnx/model.onnx" in done.output
    assert any("onnx/model.onnx" in line and "(+0.00)" in line for line in done.output.splitlines())


@pytest.mark.usefixtures("instant_exports")
def test_a_quantization_aware_student_is_scored_beside_float32(glue, tiny_tokenizer, tmp_path, monkeypatch):
    model = save(tmp_path / "model", tiny_tokenizer, "ForSequenceClassification", **LABELS)
    aware = fold(AutoModelForSequenceClassification.from_pretrained(model), quantization_aware=True).train()
    for seed in range(5):
        aware(**sample_inputs(aware, 4, 20, seed))
    aware.eval().save_pretrained(tmp_path / "aware")
    tiny_tokenizer.save_pretrained(tmp_path / "aware")
    export(tmp_path / "aware", tmp_path / "out")
    references = []
    monkeypatch.setattr(scoring, "run_pytorch", lambda model: references.append(model) or run_pytorch(model))
    score_export(tmp_path / "out", "sst2", str(glue[0]))
    inputs = sample_inputs(aware, 2, 20)
    with torch.inference_mode():
        rounded, [reference] = aware(**inputs).logits, [model(**inputs).logits for model in references]
        disable_fake_quantization(aware)
        torch.testing.assert_close(reference, aware(**inputs).logits)
    assert not torch.allclose(rounded, reference)


@pytest.mark.usefixtures("instant_exports")
def test_what_cannot_be_scored(glue, tiny_tokenizer, tmp_path):
    export(save(tmp_path / "model", tiny_tokenizer), tmp_path / "out")
    shutil.move(tmp_path / "model", tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"was exported from .*model, which does not exist"):
        score_export(tmp_path / "out", "sst2", str(glue[0]))
    save(tmp_path / "model", tiny_tokenizer, seed=1)
    with pytest.raises(ValueError, match=r"the configuration of .*model have changed since the export to .*out"):
        score_export(tmp_path / "out", "sst2", str(glue[0]))
    save(tmp_path / "model", tiny_tokenizer)
    with pytest.raises(ValueError, match=r"is for question-answering with 2 labels; sst2 needs text-classification"):
        score_export(tmp_path / "out", "sst2", str(glue[0]))
    with pytest.raises(ValueError, match=r"'sst3' is not a task: expected classify"):
        score_export(tmp_path / "out", "sst3", str(glue[0]))
    with pytest.raises(ValueError, match=r"is not an export: it has no export\.json"):
        score_export(tmp_path / "model", "sst2", str(glue[0]))
    with pytest.raises(FileNotFoundError, match=r"Folder .*missing does not exist"):
        score_export(tmp_path / "missing", "sst2", str(glue[0]))
