"""Model cards and publishing of a Trainer's run: with card, code and scores, without local paths and pickles."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ..runs.facts import ModelRecord
from ..runs.publishing import get_publisher
from ..runs.run_folder import RECIPE, Recipe, resolve
from .compat import HubStrategy, PushInProgress, wait_for_pushes

logger = logging.getLogger(__name__)


class Publisher:
    """Writes the model card of a Trainer's run and publishes it, as `mobilebert-hf publish` does.

    Cards and publishing are above this package; see `runs.publishing`.

    Args:
        trainer: A `DurableTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def write_card(self, **fields: Any) -> None:
        """Writes `facts.json` and the model card to `output_dir`.

        Args:
            fields: Fields of the card, such as `license="apache-2.0"` and `language="de"`.
        """
        if self.trainer.is_world_process_zero():
            record = self._describe_model()
            record.facts.write(record.folder)
            get_publisher().write_card(record, **fields)

    def _describe_model(self) -> ModelRecord:
        """The model of the trainer, which its folder may not describe yet."""
        trainer = self.trainer
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside an adapter
        config = {**base.config.to_dict(), "architectures": [type(base).__name__]}
        measured: Mapping[str, float] = next(
            (line for line in reversed(trainer.state.log_history) if "eval_runtime" in line), {}
        )
        folder = Path(trainer.args.output_dir or ".")
        path = folder / RECIPE
        arguments = Recipe.read(path).values if path.is_file() else resolve([trainer.args])
        return ModelRecord(folder, config, trainer.facts.with_held_out(measured), arguments)

    def publish(
        self, message: str | None, token: str | None, revision: str | None, private: bool | None, **fields: Any
    ) -> Any:
        """Publishes the saved model, on the main process; see `DurableTrainer.push_to_hub`."""
        trainer = self.trainer
        if not trainer.is_world_process_zero():
            return None
        self.write_card(**fields)
        wait_for_pushes(trainer)
        options = {
            "private": bool(trainer.args.hub_private_repo if private is None else private),
            "revision": revision or trainer.args.hub_revision,
            "message": message or "End of training",
            "token": token,
        }
        return self._publish(trainer.args.output_dir or ".", self._describe_model(), options, fields)

    def _publish(self, folder: str, record: ModelRecord, options: Mapping[str, Any], fields: Mapping[str, Any]) -> Any:
        repo = str(self.trainer.hub_model_id)
        return get_publisher().publish(folder, repo, record, {"update": True, **options}, fields)

    def push_checkpoint(self, checkpoint_folder: str) -> None:
        """Publishes a checkpoint in the background, as `hub_strategy` says.

        The library would upload all of the run's folder, including local paths and pickles.
        """
        trainer, args = self.trainer, self.trainer.args
        before = trainer.push_in_progress
        is_busy = before is not None and not before.is_done() and not args.hub_always_push
        # An adapter alone is no model: it is merged at the end.
        is_model = (Path(checkpoint_folder) / "config.json").is_file()
        if args.hub_strategy == HubStrategy.END or is_busy or not is_model or not trainer.is_world_process_zero():
            return
        to = {"revision": args.hub_revision, "token": args.hub_token}
        message = f"Training in progress, step {trainer.state.global_step}"
        api = HfApi()
        jobs: Any = [
            api.run_as_future(self._publish, checkpoint_folder, self._describe_model(), {"message": message, **to}, {})
        ]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            is_last = args.hub_strategy == HubStrategy.CHECKPOINT
            path = "last-checkpoint" if is_last else Path(checkpoint_folder).name
            upload: Any = {"folder_path": checkpoint_folder, "path_in_repo": path, "commit_message": message, **to}
            jobs.append(api.upload_folder(repo_id=str(trainer.hub_model_id), run_as_future=True, **upload))
        for job in jobs:
            job.add_done_callback(_warn_of_failure)
        in_progress: Any = PushInProgress(jobs)
        trainer.push_in_progress = in_progress


def _warn_of_failure(job: Future[Any]) -> None:
    if (error := job.exception()) is not None:
        logger.warning("A checkpoint was not uploaded (%s); training goes on, and so does the next upload.", error)
