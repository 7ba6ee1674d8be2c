"""A `transformers.Trainer` that publishes as `hub.publish` does: with card, code and scores, no paths, no pickles."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..files import move_files
from ..runs.checkpoints import STAGING
from ..runs.facts import ModelFacts, ModelRecord
from ..runs.publishing import get_publisher
from ..runs.run_folder import RECIPE, Recipe, resolve
from ..runs.stages import RunStages

logger = logging.getLogger(__name__)


class HubTrainer(Trainer):
    """As the library's, and what it publishes is what `mobilebert-hf publish` would.

    Attributes:
        facts: What is known of the model; whoever makes it says more than that it is one.
        stages: Those of the run, if it has several; written when training begins.
    """

    facts: ModelFacts
    stages: RunStages | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.facts = ModelFacts()

    def save_final_model(self) -> None:
        """Saves model and tokenizer to `output_dir`, each file whole or not at all."""
        aside = Path(self.args.output_dir or ".") / STAGING
        self.save_model(str(aside), _internal_call=True)
        if self.args.should_save:
            move_files(aside, aside.parent)
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """The end of a recipe: the card and, where `push_to_hub` asks for it, everything on the Hub."""
        if self.args.push_to_hub:
            self.push_to_hub()
        else:
            self.create_model_card()

    def create_model_card(self, **fields: Any) -> None:  # type: ignore[override]
        """Writes `facts.json` and the model's card to `output_dir`.

        Args:
            fields: Of the card, such as `license="apache-2.0"` and `language="de"`; see `hub.card.CardData`.
        """
        if self.is_world_process_zero():
            record = self._describe_model()
            record.facts.write(record.folder)
            get_publisher().write_card(record, **fields)

    def _describe_model(self) -> ModelRecord:
        """The model as it is, which its folder may not yet tell."""
        model: Any = self.accelerator.unwrap_model(self.model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside an adapter
        config = {**base.config.to_dict(), "architectures": [type(base).__name__]}
        measured = next((line for line in reversed(self.state.log_history) if "eval_runtime" in line), {})
        folder = Path(self.args.output_dir or ".")
        path = folder / RECIPE
        arguments = Recipe.read(path).values if path.is_file() else resolve([self.args])
        return ModelRecord(folder, config, self.facts.with_held_out(measured), arguments)

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
        return self._publish(self.args.output_dir or ".", self._describe_model(), options, kwargs)

    def _publish(self, folder: str, record: ModelRecord, options: Mapping[str, Any], fields: Mapping[str, Any]) -> Any:
        return get_publisher().publish(folder, str(self.hub_model_id), record, {"update": True, **options}, fields)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publishes a checkpoint beside training, as `hub_strategy` says.

        The library would upload all of the run's folder, its local paths and pickles included.
        """
        strategy, before = self.args.hub_strategy, self.push_in_progress
        is_busy = before is not None and not before.is_done() and not self.args.hub_always_push
        # An adapter alone is none: it is merged in the end.
        is_model = (Path(checkpoint_folder) / "config.json").is_file()
        if strategy == HubStrategy.END or is_busy or not is_model or not self.is_world_process_zero():
            return
        to = {"revision": self.args.hub_revision, "token": self.args.hub_token}
        message = f"Training in progress, step {self.state.global_step}"
        api = HfApi()
        jobs: Any = [
            api.run_as_future(self._publish, checkpoint_folder, self._describe_model(), {"message": message, **to}, {})
        ]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name
            upload: Any = {"folder_path": checkpoint_folder, "path_in_repo": place, "commit_message": message, **to}
            jobs.append(api.upload_folder(repo_id=str(self.hub_model_id), run_as_future=True, **upload))
        for job in jobs:
            job.add_done_callback(_tell_of_failure)
        in_progress: Any = PushInProgress(jobs)
        self.push_in_progress = in_progress


def _tell_of_failure(job: Future[Any]) -> None:
    if (error := job.exception()) is not None:
        logger.warning("A checkpoint was not uploaded (%s); training goes on, and so does the next upload.", error)
