"""Examples made while training, for a corpus that does not fit the disk.

A stream is read in blocks of documents. A block is tokenized and cut into pairs, whose random segments come from the
same block, and its examples are shuffled; all of it follows from the seed, the pass over the corpus and the block. So
the place in a stream is a place in the corpus and a number of examples, and it can be saved and found again.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import PreTrainedTokenizerBase

from .batching import LengthGroupedBatches
from .pairs import EXAMPLES, PairSettings, make_examples
from .tokenization import tokenize_documents

# Shuffled examples come in runs of about one length: as many as a batch may have, or a few batches.
RUN = 32


class ExampleStream(torch.utils.data.IterableDataset):
    """The documents of one process, as examples, pass after pass without end.

    Without end, because processes whose parts give different numbers of examples would wait for each other. Every
    pass makes other pairs of the documents. Each example carries its pass as `epoch`, so that it gets other masks.

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
    """

    def __init__(
        self,
        documents: IterableDataset,
        settings: PairSettings,
        tokenizer: PreTrainedTokenizerBase,
        digests: range,
        block_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.documents = documents
        self.settings = settings
        self.tokenizer = tokenizer
        self.digests = digests
        self.block_size = block_size
        self.rank = rank
        self.world_size = world_size
        self._epoch = 0
        self._examples: IterableDataset | None = None
        self._place: dict[str, Any] | None = None

    def split(self, rank: int, world_size: int) -> "ExampleStream":
        """The part of process `rank` of `world_size`."""
        return ExampleStream(
            self.documents, self.settings, self.tokenizer, self.digests, self.block_size, rank, world_size
        )

    def one_pass(self, epoch: int) -> IterableDataset:
        """The examples of one pass over this process' documents."""
        documents = self.documents
        if self.world_size > 1:
            documents = split_dataset_by_node(documents, rank=self.rank, world_size=self.world_size)
        return documents.map(
            make_block,
            batched=True,
            batch_size=self.block_size,
            with_indices=True,
            remove_columns=["text"],
            features=EXAMPLES,
            fn_kwargs={
                "settings": replace(self.settings, seed=self.settings.seed + epoch),
                "tokenizer": self.tokenizer,
                "digests": self.digests,
            },
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        empty = self._place is None
        while True:
            self._examples = self.one_pass(self._epoch)
            if self._place is not None:
                self._examples.load_state_dict(self._place)
                self._place = None
            for example in self._examples:
                empty = False
                yield {**example, "epoch": self._epoch}
            if empty:
                raise ValueError(
                    f"the part of process {self.rank} of {self.world_size} gives no example in a whole pass over the "
                    "corpus: use a larger corpus, or fewer processes or dataloader workers"
                )
            self._epoch, empty = self._epoch + 1, True

    def state_dict(self) -> dict[str, Any]:
        """The place after the last example that was taken."""
        return {"epoch": self._epoch, "examples": self._examples.state_dict() if self._examples else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a place; at most one block is made again."""
        self._epoch, self._place = state["epoch"], state["examples"]


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
        indices (`list[int]`): the documents' places in the stream.
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


def stream_loader(
    stream: ExampleStream,
    batch_size: int,
    collator: Callable[[list[dict[str, Any]]], Any],
    num_workers: int = 0,
    pin_memory: bool = False,
) -> StatefulDataLoader:
    """Batches of a stream; `state_dict()` is the place after the last batch taken, whatever workers have prepared.

    Args:
        stream (`ExampleStream`): this process' part.
        batch_size (`int`): examples in a batch.
        collator (`Callable`): makes a batch of examples.
        num_workers (`int`, *optional*, defaults to 0): processes that make examples, not more than the part's files.
        pin_memory (`bool`, *optional*, defaults to `False`): for faster copies to an accelerator.
    """
    workers = min(num_workers, stream.one_pass(0).num_shards)
    return StatefulDataLoader(
        stream, batch_size=batch_size, collate_fn=collator, num_workers=workers, pin_memory=pin_memory
    )
