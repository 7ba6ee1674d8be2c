"""Benchmark of texts of mixed lengths, with and without padding.

- padded: batches in the original order, padded to their longest text, as in pipelines.
- sorted: small length-bucketed batches.
- unpadded: the folded student in PyTorch packs the tokens of a batch (`models/packing.py`); all others run with batch
  size 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from ...data.batching import example_lengths
from ...data.squad import load_squad
from ...data.squad_windows import build_features
from ..check import Run
from ..student import INPUTS
from .networks import OURS, STOCK

TEXTS, BATCH_SIZE, SORTED_BATCH_SIZE = 32, 16, 4


def sample_lengths(model: str, questions: str) -> list[int]:
    """Returns the lengths in tokens of a random sample of SQuAD windows (question and context).

    Args:
        model: Hub id or folder of a model with a tokenizer.
        questions: An official SQuAD file or a Hub data set.
    """
    rows = load_squad(questions, "validation")
    rows = rows.select(np.random.default_rng(0).permutation(len(rows))[:TEXTS])
    windows = build_features(rows, AutoTokenizer.from_pretrained(model), training=False)
    return example_lengths(windows).tolist()[:TEXTS]


def mixed_passes(
    runs: Mapping[str, Run], packed: Run | None, lengths: Sequence[int]
) -> dict[str, Callable[[], object]]:
    """Returns a function for each pass over all texts: the student and stock MobileBERT, in each batching.

    Args:
        runs: The networks, by name.
        packed: The student with packing, if the runtime is PyTorch and the student can be folded.
        lengths: Number of tokens of each text.
    """
    batches = _batches(lengths, BATCH_SIZE)
    buckets = _batches(sorted(lengths), SORTED_BATCH_SIZE)
    singles = _batches(lengths, 1)
    calls = {}
    for name in (OURS, STOCK):
        calls[f"{name}, padded"] = _pass(runs[name], batches)
        calls[f"{name}, sorted"] = _pass(runs[name], buckets)
        use_packed = name == OURS and packed is not None
        calls[f"{name}, unpadded"] = _pass(packed, batches) if use_packed else _pass(runs[name], singles)
    return calls


def padded_tokens(lengths: Sequence[int]) -> int:
    """Returns the number of tokens in padded batches, padding included."""
    return sum(batch[INPUTS[0]].size for batch in _batches(lengths, BATCH_SIZE))


def _batches(lengths: Sequence[int], size: int) -> list[dict[str, np.ndarray]]:
    return [_batch(lengths[start : start + size]) for start in range(0, len(lengths), size)]


def _batch(lengths: Sequence[int]) -> dict[str, np.ndarray]:
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(1, 100, mask.shape)
    return dict(zip(INPUTS, (ids * mask, mask, np.zeros_like(mask)), strict=True))


def _pass(run: Run | None, batches: Sequence[dict[str, np.ndarray]]) -> Callable[[], Any]:
    assert run is not None
    return lambda: [run(batch) for batch in batches]
