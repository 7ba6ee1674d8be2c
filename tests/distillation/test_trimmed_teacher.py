"""Distillation with the vocabulary of the corpus."""

import json
from dataclasses import replace

import pytest
from transformers import AutoModel, AutoTokenizer, BertTokenizer

from mobilebert_hf.data import PretrainingDataArguments
from mobilebert_hf.data.trimmed_model import Trimming
from mobilebert_hf.distillation import DistillationArguments, StudentArguments, trimmed_teacher
from mobilebert_hf.distillation.students import fit_student, plan_student
from mobilebert_hf.distillation.trimmed_teacher import trim_teacher

from ..helpers import training_arguments
from .encoders import run_distillation, save_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tiny_tokenizer):
    """A sentence encoder of which many pieces are in no text."""
    pieces = sorted(tiny_tokenizer.get_vocab(), key=tiny_tokenizer.get_vocab().get)
    pieces = [*pieces[:1], *(f"unused{index}" for index in range(150)), *pieces[1:]]
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})
    return save_teacher(tmp_path_factory.mktemp("teacher"), tokenizer, sentence_encoder=True)


def test_the_student_has_the_pieces_of_the_corpus(tmp_path, teacher, tiny_corpus, tiny_tokenizer):
    trainer = run_distillation(teacher, tiny_corpus, tmp_path, steps=2, keep_vocabulary=1.0)
    tokenizer, student = (kind.from_pretrained(tmp_path / "student") for kind in (AutoTokenizer, AutoModel))
    whole = len(tiny_tokenizer) + 150
    assert len(tokenizer) == student.config.vocab_size < len(tiny_tokenizer)
    assert trainer.teacher.config.vocab_size == student.config.vocab_size
    text = "The river begins. Never measures the mountain"
    assert tokenizer.tokenize(text) == tiny_tokenizer.tokenize(text)
    results = json.loads((tmp_path / "student" / "results.json").read_text())
    assert results["vocabulary"]["pieces"] == [whole, len(tokenizer)]
    assert results["teacher_name"] == teacher.name
    card = (tmp_path / "student" / "README.md").read_text()
    assert f"{len(tokenizer):,} of {whole:,}" in card
    recipe = (tmp_path / "student" / "recipe.yaml").read_text()
    assert f"teacher: {teacher}" in recipe
    assert "keep_vocabulary: 1.0" in recipe


def test_the_teacher_is_trimmed_once(tmp_path, teacher, tiny_corpus, monkeypatch):
    student = StudentArguments(teacher=str(teacher), keep_vocabulary=65)
    data = PretrainingDataArguments(corpus=[str(tiny_corpus)])
    training = training_arguments(DistillationArguments, tmp_path / "student")
    loaded, trimming = trim_teacher(student, data, training)
    assert plan_student(loaded, data).config.vocab_size == trimming.pieces[1] == 65
    assert loaded == replace(student, teacher=loaded.teacher)
    monkeypatch.setattr(trimmed_teacher, "trim_model", None)
    assert trim_teacher(student, data, training) == (loaded, trimming)
    assert trim_teacher(replace(student, keep_vocabulary=None), data, training)[1] is None
    monkeypatch.undo()
    again, other = trim_teacher(replace(student, keep_vocabulary=68), data, training)
    assert Trimming.read(tmp_path / "student" / "cache" / "teacher") == other
    assert other.pieces[1] == 68
    assert plan_student(again, data).config.vocab_size == 68


def test_what_to_keep_is_checked_at_once():
    with pytest.raises(ValueError, match=r"keep is 1\.5: expected a share"):
        StudentArguments(teacher="anything", keep_vocabulary=1.5)


def test_the_fit_reads_examples_from_everywhere(teacher, monkeypatch):
    """Those of one document follow one another."""
    plan = plan_student(StudentArguments(teacher=str(teacher)), PretrainingDataArguments(corpus=["none"]))
    chosen = []

    class Examples:
        def __len__(self):
            return 30_000

        def select(self, indices):
            chosen.extend(indices)
            raise StopIteration

    with pytest.raises(StopIteration):
        fit_student(plan.config, plan.teacher, plan.output, Examples(), None)
    assert len(set(chosen)) == len(chosen) == 20_000
    assert sum(index >= 20_000 for index in chosen[:1000]) > 200
