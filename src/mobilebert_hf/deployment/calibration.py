"""Text to measure ranges on."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..data import load_documents
from .network import Batches

TEXTS, ROWS = 128, 8


def calibration_batches(
    corpus: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, token_types: int
) -> Batches:
    """Batches of texts from all over a corpus, cut in the middle into pairs, so that all token types are there.

    Args:
        corpus: Files, folders, globs or Hub data sets (see `load_documents`).
        tokenizer: The model's.
        max_length: Tokens of a pair at most.
        token_types: How many the model has; a student of a teacher without them has one.

    Returns:
        `TEXTS` texts at most, in batches of `ROWS`.
    """
    documents = load_documents(corpus)
    count = min(TEXTS, len(documents))
    chosen = [documents[index * len(documents) // count]["text"] for index in range(count)]
    # Enough characters for any number of tokens.
    texts = [text[: 8 * max_length] for text in chosen]
    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in texts]
    batches = [
        dict(
            tokenizer(
                *map(list, zip(*halves[start : start + ROWS], strict=True)),
                max_length=max_length,
                truncation=True,
                padding=True,
                return_tensors="pt",
                return_token_type_ids=True,
            )
        )
        for start in range(0, count, ROWS)
    ]
    for batch in batches:
        batch["token_type_ids"] = batch["token_type_ids"].clamp(max=token_types - 1)
    return batches
