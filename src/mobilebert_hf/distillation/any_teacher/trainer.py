"""Transfer from any BERT-like encoder: the same trainer, with layers mapped and what the teacher has to compare."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...data.masking import IGNORED
from ...pretraining.trainer import Columns, Counts, encoder_inputs, masked_lm_columns
from ..costs import StepFlops, step_flops
from ..facts import describe_student_in_training
from ..objectives import pooled_similarity, relation_discrepancy
from ..stages import Stage
from ..strategies import StrategyName
from ..teachers import EncoderTeacher, Projections, recording
from ..trainer import NOMINAL_STEP, DistillationArguments, DistillationTrainer, Observed

# What the student learns besides the layers' features: nothing, the teacher's pooled output, or its masked-LM logits.
Objective = Literal["features", "pooled", "masked_lm"]


@dataclass
class AnyTeacherArguments(DistillationArguments):
    r"""`DistillationArguments` with defaults for minutes to hours, and what other teachers need.

    Args:
        strategy (`str`, *optional*, defaults to `"auxiliary"`):
            As there.
        minutes (`float`, *optional*):
            Plans the run to this time: the first steps are timed, and the numbers of steps are stretched or
            shortened in proportion.
        pooled_weight (`float`, *optional*, defaults to 20.0):
            For sentence encoders, weight of 1 - cosine of the mean-pooled outputs.
        feature_map_weight (`float`, *optional*, defaults to 6.0):
            Weight of the normalized feature-map discrepancy.
        mean_weight (`float`, *optional*, defaults to 1.0):
            Weight of the squared difference of the features' means.
        variance_weight (`float`, *optional*, defaults to 1.0):
            Weight of the absolute difference of the features' variances.
        attention_weight (`float`, *optional*, defaults to 0.0):
            Weight of the relations' KL divergence (queries, keys and values, each among themselves); 0 leaves them
            out, and with them the time they take.
    """

    per_device_train_batch_size: int = field(default=32, metadata={"help": "Examples of a process and a pass."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Likewise, in evaluation."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Of AdamW."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Of AdamW."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of AdamW, not on norms and biases."})
    strategy: StrategyName = field(default="auxiliary", metadata={"help": "How knowledge is transferred."})
    transfer_steps: int = field(default=0, metadata={"help": "Steps of transfer, all layers together."})
    distillation_steps: int = field(default=2_000, metadata={"help": "Steps of distillation."})
    minutes: float | None = field(default=None, metadata={"help": "Plan the steps to this time."})
    transfer_rate: float = field(default=1.0, metadata={"help": "Rate factor of layers being transferred."})
    embedding_rate: float = field(default=1.0, metadata={"help": "Rate factor of the embeddings in transfer."})
    pooled_weight: float = field(default=20.0, metadata={"help": "Of the pooled outputs' cosine."})
    feature_map_weight: float = field(default=6.0, metadata={"help": "Of the normalized feature maps."})
    mean_weight: float = field(default=1.0, metadata={"help": "Of the feature maps' means."})
    variance_weight: float = field(default=1.0, metadata={"help": "Of the feature maps' variances."})
    attention_weight: float = field(default=0.0, metadata={"help": "Of the relations of queries, keys and values."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.remove_unused_columns = False  # an encoder's forward does not name the labels that are counted
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes is {self.minutes}: expected a number above 0.")


class AnyTeacherTrainer(DistillationTrainer):
    """`DistillationTrainer` with a teacher of another family.

    The embeddings' output is compared as well, where it learns: `embeddings/feature_map` and so on. Evaluation adds
    `<place>/similarity`, the mean cosine of the features, and what the objective has: `pooled_similarity`, or
    `masked_lm_loss`, `masked_lm_accuracy` and `teacher_masked_lm_accuracy`.

    Args:
        model: A `MobileBertForMaskedLM` for the objective `"masked_lm"`, else a `MobileBertModel`.
        teacher: The teacher.
        args: The arguments.
        mapping: For each layer of the student the teacher's.
        objective: What is learned besides the features.
        kwargs: As `transformers.Trainer`.

    Raises:
        ValueError: The widths or vocabularies differ, or the objective is unknown.
    """

    args: AnyTeacherArguments
    teacher: EncoderTeacher

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: EncoderTeacher,
        args: AnyTeacherArguments,
        mapping: tuple[int, ...],
        objective: Objective,
        **kwargs: Any,
    ) -> None:
        if objective not in get_args(Objective):
            raise ValueError(f"objective={objective!r} is not one of {', '.join(get_args(Objective))}.")
        self.mapping = mapping
        self.objective: Objective = objective
        super().__init__(model, teacher, args, **kwargs)
        self.facts = describe_student_in_training(teacher)
        self.loss_columns = {
            "features": tuple(f"layer_{layer}/feature_map" for layer in range(len(mapping))),
            "pooled": ("pooled_distance",),
            "masked_lm": ("masked_lm_loss",),
        }[objective]

    def check(self, model: Any, teacher: Any) -> None:
        """Widths and vocabularies must be equal, and every layer must have its teacher's."""
        for name in ("hidden_size", "vocab_size"):
            own, others = getattr(model.config, name), getattr(teacher.config, name)
            if own != others:
                raise ValueError(f"Student and teacher do not match ({name}: student {own}, teacher {others}).")
        if len(self.mapping) != model.config.num_hidden_layers or max(self.mapping) >= len(teacher.layers):
            raise ValueError(
                f"mapping={self.mapping} must name one of the teacher's {len(teacher.layers)} layers for each of the "
                f"student's {model.config.num_hidden_layers}."
            )

    def step_flops(self, stage: Stage, model: Any, teacher: Any) -> StepFlops:
        """As there, with layers mapped."""
        return step_flops(stage, model, teacher.model, **NOMINAL_STEP, mapping=self.mapping)

    def compared(self, stage: Stage) -> tuple[int, ...]:
        """The embeddings, too, where they learn."""
        embeddings = (-1,) if stage.transfer_layers and stage.embedding_rate > 0 else ()
        return (*embeddings, *stage.transfer_layers)

    def ask_teacher(
        self, inputs: dict[str, Tensor], stop: int | None, layers: Collection[int], attention_layers: Collection[int]
    ) -> Observed:
        """The layers are the student's; the teacher's are those they are mapped to."""
        mapped = {layer: self.mapping[layer] if layer >= 0 else -1 for layer in layers}
        wanted = tuple(sorted(set(mapped.values())))
        attended = self._attended(attention_layers)
        attention = tuple(sorted({self.mapping[layer] for layer in attended}))
        outputs = self.teacher(
            **encoder_inputs(inputs),
            stop_layer=None if stop is None else self.mapping[stop - 1] + 1,
            capture_layers=wanted,
            capture_projections=attention,
            prediction_mask=inputs["labels"] != IGNORED if self.objective == "masked_lm" else None,
        )
        features = dict(zip(wanted, outputs.layer_outputs, strict=True))
        projections = dict(zip(attention, outputs.projections, strict=True))
        return Observed(
            {layer: features[teachers] for layer, teachers in mapped.items()},
            {layer: projections[self.mapping[layer]] for layer in attended},
            outputs,
        )

    def ask_student(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        stop: int | None,
        layers: Collection[int],
        attention_layers: Collection[int],
        layer_inputs: Mapping[int, Tensor] | None,
    ) -> Observed:
        """As there; queries, keys and values are read in the attention interface."""
        layers, attended = sorted(layers), self._attended(attention_layers)
        options: dict[str, Any] = {"stop_layer": stop, "capture_layers": tuple(layers), "layer_inputs": layer_inputs}
        if self.objective == "masked_lm":
            options["prediction_mask"] = inputs["labels"] != IGNORED
        with recording(self.accelerator.unwrap_model(model), attended) as projections:
            outputs = model(**encoder_inputs(inputs), **options)
        features = dict(zip(layers, outputs.layer_outputs or (), strict=True))
        return Observed(features, dict(zip(attended, projections, strict=True)), outputs)

    def _attended(self, layers: Collection[int]) -> list[int]:
        return sorted(layers) if self.args.attention_weight > 0 else []

    def attention_terms(self, student: Projections, teacher: Projections, real: Tensor) -> Tensor:
        """The mean over queries, keys and values of how far their relations are from the teacher's."""
        heads = gcd(student.query.shape[1], teacher.query.shape[1] * teacher.query.shape[-1])
        terms = [
            relation_discrepancy(getattr(student, name), getattr(teacher, name), heads, real)
            for name in ("query", "key", "value")
        ]
        return torch.stack(terms).mean(0)

    def distillation_loss(
        self, student: Any, teacher: Any, inputs: dict[str, Tensor], counts: Counts
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective's loss."""
        if self.objective == "masked_lm":
            return self.masked_lm(student.logits, teacher.prediction_logits, inputs, counts)
        if self.objective == "pooled":
            distance = (1 - self._pooled(student, teacher, inputs)).sum() / counts.examples
            return self.args.pooled_weight * distance, {"pooled_distance": distance}
        return torch.zeros((), device=inputs["labels"].device), {}

    def distillation_columns(self, student: Any, teacher: Any, inputs: dict[str, Tensor]) -> Columns:
        """The objective's columns."""
        if self.objective == "masked_lm":
            teachers = masked_lm_columns(teacher.prediction_logits, inputs["labels"])
            own = masked_lm_columns(student.logits, inputs["labels"])
            return {**own, "teacher_masked_lm_accuracy": teachers["masked_lm_accuracy"]}
        if self.objective == "pooled":
            similarity = self._pooled(student, teacher, inputs)
            one = torch.ones_like(similarity)
            return {"pooled_distance": (1 - similarity, one), "pooled_similarity": (similarity, one)}
        return {}

    def evaluation_terms(self, student: Observed, teacher: Observed, real: Tensor) -> dict[str, dict[str, Tensor]]:
        """As there, and the cosine of the features of every place."""
        terms = self.transfer_terms(student, teacher, real)
        for place, (layer, features) in zip(terms.values(), student.features.items(), strict=True):
            place["similarity"] = F.cosine_similarity(features.float(), teacher.features[layer].float(), dim=-1)
        return terms

    @staticmethod
    def _pooled(student: Any, teacher: Any, inputs: dict[str, Tensor]) -> Tensor:
        return pooled_similarity(
            student.last_hidden_state, teacher.last_hidden_state.float(), inputs["attention_mask"].bool()
        )
