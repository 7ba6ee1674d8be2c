"""Distillation on `transformers.Trainer`: a teacher, a list of objectives, a strategy, examples.

The strategy says which layers run, which losses count and what is trained; the stage is a pure function of the global
step, so a run resumes with nothing but the state of the Trainer. Without a teacher it is pre-training: masked LM and
next sentence, with the library's schedule.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel

from ..data import PretrainingCollator
from ..runs.checkpoints import checkpoint_step
from ..runs.facts import hub_ids
from ..runs.run_folder import find_checkpoint
from ..training.arguments import PreTrainingArguments
from ..training.batches import TrainingBatches
from ..training.compat import EvalLoopOutput, mark_scheduler_as_created, prepare_inputs, take_over_compilation
from ..training.compilation import compile_layers
from ..training.durable import DurableTrainer
from ..training.interruption import EndAt, hold_signals
from ..training.meter import Meter
from ..training.metric_sums import has_positions, mean_metrics, stack_sums
from ..training.normalizers import Normalizers, count_batch
from ..training.optimizer import create_optimizer, per_group_scheduler
from ..training.phases import Phase
from .arguments import DistillationArguments
from .costs import step_flops
from .facts import describe_distilled, describe_pretrained, describe_stages
from .networks import LayerOutputs, Needs, run_mobilebert
from .objectives import MaskedLM, NextSentence, Objective, OutputObjective, Outputs
from .stage_callback import StageCallback, without_dropout
from .stages import Stage, Strategy
from .strategies import auxiliary
from .teachers import Teacher, as_teacher, find_layers

# The sizes that the relative cost of stages is computed with; it depends little on them.
NOMINAL_STEP: dict[str, Any] = {"tokens": 100, "length": 128, "predictions": 15}


class DistillationTrainer(DurableTrainer):
    """Trains `model` by objectives, with or without a teacher, on batches of `PretrainingCollator`.

    In a stage of depth d neither model computes anything above layer d, and parameter groups with learning-rate scale
    0 are frozen. With a teacher dropout is off in both models, as in the original. Losses are means over the global
    batch. With `torch_compile=True` layers and objectives are compiled, not whole models.

    Logs the unweighted terms of the objectives, such as `layer_<i>/feature_map` and `masked_lm_loss`; the index of the
    `stage` and `learning_rate/<group>`; `tokens_per_second` (real tokens, all processes) and `hours_left`. Evaluation
    runs both models in full and reports the metrics of all objectives for all layers.

    Args:
        model: The student, of this package.
        teacher: An adapter, or an IB-BERT of this package; frozen, moved to the device and to `args.teacher_dtype`.
            None: pre-training.
        args: `DistillationArguments` with a teacher, else `PreTrainingArguments`.
        objectives: What is learned; by default those of `args.build_objectives()`, or masked LM and next sentence
            without a teacher.
        kwargs: As `transformers.Trainer`.

    Raises:
        ValueError: Student, teacher and objectives do not match, or the steps of the strategy do not fit the layers.
    """

    args: PreTrainingArguments
    data_collator: PretrainingCollator

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel | Teacher | None,
        args: PreTrainingArguments,
        objectives: Sequence[Objective] | None = None,
        **kwargs: Any,
    ) -> None:
        num_layers = model.config.num_hidden_layers
        [everything] = auxiliary(num_layers, steps=1, warmup_ratio=0.0).stages
        self.evaluation_stage = everything if teacher is not None else replace(everything, transfer_layers=())
        self.strategy: Strategy | None = None
        self.teacher: Teacher | None = None
        if teacher is not None:
            assert isinstance(args, DistillationArguments)
            self.teacher = as_teacher(teacher)
            self.teacher.check_student(model.config)
            self.strategy = args.build_strategy(num_layers)
            args.max_steps = self.strategy.steps
            objectives = args.build_objectives() if objectives is None else objectives
            self._step_costs = self._stage_costs(model, self.teacher, self.strategy)
        self.objectives = [MaskedLM(), NextSentence()] if objectives is None else list(objectives)
        for objective in self.objectives:
            objective.check(model)
        args.remove_unused_columns = False  # the forward pass of an encoder does not name the labels
        super().__init__(model=model, args=args, **kwargs)
        self._describe_run()
        self.loss_is_scaled_for_ga = True  # by `Normalizers`
        self.compute_metrics = self._mean_metrics
        self.meter = Meter()
        self.batches = TrainingBatches(self)
        self.add_callback(self.batches)
        self._metric_names: list[str] = []
        self.compilation = take_over_compilation(self.accelerator)
        self._prepare_teacher_and_compile()

    def _describe_run(self) -> None:
        """What `facts.json` and `stages.json` say."""
        if self.teacher is None:
            self.facts = describe_pretrained(self.accelerator.unwrap_model(self.model).config.model_type)
            return
        assert self.strategy is not None
        self.facts = describe_distilled(self.teacher, self.strategy.name)
        self.stages = describe_stages(self.strategy, self.objectives)

    def _prepare_teacher_and_compile(self) -> None:
        if self.teacher is not None:
            assert isinstance(self.args, DistillationArguments)
            assert self.strategy is not None
            self.teacher.move_to(self.args.device, self.args.resolve_teacher_dtype())
            self.add_callback(StageCallback(self.strategy))
        if self.compilation is not None:
            for network in (self.model, self.teacher and self.teacher.model):
                if network is not None:
                    compile_layers(find_layers(network), self.compilation)
            for objective in self.objectives:
                objective.compile(self.compilation)

    # ---- losses

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The sum of the objectives' losses in the stage of the global step."""
        normalizers = Normalizers.of(inputs, num_items_in_batch)
        outputs = self.forward_networks(model, inputs, self.stage_at(self.state.global_step))
        loss, terms = outputs.zero, {}
        for objective in self.objectives:
            part, named = objective.loss(outputs, normalizers)
            loss = loss + part
            terms.update(named)
        self.meter.record(self.state.global_step, terms)
        return (loss, outputs.student.raw) if return_outputs else loss

    def stage_at(self, step: int) -> Stage:
        """The stage of a global step; without a teacher there is one for the whole run."""
        return self.evaluation_stage if self.strategy is None else self.strategy.position(step).stage

    def forward_networks(self, model: nn.Module, inputs: dict[str, Tensor], stage: Stage) -> Outputs:
        """Runs teacher and student as deep as the stage and its objectives need."""
        depth = None if stage.use_distillation_loss else stage.depth
        needs = Needs.union(depth, (objective.needs(stage) for objective in self.objectives))
        below = range(-1, stage.depth - 1) if stage.parallel else ()
        teacher = self.forward_teacher(inputs, Needs.union(depth, (needs, Needs(features=tuple(below)))))
        # Cloned, because autograd does not accept tensors of inference mode as inputs.
        layer_inputs = {layer + 1: teacher.features[layer].float().clone() for layer in below} or None
        student = run_mobilebert(model, self.accelerator.unwrap_model(model), inputs, needs, layer_inputs)
        return Outputs(inputs, stage, student, teacher)

    def forward_teacher(self, inputs: dict[str, Tensor], needs: Needs) -> LayerOutputs:
        """Runs the teacher without gradients, in its own data type; without a teacher the outputs are empty."""
        if self.teacher is None:
            return LayerOutputs()
        if self.teacher.model.dtype == torch.float32:
            with torch.autocast(self.args.device.type, enabled=False):
                return self._run_teacher(self.teacher, inputs, needs)
        return self._run_teacher(self.teacher, inputs, needs)

    def _run_teacher(self, teacher: Teacher, inputs: dict[str, Tensor], needs: Needs) -> LayerOutputs:
        # Compiled code may save its inputs for the backward pass, and tensors of inference mode cannot be saved.
        with torch.inference_mode() if self.compilation is None else torch.no_grad():
            return teacher(inputs, needs)

    def loss_terms(self) -> Mapping[str, Tensor]:
        """The terms of the current step."""
        return self.meter.at(self.state.global_step)

    # ---- training

    def training_context(self, checkpoint: Path | None) -> AbstractContextManager[Any]:
        """With a teacher there is no dropout; a stream resumes from the checkpoint."""
        self.batches.resumed_checkpoint = checkpoint
        assert self.model is not None
        return nullcontext() if self.teacher is None else without_dropout(self.model)

    def get_train_dataloader(self) -> DataLoader:
        """See `TrainingBatches.loader`."""
        return self.batches.loader()

    def save_data_state(self, checkpoint: Path) -> None:
        """See `TrainingBatches.save_state`."""
        self.batches.save_state(checkpoint)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """The batches that one step accumulates, and the normalizers of their losses, as a tensor [3]."""
        with hold_signals():  # the first call starts the workers of the data loader
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        totals = torch.stack([count_batch(batch) for batch in batches]).sum(0).to(device)
        totals = self.accelerator.reduce(totals, reduction="sum")
        self.meter.begin_step(self.state.global_step, totals[0])
        return batches, totals.clamp(min=1) / self.args.world_size

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As the library's or LAMB, with parameter groups for embeddings, layers and heads."""
        if self.optimizer is None:
            model = model or self.model
            assert model is not None
            self.optimizer = create_optimizer(self, model, self.args.use_lamb)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The learning-rate scales of the strategy; without one the library's schedule."""
        if self.strategy is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            assert optimizer is not None
            self.lr_scheduler = per_group_scheduler(optimizer, self.strategy.lr_scales)
            mark_scheduler_as_created(self)
        return self.lr_scheduler

    # ---- logs

    def _get_learning_rate(self) -> float:
        if self.strategy is None:
            return super()._get_learning_rate()
        # The highest of all groups, where the library takes that of the first one.
        assert self.optimizer is not None
        return max(group["lr"] for group in self.optimizer.param_groups)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the library's; training logs also have the values of the meter, the stage and all learning rates."""
        if "loss" in logs:
            mean = partial(self.accelerator.reduce, reduction="mean")
            measured = self.meter.read(self.state.global_step, self.work, self.state.max_steps, mean)
            logs = {**logs, **measured, **self._stage_values(self.state.global_step - 1)}
        super().log(logs, start_time)

    def _stage_values(self, step: int) -> dict[str, float]:
        if self.strategy is None:
            return {}
        scales = self.strategy.lr_scales(step)
        rates = {f"learning_rate/{group}": self.args.learning_rate * scale for group, scale in scales.items()}
        return {"stage": self.strategy.position(step).stage_index, **rates}

    def work(self, steps: int) -> float:
        """The cost of the first `steps` steps in FLOPs, for the time left: deep stages cost more than shallow ones.

        Without a teacher all steps cost the same, 1.
        """
        if self.strategy is None:
            return steps
        index, _, done = self.strategy.position(steps)
        before = zip(self.strategy.stages[:index], self._step_costs[:index], strict=True)
        return sum(stage.steps * cost for stage, cost in before) + done * self._step_costs[index]

    @staticmethod
    def _stage_costs(model: PreTrainedModel, teacher: Teacher, strategy: Strategy) -> list[float]:
        """The relative cost of a step in each stage."""
        return [
            sum(step_flops(stage, model, teacher.model, **NOMINAL_STEP, mapping=teacher.mapping))
            for stage in strategy.stages
        ]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of the strategy's stages."""
        return () if self.strategy is None else tuple(stage.name for stage in self.strategy.stages)

    def describe_step(self, step: int) -> str:
        """As `DurableTrainer.describe_step`, with the stage."""
        described = super().describe_step(step)
        return described if self.strategy is None else f'{described} (stage "{self.stage_at(step).name}")'

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.meter.paused():
            super()._save_checkpoint(*args, **kwargs)

    # ---- evaluation

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As the library's; masks do not depend on the epoch, and the random state of training is kept."""
        epoch, self.data_collator.epoch = getattr(self.data_collator, "epoch", 0), 0
        try:
            with self.meter.paused(), torch.random.fork_rng(devices=[]):  # a data loader draws a seed
                return super().evaluation_loop(*args, **kwargs)
        finally:
            self.data_collator.epoch = epoch

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Returns metric sums in place of logits: a row for each example, so that processes can be gathered."""
        inputs = prepare_inputs(self, inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self.forward_networks(model, inputs, self.evaluation_stage)
            sums = {}
            for objective in self.objectives:
                sums.update(objective.metrics(outputs))
        self._metric_names = list(sums)
        stacked = stack_sums(sums)
        means = dict(zip(sums, mean_metrics(stacked).where(has_positions(stacked), 0.0), strict=True))
        return torch.stack([means[name] for name in self.evaluation_losses]).sum(), stacked, inputs["labels"][:, 0]

    @property
    def evaluation_losses(self) -> list[str]:
        """The metrics whose sum is the evaluation loss: those of the outputs or, if none is learned, of the layers."""
        final = [objective for objective in self.objectives if isinstance(objective, OutputObjective)]
        layers = len(self.evaluation_stage.layer_lr_scales)
        return [name for objective in final or self.objectives for name in objective.evaluation_losses(layers)]

    def _mean_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        stacked = torch.as_tensor(prediction.predictions)
        found = zip(self._metric_names, mean_metrics(stacked).tolist(), has_positions(stacked).tolist(), strict=True)
        metrics = {name: mean for name, mean, measured in found if measured}
        return {"loss": sum(metrics[name] for name in self.evaluation_losses if name in metrics), **metrics}


def run_phases(make_trainer: Callable[[Phase], DistillationTrainer], phases: Sequence[Phase]) -> DistillationTrainer:
    """Trains all phases, from the last complete checkpoint on, evaluates, and saves model, metrics and state.

    Args:
        make_trainer: Makes the trainer of a phase, with a new model each time.
        phases: At least one.
    """
    for phase in phases:
        checkpoint = find_checkpoint(phase.training)
        if phase.end is not None and checkpoint is not None and checkpoint_step(checkpoint) >= phase.end:
            continue
        trainer = make_trainer(phase)
        trainer.facts = replace(trainer.facts, datasets=hub_ids(phase.data.corpus))
        if phase.end is not None:
            trainer.add_callback(EndAt(phase.end))
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_final_model()
    trainer.save_state()
    if trainer.teacher is not None:
        trainer.teacher.restore()  # what is reported of it is that of float32
    trainer.save_metrics("eval", trainer.evaluate(), combined=False)
    return trainer
