"""Writes the checkpoints of a Trainer into a staging folder, and renames them when they are complete."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..runs.checkpoints import STAGING, publish
from .compat import rotate_checkpoints


class StagedCheckpoints:
    """A checkpoint appears complete, under its name, or not at all; see `runs/checkpoints.py`.

    Args:
        trainer: A `DurableTrainer`.

    Attributes:
        folder: The folder in place of `output_dir` while a checkpoint is written, else None.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.folder: Path | None = None

    def save(self, run_dir: Path, write: Callable[[], None]) -> Path:
        """Writes a checkpoint, and removes those that are more than `save_total_limit`.

        Args:
            run_dir: The folder of the run.
            write: Writes the checkpoint of all processes into `folder`.

        Returns:
            The folder of the checkpoint.

        Raises:
            OSError: The checkpoint could not be written; earlier ones are kept.
        """
        trainer = self.trainer
        name = f"checkpoint-{trainer.state.global_step}"
        staging, final = run_dir / STAGING, run_dir / name
        if trainer.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        self.folder = staging
        try:
            write()
            trainer.save_data_state(staging / name)
            trainer.accelerator.wait_for_everyone()
            if trainer.args.should_save:
                self._correct_best_checkpoint(staging / name, final)
                publish(staging / name, final)
        except Exception as error:  # the libraries' own, which have nothing else in common
            shutil.rmtree(staging, ignore_errors=True)
            free = shutil.disk_usage(run_dir).free / 2**20
            raise OSError(
                f"{final} could not be written ({error}); {free:,.0f} MiB of the disk are free. Earlier checkpoints "
                "are as they were: make room, and the same command goes on from the last one."
            ) from error
        finally:
            self.folder = None
        if trainer.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            rotate_checkpoints(str(run_dir), trainer.args.save_total_limit, trainer.state.best_model_checkpoint)
        return final

    def _correct_best_checkpoint(self, written: Path, final: Path) -> None:
        """The library noted the staging folder as the best checkpoint."""
        state = self.trainer.state
        if state.best_model_checkpoint == str(written):
            state.best_model_checkpoint = str(final)
            state.save_to_json(str(written / "trainer_state.json"))
