"""transformers' pipelines with the other heads. The student's answers are those of the stock model."""

import pytest
import torch
import transformers
from transformers import pipeline

import mobilebert_hf

SIZES = {
    "hidden_size": 32,
    "embedding_size": 16,
    "num_hidden_layers": 1,
    "intra_bottleneck_size": 16,
    "intermediate_size": 32,
    "initializer_range": 0.2,
}
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
CASES = {
    "text-classification": ("SequenceClassification", {}, {"inputs": "the ancient river"}),
    "token-classification": ("TokenClassification", {}, {"inputs": "the ancient river"}),
    "fill-mask": ("MaskedLM", {}, {"inputs": "the [MASK] river", "top_k": 3}),
    "feature-extraction": ("", {}, {"inputs": "the ancient river"}),
    "zero-shot-classification": (
        "SequenceClassification",
        {"id2label": NLI, "label2id": {name: index for index, name in NLI.items()}},
        {"sequences": "the ancient river", "candidate_labels": ["geography", "theory"]},
    ),
}


def network(module, family, head, tokenizer, **fields):
    torch.manual_seed(0)
    config = getattr(module, f"{family}Config")(vocab_size=len(tokenizer), **SIZES, **fields)
    return getattr(module, f"{family}For{head}" if head else f"{family}Model")(config).eval()


def numbers(answer):
    """All numbers in an answer, in order."""
    if isinstance(answer, dict):
        return [number for value in answer.values() for number in numbers(value)]
    if isinstance(answer, (list, tuple)):
        return [number for value in answer for number in numbers(value)]
    return [answer] if isinstance(answer, (int, float)) else [float(answer)] if hasattr(answer, "item") else []


@pytest.mark.parametrize("family", ["MobileBert", "IBBert"])
@pytest.mark.parametrize("task", CASES)
def test_the_pipeline_answers(task, family, tiny_tokenizer, tmp_path):
    head, fields, call = CASES[task]
    ours = network(mobilebert_hf, family, head, tiny_tokenizer, **fields)
    ours.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    answer = pipeline(task, model=str(tmp_path))(**call)
    values = numbers(answer)
    assert values
    assert all(value == value for value in values), "NaN"
    if family == "MobileBert":
        stock_class = getattr(transformers, type(ours).__name__)
        config = transformers.MobileBertConfig.from_pretrained(tmp_path)
        stock = stock_class.from_pretrained(tmp_path, config=config)
        expected = pipeline(task, model=stock, tokenizer=tiny_tokenizer)(**call)
        assert values == pytest.approx(numbers(expected), rel=1e-4, abs=1e-6)
