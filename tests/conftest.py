import os

import pytest
import torch

from mobilebert_hf.data import PretrainingDataArguments, prepare_pretraining_data, train_wordpiece

from .data.conftest import write_corpus

# The networks are so small that threads mostly wait for each other; and two test processes with two threads each, on
# two cores, would wait for ages. Processes that tests start inherit it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    """Unless a test asks for it: `torch_compile=True` sets this variable for good."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """A text file of 40 short documents."""
    return write_corpus(tmp_path_factory.mktemp("tiny") / "corpus.txt", documents=40)


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_corpus):
    return train_wordpiece([str(tiny_corpus)], 200, tiny_corpus.parent / "tokenizer")


@pytest.fixture(scope="session")
def tiny_examples(tiny_corpus, tiny_tokenizer):
    """Examples of up to 24 tokens, unmasked, half of them shorter; the splits `train` and `validation`."""
    data = PretrainingDataArguments(
        [str(tiny_corpus)],
        max_seq_length=24,
        short_seq_probability=0.5,
        validation_fraction=0.1,
        cache_dir=str(tiny_corpus.parent / "cache"),
    )
    return prepare_pretraining_data(data, tiny_tokenizer)
