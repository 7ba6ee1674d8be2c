"""A `transformers.Trainer` whose runs are not lost: not to a kill, a full disk, a signal, or a number that blew up."""

import math
import shutil
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints, sort_checkpoints

from accelerate import DistributedType

from .checkpoints import STAGING
from .checkpoints import publish as publish_checkpoint
from .gradients import LARGEST_SQUARED, clip_gradients, gradients_of, scaled_norm, total_norm
from .hub_trainer import HubTrainer


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came, and a checkpoint was written; the message says how to go on."""


class DurableTrainer(HubTrainer):
    """As the library's, and:

    - A checkpoint appears whole, under its name, or not at all (see `checkpoints.py`).
    - SIGINT and SIGTERM end training after the step that runs, with a checkpoint, by `TrainingInterrupted`. A second
      SIGINT ends it at once.
    - A loss or gradient that is not finite ends it by a FloatingPointError before the step is taken. Gradients in
      float16 are left to the loss scaler. Finite gradients whose norm overflows float32 are clipped as any others;
      without clipping, they end it where their squares overflow.
    - A checkpoint that cannot be written ends it by an OSError; the earlier ones stay.

    All processes end together: they exchange three flags a step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.args.logging_nan_inf_filter = False  # it hides what is to end the run
        self._staging: Path | None = None
        self._signal: signal.Signals | None = None
        self._interrupted = False
        self._norm: Tensor | float | None = None  # of the gradients of the current step; None: not known yet
        self.add_callback(_Interruption(self))

    def loss_terms(self) -> Mapping[str, Tensor]:
        """The scalars that the current step's loss is made of, by name; to say which of them is not finite."""
        return {}

    def place_of(self, step: int) -> str:
        """Where in the run a step is, for messages."""
        return f"step {step + 1:,} of {self.state.max_steps:,}"

    # ---- signals

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's.

        Raises:
            TrainingInterrupted: SIGINT or SIGTERM came.
            FloatingPointError: A loss or gradient is not finite.
            OSError: A checkpoint cannot be written.
        """
        self._signal, self._interrupted = None, False
        with self._catching_signals():
            result = super().train(*args, **kwargs)
        if self._interrupted:
            checkpoint = sort_checkpoints(self._get_output_dir(None))[-1]
            raise TrainingInterrupted(
                f"Interrupted after {self.place_of(self.state.global_step - 1)}. Everything is in {checkpoint}: "
                "the same command goes on from there."
            )
        self.create_model_card()
        return result

    @contextmanager
    def _catching_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may ask for signals
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        # A launcher may follow a SIGINT of the terminal with a SIGTERM of its own: only the user's second one counts.
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is None and self.is_world_process_zero():
            name = signal.Signals(number).name
            print(f"\n{name}: writing a checkpoint after this step. Ctrl-C ends at once.", file=sys.stderr, flush=True)
        self._signal = signal.Signals(number)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Resumed from its last checkpoint, the library would take one step too many.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    # ---- numbers

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """As the library's; after the last accumulated batch, looks whether training can go on."""
        self._norm = None
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._check_finite_and_signals(model, loss)
        return loss

    def _check_finite_and_signals(self, model: nn.Module, loss: Tensor) -> None:
        """Ends training, or asks for its end, where any process has to."""
        gradients = gradients_of(model) if self.accelerator.scaler is None else []
        norm = total_norm(gradients).to(loss.device)
        losses, norms, signals = self._gather_flags(
            ~torch.isfinite(loss), ~torch.isfinite(norm), torch.tensor(self._signal is not None, device=loss.device)
        )
        if any(losses):
            raise FloatingPointError(self._breakdown(self._describe_loss(loss, losses)))
        if any(norms):
            self._norm = self._norm_of_large(model, gradients)
        elif gradients:
            self._norm = norm
        self._interrupted = any(signals)

    def _norm_of_large(self, model: nn.Module, gradients: list[Tensor]) -> float:
        """The norm where float32 does not hold it; ends training where the step would do harm."""
        largest = total_norm(gradients, math.inf)
        (broken,) = self._gather_flags(~torch.isfinite(largest))
        if any(broken):
            raise FloatingPointError(self._breakdown(self._describe_gradients(model, broken)))
        norm = scaled_norm(gradients, largest.item())
        clipped = min(1.0, self.args.max_grad_norm / norm) if self.args.max_grad_norm and self._norm_is_global else 1.0
        (beyond,) = self._gather_flags(largest > LARGEST_SQUARED / clipped)
        if any(beyond):
            raise FloatingPointError(self._breakdown(self._describe_squares(model, largest.item(), beyond)))
        return norm

    def _gather_flags(self, *flags: Tensor) -> list[tuple[bool, ...]]:
        """For each flag, what it is on each process; all have to call."""
        rows = self.accelerator.gather(torch.stack(flags).float()).view(-1, len(flags)).bool().tolist()
        return list(zip(*rows, strict=True))

    def _on(self, flags: Sequence[bool]) -> str:
        """Where flags are set, for messages of runs of several processes."""
        if len(flags) == 1:
            return ""
        ranks = [str(rank) for rank, flag in enumerate(flags) if flag]
        return f" on {'rank' if len(ranks) == 1 else 'ranks'} {', '.join(ranks)} of {len(flags)}"

    def _describe_loss(self, loss: Tensor, broken: Sequence[bool]) -> str:
        terms = {name: value.item() for name, value in self.loss_terms().items()}
        if math.isfinite(loss.item()):
            return f"The loss is not finite{self._on(broken)}, which names it"
        infinite = {name: value for name, value in terms.items() if not math.isfinite(value)}
        if infinite or not terms:
            return f"The loss is not finite{self._on(broken)}: {_listed(infinite or {'loss': loss.item()})}"
        return f"The loss is {loss.item():.4g}{self._on(broken)}, though each of its terms is finite: {_listed(terms)}"

    def _describe_gradients(self, model: nn.Module, broken: Sequence[bool]) -> str:
        largest = {name: value for name, value in _largest_gradients(model).items() if not math.isfinite(value)}
        if not largest:
            return f"A gradient is not finite{self._on(broken)}, which names it"
        others = f" and {len(largest) - 1} other parameters" if len(largest) > 1 else ""
        return f"The gradient of {next(iter(largest))}{others} is not finite{self._on(broken)}; {self._losses()}"

    def _describe_squares(self, model: nn.Module, largest: float, beyond: Sequence[bool]) -> str:
        gradients = _largest_gradients(model)
        name = max(gradients, key=lambda name: gradients[name])
        return (
            f"Every gradient is finite, but the square of the largest ({largest:.4g}, of {name}) overflows "
            f"float32{self._on(beyond)}, and an optimizer keeps squares; {self._losses()}"
        )

    def _losses(self) -> str:
        return f"the losses are: {_listed({name: value.item() for name, value in self.loss_terms().items()})}"

    def _breakdown(self, what: str) -> str:
        """The message of a run that ends: what happened, where, and what to do."""
        kept = sort_checkpoints(self._get_output_dir(None))
        return (
            f"{what}, in {self.place_of(self.state.global_step)}. The step was not taken. "
            + (f"The last checkpoint, {kept[-1]}, is from before it. " if kept else "There is no checkpoint yet. ")
            + "Try a lower learning_rate, more warm-up, max_grad_norm=1, or float32 in place of bfloat16."
        )

    # ---- clipping

    @property
    def _norm_is_global(self) -> bool:
        """Whether a process can compute the norm of all gradients from the parameters; else the library knows how."""
        kind = self.accelerator.distributed_type
        others = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)
        return kind not in others and (kind != DistributedType.FSDP or self.accelerator.is_fsdp2)

    def _global_norm(self, model: nn.Module) -> Tensor | float:
        if self._norm is not None:
            return self._norm
        self.accelerator.unscale_gradients()
        gradients = gradients_of(model)
        norm, largest = total_norm(gradients), total_norm(gradients, math.inf)
        if torch.isfinite(norm) or not torch.isfinite(largest):
            return norm  # the scaler skips a step with gradients that are not finite
        return scaled_norm(gradients, largest.item())

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        # The library's would compute the norm again and, where it overflows float32, make every gradient zero.
        if not self._norm_is_global:
            return super()._clip_grad_norm(model)
        norm = self._global_norm(model)
        clip_gradients(model.parameters(), self.args.max_grad_norm, norm)
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None and self._norm_is_global:
            return self._global_norm(model)
        return super()._get_grad_norm(model, grad_norm)

    # ---- checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        staging, final = run_dir / STAGING, run_dir / name
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
            self.save_data_state(staging / name)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._mend_best_checkpoint(staging / name, final)
                publish_checkpoint(staging / name, final)
        except Exception as error:  # the libraries' own, which have nothing else in common
            shutil.rmtree(staging, ignore_errors=True)
            free = shutil.disk_usage(run_dir).free / 2**20
            raise OSError(
                f"{final} could not be written ({error}); {free:,.0f} MiB of the disk are free. Earlier checkpoints "
                "are as they were: make room, and the same command goes on from the last one."
            ) from error
        finally:
            self._staging = None
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            rotate_checkpoints(str(run_dir), self.args.save_total_limit, self.state.best_model_checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        self.accelerator.wait_for_everyone()

    def save_data_state(self, checkpoint: Path) -> None:
        """Saves what each process needs to find its place in the data; a map-style data set needs nothing."""

    def _mend_best_checkpoint(self, written: Path, final: Path) -> None:
        """The library noted the folder aside as the place of the best checkpoint."""
        if self.state.best_model_checkpoint == str(written):
            self.state.best_model_checkpoint = str(final)
            self.state.save_to_json(str(written / "trainer_state.json"))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:  # not before the checkpoint has its name
            super()._push_from_checkpoint(checkpoint_folder)


class _Ending(TrainerCallback, ABC):
    """Ends training with a checkpoint."""

    @abstractmethod
    def is_due(self, state: TrainerState) -> bool:
        """Whether the step that was just taken is the last one."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asks for both."""
        if self.is_due(state):
            control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leaves it at that, where the library takes the end for that of an epoch and of the run."""
        if self.is_due(state):
            control.should_save = control.should_evaluate = False
            # It would load the best checkpoint and, where only one is to be kept, delete the others.
            state.best_model_checkpoint = None


class _Interruption(_Ending):
    """Ends training without a long evaluation."""

    def __init__(self, trainer: DurableTrainer) -> None:
        self.trainer = trainer

    def is_due(self, state: TrainerState) -> bool:
        """Where a signal came."""
        return self.trainer._interrupted

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asks for checkpoint and end alone."""
        super().on_step_end(args, state, control, **kwargs)
        control.should_evaluate &= not self.is_due(state)


class EndAt(_Ending):
    """Ends training after a step before its last one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def is_due(self, state: TrainerState) -> bool:
        """At the step."""
        return state.global_step >= self.step


@contextmanager
def hold_signals() -> Iterator[None]:
    """Lets SIGINT and SIGTERM wait until the end of a block; processes that are started in it never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _largest_gradients(model: nn.Module) -> dict[str, float]:
    """Each parameter's largest absolute gradient; under FSDP2 all processes have to call."""
    named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: total_norm([gradient], math.inf).item() for name, gradient in named.items()}


def _listed(terms: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in terms.items()) or "not named"
