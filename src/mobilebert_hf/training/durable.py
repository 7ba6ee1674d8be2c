"""A `transformers.Trainer` whose runs are not lost: not to a kill, a full disk, a signal, or a number that blew up."""

import logging
import math
import shutil
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import HubStrategy, rotate_checkpoints, sort_checkpoints
from transformers.utils import PushInProgress

from ..files import move_files
from .checkpoints import STAGING
from .checkpoints import publish as publish_checkpoint
from .run_folder import resolve

logger = logging.getLogger(__name__)


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came, and a checkpoint was written; the message says how to go on."""


class DurableTrainer(Trainer):
    """As the library's, and:

    - A checkpoint appears whole, under its name, or not at all (see `checkpoints.py`).
    - SIGINT and SIGTERM end training after the step that runs, with a checkpoint, by `TrainingInterrupted`. A second
      SIGINT ends it at once.
    - A loss or gradient that is not finite ends it by a FloatingPointError before the step is taken. Gradients in
      float16 are left to the loss scaler.
    - A checkpoint that cannot be written ends it by an OSError; the earlier ones stay.

    All processes end together: they exchange two numbers a step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.args.logging_nan_inf_filter = False  # it hides what is to end the run
        self._staging: Path | None = None
        self._signal: signal.Signals | None = None
        self._interrupted = False
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
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._look_around(model, loss)
        return loss

    def _look_around(self, model: nn.Module, loss: Tensor) -> None:
        """Ends training, or asks for its end, where any process has to."""
        total = loss.float()
        if self.accelerator.scaler is None:
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            total = total + whole(torch.nn.utils.get_total_norm(gradients)).to(total)
        flags = torch.stack([~torch.isfinite(total), torch.tensor(self._signal is not None, device=total.device)])
        broken, interrupted = self.accelerator.reduce(flags.float(), reduction="sum").tolist()
        if broken:
            raise FloatingPointError(self._describe_breakdown(model))
        self._interrupted = bool(interrupted)

    def _describe_breakdown(self, model: nn.Module) -> str:
        terms = {name: value.item() for name, value in self.loss_terms().items()}
        broken = {name: value for name, value in terms.items() if not math.isfinite(value)}
        gradients = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and not torch.isfinite(whole(parameter.grad)).all()
        ]
        if broken:
            what = f"The loss is not finite: {_listed(broken)}"
        elif gradients:
            others = f" and {len(gradients) - 1} other parameters" if len(gradients) > 1 else ""
            what = f"The gradient of {gradients[0]}{others} is not finite; the losses are: {_listed(terms)}"
        else:
            what = "A loss or gradient is not finite on another process, which names it"
        kept = sort_checkpoints(self._get_output_dir(None))
        return (
            f"{what}, in {self.place_of(self.state.global_step)}. The step was not taken. "
            + (f"The last checkpoint, {kept[-1]}, is from before it. " if kept else "There is no checkpoint yet. ")
            + "Try a lower learning_rate, more warm-up, max_grad_norm=1, or float32 in place of bfloat16."
        )

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

    def save_final_model(self) -> None:
        """Saves model and tokenizer to `output_dir`, each file whole or not at all."""
        aside = Path(self.args.output_dir or ".") / STAGING
        self.save_model(str(aside), _internal_call=True)
        if self.args.should_save:
            move_files(aside, aside.parent)
        self.accelerator.wait_for_everyone()

    # ---- the Hub; imported when it is needed, for it is the end of the way and knows all kinds of runs

    def finish(self) -> None:
        """The end of a recipe: the card and, where `push_to_hub` asks for it, everything on the Hub."""
        if self.args.push_to_hub:
            self.push_to_hub()
        else:
            self.create_model_card()

    def create_model_card(self, **fields: Any) -> None:  # type: ignore[override]
        """Writes the model's card to `output_dir`: what the run's files tell, and, before there are any, the trainer.

        Args:
            fields: Of the card, such as `license="apache-2.0"` and `language="de"`; see `hub.card.Facts`.
        """
        from ..hub.run_card import write_run_card

        if self.is_world_process_zero():
            write_run_card(self._describe_run(), **fields)

    def _describe_run(self) -> Any:
        from ..hub.run_card import Run, with_recipe

        model: Any = self.accelerator.unwrap_model(self.model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside an adapter
        config = {**base.config.to_dict(), "architectures": [type(base).__name__]}
        measured = next((line for line in reversed(self.state.log_history) if "eval_runtime" in line), {})
        folder, kind = Path(self.args.output_dir or "."), type(self.args).__name__
        run = Run(folder, config, kind, resolve([self.args]), measured=measured, training=self.args)
        return with_recipe(run)

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publishes model, tokenizer, code, card and scores in one commit to `hub_model_id`; see `hub.publish`.

        Args:
            commit_message: Of the commit.
            blocking: Is always true here.
            token: By default `hub_token`, or the one that you have logged in with.
            revision: Branch; by default `hub_revision`.
            private: Whether a new repository is; by default `hub_private_repo`.
            kwargs: Of the card; see `create_model_card`.

        Returns:
            The commit, on the main process.
        """
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_final_model()
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        options = {
            "private": bool(self.args.hub_private_repo if private is None else private),
            "revision": revision or self.args.hub_revision,
            "message": commit_message or "End of training",
            "token": token,
        }
        return self._publish(self.args.output_dir or ".", self._describe_run(), options, kwargs)

    def _publish(self, folder: str, run: Any, options: Mapping[str, Any], fields: Mapping[str, Any]) -> Any:
        from ..hub import prepared, publish

        with prepared(folder, str(self.hub_model_id), run=run, **fields) as publication:
            return publish(publication, update=True, **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publishes a checkpoint beside training, as `hub_strategy` says.

        The library would upload all of the run's folder, its local paths and pickles included.
        """
        strategy, before = self.args.hub_strategy, self.push_in_progress
        is_busy = before is not None and not before.is_done() and not self.args.hub_always_push
        # Not before the checkpoint has its name, and not an adapter alone, which is merged in the end.
        is_model = self._staging is None and (Path(checkpoint_folder) / "config.json").is_file()
        if strategy == HubStrategy.END or is_busy or not is_model or not self.is_world_process_zero():
            return
        to = {"revision": self.args.hub_revision, "token": self.args.hub_token}
        message = f"Training in progress, step {self.state.global_step}"
        api = HfApi()
        jobs: Any = [
            api.run_as_future(self._publish, checkpoint_folder, self._describe_run(), {"message": message, **to}, {})
        ]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name
            upload: Any = {"folder_path": checkpoint_folder, "path_in_repo": place, "commit_message": message, **to}
            jobs.append(api.upload_folder(repo_id=str(self.hub_model_id), run_as_future=True, **upload))
        for job in jobs:
            job.add_done_callback(_tell_of_failure)
        in_progress: Any = PushInProgress(jobs)
        self.push_in_progress = in_progress


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


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP2 shards, gathered; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _tell_of_failure(job: Future[Any]) -> None:
    if (error := job.exception()) is not None:
        logger.warning("A checkpoint was not uploaded (%s); training goes on, and so does the next upload.", error)


def _listed(terms: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in terms.items()) or "not named"
