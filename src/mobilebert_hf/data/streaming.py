"""Examples made while training, for a corpus that does not fit the disk.

A stream is read in blocks of documents. A block is tokenized and cut into pairs, whose random segments come from the
same block, and its examples are shuffled; all of it follows from the seed, the pass over the corpus and the block. So
the place in a stream is a place in the corpus and a number of examples, and it can be saved and found again.
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

# Shuffled examples come in runs of about one length: as many as a batch may have, or a few batches.
RUN = 32


class Place(NamedTuple):
    """A place in a stream: the pass, where the corpus and the block begin, and the examples taken of the block."""

    epoch: int = 0
    documents: dict[str, Any] | None = None
    first: int = 0
    taken: int = 0


@dataclass(eq=False)
class ExampleStream(torch.utils.data.IterableDataset):
    """The documents of one process, as examples, pass after pass without end.

    Without end, because processes whose parts give different numbers of examples would wait for each other. Every
    pass makes other pairs of the documents. Each example carries its pass as `epoch`, so that it gets other masks.

    A data loader without workers reads it: it has its own, which all make blocks of the one part in turn, so that
    their number changes nothing.

    Args:
        documents (`IterableDataset`): rows with `text`.
        settings (`PairSettings`): how pairs are made.
        tokenizer (`PreTrainedTokenizerBase`): a fast BERT tokenizer.
        digests (`range`): the documents to keep, by the digest of their text.
        block_size (`int`): documents in a block.
        rank (`int`, *optional*, defaults to 0): the process, of `world_size`.
        world_size (`int`, *optional*, defaults to 1): how many processes share the documents. Where the corpus has
            a multiple of that many files, each one reads its own; else all read everything, and each one uses every
            `world_size`-th document.
        num_workers (`int`, *optional*, defaults to 0): processes that make blocks ahead of time.
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
        self._start = self._place = Place()

    def split(self, rank: int, world_size: int, num_workers: int = 0) -> "ExampleStream":
        """The part of process `rank` of `world_size`, from its beginning."""
        return replace(self, rank=rank, world_size=world_size, num_workers=num_workers)

    def state_dict(self) -> dict[str, Any]:
        """The place after the last example that was taken, in values that JSON knows."""
        return self._place._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begins the next iteration at a place; one block is made again."""
        self._start = self._place = Place(**state)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start, self._start = self._start, Place()
        workers = ProcessPoolExecutor(self.num_workers, get_context("spawn")) if self.num_workers else nullcontext()
        with workers as executor:
            epoch, empty = start.epoch, start.first == 0
            for place, examples in self._made_ahead(start, executor):
                if place.epoch != epoch:
                    if empty:
                        raise ValueError(
                            f"the part of process {self.rank} of {self.world_size} gives no example in a whole pass "
                            "over the corpus: use a larger corpus, or hold out less of it for validation"
                        )
                    epoch, empty = place.epoch, True
                empty = empty and not examples["input_ids"]
                taken = start.taken if place == start._replace(taken=0) else 0
                for row in range(taken, len(examples["input_ids"])):
                    self._place = place._replace(taken=row + 1)
                    yield {**{name: values[row] for name, values in examples.items()}, "epoch": place.epoch}

    def _made_ahead(self, start: Place, executor: Executor | None) -> Iterator[tuple[Place, dict[str, list[Any]]]]:
        """Blocks of examples in order; workers are kept busy with the next ones."""
        waiting: deque[tuple[Place, Future]] = deque()
        for place, texts in self._blocks(start):
            make = partial(
                make_block,
                {"text": texts},
                [place.first],
                settings=replace(self.settings, seed=self.settings.seed + place.epoch),
                tokenizer=self.tokenizer,
                digests=self.digests,
            )
            if executor is None:
                yield place, make()
                continue
            waiting.append((place, executor.submit(make)))
            if len(waiting) > self.num_workers:
                ready, future = waiting.popleft()
                yield ready, future.result()

    def _blocks(self, start: Place) -> Iterator[tuple[Place, list[str]]]:
        """The texts of each block, with its place, pass after pass."""
        place = start._replace(taken=0)
        while True:
            documents = self._own_documents()
            documents.set_epoch(self.settings.seed + place.epoch + 1)  # another order of the files; 0 keeps theirs
            if place.documents is not None:
                documents.load_state_dict(place.documents)
            rows = iter(documents)
            while texts := [row["text"] for row in islice(rows, self.block_size)]:
                yield place, texts
                place = Place(place.epoch, documents.state_dict(), place.first + len(texts))
            if place.first == 0:
                raise ValueError(
                    f"process {self.rank} of {self.world_size} has no document in a whole pass over the corpus: use a "
                    "larger corpus, or fewer processes"
                )
            place = Place(place.epoch + 1)

    def _own_documents(self) -> IterableDataset:
        if self.documents.num_shards % self.world_size == 0:
            return self.documents.shard(num_shards=self.world_size, index=self.rank)
        part = {"rank": self.rank, "world_size": self.world_size}
        return self.documents.filter(_is_of_part, with_indices=True, fn_kwargs=part)


def _is_of_part(row: dict[str, Any], index: int, rank: int, world_size: int) -> bool:
    return index % world_size == rank


def map_blocks(
    documents: IterableDataset,
    settings: PairSettings,
    tokenizer: PreTrainedTokenizerBase,
    digests: range,
    block_size: int,
) -> IterableDataset:
    """One pass over documents as a `datasets.IterableDataset` of examples, for evaluation; see `ExampleStream`."""
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
    """Turns a block of documents into shuffled examples, in runs of similar length; for `datasets`' `map`.

    Args:
        batch (`dict[str, list[str]]`): the `text` of each document.
        indices (`list[int]`): the documents' places in the stream; only the first one counts.
        settings (`PairSettings`): lengths, probabilities and the seed of this pass.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer.
        digests (`range`): which documents to keep.

    Returns:
        `dict[str, list]`: as `make_examples`.
    """
    tokens = tokenize_documents(batch, tokenizer)
    kept = [number for number, digest in enumerate(tokens["digest"]) if digest in digests]
    documents = {name: [tokens[name][number] for number in kept] for name in ("input_ids", "sentence_lengths")}
    examples = make_examples(documents, [indices[0] + number for number in kept], settings=settings)
    lengths = [len(ids) for ids in examples["input_ids"]]
    order: list[int] = []
    if len(lengths) >= RUN:
        seed = settings.seed * 2**32 + indices[0]
        order = [number for run in LengthGroupedBatches(lengths, RUN, seed=seed) for number in run]
    order += np.setdiff1d(np.arange(len(lengths)), order).tolist()
    return {name: [values[number] for number in order] for name, values in examples.items()}
