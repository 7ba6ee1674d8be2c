"""The embedded demo corpus: sections of ten OpenStax textbooks (CC BY 4.0, see ATTRIBUTION.md)."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset

# A folder for `load_dataset` with train and test splits. As a pre-training corpus, only its train split is used.
TEXTBOOKS = Path(__file__).parent / "textbooks"


def load_textbooks() -> DatasetDict:
    """Loads the textbook sections.

    Returns:
        `DatasetDict`: `train` and `test` with one section per row: `text` (paragraphs joined by newlines), `book`
        (short name) and `section` (its number in the book).
    """
    return load_dataset(str(TEXTBOOKS))


def paragraph_classification(
    train_size: int = 4000,
    test_size: int = 600,
    *,
    min_words: int = 40,
    max_words: int = 120,
    seed: int = 42,
) -> DatasetDict:
    """Creates a balanced classification task: which of the ten books is a paragraph from?

    Paragraphs stay in the split of their section. A book with too few paragraphs contributes all of them.

    Args:
        train_size (`int`, *optional*, defaults to `4000`): maximum number of training paragraphs of all classes.
        test_size (`int`, *optional*, defaults to `600`): maximum number of test paragraphs, all classes together.
        min_words (`int`, *optional*, defaults to `40`): minimum length in words separated by spaces.
        max_words (`int`, *optional*, defaults to `120`): maximum length in words.
        seed (`int`, *optional*, defaults to `42`): seed for sampling and shuffling.

    Returns:
        `DatasetDict`: `train` and `test` with `text` (string) and `label` (`ClassLabel` of the book names).

    Raises:
        ValueError: if a size is below the number of classes, or a book has no paragraph of such a length.
    """
    sections = load_textbooks()
    books = sorted(set(sections["train"]["book"]))
    sizes = {"train": train_size, "test": test_size}
    return DatasetDict(
        {
            split: _sample_paragraphs(sections[split], books, size, (min_words, max_words), seed)
            for split, size in sizes.items()
        }
    )


def _sample_paragraphs(sections: Dataset, books: list[str], size: int, words: tuple[int, int], seed: int) -> Dataset:
    if size < len(books):
        raise ValueError(f"size={size}: expected at least one paragraph for each of the {len(books)} books.")
    found: dict[str, list[str]] = {book: [] for book in books}
    for section in sections:
        paragraphs = section["text"].split("\n")
        found[section["book"]] += [text for text in paragraphs if words[0] <= len(text.split()) <= words[1]]

    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str]] = []
    for book, texts in found.items():
        if not texts:
            raise ValueError(f"No paragraph of {book!r} has {words[0]} to {words[1]} words. Widen the range.")
        chosen = rng.permutation(len(texts))[: size // len(books)]
        rows += [(texts[index], book) for index in chosen]
    order = rng.permutation(len(rows))
    return Dataset.from_dict(
        {"text": [rows[index][0] for index in order], "label": [rows[index][1] for index in order]},
        features=Features({"text": Value("string"), "label": ClassLabel(names=books)}),
    )
