"""Trims tokenizers: counts their pieces on a corpus and leaves out rare ones.

On the corpus, the trimmed tokenizer gives the same text back: rare pieces are written with others, never as unknown
tokens. That is checked text by text.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tokenizers import Tokenizer

from .corpus import load_documents
from .tokenizer_file import TokenizerFile

BATCH_SIZE = 1000

# Yields the texts of a corpus, each time it is called.
Texts = Callable[[], Iterator[str]]


@dataclass
class TextCounts:
    """How a trimmed tokenizer reads the corpus, and how the original one did.

    Args:
        texts (`int`): the number of texts, which are paragraphs.
        longer_texts (`int`): of them, those with more tokens than before.
        tokens (`list[int]`): the number of tokens before and after.
        unknown (`list[int]`): the number of unknown tokens before and after.
    """

    texts: int
    longer_texts: int
    tokens: list[int]
    unknown: list[int]


@dataclass
class TrimmedTokenizer:
    """A trimmed tokenizer.

    Args:
        tokenizer (`Tokenizer`): the tokenizer.
        ids (`list[int]`): for each of its tokens the id before.
        counts (`TextCounts`): how it reads the corpus.
    """

    tokenizer: Tokenizer
    ids: list[int]
    counts: TextCounts


def read_texts(corpus: Sequence[str], text_column: str = "text", encoding_errors: str = "strict") -> Texts:
    """The paragraphs of a corpus; for the arguments and errors see [`load_documents`]."""
    documents = load_documents(corpus, text_column=text_column, streaming=True, encoding_errors=encoding_errors)

    def texts() -> Iterator[str]:
        for document in documents:
            yield from document["text"].split("\n")

    return texts


def parse_keep(keep: str | float) -> int | float:
    """What to keep: a share of the corpus' tokens (`float`) or a number of pieces (`int`).

    Raises:
        ValueError: if it is neither a number above 0 and up to 1, nor a whole number from 2 on.
    """
    try:
        value = float(keep)
    except ValueError:
        value = 0.0
    if 0 < value <= 1:
        return value
    if value >= 2 and value.is_integer():
        return int(value)
    raise ValueError(
        f"the vocabulary to keep is {keep!r}: expected a share of the corpus' tokens above 0 and up to 1, such as "
        "0.9995, or a number of pieces, such as 20000"
    )


def trim_tokenizer(
    tokenizer: Tokenizer,
    texts: Texts,
    keep: int | float,
    *,
    prompts: Sequence[str] = (),
    required: Sequence[int] = (),
) -> TrimmedTokenizer:
    """Trims a tokenizer to the pieces of a corpus.

    Special tokens, added tokens, bytes, and the characters of the corpus are always kept.

    Args:
        tokenizer (`Tokenizer`): not changed.
        texts (`Texts`): the corpus. It is read several times.
        keep (`int` or `float`): see [`parse_keep`].
        prompts (`Sequence[str]`, *optional*): texts whose pieces are always kept.
        required (`Sequence[int]`, *optional*): ids that are always kept.

    Raises:
        ValueError: if the corpus has no tokens, or if the number of pieces is too small for what is always kept.
    """
    file = TokenizerFile(tokenizer)
    original = _plain(tokenizer)
    counts = _count(original, texts)
    if not counts.any():
        raise ValueError("the corpus has no tokens: expected text, check the corpus")
    needed = file.required().union(required, *(ids for _, ids in _encode(original, iter(prompts))))
    for index in np.flatnonzero(counts):
        needed |= file.substitutes(int(index))
    while True:
        kept = _choose(file, counts, needed, keep)
        trimmed, ids = file.select(kept)
        compared, lost = _compare(original, _plain(trimmed), kept, file.unknown, ids, texts)
        if not lost:
            return TrimmedTokenizer(trimmed, ids, compared)
        needed |= lost


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither truncates nor pads, and splits special tokens in a text as other text."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def _encode(tokenizer: Tokenizer, texts: Iterator[str]) -> Iterator[tuple[str, list[int]]]:
    while batch := list(islice(texts, BATCH_SIZE)):
        encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        yield from zip(batch, (encoding.ids for encoding in encodings), strict=True)


def _count(tokenizer: Tokenizer, texts: Texts) -> np.ndarray:
    """How often each id occurs: int64 [largest id + 1]."""
    size = max(tokenizer.get_vocab().values()) + 1
    counts = np.zeros(size, np.int64)
    encoded = _encode(tokenizer, texts())
    while batch := [np.asarray(ids, np.int64) for _, ids in islice(encoded, BATCH_SIZE)]:
        counts += np.bincount(np.concatenate(batch), minlength=size)
    return counts


def _choose(file: TokenizerFile, counts: np.ndarray, needed: set[int], keep: int | float) -> set[int]:
    """The needed pieces and the most frequent others, with the pieces that they need."""
    kept = set().union(*(file.with_path(index) for index in needed))
    by_count = [int(index) for index in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]]
    if isinstance(keep, float):
        enough = keep * counts.sum()
        covered = sum(int(counts[index]) for index in kept)
        for index in by_count:
            if covered >= enough:
                break
            more = file.with_path(index) - kept
            covered += sum(int(counts[each]) for each in more)
            kept |= more
        return kept
    if len(kept) > keep:
        raise ValueError(
            f"the vocabulary to keep is {keep}, but special tokens, prompts and the characters of the corpus already "
            f"need {len(kept)}: set it to more than that, or clean the corpus"
        )
    for index in by_count:
        more = file.with_path(index) - kept
        if len(kept) + len(more) <= keep:
            kept |= more
    return kept


def _compare(
    original: Tokenizer, trimmed: Tokenizer, kept: set[int], unknown: int | None, ids: list[int], texts: Texts
) -> tuple[TextCounts, set[int]]:
    """How both read the corpus, and the pieces whose loss changes a text.

    Only texts with a piece that is not kept can change.
    """
    is_kept = np.zeros(max(original.get_vocab().values()) + 1, bool)
    is_kept[list(kept)] = True
    counts, lost = TextCounts(0, 0, [0, 0], [0, 0]), set[int]()
    for text, before in _encode(original, texts()):
        dropped = np.asarray(before, np.int64)[~is_kept[before]]
        after = before
        if len(dropped):
            found = trimmed.encode(text, add_special_tokens=False).ids
            after = [ids[index] for index in found]
            if _decode(original, before) != _decode(trimmed, found):
                lost.update(dropped.tolist())
        counts.texts += 1
        counts.longer_texts += len(after) > len(before)
        for side, read in enumerate((before, after)):
            counts.tokens[side] += len(read)
            counts.unknown[side] += 0 if unknown is None else read.count(unknown)
    return counts, lost


def _decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)
