"""Students with a head for question answering."""

import json

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, BertConfig, BertForQuestionAnswering

from .helpers import write_squad
from .test_task_distillation import SIZES, run


def test_a_student_answers_questions_as_its_teacher(tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tiny_tokenizer), initializer_range=0.2, **SIZES)
    BertForQuestionAnswering(config).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer.save_pretrained(tmp_path / "teacher")
    train, dev = write_squad(tmp_path / "train.json", 30, seed=0), write_squad(tmp_path / "dev.json", 8, seed=1)
    results = run(str(tmp_path / "teacher"), train, tmp_path / "run", validation=dev)
    for side in (results["scores"], results["teacher"]["scores"]):
        assert set(side["validation"]) == {"f1", "exact_match"}
    assert 0 < results["head_variance"] <= 1
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    assert (tmp_path / "run" / "predictions.json").is_file()
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "run")
    assert model.config.model_type == "mobilebert"
    with pytest.raises(ValueError, match="validation is missing"):
        run(str(tmp_path / "teacher"), train, tmp_path / "other")
