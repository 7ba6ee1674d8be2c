"""The files of sentence-transformers for a student, and sentence embeddings without sentence-transformers."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..files import atomic_write_text
from ..tasks.glue_scores import glue_scores
from ..tasks.glue_tasks import TASKS
from ..training.compat import find_file
from .losses import mean_pool

MODULES = "modules.json"
NORMALIZE = "sentence_transformers.models.Normalize"
BATCH_SIZE = 64


def write_sentence_encoder(folder: Path, teacher: str, width: int, max_length: int) -> None:
    """Writes the files that sentence-transformers reads beside the model: modules, pooling, maximum length.

    The embeddings are normalized if those of the teacher are.

    Args:
        folder: The folder of the saved student and tokenizer.
        teacher: Hub id or folder, with `modules.json`, as far as it has one.
        width: The width of the embeddings.
        max_length: The maximum number of tokens; longer texts are truncated.
    """
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    found = find_file(teacher, MODULES)
    if found and NORMALIZE in Path(found).read_text(encoding="utf-8"):
        kinds["2_Normalize"] = "Normalize"
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    for path in kinds:
        (folder / path).mkdir(exist_ok=True)
    atomic_write_text(folder / "1_Pooling" / "config.json", json.dumps(pooling, indent=2))
    atomic_write_text(folder / "sentence_bert_config.json", json.dumps({"max_seq_length": max_length}, indent=2))
    atomic_write_text(folder / MODULES, json.dumps(modules, indent=2))


@torch.inference_mode()
def embed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int = 128
) -> Tensor:
    """Mean-pooled outputs of texts: float32 [texts, width], not normalized, on the CPU."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    for start in range(0, len(order), BATCH_SIZE):
        indices = order[start : start + BATCH_SIZE]
        inputs = tokenizer(
            [texts[index] for index in indices],
            padding=True,
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        ).to(model.device)
        states = model(**inputs).last_hidden_state.float()
        for index, row in zip(indices, mean_pool(states, inputs["attention_mask"]).cpu(), strict=True):
            rows[index] = row
    return torch.stack(rows)


def score_similarity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Dataset, max_length: int = 128
) -> float:
    """Spearman's correlation, -1 to 1, of the embeddings' cosines with STS-B's labels; nothing is trained.

    Args:
        model: An encoder.
        tokenizer: Its tokenizer.
        pairs: A labelled split of `load_glue`.
        max_length: The maximum number of tokens of a text.
    """
    first, second = (embed(model, tokenizer, pairs[column][:], max_length) for column in ("sentence1", "sentence2"))
    cosines = torch.nn.functional.cosine_similarity(first, second)
    return float(glue_scores(TASKS["stsb"], cosines.numpy(), pairs["label"][:])["spearmanr"])
