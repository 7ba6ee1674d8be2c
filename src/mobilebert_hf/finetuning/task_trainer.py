"""Training of a student with a head by objectives, beside its teacher."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PreTrainedModel

from ..distillation.networks import LayerOutputs, Needs
from ..distillation.objectives import Objective, Outputs
from ..distillation.strategies import auxiliary
from ..distillation.teachers import EncoderTeacher
from ..progress import show_progress
from ..runs.run_folder import find_checkpoint
from ..training import DurableTrainer
from ..training.compat import prepare_inputs
from ..training.normalizers import Normalizers

TIMED_STEPS = 6


def with_token_types(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch with `token_type_ids`, which are 0 where the tokenizer makes none."""
    return {"token_type_ids": torch.zeros_like(batch["input_ids"]), **batch}


def train_student(trainer: Any, student: Any, plan: Callable[[Any], None]) -> None:
    """Plans the steps, if there are minutes, and trains from the last complete checkpoint on.

    Args:
        trainer: A `TaskDistillationTrainer`.
        student: `TaskStudentArguments`.
        plan: Sets the number of steps of a trainer by timing it.
    """
    if trainer.args.minutes is not None:
        plan(trainer)
    if student.early_stopping is not None:
        trainer.add_callback(EarlyStoppingCallback(student.early_stopping))
    show_progress(trainer, f"distilling {Path(student.teacher).name}")
    trainer.train(resume_from_checkpoint=find_checkpoint(trainer.args))


class TaskDistillationTrainer(DurableTrainer):
    """Trains a student with a head by objectives, beside the teacher. Evaluation is that of the task, without teacher.

    Logs the unweighted terms of the objectives, means since the last log. It can be the first base of a class whose
    second base is a trainer of a task, such as `QuestionAnsweringTrainer`.

    Args:
        model: A MobileBERT of this package with the head of the task.
        teacher: The adapter of the teacher with its head; frozen, moved to the device.
        objectives: What is learned.
        kwargs: As `DurableTrainer`.
    """

    def __init__(
        self, model: PreTrainedModel, teacher: EncoderTeacher, objectives: Sequence[Objective], **kwargs: Any
    ) -> None:
        teacher.check_student(model.config)
        super().__init__(model=model, **kwargs)
        self.teacher, self.objectives = teacher.to(self.args.device), list(objectives)
        pruned = not model.config.use_bottleneck  # of its layers only the last is like the teacher's
        [self.stage] = auxiliary(model.config.num_hidden_layers, 1, warmup_ratio=0.0, only_last=pruned).stages
        self.needs = Needs.union(None, (objective.needs(self.stage) for objective in self.objectives))
        self.model_accepts_loss_kwargs = False  # losses of accumulated batches are averaged
        self._terms: dict[str, list[Tensor]] = {}

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The sum of the objectives' losses; in evaluation the loss of the task."""
        if not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        batch = with_token_types(dict(inputs))
        if (labels := batch.pop("labels", None)) is not None:
            batch["task_labels"] = labels
        batch["labels"] = torch.full_like(batch["input_ids"], -100)  # nothing is masked
        outputs = Outputs(batch, self.stage, self.forward_student(model, batch), self.forward_teacher(batch))
        normalizers, total = Normalizers.of(batch, None), outputs.zero
        for objective in self.objectives:
            loss, terms = objective.loss(outputs, normalizers)
            total = total + loss
            for name, value in terms.items():
                self._terms.setdefault(name, []).append(value.detach())
        return total

    def forward_student(self, model: nn.Module, batch: dict[str, Tensor]) -> LayerOutputs:
        """Runs the student, and captures the outputs of its layers."""
        captured: list[Any] = []
        encoder = self.accelerator.unwrap_model(model).base_model
        handle = encoder.register_forward_hook(lambda module, inputs, output: captured.append(output))
        try:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
            raw = model(**inputs, capture_layers=self.needs.features)
        finally:
            handle.remove()
        return LayerOutputs(dict(zip(self.needs.features, captured[0].layer_outputs, strict=True)), raw=raw)

    @torch.no_grad()
    def forward_teacher(self, batch: dict[str, Tensor]) -> LayerOutputs:
        """Runs the teacher and its head."""
        captured: list[Any] = []
        handle = self.teacher.model.register_forward_hook(lambda module, inputs, output: captured.append(output))
        try:
            return replace(self.teacher(batch, self.needs), raw=captured[0])
        finally:
            handle.remove()

    def time_step(self) -> float:
        """Seconds of a training step, measured without changing the model: the median of a few."""
        assert self.model is not None
        self.model.to(self.args.device).train()
        times = []
        for number, batch in enumerate(self.get_train_dataloader()):
            began = time.monotonic()
            self.compute_loss(self.model, prepare_inputs(self, batch)).backward()
            self.model.zero_grad()
            times.append(time.monotonic() - began)
            if number + 1 == TIMED_STEPS:
                break
        self._terms.clear()
        return float(np.median(times)) * self.args.gradient_accumulation_steps

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the library's, with the terms of the objectives."""
        if "loss" in logs:
            logs = {**logs, **{name: float(torch.stack(values).mean()) for name, values in self._terms.items()}}
            self._terms.clear()
        super().log(logs, *args, **kwargs)
