"""Texts of mixed lengths: how fast a set of them goes with padding and without.

Padded, texts are in batches as they come, each as long as its longest text, as in pipelines. Sorted by length, a few
are together that are about as long. Unpadded, the folded student in PyTorch packs the tokens of a batch
(`models/packing.py`), and all others take a text at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from ...data.batching import example_lengths
from ...data.squad import build_features, load_squad
from ..check import Run
from ..student import INPUTS
from .networks import OURS, STOCK

TEXTS, BATCH = 32, 16
# Few, so that they are hardly apart in length.
SORTED_BATCH = 4


def sample_lengths(model: str, questions: str) -> list[int]:
    """Lengths, in tokens, of windows of SQuAD questions with their contexts, from all over a file.

    Args:
        model: Hub id or folder of a model, whose tokenizer is used.
        questions: An official file, or a Hub data set.
    """
    rows = load_squad(questions, "validation")
    rows = rows.select(np.random.default_rng(0).permutation(len(rows))[:TEXTS])
    windows = build_features(rows, AutoTokenizer.from_pretrained(model), training=False)
    return example_lengths(windows).tolist()[:TEXTS]


def ways(runs: Mapping[str, Run], packed: Run | None, lengths: Sequence[int]) -> dict[str, Callable[[], object]]:
    """What is timed, by network and way: the student's and its stock twin's passes over all texts.

    Args:
        runs: The networks, by name.
        packed: The student that packs, if the runtime is PyTorch and the student can be folded.
        lengths: Tokens of each text.
    """
    batches = _batches(lengths, BATCH)
    alike = _batches(sorted(lengths), SORTED_BATCH)
    singles = _batches(lengths, 1)
    calls = {}
    for name in (OURS, STOCK):
        calls[f"{name}, padded"] = _pass(runs[name], batches)
        calls[f"{name}, sorted"] = _pass(runs[name], alike)
        packs = name == OURS and packed is not None
        calls[f"{name}, unpadded"] = _pass(packed, batches) if packs else _pass(runs[name], singles)
    return calls


def padded_tokens(lengths: Sequence[int]) -> int:
    """Tokens that are computed of these texts in padded batches as they come."""
    return sum(batch[INPUTS[0]].size for batch in _batches(lengths, BATCH))


def _batches(lengths: Sequence[int], size: int) -> list[dict[str, np.ndarray]]:
    return [_batch(lengths[start : start + size]) for start in range(0, len(lengths), size)]


def _batch(lengths: Sequence[int]) -> dict[str, np.ndarray]:
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(1, 100, mask.shape)
    return dict(zip(INPUTS, (ids * mask, mask, np.zeros_like(mask)), strict=True))


def _pass(run: Run | None, batches: Sequence[dict[str, np.ndarray]]) -> Callable[[], Any]:
    assert run is not None
    return lambda: [run(batch) for batch in batches]
