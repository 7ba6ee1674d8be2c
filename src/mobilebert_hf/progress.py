"""A progress bar that shows the model's name, stage, loss, throughput and remaining time."""

from typing import Any

from tqdm import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

# More layers do not fit into a line.
MAX_LAYERS = 13


class StageProgress(ProgressCallback):
    """`transformers`' progress bar, with the last log values in the bar instead of a line for each log.

    Args:
        name: Description of the training, such as `"pre-training mobilebert"`.
        stage_names: Names of the stages, indexed by the logged value `stage`.
    """

    def __init__(self, name: str, stage_names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.name = name
        self.stage_names = stage_names

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens the bar."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            # tqdm's estimate of the remaining time assumes equal steps, but steps of deep stages take longer.
            self.training_bar.bar_format = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
            self.training_bar.set_description(self.name)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Shows the stage, the loss, the layers' cosine similarities, the throughput and the remaining time."""
        if self.training_bar is None or logs is None or "loss" not in logs:
            return
        if "stage" in logs and self.stage_names:
            self.training_bar.set_description(f"{self.name}, {self.stage_names[int(logs['stage'])]}")
        values = {"loss": f"{float(logs['loss']):.3f}"}
        # The squared distance of normalized features is 2 * (1 - cosine).
        cosines = [1 - float(value) / 2 for name, value in logs.items() if name.endswith("/feature_map")]
        if 1 < len(cosines) <= MAX_LAYERS:
            values["cosines"] = " ".join(f"{cosine:.2f}" for cosine in cosines)
        if "hours_left" in logs:
            values["left"] = tqdm.format_interval(3600 * logs["hours_left"])
            values["speed"] = f"{logs['tokens_per_second']:,.0f} tokens/s"
        self.training_bar.set_postfix(values)


def show_progress(trainer: Trainer, name: str, stage_names: tuple[str, ...] = ()) -> None:
    """Replaces the trainer's progress bar by `StageProgress`, unless `disable_tqdm` is set."""
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StageProgress(name, stage_names))
