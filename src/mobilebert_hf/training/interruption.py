"""Ends training early with a checkpoint: on SIGINT and SIGTERM, or after a given step."""

import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrainingInterrupted(KeyboardInterrupt):
    """Training was ended by SIGINT or SIGTERM after writing a checkpoint; the message says how to resume."""


class EndWithCheckpoint(TrainerCallback, ABC):
    """Ends training with a checkpoint."""

    @abstractmethod
    def is_due(self, state: TrainerState) -> bool:
        """Whether the step that was just taken is the last one."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Requests a checkpoint and the end of training."""
        if self.is_due(state):
            control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Requests nothing else, where the library takes the end of training for that of an epoch and of the run."""
        if self.is_due(state):
            control.should_save = control.should_evaluate = False
            # It would load the best checkpoint and, where only one is to be kept, delete the others.
            state.best_model_checkpoint = None


class EndAt(EndWithCheckpoint):
    """Ends training after a step before its last one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def is_due(self, state: TrainerState) -> bool:
        """At the step."""
        return state.global_step >= self.step


class Interruption(EndWithCheckpoint):
    """Catches SIGINT and SIGTERM during training, and ends it with a checkpoint and without evaluation.

    A second SIGINT raises KeyboardInterrupt at once.

    Attributes:
        received: Whether this process received a signal.
        agreed: Whether any process did; set by the trainer, after the processes have communicated.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.received: signal.Signals | None = None
        self.agreed = False

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Catches the signals within the context, in the main thread."""
        self.received, self.agreed = None, False
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        # A launcher may follow a SIGINT of the terminal with a SIGTERM of its own: only a second SIGINT counts.
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None and self.trainer.is_world_process_zero():
            name = signal.Signals(number).name
            print(f"\n{name}: writing a checkpoint after this step. Ctrl-C ends at once.", file=sys.stderr, flush=True)
        self.received = signal.Signals(number)

    def is_due(self, state: TrainerState) -> bool:
        """After the processes have agreed."""
        return self.agreed

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Requests a checkpoint and the end of training, and no evaluation."""
        super().on_step_end(args, state, control, **kwargs)
        control.should_evaluate &= not self.is_due(state)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Blocks SIGINT and SIGTERM until the end of the context; processes started in it never receive them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
