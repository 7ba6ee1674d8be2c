"""The training batches of a pre-training corpus: grouped by length, or a stream that resumes where it stopped."""

import json
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data import ExampleStream, LengthGroupedBatches, example_lengths
from .compat import per_process_batch_size


class TrainingBatches(TrainerCallback):
    """Makes the data loader of a Trainer, and keeps order, masks and stream on the epoch of the global step.

    As a callback it starts epochs, which the library does only for samplers that it knows, and not for all of them
    on resuming.

    Args:
        trainer: Whose `train_dataset` and `data_collator` are used.

    Raises:
        ValueError: Persistent workers are asked for, which would repeat the masks of the first epoch.
    """

    def __init__(self, trainer: Trainer) -> None:
        if trainer.args.dataloader_persistent_workers:
            raise ValueError(
                "dataloader_persistent_workers=True would repeat the first epoch's masks in every epoch: set it to "
                "False."
            )
        self.trainer = trainer
        self.resumed_checkpoint: Path | None = None
        self._batches: LengthGroupedBatches | None = None
        self._stream: ExampleStream | None = None
        # A stream resumes from the state in the checkpoint; the library would read it again from its beginning.
        trainer.args.ignore_data_skip |= isinstance(trainer.train_dataset, ExampleStream)

    def loader(self) -> DataLoader:
        """Length-grouped batches, distributed over the processes by Accelerate; or this process' part of a stream."""
        trainer, args, examples = self.trainer, self.trainer.args, self.trainer.train_dataset
        batch_size = per_process_batch_size(trainer)
        if isinstance(examples, ExampleStream):
            self._stream = self._open_stream(examples)
            # Not prepared by Accelerate, which would split it again and read a batch ahead.
            return DataLoader(self._stream, batch_size, collate_fn=trainer.data_collator)
        assert examples is not None
        self._batches = LengthGroupedBatches(
            example_lengths(examples),
            batch_size,
            multiple=args.gradient_accumulation_steps * args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
        )
        loader: Any = DataLoader(
            examples,
            batch_sampler=self._batches,
            collate_fn=trainer.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return trainer.accelerator.prepare(loader)

    def _open_stream(self, examples: ExampleStream) -> ExampleStream:
        """This process' part of a stream, at the cursor of the checkpoint that is resumed from."""
        args = self.trainer.args
        stream = examples.split(args.process_index, args.world_size, args.dataloader_num_workers)
        if self.resumed_checkpoint is not None:
            cursor = self.resumed_checkpoint / self._cursor_file()
            if not cursor.is_file():
                raise ValueError(
                    f"{self.resumed_checkpoint} has no {cursor.name}: a stream resumes only with the same number of "
                    "processes."
                )
            stream.load_state_dict(json.loads(cursor.read_text()))
        return stream

    def save_state(self, checkpoint: Path) -> None:
        """Saves the cursor of the stream, for each process."""
        if self._stream is not None:
            (checkpoint / self._cursor_file()).write_text(json.dumps(self._stream.state_dict()))

    def _cursor_file(self) -> str:
        return f"stream_{self.trainer.args.process_index}_of_{self.trainer.args.world_size}.json"

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sets order and masks to the epoch of the global step."""
        if self._batches is not None:
            collator: Any = self.trainer.data_collator
            self._batches.epoch = collator.epoch = state.global_step // self._batches.steps
