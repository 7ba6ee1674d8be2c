"""Students and teachers in other libraries of the ecosystem, each as its own examples use it."""

import json
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from ..deployment.helpers import save
from ..models.helpers import build, make_batch, relative_error, run
from ..older import install_older

# Metric modules that need neither network nor this package, which is for newer libraries.
ACCURACY = """
import datasets
import evaluate

class Accuracy(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"accuracy": sum(a == b for a, b in zip(predictions, references)) / len(references)}
"""
SQUAD = """
import datasets
import evaluate

class Squad(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        starts = datasets.Sequence(datasets.Value("int32"))
        answers = datasets.Features({"text": datasets.Sequence(text), "answer_start": starts})
        predictions, references = {"id": text, "prediction_text": text}, {"id": text, "answers": answers}
        features = {"predictions": predictions, "references": references}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(features))

    def _compute(self, predictions, references):
        right = [p["prediction_text"] in r["answers"]["text"] for p, r in zip(predictions, references)]
        return {"exact_match": 100 * sum(right) / len(right)}
"""
METRICS = {"accuracy": ACCURACY, "squad": SQUAD}


@pytest.fixture
def classifier(tiny_tokenizer, tmp_path):
    return save(tmp_path / "classifier", tiny_tokenizer, "ForSequenceClassification")


# The evaluator of evaluate 0.4.6 asks for what transformers 5 has no more.
EVALUATOR = """
import json, sys, evaluate, transformers
from datasets import Dataset
texts = ["the river is long", "the mountain is old", "a river", "the old mountain"]
answerer = transformers.pipeline("text-classification", sys.argv[1])
scores = evaluate.evaluator("text-classification").compute(
    model_or_pipeline=answerer,
    data=Dataset.from_dict({"text": texts, "label": [0, 1, 1, 0]}),
    metric=evaluate.load(sys.argv[3]),
    label_mapping={"LABEL_0": 0, "LABEL_1": 1},
)
answers = [int(answer["label"][-1]) for answer in answerer(texts)]
context = "The river is long and the mountain is old."
question = {"question": "Which river is long?", "context": context}
answerer = transformers.pipeline("question-answering", sys.argv[2])
best = answerer(**question)["answer"]
answers_to_it = {"text": [best], "answer_start": [context.index(best)]}
data = [{"id": name, **question, "answers": answers_to_it} for name in "ab"]
found = evaluate.evaluator("question-answering").compute(
    model_or_pipeline=answerer, data=Dataset.from_list(data), metric=evaluate.load(sys.argv[4])
)
print(json.dumps([transformers.__version__, answers, scores["accuracy"], found["exact_match"]]))
"""


@pytest.mark.slow
def test_evaluator_of_evaluate(classifier, tiny_tokenizer, tmp_path):
    answerer = save(tmp_path / "answerer", tiny_tokenizer)
    environment = install_older(tmp_path / "older", "datasets==3.6.0")
    for name, code in METRICS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(code)
    command = [sys.executable, "-c", EVALUATOR, classifier, answerer, *(str(tmp_path / name) for name in METRICS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    version, answers, accuracy, exact_match = json.loads(done.stdout.splitlines()[-1])
    assert version == "4.57.6"
    assert accuracy == sum(a == b for a, b in zip(answers, [0, 1, 1, 0], strict=True)) / 4
    assert exact_match == 100


@pytest.mark.parametrize("family", ["MobileBert", "IBBert"])
def test_big_model_loading_spreads_the_layers(family, tmp_path):
    model = build(family)
    model.save_pretrained(tmp_path / "model", max_shard_size="50KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    layers = {f"encoder.layer.{index}": "disk" if index == 1 else "cpu" for index in range(3)}
    device_map = {"embeddings": "cpu", **layers, "pooler": "cpu"}
    spread = AutoModel.from_pretrained(tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload")
    assert next(spread.encoder.layer[1].parameters()).device.type == "meta"
    batch = make_batch()
    expected = run(model, **batch).last_hidden_state
    assert relative_error(run(spread, **batch).last_hidden_state, expected) <= 1e-6


def test_device_map_auto(tmp_path):
    model = build("MobileBert", "ForSequenceClassification")
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", device_map="auto")
    batch = make_batch()
    assert torch.equal(run(loaded, **batch).logits.cpu(), run(model, **batch).logits)


def test_the_librarys_trainer_learns_a_task(classifier, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    texts = ["the river is long", "the mountain is old"] * 16
    rows = Dataset.from_dict({**tokenizer(texts), "labels": [0, 1] * 16})
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(classifier),
        TrainingArguments(
            str(tmp_path / "run"),
            max_steps=60,
            learning_rate=1e-2,
            logging_steps=1,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] / 5
    predictions = trainer.predict(rows).predictions.argmax(-1)
    assert (predictions == rows["labels"]).all()
