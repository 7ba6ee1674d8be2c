"""Creates examples during training, for a corpus that is larger than the disk.

The stream reads blocks of documents. It tokenizes a block, splits it into pairs, with random segments from the same
block, and shuffles the examples. All of this depends only on the seed, the epoch and the block. The state of a stream
is thus a state of the corpus and a number of examples, and can be saved and restored.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import IterableDataset
from transformers import PreTrainedTokenizerBase

from .batching import LengthGroupedBatches
from .pairs import EXAMPLES, PairSettings, make_examples
from .tokenization import tokenize_documents

# Shuffled examples come in groups of similar length, of this size: about a batch, or a few batches.
GROUP_SIZE = 32


class StreamState(NamedTuple):
    """State of a stream.

    Attributes:
        epoch: Index of the pass over the corpus.
        documents: State of the `IterableDataset` at the beginning of the current block.
        first: Index of the block's first document.
        taken: Number of examples of the block that were yielded.
    """

    epoch: int = 0
    documents: dict[str, Any] | None = None
    first: int = 0
    taken: int = 0


@dataclass(eq=False)
class ExampleStream(torch.utils.data.IterableDataset):
    """An endless stream of the examples of one process.

    It is endless because the processes' parts of the corpus have different numbers of examples. Every epoch has other
    pairs. The field `epoch` of each example changes its masks.

    Read it with a data loader without workers. The stream has its own workers, and its examples do not depend on
    their number.

    Args:
        documents (`IterableDataset`): documents with the column `text`.
        settings (`PairSettings`): settings of pair building.
        tokenizer (`PreTrainedTokenizerBase`): a fast BERT tokenizer.
        digests (`range`): digests of the documents to use.
        block_size (`int`): documents per block.
        rank (`int`, *optional*, defaults to 0): index of the process.
        world_size (`int`, *optional*, defaults to 1): number of processes. If the number of the corpus' shards is a
            multiple of it, each process reads its own shards. Otherwise all processes read everything, and each uses
            every `world_size`-th document.
        num_workers (`int`, *optional*, defaults to 0): number of worker processes that create blocks ahead of time.
    """

    documents: IterableDataset
    settings: PairSettings
    tokenizer: PreTrainedTokenizerBase
    digests: range
    block_size: int
    rank: int = 0
    world_size: int = 1
    num_workers: int = 0

    def __post_init__(self) -> None:
        self._start = self._state = StreamState()

    def split(self, rank: int, world_size: int, num_workers: int = 0) -> "ExampleStream":
        """A new stream of the part of process `rank` of `world_size`."""
        return replace(self, rank=rank, world_size=world_size, num_workers=num_workers)

    def state_dict(self) -> dict[str, Any]:
        """The state after the last example, JSON-serializable."""
        return self._state._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Starts the next iteration from a state."""
        self._start = self._state = StreamState(**state)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start, self._start = self._start, StreamState()
        workers = ProcessPoolExecutor(self.num_workers, get_context("spawn")) if self.num_workers else nullcontext()
        with workers as executor:
            epoch, empty = start.epoch, start.first == 0
            for state, examples in self._example_blocks(start, executor):
                if state.epoch != epoch:
                    if empty:
                        raise ValueError(
                            f"the part of process {self.rank} of {self.world_size} gives no example in a whole pass "
                            "over the corpus: use a larger corpus, or hold out less of it for validation"
                        )
                    epoch, empty = state.epoch, True
                empty = empty and not examples["input_ids"]
                taken = start.taken if state == start._replace(taken=0) else 0
                for row in range(taken, len(examples["input_ids"])):
                    self._state = state._replace(taken=row + 1)
                    yield {**{name: values[row] for name, values in examples.items()}, "epoch": state.epoch}

    def _example_blocks(
        self, start: StreamState, executor: Executor | None
    ) -> Iterator[tuple[StreamState, dict[str, list[Any]]]]:
        """Blocks of examples in order, each with the state at its beginning; workers create the next ones."""
        pending: deque[tuple[StreamState, Future]] = deque()
        for state, documents in self._document_blocks(start):
            make = partial(
                make_block,
                {"text": documents},
                [state.first],
                settings=replace(self.settings, seed=self.settings.seed + state.epoch),
                tokenizer=self.tokenizer,
                digests=self.digests,
            )
            if executor is None:
                yield state, make()
                continue
            pending.append((state, executor.submit(make)))
            if len(pending) > self.num_workers:
                first, future = pending.popleft()
                yield first, future.result()

    def _document_blocks(self, start: StreamState) -> Iterator[tuple[StreamState, list[str]]]:
        """Blocks of documents of all epochs, each with the state at its beginning."""
        state = start._replace(taken=0)
        while True:
            documents = self._own_documents()
            documents.set_epoch(self.settings.seed + state.epoch + 1)  # 0 would not shuffle the files
            if state.documents is not None:
                documents.load_state_dict(state.documents)
            rows = iter(documents)
            while block := [row["text"] for row in islice(rows, self.block_size)]:
                yield state, block
                state = StreamState(state.epoch, documents.state_dict(), state.first + len(block))
            if state.first == 0:
                raise ValueError(
                    f"process {self.rank} of {self.world_size} has no document in a whole pass over the corpus: use a "
                    "larger corpus, or fewer processes"
                )
            state = StreamState(state.epoch + 1)

    def _own_documents(self) -> IterableDataset:
        if self.documents.num_shards % self.world_size == 0:
            return self.documents.shard(num_shards=self.world_size, index=self.rank)
        arguments = {"rank": self.rank, "world_size": self.world_size}
        return self.documents.filter(_belongs_to_rank, with_indices=True, fn_kwargs=arguments)


