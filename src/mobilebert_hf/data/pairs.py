"""Builds next-sentence-prediction pairs from tokenized documents, as BERT's `create_pretraining_data.py` does."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import numpy as np
from datasets import Features, List, Value

EXAMPLES = Features(
    {
        "input_ids": List(Value("int32")),
        "token_type_ids": List(Value("int8")),
        "next_sentence_label": Value("int8"),
    }
)

CACHED_DOCUMENTS = 128  # other documents that a batch of documents keeps in memory

IS_NEXT, IS_RANDOM = 0, 1  # as in transformers' next-sentence heads
UNLABELLED = -100  # the label that transformers' losses ignore

# Sentence-ending marks that a space must follow (Latin, Arabic and Devanagari), and Chinese and Japanese marks, which
# need no space. Closing quotes and brackets belong to the sentence.
_CLOSING = "\"'\u201d\u2019\u00bb\u300d\u300f)\uff09\\]"
_BOUNDARY = re.compile(
    rf"([.!?\u2026\u061f\u06d4\u0964]+)[{_CLOSING}]*\s+|[\u3002\uff01\uff1f\uff61]+[{_CLOSING}]*\s*"
)


def split_sentences(paragraph: str) -> list[str]:
    """Splits a paragraph at sentence-ending punctuation. The rule is the same for all languages.

    A full stop after a single capital letter (`J. Smith`, `U.S. Army`) does not end a sentence, nor does a mark before
    a lower-case letter.

    Args:
        paragraph (`str`): text without line breaks.

    Returns:
        `list[str]`: the sentences, stripped, without empty ones.
    """
    sentences, start = [], 0
    for match in _BOUNDARY.finditer(paragraph):
        end, mark = match.end(), match.start()
        if match[1] and paragraph[end : end + 1].islower():
            continue
        initial = match[1] == "." and paragraph[mark - 1 : mark].isupper()
        if initial and not paragraph[max(mark - 2, 0) : mark - 1].isalnum():
            continue
        sentences.append(paragraph[start:end].strip())
        start = end
    sentences.append(paragraph[start:].strip())
    return [sentence for sentence in sentences if sentence]


class Document(NamedTuple):
    """A tokenized document.

    Args:
        ids (`np.ndarray` of shape `(num_tokens,)`, int32): token ids without special tokens.
        bounds (`list[int]`): offsets of the sentences: sentence `i` is `ids[bounds[i] : bounds[i + 1]]`.
    """

    ids: np.ndarray
    bounds: list[int]

    @classmethod
    def from_lengths(cls, ids: Sequence[int], lengths: Sequence[int], longest: int) -> "Document":
        """Creates a document from its sentences' lengths.

        Long sentences are split, because otherwise truncation would drop most of a text without punctuation.

        Args:
            ids (`Sequence[int]`): token ids.
            lengths (`Sequence[int]`): number of tokens of each sentence.
            longest (`int`): largest number of tokens of a sentence.

        Returns:
            `Document`
        """
        counts = np.asarray(lengths, dtype=np.int64)
        if (counts > longest).any():
            pieces = -(-counts // longest)  # of each sentence: full ones, and the rest
            split = np.full(pieces.sum(), longest)
            split[pieces.cumsum() - 1] = counts - (pieces - 1) * longest
            counts = split
        return cls(np.asarray(ids, dtype=np.int32), [0, *counts.cumsum().tolist()])


@dataclass(frozen=True)
class PairSettings:
    """Settings of pair building.

    Args:
        max_seq_length (`int`): largest number of tokens of an example, including special tokens.
        short_seq_probability (`float`): probability of a random shorter target length.
        dupe_factor (`int`): number of times that each document is used.
        seed (`int`): seed of the random choices.
        cls_token_id (`int`): id of `[CLS]`.
        sep_token_id (`int`): id of `[SEP]`.
        examples (`str`, *optional*, defaults to `"pairs"`): `"pairs"`, `"sentences"` or `"windows"`; for the last two
            see `make_single_segments`.
    """

    max_seq_length: int
    short_seq_probability: float
    dupe_factor: int
    seed: int
    cls_token_id: int
    sep_token_id: int
    examples: str = "pairs"

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of both segments, without special tokens."""
        return self.max_seq_length - 3


