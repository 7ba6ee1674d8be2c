"""Length-bucketed batches, to minimize padding."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute
from datasets import Dataset
from torch.utils.data import BatchSampler

# Steps within which examples are sorted by length: enough for little padding, few enough to keep an epoch shuffled.
WINDOW = 50


class LengthGroupedBatches(BatchSampler):
    """Batches of examples of similar length, in random order, for one epoch.

    The batches are a pure function of `seed`, `epoch` and `lengths`. The examples of an optimizer step depend only on
    `batch_size * multiple`, so that training is the same with any number of processes and accumulation steps. Examples
    that do not fill a last step are dropped; every epoch drops others.

    Args:
        lengths (`Sequence[int]`): number of tokens of each example.
        batch_size (`int`): examples per batch.
        multiple (`int`, *optional*, defaults to 1): batches per step, that is processes times accumulation steps.
        seed (`int`, *optional*, defaults to 0): seed of the order.
        epoch (`int`, *optional*, defaults to 0): index of the epoch; set it before iterating.

    Raises:
        ValueError: if there are fewer examples than in one step.
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
            # Only the last window can be shorter.
            window[:] = window[np.argsort(self.lengths[window], kind="stable")]
            steps = window.reshape(-1, step)
            steps[:] = steps[rng.permutation(len(steps))]
        for batch in order.reshape(-1, self.batch_size):
            yield batch.tolist()


def example_lengths(examples: Sequence[dict[str, Any]] | Dataset) -> np.ndarray:
    """The number of tokens of each example, int32. Reads a `datasets.Dataset` without creating Python objects."""
    if not isinstance(examples, Dataset):
        return np.array([len(example["input_ids"]) for example in examples], dtype=np.int32)
    tables = examples.select_columns("input_ids").with_format("arrow").iter(batch_size=10_000)
    lengths = [pyarrow.compute.list_value_length(table["input_ids"]).to_numpy() for table in tables]
    return np.concatenate([np.zeros(0, np.int32), *lengths])
