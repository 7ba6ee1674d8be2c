from collections import Counter
from pathlib import Path

import datasets
import pytest

from mobilebert_hf.data import load_documents
from mobilebert_hf.demo import corpus as module
from mobilebert_hf.demo.corpus import TEXTBOOKS, load_textbooks, paragraph_classification


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def test_ten_books_with_attribution():
    sections = load_textbooks()
    attribution = (Path(module.__file__).parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for split in ("train", "test"):
        books = set(sections[split]["book"])
        assert len(books) == 10
        assert "business" not in books
        assert all(f"| `{book}` |" in attribution for book in books)
    assert "CC BY 4.0" in attribution
    assert sum(file.stat().st_size for file in TEXTBOOKS.iterdir()) <= 2.5e6


def test_splits_share_no_section_and_no_paragraph():
    sections = load_textbooks()
    keys = [set(zip(part["book"], part["section"], strict=True)) for part in sections.values()]
    paragraphs = [{p for text in part["text"] for p in text.split("\n")} for part in sections.values()]
    assert not keys[0] & keys[1]
    assert not paragraphs[0] & paragraphs[1]
    train, test = (Counter(part["book"]) for part in sections.values())
    share = {book: test[book] / (train[book] + test[book]) for book in test}
    assert all(0.1 < value < 0.2 for value in share.values())


def test_the_folder_is_a_corpus_without_the_test_split(tmp_path):
    documents = load_documents([str(TEXTBOOKS)], cache_dir=str(tmp_path))
    assert documents["text"][:] == load_textbooks()["train"]["text"][:]


def test_paragraph_classification_is_balanced_and_seeded():
    data = paragraph_classification(200, 50)
    assert data["train"].features["label"].num_classes == 10
    assert Counter(Counter(data["train"]["label"]).values()) == {20: 10}
    assert Counter(Counter(data["test"]["label"]).values()) == {5: 10}
    assert all(40 <= len(text.split()) <= 120 for text in data["train"]["text"])
    assert data["train"].to_dict() == paragraph_classification(200, 50)["train"].to_dict()
    assert data["train"].to_dict() != paragraph_classification(200, 50, seed=1)["train"].to_dict()
    books = load_textbooks()["train"]
    row = data["train"][0]
    name = data["train"].features["label"].int2str(row["label"])
    assert any(row["text"] in section["text"] for section in books if section["book"] == name)


def test_sizes_and_lengths_that_cannot_be_met():
    with pytest.raises(ValueError, match="size=5: expected at least one paragraph"):
        paragraph_classification(5, 50)
    with pytest.raises(ValueError, match=r"No paragraph of .* has 100000 to 100001 words"):
        paragraph_classification(50, 50, min_words=100_000, max_words=100_001)
