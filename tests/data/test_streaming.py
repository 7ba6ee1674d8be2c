"""Streams: every document once per epoch, split by process, and a state that can be saved and restored."""

import gzip
import itertools
import json

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mobilebert_hf.data import (
    PretrainingCollator,
    PretrainingDataArguments,
    load_documents,
    prepare_pretraining_data,
    streaming,
)
from mobilebert_hf.data.streaming import make_block

from .helpers import write_corpus

FILES = 4
BLOCK = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four text files of 15 documents each."""
    folder = tmp_path_factory.mktemp("stream")
    for number in range(FILES):
        write_corpus(folder / f"part-{number}.txt", 15, seed=number)
    return folder


@pytest.fixture(scope="module")
def make_streams(tokenizer):
    def make(*sources, **changes):
        options = {"streaming": True, "streaming_buffer_size": BLOCK, "validation_fraction": 0.2, "max_seq_length": 48}
        return prepare_pretraining_data(
            PretrainingDataArguments([str(source) for source in sources], **{**options, **changes}), tokenizer
        )

    return make


@pytest.fixture(scope="module")
def stream(make_streams, corpus):
    return make_streams(corpus)["train"]


def take(examples, count):
    return list(itertools.islice(iter(examples), count))


def one_pass(stream):
    return list(itertools.takewhile(lambda row: row["epoch"] == 0, stream))


def key(example):
    return (*example["input_ids"], example["next_sentence_label"], example.get("epoch"))


def keys(batches):
    """A hashable identifier of each batch."""
    return [tuple(map(tuple, batch["input_ids"].tolist())) for batch in batches]


def restarted(stream, state):
    """Restores a stream from a saved state, as a new process does."""
    new = stream.split(stream.rank, stream.world_size)
    new.load_state_dict(json.loads(json.dumps(state)))
    return new


# ---- examples


@pytest.mark.parametrize("separate", [False, True])
def test_examples_have_the_columns_of_prepared_data(make_streams, corpus, tmp_path, separate):
    held_out = [str(write_corpus(tmp_path / "held_out.txt", 5, seed=9))] if separate else None
    data = make_streams(corpus, validation_corpus=held_out)
    train, validation = one_pass(data["train"]), list(data["validation"])
    assert isinstance(data["validation"], IterableDataset)
    for rows in (train, validation):
        assert list(rows[0])[:3] == ["input_ids", "token_type_ids", "next_sentence_label"]
        assert {row["next_sentence_label"] for row in rows} == {0, 1}
        assert max(len(row["input_ids"]) for row in rows) <= 48
    assert len(train) > len(validation)
    assert not {key(row)[:-1] for row in train} & {key(row)[:-1] for row in validation}


def test_every_epoch_has_other_pairs_of_the_same_documents(stream):
    length = len(one_pass(stream))
    rows = take(stream, 2 * length)
    first, second = rows[:length], rows[length:]
    assert {row["epoch"] for row in first} == {0}
    assert {row["epoch"] for row in second[: length // 2]} == {1}
    assert [key(row)[:-1] for row in first] != [key(row)[:-1] for row in second]
    tokens = [sum(len(row["input_ids"]) for row in rows) for rows in (first, second)]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.2)


def test_the_epoch_of_an_example_changes_its_masks(stream, tokenizer):
    collator = PretrainingCollator(tokenizer)
    row = take(stream, 1)[0]
    same, later = collator([row]), collator([{**row, "epoch": 1}])
    collator.epoch = 7
    assert torch.equal(same["labels"], collator([row])["labels"])
    assert not torch.equal(same["labels"], later["labels"])


def test_groups_of_examples_have_similar_lengths(make_streams, corpus):
    stream = make_streams(corpus, streaming_buffer_size=60, short_seq_probability=0.9)["train"]
    lengths = np.array([len(row["input_ids"]) for row in one_pass(stream)])
    runs = lengths[: len(lengths) // 32 * 32].reshape(-1, 32)
    shuffled = np.random.default_rng(0).permutation(lengths)[: runs.size].reshape(runs.shape)
    padding, usual = ((part.max(1, keepdims=True) - part).mean() for part in (runs, shuffled))
    assert padding < usual / 3
    assert not np.array_equal(runs, np.sort(runs.ravel()).reshape(runs.shape)), "the runs are in random order"


def test_no_example_at_all_is_an_error(make_streams, tmp_path):
    stream = make_streams(write_corpus(tmp_path / "one.txt", 3))["train"]
    with pytest.raises(ValueError, match="process 4 of 5 has no document in a whole pass"):
        take(stream.split(4, 5), 1)


# ---- split by process


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_document_goes_to_one_process(corpus, stream, monkeypatch, world_size):
    """Whole files if their number is a multiple of the processes (2, 4), otherwise every n-th document (3)."""
    read = []

    def record(batch, indices, *, settings, **others):
        if settings.seed == stream.settings.seed:  # the next epoch has another seed
            read.extend(batch["text"])
        return make_block(batch, indices, settings=settings, **others)

    monkeypatch.setattr(streaming, "make_block", record)
    for rank in range(world_size):
        before = len(read)
        assert one_pass(stream.split(rank, world_size))
        assert len(read) - before == 15 * FILES // world_size
    assert sorted(read) == sorted(row["text"] for row in load_documents([str(corpus)], streaming=True))


# ---- restoring


@settings(max_examples=15, deadline=None)
@given(taken=st.integers(0, 150), batch_size=st.sampled_from([1, 5, 16]), world_size=st.sampled_from([1, 2, 3]))
def test_a_restored_state_continues_with_the_next_example(stream, taken, batch_size, world_size):
    part = stream.split(world_size - 1, world_size)
    count = taken // batch_size * batch_size
    whole = take(part.split(part.rank, part.world_size), count + 40)
    iterator = iter(part)
    for _ in range(count):
        next(iterator)
    rest = take(restarted(part, part.state_dict()), 40)
    assert [key(row) for row in rest] == [key(row) for row in whole[count:]]


def test_workers_change_nothing_and_a_restored_loader_continues_with_the_next_batch(stream, tokenizer):
    def batches(part):
        return DataLoader(part, 4, collate_fn=PretrainingCollator(tokenizer))

    whole = keys(take(batches(stream.split(1, 2)), 30))
    first = stream.split(1, 2, num_workers=2)
    assert keys(take(batches(first), 17)) == whole[:17]
    second = stream.split(1, 2, num_workers=1)
    second.load_state_dict(first.state_dict())
    assert keys(take(batches(second), 13)) == whole[17:]


@pytest.mark.parametrize("kind", ["jsonl", "gz"])
def test_streams_of_other_sources_can_be_restored(make_streams, tmp_path, corpus, kind):
    if kind == "jsonl":
        documents = load_documents([str(corpus)], streaming=True)
        lines = [json.dumps(row) for row in documents]
        (tmp_path / "a.jsonl").write_text("\n".join(lines[:30]))
        (tmp_path / "b.jsonl").write_text("\n".join(lines[30:]))
        sources = [tmp_path]
    else:
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress((corpus / "part-0.txt").read_bytes()))
        sources = [tmp_path / "a.txt.gz", corpus / "part-1.txt"]
    stream = make_streams(*sources)["train"]
    whole = [key(row) for row in take(stream.split(0, 1), 60)]
    iterator = iter(stream)
    for _ in range(25):
        next(iterator)
    assert [key(row) for row in take(restarted(stream, stream.state_dict()), 35)] == whole[25:]


def test_documents_without_examples_are_an_error(make_streams, corpus):
    stream = make_streams(corpus, validation_fraction=0.999999)["train"]
    with pytest.raises(ValueError, match="gives no example in a whole pass"):
        take(stream, 1)


def test_files_are_shuffled_in_each_epoch(stream, monkeypatch):
    texts, length = {}, len(one_pass(stream))

    def record(batch, indices, *, settings, **others):
        texts.setdefault(settings.seed, []).extend(batch["text"])
        return make_block(batch, indices, settings=settings, **others)

    monkeypatch.setattr(streaming, "make_block", record)
    take(stream, 5 * length)
    passes = [texts[seed] for seed in sorted(texts)][:3]
    assert {tuple(sorted(order)) for order in passes} == {tuple(sorted(passes[0]))}
    assert len({order[0] for order in passes}) > 1
