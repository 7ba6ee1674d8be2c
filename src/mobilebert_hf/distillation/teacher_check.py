"""Checks by a small batch whether a network can be a teacher, before any text is read."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..data.masking import IGNORED
from .networks import LayerOutputs, Needs
from .shapes import position_table
from .teachers import EncoderTeacher

# Not square, so that a network that puts the sequence first is noticed; the second row is padded.
ROWS, LENGTH, REAL = 2, 6, 4
# Relative differences of states that other lengths of a batch make, and of states that are the same.
TOLERANCE, EXACT = 1e-3, 1e-6


@torch.no_grad()
def check_teacher(teacher: EncoderTeacher, tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that a network is an encoder that reads in both directions and ignores padding.

    Args:
        teacher: On the CPU, in float32.
        tokenizer: Its tokenizer.

    Raises:
        ValueError: It cannot be a teacher; the message says why.
    """
    model = teacher.model
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(_refusal(teacher, "it is an encoder-decoder"))
    _check_padding(teacher, tokenizer)
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{type(model).__name__} cannot be a teacher with this tokenizer, which has {len(tokenizer)} tokens: the "
            f"model has embeddings of {model.config.vocab_size}."
        )
    outputs = _run(teacher, _batch(tokenizer))
    expected = (ROWS, LENGTH, model.config.hidden_size)
    for layer, states in outputs.features.items():
        if tuple(states.shape) != expected:
            shape = list(states.shape)
            raise ValueError(_refusal(teacher, f"the output of its layer {layer} is {shape} instead of {[*expected]}"))
    last = outputs.last_hidden_state
    assert last is not None
    changed = _batch(tokenizer)
    changed["input_ids"][:, REAL - 1] += 1
    if _same(_run(teacher, changed).last_hidden_state[0, 0], last[0, 0], EXACT):  # type: ignore[index]
        raise ValueError(_refusal(teacher, "it reads from left to right only, as a decoder does"))
    alone = {name: values[1:, :REAL] for name, values in _batch(tokenizer).items()}
    if not _same(_run(teacher, alone).last_hidden_state[0], last[1, :REAL], TOLERANCE):  # type: ignore[index]
        raise ValueError(_refusal(teacher, "padding changes what it computes of the text"))


def _batch(tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    ordinary = [index for index in range(40) if index not in tokenizer.all_special_ids]
    ids = torch.tensor(ordinary[: 2 * LENGTH : 2]).repeat(ROWS, 1)
    mask = torch.ones_like(ids)
    mask[1, REAL:] = 0
    assert tokenizer.pad_token_id is not None
    ids[1, REAL:] = tokenizer.pad_token_id
    labels = torch.full_like(ids, IGNORED)
    labels[:, 1] = ids[:, 1]
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids), "labels": labels}


def _run(teacher: EncoderTeacher, batch: dict[str, torch.Tensor]) -> LayerOutputs:
    layers = tuple(range(len(teacher.mapping)))
    try:
        return teacher(batch, Needs(features=(-1, *layers)))
    except ValueError:
        raise
    except Exception as error:  # whatever a network of an unknown family raises
        reason = f"it does not run on a batch of token ids ({' '.join(str(error).split())[:120]})"
        raise ValueError(_refusal(teacher, reason)) from error


def _check_padding(teacher: EncoderTeacher, tokenizer: PreTrainedTokenizerBase) -> None:
    """A network that counts positions by its own padding id must have that of the tokenizer."""
    table, expected = position_table(teacher.model), tokenizer.pad_token_id
    if table is not None and table.padding_idx is not None and teacher.config.pad_token_id != expected:
        raise ValueError(
            f"{type(teacher.model).__name__} counts positions by its pad_token_id, {teacher.config.pad_token_id}, but "
            f"{tokenizer.pad_token} has the id {expected} in the tokenizer: correct pad_token_id in the teacher's "
            "config.json."
        )


def _same(first: Any, second: Any, tolerance: float) -> bool:
    return bool((first - second).norm() <= tolerance * second.norm())


def _refusal(teacher: EncoderTeacher, reason: str) -> str:
    kind = type(teacher.model).__name__
    return f"{kind} cannot be a teacher: {reason}. Expected an encoder that reads in both directions, such as BERT."
