import os

import pytest

# The networks are so small that threads mostly wait for each other; and two test processes with two threads each, on
# two cores, would wait for ages. Processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

# The package is imported by the fixtures: the process that hands tests out to others needs none of it.


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    """Unless a test asks for it: `torch_compile=True` sets this variable for good."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder for what is made once for all test processes."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """A text file of 40 short documents."""
    from .data.helpers import write_corpus

    return write_corpus(tmp_path_factory.mktemp("tiny") / "corpus.txt", documents=40)


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_corpus):
    from mobilebert_hf.data import train_wordpiece

    return train_wordpiece([str(tiny_corpus)], 200, tiny_corpus.parent / "tokenizer")


@pytest.fixture(scope="session")
def tiny_examples(tiny_corpus, tiny_tokenizer):
    """Examples of up to 24 tokens, unmasked, half of them shorter; the splits `train` and `validation`."""
    from mobilebert_hf.data import PretrainingDataArguments, prepare_pretraining_data

    data = PretrainingDataArguments(
        [str(tiny_corpus)],
        max_seq_length=24,
        short_seq_probability=0.5,
        validation_fraction=0.1,
        cache_dir=str(tiny_corpus.parent / "cache"),
    )
    return prepare_pretraining_data(data, tiny_tokenizer)


@pytest.fixture(scope="session")
def exported(shared_folder, tiny_tokenizer, tiny_corpus):
    """Real exports of small students: see `SharedExports`."""
    from .deployment.helpers import SharedExports

    folder = shared_folder / "exports"
    folder.mkdir(exist_ok=True)
    return SharedExports(folder, tiny_tokenizer, tiny_corpus)


@pytest.fixture
def instant_exports(monkeypatch):
    """Exports of every format take no time: see `InstantFormat`."""
    from mobilebert_hf.deployment import FORMATS

    from .deployment.helpers import InstantFormat

    for name, module in list(FORMATS.items()):
        monkeypatch.setitem(FORMATS, name, InstantFormat(module.FILES))