def _belongs_to_rank(row: dict[str, Any], index: int, rank: int, world_size: int) -> bool:
    return index % world_size == rank


def map_blocks(
    documents: IterableDataset,
    settings: PairSettings,
    tokenizer: PreTrainedTokenizerBase,
    digests: range,
    block_size: int,
) -> IterableDataset:
    """The examples of one epoch as an `IterableDataset`, for evaluation; see `ExampleStream` for the arguments."""
    return documents.map(
        make_block,
        batched=True,
        batch_size=block_size,
        with_indices=True,
        remove_columns=["text"],
        features=EXAMPLES,
        fn_kwargs={"settings": settings, "tokenizer": tokenizer, "digests": digests},
    )


def make_block(
    batch: dict[str, list[str]],
    indices: list[int],
    *,
    settings: PairSettings,
    tokenizer: PreTrainedTokenizerBase,
    digests: range,
) -> dict[str, list[Any]]:
    """Converts a block of documents into shuffled examples, in groups of similar length; for `datasets`' `map`.

    Args:
        batch (`dict[str, list[str]]`): the `text` of each document.
        indices (`list[int]`): indices of the documents in the stream; only the first one is used.
        settings (`PairSettings`): lengths, probabilities and the seed of this epoch.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer.
        digests (`range`): digests of the documents to use.

    Returns:
        `dict[str, list]`: as `make_examples`.
    """
    tokens = tokenize_documents(batch, tokenizer)
    used = [index for index, digest in enumerate(tokens["digest"]) if digest in digests]
    documents = {name: [tokens[name][index] for index in used] for name in ("input_ids", "sentence_lengths")}
    examples = make_examples(documents, [indices[0] + index for index in used], settings=settings)
    lengths = [len(ids) for ids in examples["input_ids"]]
    order: list[int] = []
    if len(lengths) >= GROUP_SIZE:
        seed = settings.seed * 2**32 + indices[0]
        order = [index for group in LengthGroupedBatches(lengths, GROUP_SIZE, seed=seed) for index in group]
    order += np.setdiff1d(np.arange(len(lengths)), order).tolist()
    return {name: [values[index] for index in order] for name, values in examples.items()}
