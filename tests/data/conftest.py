import random
from pathlib import Path

import datasets
import pytest
from transformers import BertTokenizer

from mobilebert_hf.data import train_wordpiece

WORDS = """
the a river mountain engine theory cell market planet memory society atom begins carries explains measures slowly
quickly often never strange bright ancient small large unbelievable measurement carrying explanation
"""


def write_corpus(path: Path, documents: int = 60, seed: int = 0) -> Path:
    """Documents of random sentences: 1-6 paragraphs of 1-8 sentences of 2-15 words."""
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS.split(), k=rng.randint(2, 15))).capitalize() + "."

    texts = [
        "\n".join(" ".join(sentence() for _ in range(rng.randint(1, 8))) for _ in range(rng.randint(1, 6)))
        for _ in range(documents)
    ]
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")


@pytest.fixture(scope="session")
def tokenizer(corpus_file, tmp_path_factory) -> BertTokenizer:
    return train_wordpiece([str(corpus_file)], 120, tmp_path_factory.mktemp("tokenizer"))