def build_pairs(
    document: Document, draw: Callable[[Random], Document] | None, settings: PairSettings, rng: Random
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Splits a document into pairs of segments. In half of them the second segment is from another document.

    Unlike BERT, this draws the target length for each pair instead of each document, so that in a single pass over the
    corpus no document has only short pairs.

    Args:
        document (`Document`): the document to split.
        draw (`Callable`, *optional*): returns another document. Without it, no pair has a random second segment.
        settings (`PairSettings`): lengths and probabilities.
        rng (`random.Random`): the random generator.

    Yields:
        `tuple[np.ndarray, np.ndarray, int]`: segments A and B (int32, at least one token each and at most
        `settings.max_tokens` together), and 0 if B follows A in the document or 1 if it is random.
    """
    ids, bounds = document
    start, last = 0, len(bounds) - 1
    while start < last:
        target = settings.max_tokens
        if rng.random() < settings.short_seq_probability:
            target = rng.randint(2, target)
        end = min(bisect_left(bounds, bounds[start] + target), last)
        # A and B have at least one sentence each, unless there is only one.
        middle = rng.randint(start + 1, end - 1) if end - start > 1 else end
        first = ids[bounds[start] : bounds[middle]]
        if draw is not None and (middle == end or rng.random() < 0.5):
            second, label = _random_segment(draw(rng), target - len(first), rng), IS_RANDOM
            start = middle  # the sentences that the random segment replaced are used next
        else:
            second, label = ids[bounds[middle] : bounds[end]], IS_NEXT
            start = end
        if len(second):
            yield (*_truncate(first, second, settings.max_tokens, rng), label)


def _random_segment(document: Document, target: int, rng: Random) -> np.ndarray:
    """Consecutive sentences with at least `target` tokens, from a random one on, or up to the end of the document."""
    start = rng.randrange(len(document.bounds) - 1)
    begin = document.bounds[start]
    end = min(max(bisect_left(document.bounds, begin + target), start + 1), len(document.bounds) - 1)
    return document.ids[begin : document.bounds[end]]


def _truncate(first: np.ndarray, second: np.ndarray, max_tokens: int, rng: Random) -> tuple[np.ndarray, np.ndarray]:
    """Truncates the longer segment, and both in turn once they are equally long, to `max_tokens` together."""
    keep_first = min(len(first), max(max_tokens - len(second), (max_tokens + 1) // 2))
    keep_second = min(len(second), max_tokens - keep_first)
    return _cut(first, keep_first, rng), _cut(second, keep_second, rng)


def _cut(segment: np.ndarray, keep: int, rng: Random) -> np.ndarray:
    """Drops tokens one by one, each from a random end of the segment."""
    front = sum(rng.random() < 0.5 for _ in range(len(segment) - keep))
    return segment[front : front + keep]


def make_examples(
    batch: dict[str, list[Any]],
    indices: list[int],
    *,
    settings: PairSettings,
    pool: Sequence[dict[str, Any]] | None = None,
) -> dict[str, list[Any]]:
    """Converts a batch of tokenized documents into examples; a batched function for `datasets`' `map`.

    The examples of a document depend only on its index and the pool, so that they are the same for any number of
    processes.

    Args:
        batch (`dict[str, list]`): `input_ids` and `sentence_lengths` of each document.
        indices (`list[int]`): indices of the documents in the dataset and in the pool.
        settings (`PairSettings`): lengths and probabilities.
        pool (`Sequence[dict]`, *optional*): documents from which random segments are drawn. Defaults to the batch.

    Returns:
        `dict[str, list]`: `input_ids` (int32), `token_type_ids` (int8) and `next_sentence_label` (int).
    """
    if settings.examples != "pairs":
        return make_single_segments(batch, settings)
    longest = (settings.max_tokens + 1) // 2  # two of these fill an example

    def load(row: dict[str, Any]) -> Document:
        return Document.from_lengths(row["input_ids"], row["sentence_lengths"], longest)

    @lru_cache(maxsize=CACHED_DOCUMENTS)  # the documents of a corpus of books are few and long
    def load_other(index: int) -> Document:
        assert pool is not None
        return load(pool[index])

    own = [
        load({"input_ids": ids, "sentence_lengths": lengths})
        for ids, lengths in zip(batch["input_ids"], batch["sentence_lengths"], strict=True)
    ]
    examples: dict[str, list[Any]] = {"input_ids": [], "token_type_ids": [], "next_sentence_label": []}
    for position, index in enumerate(indices):
        itself, total = (position, len(own)) if pool is None else (index, len(pool))

        def draw(rng: Random, itself: int = itself, total: int = total) -> Document:
            other = rng.randrange(total - 1)
            other += other >= itself
            return own[other] if pool is None else load_other(other)

        for copy in range(settings.dupe_factor):
            rng = Random(f"{settings.seed}-{copy}-{index}")
            for pair in build_pairs(own[position], draw if total > 1 else None, settings, rng):
                _append(examples, *pair, settings)
    return examples


def _append(
    examples: dict[str, list[Any]], first: np.ndarray, second: np.ndarray, label: int, settings: PairSettings
) -> None:
    start, separator = [settings.cls_token_id], [settings.sep_token_id]
    examples["input_ids"].append(np.concatenate([start, first, separator, second, separator], dtype=np.int32))
    examples["token_type_ids"].append(np.repeat(np.array([0, 1], np.int8), [len(first) + 2, len(second) + 1]))
    examples["next_sentence_label"].append(label)


def make_single_segments(batch: dict[str, list[Any]], settings: PairSettings) -> dict[str, list[Any]]:
    """Converts a batch of tokenized documents into examples of one segment, `[CLS] A [SEP]`.

    A segment is one sentence (`settings.examples == "sentences"`) or as many consecutive sentences as fit
    (`"windows"`). Long sentences are split.

    Args:
        batch (`dict[str, list]`): `input_ids` and `sentence_lengths` of each document.
        settings (`PairSettings`): kind and largest length of the examples.

    Returns:
        `dict[str, list]`: as `make_examples`; `next_sentence_label` is -100.
    """
    longest = settings.max_seq_length - 2
    segments = []
    for ids, lengths in zip(batch["input_ids"], batch["sentence_lengths"], strict=True):
        document = Document.from_lengths(ids, lengths, longest)
        bounds, start = document.bounds, 0
        while start < len(bounds) - 1:
            end = start + 1
            while (
                settings.examples == "windows" and end < len(bounds) - 1 and bounds[end + 1] <= bounds[start] + longest
            ):
                end += 1
            segments.append(document.ids[bounds[start] : bounds[end]])
            start = end
    cls, sep = [settings.cls_token_id], [settings.sep_token_id]
    return {
        "input_ids": [np.concatenate([cls, segment, sep], dtype=np.int32) for segment in segments],
        "token_type_ids": [np.zeros(len(segment) + 2, np.int8) for segment in segments],
        "next_sentence_label": [UNLABELLED] * len(segments),
    }
