"""A `transformers.Trainer` whose runs survive kills, full disks, signals and numbers that are not finite."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer

from ..files import move_files
from ..runs.checkpoints import STAGING
from ..runs.compat import sort_checkpoints
from ..runs.facts import ModelFacts
from ..runs.run_folder import find_checkpoint
from ..runs.stages import RunStages
from .callback_states import restore_callback_states
from .finite_check import FiniteCheck
from .interruption import Interruption, TrainingInterrupted
from .publishing import Publisher
from .staged_checkpoints import StagedCheckpoints


class DurableTrainer(Trainer):
    """As the library's, and:

    - A checkpoint appears complete, under its name, or not at all (see `staged_checkpoints.py`).
    - SIGINT and SIGTERM end training after the current step, with a checkpoint, by `TrainingInterrupted`. A second
      SIGINT ends it at once (see `interruption.py`).
    - A loss or gradient that is not finite ends it by a FloatingPointError before the step is taken (see
      `finite_check.py`).
    - Callbacks go on with the states that they had in the checkpoint (see `callback_states.py`).
    - A checkpoint that cannot be written ends it by an OSError; the earlier ones are kept.
    - Model cards and publishing are those of `mobilebert-hf publish` (see `publishing.py`).

    Attributes:
        facts: What is known of the model; subclasses say more.
        stages: The stages of the run, if it has several; written to its folder when training begins.
        finalize_model: Makes the model that is saved at the end of the one that was trained; None: it is the same.
    """

    stages: RunStages | None = None
    finalize_model: Callable[[Any], Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ended_early = False
        self.args.logging_nan_inf_filter = False  # it hides what is to end the run
        self.facts = ModelFacts()
        self.publisher = Publisher(self)
        self.checkpoints = StagedCheckpoints(self)
        self.finite_check = FiniteCheck(self)
        self.interruption = Interruption(self)
        self.add_callback(self.interruption)

    def loss_terms(self) -> Mapping[str, Tensor]:
        """The scalars that the current step's loss is made of, by name; to say which of them is not finite."""
        return {}

    def describe_step(self, step: int) -> str:
        """The position of a step in the run, for messages."""
        return f"step {step + 1:,} of {self.state.max_steps:,}"

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the library's; `resume_from_checkpoint=True` finds the last complete checkpoint.

        Raises:
            TrainingInterrupted: SIGINT or SIGTERM was received.
            FloatingPointError: A loss or gradient is not finite.
            OSError: A checkpoint cannot be written.
        """
        if self.stages is not None and self.is_world_process_zero():
            self.stages.write(Path(self.args.output_dir or "."))
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_checkpoint(self.args)
        self.ended_early = False
        checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        with self.interruption.catching(), self.training_context(checkpoint):
            result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.interruption.agreed:
            last = sort_checkpoints(self._get_output_dir(None))[-1]
            raise TrainingInterrupted(
                f"Interrupted after {self.describe_step(self.state.global_step - 1)}. Everything is in {last}: "
                "the same command goes on from there."
            )
        self.create_model_card()
        return result

    def training_context(self, checkpoint: Path | None) -> AbstractContextManager[Any]:
        """A context that training happens in; `checkpoint` is what it resumes from."""
        return nullcontext()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Resumed from its last checkpoint, the library would take one step too many.
        if self.state.global_step >= self.state.max_steps or self.ended_early:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """As the library's; after the last accumulated batch, checks whether training can go on."""
        self.finite_check.begin_step()
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.finite_check.check_finite_and_signals(model, loss)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        # The library's would compute the norm again and, where it overflows float32, make every gradient zero.
        if not self.finite_check.norm_is_global:
            return super()._clip_grad_norm(model)
        return self.finite_check.clip(model, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None and self.finite_check.norm_is_global:
            return self.finite_check.global_norm(model)
        return super()._get_grad_norm(model, grad_norm)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        # The library would group these by length, too, in a random order that is not returned.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    # ---- checkpoints

    def _load_callback_state(self) -> None:
        self.ended_early = restore_callback_states(self)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self.checkpoints.folder is None else str(self.checkpoints.folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = Path(self._get_output_dir(trial))
        final = self.checkpoints.save(run_dir, partial(super()._save_checkpoint, model, trial))
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        self.accelerator.wait_for_everyone()

    def save_data_state(self, checkpoint: Path) -> None:
        """Saves the cursor of each process in the data; a map-style data set needs none."""

    # ---- the final model and the Hub

    def save_final_model(self) -> None:
        """Saves model and tokenizer to `output_dir`, each file complete or not at all."""
        if self.finalize_model is not None and self.args.should_save:
            self.model = self.finalize_model(self.accelerator.unwrap_model(self.model))
        staging = Path(self.args.output_dir or ".") / STAGING
        self.save_model(str(staging), _internal_call=True)
        if self.args.should_save:
            move_files(staging, staging.parent)
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """The end of a recipe: the model card and, with `push_to_hub`, the publication."""
        if self.args.push_to_hub:
            self.push_to_hub()
        else:
            self.create_model_card()

    def create_model_card(self, **fields: Any) -> None:  # type: ignore[override]
        """Writes the model card to `output_dir`; `fields` as in `Publisher.write_card`."""
        self.publisher.write_card(**fields)

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
            commit_message: The message of the commit.
            blocking: Is always true here.
            token: By default `hub_token`, or that of the logged-in user.
            revision: The branch; by default `hub_revision`.
            private: Whether a new repository is private; by default `hub_private_repo`.
            kwargs: Fields of the card; see `create_model_card`.

        Returns:
            The commit, on the main process.
        """
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_final_model()
        return self.publisher.publish(commit_message, token, revision, private, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.checkpoints.folder is None:  # not before the checkpoint has its name
            self.publisher.push_checkpoint(checkpoint_folder)
