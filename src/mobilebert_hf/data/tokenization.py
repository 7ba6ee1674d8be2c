"""Tokenizes documents by sentences."""

import hashlib
import itertools
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Features, List, Value
from transformers import PreTrainedTokenizerBase

from .pairs import split_sentences
from .vocabulary import encode

TOKENIZED = Features(
    {"input_ids": List(Value("int32")), "sentence_lengths": List(Value("int32")), "digest": Value("int64")}
)


def tokenize_documents(
    batch: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str] = ()
) -> dict[str, list[Any]]:
    """Splits documents into sentences and tokenizes them; a batched function for `datasets`' `map`.

    Args:
        batch (`dict[str, list[str]]`): the `text` of each document, one paragraph per line.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer.
        prompts (`Sequence[str]`, *optional*): texts that are put before sentences, in turn; an empty one is none.

    Returns:
        `dict[str, list]`: `input_ids`, `sentence_lengths`, and `digest`, a hash of the text below 2**63, for each
        document with at least one token.
    """
    documents = [
        [sentence for paragraph in text.split("\n") for sentence in split_sentences(paragraph)]
        for text in batch["text"]
    ]
    sentences = list(itertools.chain.from_iterable(documents))
    if prompts:
        # By the sentence alone, so that any batches and processes give the same.
        shares = (prompts[zlib.crc32(sentence.encode("utf-8", "replace")) % len(prompts)] for sentence in sentences)
        sentences = [prompt + sentence for prompt, sentence in zip(shares, sentences, strict=True)]
    encoded = iter(encode(sentences, tokenizer) if sentences else [])
    columns: dict[str, list[Any]] = {name: [] for name in TOKENIZED}
    for text, document in zip(batch["text"], documents, strict=True):
        ids = list(itertools.islice(encoded, len(document)))
        lengths = [len(sentence) for sentence in ids if sentence]
        if lengths:
            columns["input_ids"].append(np.fromiter(itertools.chain.from_iterable(ids), np.int32))
            columns["sentence_lengths"].append(lengths)
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            columns["digest"].append(int.from_bytes(digest, "little") >> 1)  # 63 bits fit int64
    return columns
