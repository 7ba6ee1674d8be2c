"""Batches of examples of about one length, so that padding costs next to nothing."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute
from datasets import Dataset
from torch.utils.data import BatchSampler

# Examples are sorted by length within this many steps: enough to leave almost no padding, few enough that an epoch
# stays well shuffled.
WINDOW = 50


class LengthGroupedBatches(BatchSampler):
    """An epoch of batches of similar length, in random order; a pure function of `seed`, `epoch` and the lengths.

    A step takes `multiple` batches of `batch_size`, on all processes and accumulated batches together. Which examples
    a step takes depends on the product alone, so one process, several, and accumulation train on the same steps.
    Accelerate hands the batches out in turn. Examples left over at the end of an epoch, less than a step takes, are
    dropped; they are others in every epoch.

    Args:
        lengths (`Sequence[int]`): tokens of each example.
        batch_size (`int`): examples in a batch.
        multiple (`int`, *optional*, defaults to 1): batches in a step, over processes and accumulation.
        seed (`int`, *optional*, defaults to 0): of the order.
        epoch (`int`, *optional*, defaults to 0): the pass over the data; assign it before iterating.

    Raises:
        ValueError: if there are fewer examples than one step takes.
    """

    drop_last = True

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, batch_size: int, multiple: int = 1, seed: int = 0, epoch: int = 0
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int32)
        self.batch_size = batch_size
        self.multiple = multiple
        self.seed = seed
        self.epoch = epoch
        self.steps = len(self.lengths) // (batch_size * multiple)
        if not self.steps:
            raise ValueError(
                f"the training data has {len(self.lengths)} examples, but one step takes {batch_size * multiple} "
                f"({multiple} batches of {batch_size}): use a smaller batch, or a larger corpus"
            )

    def __len__(self) -> int:
        return self.steps * self.multiple

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        step = self.batch_size * self.multiple
        order = rng.permutation(len(self.lengths))[: self.steps * step]
        for start in range(0, len(order), WINDOW * step):
            window = order[start : start + WINDOW * step]
            # The one shorter window comes last, so its step order is drawn like any other.
            window[:] = window[np.argsort(self.lengths[window], kind="stable")]
            steps = window.reshape(-1, step)
            steps[:] = steps[rng.permutation(len(steps))]
        for batch in order.reshape(-1, self.batch_size):
            yield batch.tolist()


def example_lengths(examples: Sequence[dict[str, Any]] | Dataset) -> np.ndarray:
    """The number of tokens of each example, int32; of a `datasets.Dataset` without making Python objects of it."""
    if not isinstance(examples, Dataset):
        return np.array([len(example["input_ids"]) for example in examples], dtype=np.int32)
    tables = examples.select_columns("input_ids").with_format("arrow").iter(batch_size=10_000)
    lengths = [pyarrow.compute.list_value_length(table["input_ids"]).to_numpy() for table in tables]
    return np.concatenate([np.zeros(0, np.int32), *lengths])
