"""Tokenizes questions and contexts into windows, and finds the tokens of the answers.

A long context is split into overlapping windows. The label of a window is the answer's span, or the [CLS] token if the
answer is not in the window (Devlin et al., 2018, sections 4.2 and 4.3).
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from .edges import visible

logger = logging.getLogger(__name__)

NAMED = 20  # questions that a warning names


def build_features(
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    training: bool,
    max_length: int = 384,
    doc_stride: int = 128,
    max_question_length: int = 64,
    processes: int | None = None,
) -> Dataset:
    """Tokenizes questions and contexts into windows, without padding.

    Args:
        examples: Dataset from `load_squad`.
        tokenizer: A fast tokenizer.
        training: Whether to add labels. Otherwise, adds what is needed to find answers in the text.
        max_length: Maximum number of tokens of a window, including question and special tokens.
        doc_stride: Number of tokens that consecutive windows share, as in `transformers`' pipeline and examples. (In
            the original BERT code, it is the distance between the beginnings of windows.)
        max_question_length: Maximum number of tokens of the question; it is truncated.
        processes: Number of processes.

    Returns:
        A dataset with one window per row: the tokenizer's columns, and
            for training: `start_positions` and `end_positions`: indices of the answer's first and last token; 0, the
                [CLS] token, without an answer. Questions whose answer is in no window as a whole are left out.
            otherwise: `example`: index of the question; `offsets`: start and end of each context token in the context,
                in characters, flattened; `context_start`: index of the first context token.

    Raises:
        ValueError: The tokenizer is not fast, its sequences do not begin with [CLS], `doc_stride` is too large, or no
            answer is in a window as a whole.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} has no character offsets: use a fast tokenizer.")
    if tokenizer.cls_token_id is None or tokenizer("")["input_ids"][:1] != [tokenizer.cls_token_id]:
        raise ValueError(f"{type(tokenizer).__name__} does not begin sequences with [CLS]: use a BERT tokenizer.")
    room = max_length - max_question_length - tokenizer.num_special_tokens_to_add(pair=True)
    if not 0 <= doc_stride < room:
        raise ValueError(
            f"doc_stride={doc_stride} must be from 0 to {room - 1}, less than the context's part of a window: "
            f"max_length={max_length} minus max_question_length={max_question_length} and special tokens."
        )
    build = partial(
        _windows,
        tokenizer=tokenizer,
        training=training,
        max_length=max_length,
        doc_stride=doc_stride,
        max_question_length=max_question_length,
    )
    windows = examples.map(
        build,
        batched=True,
        with_indices=True,
        remove_columns=examples.column_names,
        num_proc=processes,
        desc="building features",
    )
    return _without_unlearnable(windows, examples).remove_columns("example") if training else windows


def _without_unlearnable(windows: Dataset, examples: Dataset) -> Dataset:
    """Leaves out the windows of answers that no window has as a whole: all of their labels would be [CLS]."""
    owners = np.array(windows["example"])
    labelled = set(owners[np.array(windows["start_positions"]) > 0].tolist())
    answered = [index for index, answers in enumerate(examples["answers"]) if answers["text"]]
    lost = [index for index in answered if index not in labelled]
    if not lost:
        return windows
    names = ", ".join(map(repr, examples.select(lost[:NAMED])["id"]))
    message = (
        f"{len(lost)} of {len(answered)} answers are longer than what windows share, or have no token of this "
        f"tokenizer: questions {names}{', ...' if len(lost) > NAMED else ''}"
    )
    if len(lost) == len(answered):
        raise ValueError(f"{message}. Set a larger max_length and doc_stride, or use another tokenizer.")
    logger.warning("%s. They are left out.", message)
    return windows.select(np.flatnonzero(~np.isin(owners, lost)))


def _windows(
    rows: dict[str, list[Any]],
    indices: list[int],
    tokenizer: PreTrainedTokenizerBase,
    training: bool,
    max_length: int,
    doc_stride: int,
    max_question_length: int,
) -> dict[str, list[Any]]:
    encoded = tokenizer(
        shorten(rows["question"], tokenizer, max_question_length),
        rows["context"],
        truncation="only_second",
        max_length=max_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        split_special_tokens=True,  # a [SEP] in the text is text
    )
    sources = encoded.pop("overflow_to_sample_mapping")
    offsets = encoded.pop("offset_mapping")
    columns: dict[str, list[Any]] = {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}
    columns.pop("attention_mask", None)  # all ones; the collator creates it
    contexts: list[tuple[int, np.ndarray]] = []
    for window, spans in enumerate(offsets):
        positions = np.flatnonzero([part == 1 for part in encoded.sequence_ids(window)])
        contexts.append((int(positions[0]) if len(positions) else 0, np.array(spans, dtype=np.int32)[positions]))
    columns["example"] = [indices[source] for source in sources]
    if training:
        labels = _label(rows, sources, contexts, doc_stride, tokenizer.truncation_side == "left")
        columns["start_positions"] = [first for first, _ in labels]
        columns["end_positions"] = [last for _, last in labels]
    else:
        columns["offsets"] = [spans.ravel() for _, spans in contexts]
        columns["context_start"] = [first for first, _ in contexts]
    return columns


def shorten(questions: list[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[str]:
    """Truncates questions to `max_tokens` tokens, and strips leading white space."""
    questions = [question.lstrip() for question in questions]
    encoded = tokenizer(
        questions,
        add_special_tokens=False,
        truncation=True,
        max_length=max_tokens,
        return_offsets_mapping=True,
        split_special_tokens=True,
    )
    ends = [spans[-1][1] if spans else 0 for spans in encoded["offset_mapping"]]
    return [question[:end] for question, end in zip(questions, ends, strict=True)]


def _label(
    rows: Mapping[str, list[Any]],
    sources: Sequence[int],
    contexts: Sequence[tuple[int, np.ndarray]],
    doc_stride: int,
    from_the_right: bool,
) -> list[tuple[int, int]]:
    """The first and last token of the first answer in each window, or (0, 0) if a window has only a part of it."""
    labels = [(0, 0)] * len(sources)
    by_source: dict[int, list[int]] = {}
    for window, source in enumerate(sources):
        by_source.setdefault(source, []).append(window)
    for source, windows in by_source.items():
        answers = rows["answers"][source]
        if not answers["text"]:
            continue
        begin = answers["answer_start"][0]
        end = begin + len(answers["text"][0])
        step = len(contexts[windows[0]][1]) - doc_stride
        found = {}  # by window: the answer's first and last token there; the first token's index in the context
        for number, window in enumerate(windows):
            spans = contexts[window][1]
            inside = _tokens_of(rows["context"][source], spans, begin, end)
            if len(inside):
                origin = -number * step - len(spans) if from_the_right else number * step
                found[window] = inside[0], inside[-1], origin
        first = min((origin + head for head, _, origin in found.values()), default=0)
        last = max((origin + tail for _, tail, origin in found.values()), default=0)
        for window, (head, tail, origin) in found.items():
            if (origin + head, origin + tail) == (first, last):
                start = contexts[window][0]
                labels[window] = start + int(head), start + int(tail)
    return labels


def _tokens_of(context: str, spans: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Indices of the tokens [n, 2] that have visible characters of `context[begin:end]`."""
    near = np.flatnonzero((spans[:, 1] > begin) & (spans[:, 0] < end))
    seen = [visible(context, *spans[index]) for index in near]
    return near[[left < right and right > begin and left < end for left, right in seen]] if len(near) else near
