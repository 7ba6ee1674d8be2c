"""Text for calibrating activation ranges."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..data import load_documents
from .network import Batches

MAX_TEXTS, BATCH_SIZE = 128, 8


def calibration_batches(
    corpus: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, token_types: int
) -> Batches:
    """Samples texts evenly from a corpus and tokenizes them as pairs of halves, to use all token types.

    Args:
        corpus: Files, folders, globs or Hub data sets (see `load_documents`).
        tokenizer: The tokenizer of the model.
        max_length: Maximum number of tokens of a pair.
        token_types: Number of token types of the model, 1 or more.

    Returns:
        At most `MAX_TEXTS` pairs, in batches of `BATCH_SIZE`.
    """
    documents = load_documents(corpus)
    count = min(MAX_TEXTS, len(documents))
    chosen = [documents[index * len(documents) // count]["text"] for index in range(count)]
    texts = [text[: 8 * max_length] for text in chosen]  # more than enough characters for max_length tokens
    pairs = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in texts]
    batches = []
    for start in range(0, count, BATCH_SIZE):
        encoded = tokenizer(
            *map(list, zip(*pairs[start : start + BATCH_SIZE], strict=True)),
            max_length=max_length,
            truncation=True,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=True,
        )
        if token_types == 1:  # then graphs have no such input
            del encoded["token_type_ids"]
        batches.append(dict(encoded))
    return batches
