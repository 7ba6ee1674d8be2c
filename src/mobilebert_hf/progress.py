"""The library's progress bar, with what is being trained, its stage, its loss, its speed and the time left."""

from typing import Any

from tqdm import tqdm
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

# More do not fit into a line.
SHOWN_LAYERS = 13


class StageProgress(ProgressCallback):
    """`transformers`' bar, which prints a dictionary for every log line; here the last one stands in the bar.

    Args:
        name: What is being trained.
        stage_names: The names that the logged value `stage` counts.
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
            # tqdm's own estimate takes all steps for equally long; a deep stage's are many times a shallow one's.
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
        """Shows stage, loss, the similarity of the layers that are compared, speed and time left."""
        if self.training_bar is None or logs is None or "loss" not in logs:
            return
        if "stage" in logs and self.stage_names:
            self.training_bar.set_description(f"{self.name}, {self.stage_names[int(logs['stage'])]}")
        values = {"loss": f"{float(logs['loss']):.3f}"}
        # Of normalized features, half the squared distance is 1 less their cosine.
        cosines = [1 - float(value) / 2 for name, value in logs.items() if name.endswith("/feature_map")]
        if 1 < len(cosines) <= SHOWN_LAYERS:
            values["cosines"] = " ".join(f"{cosine:.2f}" for cosine in cosines)
        if "hours_left" in logs:
            values["left"] = tqdm.format_interval(3600 * logs["hours_left"])
            values["speed"] = f"{logs['tokens_per_second']:,.0f} tokens/s"
        self.training_bar.set_postfix(values)


def show_progress(trainer: Trainer, name: str, stage_names: tuple[str, ...] = ()) -> None:
    """Puts `StageProgress` in the place of the library's bar, unless `disable_tqdm` turns bars off."""
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StageProgress(name, stage_names))
