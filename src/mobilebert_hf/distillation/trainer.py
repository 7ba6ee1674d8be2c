"""Layer-wise knowledge transfer from a teacher to a student, on `transformers.Trainer`.

The strategy says which layers run, which losses count and what learns; the stage is a pure function of the global
step, so a run resumes with nothing but the Trainer's own state.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.masking import IGNORED
from ..pretraining.compilation import compile_layers
from ..pretraining.optimizer import parameter_groups
from ..pretraining.trainer import (
    Columns,
    Counts,
    PreTrainer,
    PreTrainingArguments,
    encoder_inputs,
    per_place_scheduler,
    pretraining_columns,
)
from .costs import StepFlops, step_flops
from .facts import describe_distilled, describe_stages
from .initialization import check_match
from .objectives import (
    TransferWeights,
    attention_discrepancy,
    feature_map_discrepancy,
    masked_lm_distillation,
    masked_mean,
    next_sentence,
)
from .strategies import Freezing, Stage, Strategy, StrategyName, auxiliary, build_strategy
from .teachers import find_layers

# A layer's terms in the log, as `TransferWeights` calls them.
TERMS = tuple(field.name for field in fields(TransferWeights))

# What the relative cost of stages is reckoned with; it depends little on them.
NOMINAL_STEP: dict[str, Any] = {"tokens": 100, "length": 128, "predictions": 15}


class Observed(NamedTuple):
    """What is seen of a network in a step.

    Args:
        features: Of the student's layer i, or what the teacher has in its place; -1 is the embeddings.
        attention: Likewise, what attention transfer compares.
        outputs: All that the network returned.
    """

    features: dict[int, Tensor]
    attention: dict[int, Any]
    outputs: Any


@dataclass
class DistillationArguments(PreTrainingArguments):
    r"""`PreTrainingArguments`, and how knowledge is transferred. `max_steps` follows from the strategy.

    Args:
        strategy (`str`, *optional*, defaults to `"progressive"`):
            `"progressive"` (a stage a layer, bottom up), `"joint"` (all layers at once), `"parallel"` (all layers at
            once, each on the teacher's features, then joint) or `"auxiliary"` (all layers together with
            distillation); see `strategies.py`.
        freezing (`str`, *optional*, defaults to `"soft"`):
            Progressive transfer: layers below the current one are frozen (`"hard"`) or learn slowly (`"soft"`).
        transfer_steps (`int`, *optional*, defaults to 240000):
            Steps of transfer, of all layers together.
        distillation_steps (`int`, *optional*, defaults to 500000):
            Steps of pre-training distillation after it.
        transfer_rate (`float`, *optional*, defaults to 3.0):
            Factor on `learning_rate` for the layers that are being transferred.
        embedding_rate (`float`, *optional*, defaults to 0.0):
            That of the embeddings during transfer; 0 freezes them, as the original does.
        distillation_warmup_ratio (`float`, *optional*, defaults to 0.02):
            Part of the distillation stage in which the rate warms up.
        feature_map_weight (`float`, *optional*, defaults to 100.0):
            Weight of the normalized feature-map discrepancy.
        mean_weight (`float`, *optional*, defaults to 5000.0):
            Weight of the squared difference of the features' means.
        variance_weight (`float`, *optional*, defaults to 5.0):
            Weight of the absolute difference of the features' variances.
        attention_weight (`float`, *optional*, defaults to 1.0):
            Weight of the attention distributions' KL divergence.
        alpha (`float`, *optional*, defaults to 0.5):
            Share of the true labels in masked-LM distillation; the rest is the teacher's distribution.
        temperature (`float`, *optional*, defaults to 1.0):
            Temperature of both networks' masked-LM logits.
        teacher_dtype (`str`, *optional*, defaults to `"auto"`):
            The teacher's dtype (`"float32"`, `"bfloat16"`, ...); `"auto"` is bfloat16 where the hardware multiplies
            matrices in it (CUDA since Ampere, CPUs with AMX), else float32.
    """

    strategy: StrategyName = field(default="progressive", metadata={"help": "How knowledge is transferred."})
    freezing: Freezing = field(default="soft", metadata={"help": "Layers below the current one."})
    transfer_steps: int = field(default=240_000, metadata={"help": "Steps of transfer, all layers together."})
    distillation_steps: int = field(default=500_000, metadata={"help": "Steps of pre-training distillation."})
    transfer_rate: float = field(default=3.0, metadata={"help": "Rate factor of layers being transferred."})
    embedding_rate: float = field(default=0.0, metadata={"help": "Rate factor of the embeddings in transfer."})
    distillation_warmup_ratio: float = field(default=0.02, metadata={"help": "Warm-up of the distillation stage."})
    feature_map_weight: float = field(default=100.0, metadata={"help": "Of the normalized feature maps."})
    mean_weight: float = field(default=5000.0, metadata={"help": "Of the feature maps' means."})
    variance_weight: float = field(default=5.0, metadata={"help": "Of the feature maps' variances."})
    attention_weight: float = field(default=1.0, metadata={"help": "Of the attention distributions."})
    alpha: float = field(default=0.5, metadata={"help": "Share of the true labels in masked-LM distillation."})
    temperature: float = field(default=1.0, metadata={"help": "Of both networks' masked-LM logits."})
    teacher_dtype: str = field(default="auto", metadata={"help": "The teacher's dtype."})

    def build_strategy(self, num_layers: int) -> Strategy:
        """The strategy for a network of `num_layers` layers; a ValueError where a number does not fit."""
        return build_strategy(
            self.strategy,
            num_layers,
            self.transfer_steps,
            self.distillation_steps,
            self.freezing,
            self.transfer_rate,
            self.distillation_warmup_ratio,
            self.embedding_rate,
        )


class DistillationTrainer(PreTrainer):
    """Trains `model` on the knowledge of `teacher`, both `...ForPreTraining`, by the strategy of `args`.

    In a stage of depth d neither network computes anything above layer d, and what has rate 0 is frozen. Dropout is
    off in both networks, as in the original. Each term is logged: `layer_<i>/feature_map`, `/mean`, `/variance`,
    `/attention` (unweighted), `masked_lm_loss`, `masked_lm_distillation`, `next_sentence_loss`; and `stage`, the
    stage's index, and `learning_rate/<place>`. Evaluation runs both networks in full and adds every layer's terms to
    `PreTrainer`'s metrics.

    Args:
        model: The student.
        teacher: Frozen, in evaluation mode; moved to the Trainer's device and to `args.teacher_dtype`.
        args: The arguments.
        kwargs: As `transformers.Trainer`.

    Raises:
        ValueError: Student and teacher do not match, or the strategy's steps do not fit their layers.
    """

    args: DistillationArguments

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: nn.Module,
        args: DistillationArguments,
        **kwargs: Any,
    ) -> None:
        self.check(model, teacher)
        layers = model.config.num_hidden_layers
        self.strategy = args.build_strategy(layers)
        [self._everything] = auxiliary(layers, steps=1, warmup_ratio=0.0).stages
        self.weights = TransferWeights(
            args.feature_map_weight, args.mean_weight, args.variance_weight, args.attention_weight
        )
        args.max_steps = self.strategy.steps
        self._step_costs = [sum(self.step_flops(stage, model, teacher)) for stage in self.strategy.stages]
        super().__init__(model=model, args=args, **kwargs)
        self.facts = describe_distilled(teacher, args.strategy)
        self.stages = describe_stages(self.strategy, self.weights)
        self.teacher = teacher.eval().requires_grad_(False).to(args.device, _teacher_dtype(args))
        if self.compilation is not None:
            compile_layers(find_layers(self.teacher), self.compilation)
            # They go through the largest tensors of transfer a dozen times; compiled, once or twice.
            for objective in ("feature_terms", "attention_terms"):
                setattr(self, objective, torch.compile(getattr(self, objective), **self.compilation))
        self.add_callback(_StageCallback(self.strategy))

    def step_flops(self, stage: Stage, model: Any, teacher: Any) -> StepFlops:
        """The relative cost of a stage's steps."""
        return step_flops(stage, model, teacher, **NOMINAL_STEP)

    def check(self, model: Any, teacher: Any) -> None:
        """Raises a ValueError where the two networks cannot be compared."""
        check_match(model.config, teacher.config)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The strategy's rates, for each place of the network."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            assert optimizer is not None
            self.lr_scheduler = per_place_scheduler(optimizer, self.strategy.rates)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_learning_rate(self) -> float:
        """The highest rate of all places, where the library takes the first group's."""
        assert self.optimizer is not None
        return max(group["lr"] for group in self.optimizer.param_groups)

    def work(self, steps: int) -> float:
        """FLOPs of the first `steps` steps; those of a deep stage cost many times those of a shallow one."""
        index, _, done = self.strategy.position(steps)
        before = zip(self.strategy.stages[:index], self._step_costs[:index], strict=True)
        return sum(stage.steps * cost for stage, cost in before) + done * self._step_costs[index]

    def place_of(self, step: int) -> str:
        """Step and stage."""
        return f'{super().place_of(step)} (stage "{self.strategy.position(step).stage.name}")'

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `PreTrainer`'s; lines of training also carry the stage and the rate of every place."""
        if "loss" in logs:
            step = self.state.global_step - 1  # the one that was just taken
            rates = {
                f"learning_rate/{place}": self.args.learning_rate * rate
                for place, rate in self.strategy.rates(step).items()
            }
            logs = {**logs, "stage": self.strategy.position(step).stage_index, **rates}
        super().log(logs, start_time)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's, without dropout."""
        assert self.model is not None
        with without_dropout(self.model):
            return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objectives of the stage that the global step belongs to."""
        counts = Counts.of(inputs, num_items_in_batch)
        stage = self.strategy.position(self.state.global_step).stage
        student, teacher = self.observe(model, inputs, stage)
        real = inputs["attention_mask"].bool()
        loss = torch.zeros((), device=real.device)
        terms = {}
        for place, columns in self.transfer_terms(student, teacher, real).items():
            means = {name: masked_mean(values, real, counts.tokens) for name, values in columns.items()}
            terms.update({f"{place}/{name}": mean for name, mean in means.items()})
            weighted = sum(getattr(self.weights, name) * mean for name, mean in means.items())
            loss = loss + weighted / len(stage.layer_rates)
        if stage.pretraining:
            distilled, distillation_terms = self.distillation_loss(student.outputs, teacher.outputs, inputs, counts)
            loss = loss + distilled
            terms.update(distillation_terms)
        self.meter.record(self.state.global_step, terms)
        return (loss, student.outputs) if return_outputs else loss

    def evaluation_columns(self, model: nn.Module, inputs: dict[str, Tensor]) -> Columns:
        """`PreTrainer`'s columns, and the transfer terms of every layer."""
        student, teacher = self.observe(model, inputs, self._everything)
        real = inputs["attention_mask"].bool()
        terms = self.evaluation_terms(student, teacher, real)
        columns = {
            f"{place}/{name}": (values.masked_fill(~real, 0).sum(1), real.sum(1))
            for place, part in terms.items()
            for name, values in part.items()
        }
        return {**self.distillation_columns(student.outputs, teacher.outputs, inputs), **columns}

    def evaluation_terms(self, student: Observed, teacher: Observed, real: Tensor) -> dict[str, dict[str, Tensor]]:
        """What evaluation averages of the layers, [batch, seq]."""
        return self.transfer_terms(student, teacher, real)

    def observe(self, model: nn.Module, inputs: dict[str, Tensor], stage: Stage) -> tuple[Observed, Observed]:
        """Student and teacher as deep as the stage goes, with heads where they count."""
        layers, stop = self.compared(stage), None if stage.pretraining else stage.depth
        below = range(-1, stage.depth - 1) if stage.parallel else ()
        # What is compiled may save its inputs for the backward pass, and tensors of inference mode cannot be saved.
        without_gradients = torch.inference_mode if self.compilation is None else torch.no_grad
        with without_gradients():
            teacher = self.ask_teacher(inputs, stop, {*layers, *below}, stage.transfer_layers)
        # Cloned, because autograd does not take tensors of inference mode as inputs.
        layer_inputs = {layer + 1: teacher.features[layer].float().clone() for layer in below} or None
        student = self.ask_student(model, inputs, stop, layers, stage.transfer_layers, layer_inputs)
        return student, teacher

    def compared(self, stage: Stage) -> tuple[int, ...]:
        """The layers whose features are compared."""
        return stage.transfer_layers

    def ask_teacher(
        self, inputs: dict[str, Tensor], stop: int | None, layers: Collection[int], attention_layers: Collection[int]
    ) -> Observed:
        """Runs the teacher up to layer `stop`, or in full with its heads."""
        return _ask(self.teacher, inputs, stop, layers, attention_layers)

    def ask_student(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        stop: int | None,
        layers: Collection[int],
        attention_layers: Collection[int],
        layer_inputs: Mapping[int, Tensor] | None,
    ) -> Observed:
        """Runs the student likewise; with `layer_inputs` each layer on its own."""
        return _ask(model, inputs, stop, layers, attention_layers, layer_inputs=layer_inputs)

    def transfer_terms(self, student: Observed, teacher: Observed, real: Tensor) -> dict[str, dict[str, Tensor]]:
        """For each layer the terms of `TransferWeights`, [batch, seq]; `real` [batch, seq] is False at padding."""
        terms: dict[str, dict[str, Tensor]] = {}
        for layer, features in student.features.items():
            place = f"layer_{layer}" if layer >= 0 else "embeddings"
            terms[place] = self.feature_terms(features, teacher.features[layer])
        for layer, attention in student.attention.items():
            terms[f"layer_{layer}"]["attention"] = self.attention_terms(attention, teacher.attention[layer], real)
        return terms

    def feature_terms(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """How far features are from the teacher's, [batch, seq] each."""
        discrepancy = feature_map_discrepancy(student, teacher)
        return {
            "feature_map": discrepancy.normalized,
            "mean": discrepancy.mean,
            "variance": discrepancy.variance,
        }

    def attention_terms(self, student: Any, teacher: Any, real: Tensor) -> Tensor:
        """How far a layer's attention is from the teacher's, [batch, seq]."""
        return attention_discrepancy(student, teacher, real)

    def distillation_loss(
        self, student: Any, teacher: Any, inputs: dict[str, Tensor], counts: Counts
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the heads, and the terms to log, from both networks' outputs."""
        loss, terms = self.masked_lm(student.prediction_logits, teacher.prediction_logits, inputs, counts)
        sentences = next_sentence(student.seq_relationship_logits, inputs["next_sentence_label"])
        next_sentence_loss = sentences.sum() / counts.examples
        return loss + next_sentence_loss, {**terms, "next_sentence_loss": next_sentence_loss}

    def masked_lm(
        self, student: Tensor, teacher: Tensor, inputs: dict[str, Tensor], counts: Counts
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The masked-LM loss of logits [n, vocab_size] at the predicted positions, and its terms."""
        labels = inputs["labels"]
        hard, soft, combined = masked_lm_distillation(
            student, teacher, labels[labels != IGNORED], self.args.alpha, self.args.temperature
        )
        return combined.sum() / counts.predictions, {
            "masked_lm_loss": hard.sum() / counts.predictions,
            "masked_lm_distillation": soft.sum() / counts.predictions,
        }

    def distillation_columns(self, student: Any, teacher: Any, inputs: dict[str, Tensor]) -> Columns:
        """What evaluation averages of the heads."""
        return pretraining_columns(student, inputs["labels"], inputs["next_sentence_label"])


def _ask(
    network: nn.Module,
    inputs: dict[str, Tensor],
    stop: int | None,
    layers: Collection[int],
    attention_layers: Collection[int],
    **more: Any,
) -> Observed:
    layers, attention_layers = sorted(layers), sorted(attention_layers)
    outputs = network(
        **encoder_inputs(inputs),
        stop_layer=stop,
        capture_layers=tuple(layers),
        capture_scores=tuple(attention_layers),
        prediction_mask=inputs["labels"] != IGNORED,
        **more,
    )
    features = dict(zip(layers, outputs.layer_outputs or (), strict=True))
    return Observed(features, dict(zip(attention_layers, outputs.attention_scores or (), strict=True)), outputs)


class _StageCallback(TrainerCallback):
    """Freezes what does not learn in a stage, until training ends, and resets the moments where a stage begins."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.stage: Stage | None = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _, stage, step = self.strategy.position(state.global_step)
        if step == 0:
            # As the original: the objective changes here, and moments of the old one would be misleading.
            kwargs["optimizer"].state.clear()
        if stage is not self.stage:
            self.stage = stage
            for group in parameter_groups(kwargs["model"], weight_decay=0.0, trust_ratio=False):
                for parameter in group["params"]:
                    parameter.requires_grad_(stage.rates[group["name"]] > 0)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stage = None
        kwargs["model"].requires_grad_(True)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Turns every dropout of a model off inside the block, in training mode too."""
    dropouts = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    try:
        for module, _ in dropouts:
            module.p = 0.0
        yield
    finally:
        for module, p in dropouts:
            module.p = p


def _teacher_dtype(args: DistillationArguments) -> torch.dtype:
    if args.teacher_dtype != "auto":
        dtype = getattr(torch, args.teacher_dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"teacher_dtype={args.teacher_dtype!r} is not a floating dtype of torch or 'auto'.")
        return dtype
    bfloat16 = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: torch.cpu.get_capabilities().get("amx_bf16", False),
    }.get(args.device.type, lambda: False)
    return torch.bfloat16 if bfloat16() else torch.float32
