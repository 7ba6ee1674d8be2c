from pathlib import Path

import datasets
import pytest
from transformers import BertTokenizer

from mobilebert_hf.data import train_wordpiece

from .helpers import write_corpus


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")


@pytest.fixture(scope="session")
def tokenizer(corpus_file, tmp_path_factory) -> BertTokenizer:
    return train_wordpiece([str(corpus_file)], 120, tmp_path_factory.mktemp("tokenizer"))
