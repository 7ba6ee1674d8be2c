"""Length-bucketed batches: each example once per epoch, the same steps on any number of processes, little padding."""

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilebert_hf.data import LengthGroupedBatches, example_lengths

LENGTHS = st.lists(st.integers(1, 128), min_size=40, max_size=700)


def steps_of(batches):
    """The examples of each step, as sets."""
    listed = list(batches)
    assert len(listed) == len(batches)
    starts = range(0, len(listed), batches.multiple)
    return [frozenset(i for batch in listed[start : start + batches.multiple] for i in batch) for start in starts]


@settings(deadline=None)
@given(LENGTHS, st.sampled_from([(1, 8), (2, 4), (4, 2), (8, 1)]), st.integers(0, 5), st.integers(0, 5))
def test_steps_do_not_depend_on_processes_and_accumulation(lengths, layout, seed, epoch):
    batch_size, multiple = layout
    spread = LengthGroupedBatches(lengths, batch_size, multiple, seed, epoch)
    assert steps_of(spread) == steps_of(LengthGroupedBatches(lengths, 8, 1, seed, epoch))
    assert all(len(batch) == batch_size for batch in spread)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 16), st.integers(0, 5))
def test_an_epoch_has_each_example_once_except_an_incomplete_last_step(lengths, batch_size, epoch):
    batches = LengthGroupedBatches(lengths, batch_size, multiple=2, epoch=epoch)
    seen = [index for batch in batches for index in batch]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(len(lengths)))
    assert 0 <= len(lengths) - len(seen) < 2 * batch_size
    assert batches.steps == len(seen) // (2 * batch_size)


def test_epochs_and_seeds_differ():
    lengths = np.random.default_rng(0).integers(5, 128, 300)
    orders = [list(LengthGroupedBatches(lengths, 8, seed=s, epoch=e)) for s, e in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_there_is_little_padding_and_the_order_is_random():
    lengths = np.random.default_rng(0).integers(5, 128, 5000)
    grouped = np.array([lengths[batch] for batch in LengthGroupedBatches(lengths, 16)])
    shuffled = np.random.default_rng(1).permutation(lengths)[: grouped.size].reshape(grouped.shape)
    padding, usual = (1 - rows.sum() / (rows.max(1) * 16).sum() for rows in (grouped, shuffled))
    assert padding < 0.03 < 0.4 < usual
    assert abs(np.corrcoef(np.arange(len(grouped)), grouped.mean(1))[0, 1]) < 0.2


def test_accelerate_shards_each_step_over_the_processes():
    lengths = np.random.default_rng(0).integers(5, 128, 333)
    batches = LengthGroupedBatches(lengths, 4, multiple=6)  # 2 processes, 3 accumulation steps
    shards = [list(BatchSamplerShard(batches, 2, rank)) for rank in range(2)]
    assert len(shards[0]) == len(shards[1]) == 3 * batches.steps
    for step, expected in enumerate(steps_of(batches)):
        taken = [i for shard in shards for batch in shard[3 * step : 3 * step + 3] for i in batch]
        assert len(taken) == 24
        assert set(taken) == expected


def test_too_few_examples_for_one_step():
    with pytest.raises(ValueError, match=r"has 15 examples, but one step takes 16 \(4 batches of 4\)"):
        LengthGroupedBatches([9] * 15, 4, multiple=4)


def test_example_lengths_of_lists_and_datasets():
    rows = [{"input_ids": list(range(n)), "other": n} for n in (3, 1, 7, 2)]
    data = Dataset.from_list(rows)
    assert example_lengths(rows).tolist() == example_lengths(data).tolist() == [3, 1, 7, 2]
    assert example_lengths(data.select([2, 0])).tolist() == [7, 3]
    assert example_lengths(data.select([])).tolist() == []
