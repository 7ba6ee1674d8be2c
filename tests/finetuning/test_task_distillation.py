"""Students with the head of a fine-tuned teacher."""

import json
import random

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from mobilebert_hf import MobileBertConfig
from mobilebert_hf.finetuning.task_distillation import TaskDistillationArguments, TaskStudentArguments, distill_task
from mobilebert_hf.finetuning.task_students import head_fields, initialize_head
from mobilebert_hf.launch import distillation_classes
from mobilebert_hf.runs.facts import ModelRecord

from .test_labelled import TRAINING, text, write

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
OVERRIDES = {"intra_bottleneck_size": 16, "intermediate_size": 32, "embedding_size": 16, "num_attention_heads": 2}
LABELS = {"classify": ("high", "low"), "multilabel": ("far", "high"), "regress": ("score",), "tag": ("B-TOP", "O")}
PROBLEMS = {
    "classify": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regress": "regression",
}


def save_teacher(folder, tokenizer, kind="classify", family="Bert", **fields):
    """A teacher with random weights, whose head has an opinion."""
    torch.manual_seed(0)
    names = LABELS[kind]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    if kind in PROBLEMS:
        labels["problem_type"] = PROBLEMS[kind]
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), initializer_range=0.2, **{**SIZES, **labels, **fields}
    )
    head = "ForTokenClassification" if kind == "tag" else "ForSequenceClassification"
    getattr(transformers, f"{family}{head}")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def run(teacher, data, folder, training=None, **student):
    return distill_task(
        TaskStudentArguments(
            teacher=teacher,
            data=str(data),
            max_seq_length=32,
            **{"config_overrides": OVERRIDES, "size": "small", **student},
        ),
        TaskDistillationArguments(str(folder), **{**TRAINING, "num_train_epochs": 1, **(training or {})}),
    )


@pytest.mark.parametrize("kind", ["classify", "multilabel", "regress", "tag"])
def test_the_student_has_the_head_of_its_teacher(kind, tiny_tokenizer, tmp_path):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer, kind)
    results = run(teacher, write(tmp_path / "train.csv", kind, 80), tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    before = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert config["architectures"] == [before["architectures"][0].replace("Bert", "MobileBert")]
    for name in ("id2label", "label2id", "problem_type"):
        assert config.get(name) == before.get(name)
    assert set(results["teacher"]["scores"]["validation"]) == set(results["scores"]["validation"])
    assert results["student"]["parameters"] < results["teacher"]["parameters"]
    record = ModelRecord.read(tmp_path / "run")
    assert record.facts.source.role == "teacher"
    assert "| teacher | student |" in (tmp_path / "run" / "results.md").read_text()


def test_a_pruned_student_has_the_head_too(tiny_tokenizer, tmp_path):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer, num_hidden_layers=4)
    data = write(tmp_path / "train.csv", "classify", 80)
    run(teacher, data, tmp_path / "run", size="auto", config_overrides={"embedding_size": 16})
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["use_bottleneck"], config["num_hidden_layers"]) == (False, 2)
    assert config["id2label"] == {"0": "high", "1": "low"}


def test_unlabelled_texts_are_enough_and_the_student_follows_the_teacher(tiny_tokenizer, tmp_path):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    rng = random.Random(0)
    lines = [json.dumps({"text": " ".join(text(rng, rng.choice(("river", "planet"))))}) for _ in range(300)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    results = run(teacher, tmp_path / "texts.jsonl", tmp_path / "run", {"num_train_epochs": 3})
    assert results["teacher"]["scores"]["validation"]["accuracy"] == 1
    assert results["scores"]["validation"]["accuracy"] > 0.7
    assert "have no labels" in results["notes"][-1]
    logs = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert all({"logits", "layer_0/feature_map"} <= set(line) for line in logs if "loss" in line)
    assert not any("labels" in line for line in logs)


def test_a_student_to_start_from_and_minutes(tiny_tokenizer, pretrained, tmp_path):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    data = write(tmp_path / "train.csv", "classify", 60)
    results = run(
        teacher, data, tmp_path / "run", {"minutes": 0.05, "num_train_epochs": 10}, student=pretrained, size="auto"
    )
    steps = json.loads((tmp_path / "run" / "plan.json").read_text())["steps"]
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] <= steps
    assert results["scores"]["validation"]["accuracy"] >= 0
    other = save_teacher(tmp_path / "other", tiny_tokenizer, hidden_size=64)
    with pytest.raises(ValueError, match="hidden_size: student 32, teacher 64"):
        run(other, data, tmp_path / "refused", student=pretrained)


@pytest.mark.slow
def test_features_are_transferred_on_a_corpus_before(tiny_tokenizer, tiny_corpus, tmp_path):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    data = write(tmp_path / "train.csv", "classify", 60)
    training = {"minutes": 0.2, "num_train_epochs": 10}
    run(teacher, data, tmp_path / "run", training, corpus=[str(tiny_corpus)])
    assert (tmp_path / "run" / "general" / "results.json").is_file()
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").config.id2label[0] == "high"


@pytest.mark.parametrize(
    ("family", "kind", "fields"),
    [
        ("Bert", "classify", {}),
        ("Bert", "tag", {}),
        ("Roberta", "classify", {"pad_token_id": 0}),
        ("DistilBert", "classify", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}),
        ("Electra", "regress", {"embedding_size": 32}),
    ],
)
def test_the_head_is_solved_for(family, kind, fields, tiny_tokenizer, tmp_path):
    save_teacher(tmp_path, tiny_tokenizer, kind, family, **fields)
    auto = AutoModelForTokenClassification if kind == "tag" else AutoModelForSequenceClassification
    teacher = auto.from_pretrained(tmp_path).eval()
    torch.manual_seed(1)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "max_position_embeddings": 60, **OVERRIDES}
    config = MobileBertConfig(
        vocab_size=len(tiny_tokenizer), normalization_type="layer_norm", **sizes, **head_fields(teacher)
    )
    student = auto.from_config(config)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(tiny_tokenizer), (64, 12), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    explained = initialize_head(student, teacher, [batch])
    assert explained > 0.2, "32 features explain more than the mean"
    assert config.classifier_activation is (family in ("Bert", "Roberta") and kind != "tag")


def test_a_teacher_with_a_head_needs_texts_of_its_task(tiny_tokenizer, tmp_path):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    with pytest.raises(ValueError, match=r"has a head for text-classification: give texts .* --data, or --objective"):
        distillation_classes(["--teacher", teacher, "--corpus", "text"])
    assert TaskStudentArguments in distillation_classes(["--teacher", teacher, "--data", "a.csv"])
    assert TaskStudentArguments not in distillation_classes(["--teacher", teacher, "--objective", "features"])


def test_steps_and_epochs_take_the_place_of_minutes(tmp_path):
    for given, minutes in (({}, 5), ({"max_steps": 3}, None), ({"num_train_epochs": 2}, None)):
        arguments = TaskDistillationArguments(str(tmp_path), minutes=5, use_cpu=True, **given)
        assert arguments.minutes == minutes


def test_what_makes_no_sense_is_refused(tiny_tokenizer, tmp_path, pretrained):
    data = write(tmp_path / "train.csv", "classify", 20)
    with pytest.raises(ValueError, match="has no head for a task: leave --data out"):
        run(pretrained, data, tmp_path / "run")
    with pytest.raises(ValueError, match="student and corpus are both given"):
        TaskStudentArguments(teacher="a", data="b", student="c", corpus=["d"])
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer, "multilabel")
    with pytest.raises(ValueError, match="the label 'low' is unknown"):
        run(teacher, data, tmp_path / "run")
