"""Objectives: what a student learns from a teacher or from labels.

An objective is a small object. It says what it needs of both networks in a stage, computes its loss from that, and
computes its metrics for evaluation. `DistillationTrainer` takes a list of objectives and adds up their losses. To add
an objective, write a class here or in your own code and pass an instance to the trainer.

A `LayerObjective` compares the layers of a stage, an `OutputObjective` the outputs of the whole model. The one of
sentence encoders is in `sentence_objective.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.masking import IGNORED
from ..training.metric_sums import MetricSums, sum_per_example
from ..training.normalizers import Normalizers
from .losses import (
    attention_loss,
    feature_map_loss,
    masked_lm_distillation,
    masked_mean,
    next_sentence,
    relation_loss,
)
from .networks import LayerOutputs, Needs
from .projections import Projections
from .stages import Stage

# Unweighted scalars by their name in the log.
LossTerms = dict[str, Tensor]


@dataclass
class Outputs:
    """A batch and what both networks returned for it.

    Args:
        inputs: A batch of `PretrainingCollator`.
        stage: The stage of training; in evaluation one with all layers and all losses.
        student: What the student returned.
        teacher: What the teacher returned; empty without a teacher.
    """

    inputs: Mapping[str, Tensor]
    stage: Stage
    student: LayerOutputs
    teacher: LayerOutputs

    @cached_property
    def real(self) -> Tensor:
        """Bool [batch, seq], False at padding."""
        return self.inputs["attention_mask"].bool()

    @cached_property
    def masked(self) -> Tensor:
        """Bool [batch, seq], True where a token is predicted."""
        return self.inputs["labels"] != IGNORED

    @property
    def zero(self) -> Tensor:
        """A scalar on the device of the batch."""
        return torch.zeros((), device=self.inputs["labels"].device)


class Objective(ABC):
    """What the trainer asks of an objective."""

    @abstractmethod
    def needs(self, stage: Stage) -> Needs:
        """What both networks have to return in a stage."""

    @abstractmethod
    def loss(self, outputs: Outputs, normalizers: Normalizers) -> tuple[Tensor, LossTerms]:
        """The weighted loss of a batch, a scalar, and its unweighted terms for the log."""

    @abstractmethod
    def metrics(self, outputs: Outputs) -> MetricSums:
        """The metrics of a batch for evaluation, summed for each example."""

    def evaluation_losses(self, num_layers: int) -> tuple[str, ...]:
        """The names of the metrics whose sum is the loss of evaluation."""
        return ()

    def check(self, student: nn.Module) -> None:  # noqa: B027 - most objectives need no head
        """Raises a ValueError if the student lacks what the objective needs."""

    def compile(self, options: Mapping[str, Any]) -> None:  # noqa: B027 - small tensors are not worth it
        """Compiles what is worth it; `options` are those of `torch.compile`."""


class LayerObjective(Objective):
    """Compares something of every layer that is transferred in a stage, position by position.

    The loss is the weighted sum of the terms' means over real tokens, divided by the number of layers of the student.
    """

    # The field of `LayerOutputs` and `Needs` that is compared, and the weight of each term.
    compares: ClassVar[Literal["features", "scores", "projections"]]
    weights: Mapping[str, float]

    @abstractmethod
    def terms(self, student: Any, teacher: Any, real: Tensor) -> dict[str, Tensor]:
        """The terms of a layer, [batch, seq] each; `real` [batch, seq] is False at padding."""

    def layers(self, stage: Stage) -> tuple[int, ...]:
        """The layers that are compared, ascending."""
        return tuple(sorted(stage.transfer_layers))

    def needs(self, stage: Stage) -> Needs:
        """Layers to compare."""
        compared: dict[str, Any] = {self.compares: self.layers(stage)}
        return Needs(**compared)

    def loss(self, outputs: Outputs, normalizers: Normalizers) -> tuple[Tensor, LossTerms]:
        """Named `layer_<i>/<term>`."""
        loss, logged = outputs.zero, {}
        for group, terms in self._compare(outputs).items():
            means = {name: masked_mean(term, outputs.real, normalizers.tokens) for name, term in terms.items()}
            weighted = sum(self.weights[name] * mean for name, mean in means.items())
            loss = loss + weighted / len(outputs.stage.layer_lr_scales)
            logged.update({f"{group}/{name}": mean for name, mean in means.items()})
        return loss, logged

    def metrics(self, outputs: Outputs) -> MetricSums:
        """The terms, averaged over real tokens."""
        return {
            f"{group}/{name}": (values.masked_fill(~outputs.real, 0).sum(1), outputs.real.sum(1))
            for group, terms in self._compare(outputs).items()
            for name, values in terms.items()
        }

    def evaluation_losses(self, num_layers: int) -> tuple[str, ...]:
        """The first term of every layer."""
        return tuple(f"layer_{layer}/{next(iter(self.weights))}" for layer in range(num_layers))

    def _compare(self, outputs: Outputs) -> dict[str, dict[str, Tensor]]:
        student, teacher = getattr(outputs.student, self.compares), getattr(outputs.teacher, self.compares)
        return {
            f"layer_{layer}" if layer >= 0 else "embeddings": self.terms(student[layer], teacher[layer], outputs.real)
            for layer in self.layers(outputs.stage)
        }

    def compile(self, options: Mapping[str, Any]) -> None:
        """The terms read the largest tensors of a transfer step a dozen times; compiled, once or twice."""
        self.terms = torch.compile(self.terms, **options)  # type: ignore[method-assign]


class FeatureMaps(LayerObjective):
    """Feature-map transfer: `feature_map`, `mean` and `variance` of `feature_map_loss`.

    Evaluation adds `similarity`, the mean cosine similarity of the features.

    Args:
        feature_map: Weight of the normalized distance.
        mean: Weight of the squared difference of the means.
        variance: Weight of the absolute difference of the variances.
        embeddings: Whether the outputs of the embeddings are compared too, in stages that train them and compare the
            first layer.
    """

    compares = "features"

    def __init__(self, feature_map: float, mean: float, variance: float, embeddings: bool = False) -> None:
        self.weights = {"feature_map": feature_map, "mean": mean, "variance": variance}
        self.embeddings = embeddings

    def layers(self, stage: Stage) -> tuple[int, ...]:
        """The embeddings, too, where they are compared."""
        layers = super().layers(stage)
        return (-1, *layers) if self.embeddings and 0 in layers and stage.embedding_lr_scale > 0 else layers

    def terms(self, student: Tensor, teacher: Tensor, real: Tensor) -> dict[str, Tensor]:
        """From features [batch, seq, width]."""
        parts = feature_map_loss(student, teacher)
        return {"feature_map": parts.normalized, "mean": parts.mean, "variance": parts.variance}

    def metrics(self, outputs: Outputs) -> MetricSums:
        """The terms and the similarity."""
        sums = super().metrics(outputs)
        for layer in self.layers(outputs.stage):
            student, teacher = outputs.student.features[layer], outputs.teacher.features[layer]
            similarity = F.cosine_similarity(student.float(), teacher.float(), dim=-1)
            group = f"layer_{layer}" if layer >= 0 else "embeddings"
            real = outputs.real
            sums[f"{group}/similarity"] = (similarity.masked_fill(~real, 0).sum(1), real.sum(1))
        return sums


class AttentionScores(LayerObjective):
    """Attention transfer: `attention`, the KL divergence of the attention distributions. Needs equal numbers of heads.

    Args:
        weight: Weight of the loss.
    """

    compares = "scores"

    def __init__(self, weight: float) -> None:
        self.weights = {"attention": weight}

    def terms(self, student: Tensor, teacher: Tensor, real: Tensor) -> dict[str, Tensor]:
        """From raw scores [batch, heads, seq, seq]."""
        return {"attention": attention_loss(student, teacher, real)}


class Relations(LayerObjective):
    """Relation transfer: `relation`, the mean over queries, keys and values of `relation_loss`.

    Args:
        weight: Weight of the loss.
    """

    compares = "projections"

    def __init__(self, weight: float) -> None:
        self.weights = {"relation": weight}

    def terms(self, student: Projections, teacher: Projections, real: Tensor) -> dict[str, Tensor]:
        """From projections with any numbers and sizes of heads."""
        heads = gcd(student.query.shape[1], teacher.query.shape[1] * teacher.query.shape[-1])
        losses = [
            relation_loss(getattr(student, name), getattr(teacher, name), heads, real)
            for name in ("query", "key", "value")
        ]
        return {"relation": torch.stack(losses).mean(0)}


class OutputObjective(Objective):
    """Compares the outputs of the whole model, in stages with `use_distillation_loss`."""

    # What is needed in such a stage.
    needed: ClassVar[Needs]

    def needs(self, stage: Stage) -> Needs:
        """`needed`, or nothing."""
        return self.needed if stage.use_distillation_loss else Needs()

    def loss(self, outputs: Outputs, normalizers: Normalizers) -> tuple[Tensor, LossTerms]:
        """`output_loss`, or nothing."""
        if not outputs.stage.use_distillation_loss:
            return outputs.zero, {}
        return self.output_loss(outputs, normalizers)

    @abstractmethod
    def output_loss(self, outputs: Outputs, normalizers: Normalizers) -> tuple[Tensor, LossTerms]:
        """The loss in a stage with `use_distillation_loss`; see `Objective.loss`."""


class MaskedLM(OutputObjective):
    """Masked LM on the labels and, with a teacher, on its logits: `masked_lm_loss` and `masked_lm_distillation`.

    Evaluation reports `masked_lm_loss`, `masked_lm_accuracy` and, with a teacher, `teacher_masked_lm_accuracy`.

    Args:
        alpha: The share of the labels; the rest is the teacher's distribution.
        temperature: The temperature of both models' logits.
    """

    needed = Needs(heads=True)

    def __init__(self, alpha: float = 0.5, temperature: float = 1.0) -> None:
        self.alpha, self.temperature = alpha, temperature

    def check(self, student: Any) -> None:
        """A masked-LM head is required."""
        if not hasattr(getattr(student, "cls", None), "predictions"):
            raise ValueError(f"{type(student).__name__} has no masked-LM head, which the objective MaskedLM needs.")

    def output_loss(self, outputs: Outputs, normalizers: Normalizers) -> tuple[Tensor, LossTerms]:
        """Means over the masked positions."""
        assert outputs.student.masked_lm_logits is not None
        labels = outputs.inputs["labels"][outputs.masked]
        hard, soft, combined = masked_lm_distillation(
            outputs.student.masked_lm_logits,
            outputs.teacher.masked_lm_logits,
            labels,
            self.alpha,
            self.temperature,
        )
        terms = {"masked_lm_loss": hard.sum() / normalizers.predictions}
        if outputs.teacher.masked_lm_logits is not None:
            terms["masked_lm_distillation"] = soft.sum() / normalizers.predictions
        return combined.sum() / normalizers.predictions, terms

    def metrics(self, outputs: Outputs) -> MetricSums:
        """Loss and accuracies at the masked positions."""
        logits, teacher = outputs.student.masked_lm_logits, outputs.teacher.masked_lm_logits
        assert logits is not None
        labels, masked = outputs.inputs["labels"][outputs.masked], outputs.masked
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        sums = {
            "masked_lm_loss": sum_per_example(losses, masked),
            "masked_lm_accuracy": sum_per_example((logits.argmax(-1) == labels).float(), masked),
        }
        if teacher is not None:
            hits = (teacher.argmax(-1) == labels).float()
            sums["teacher_masked_lm_accuracy"] = sum_per_example(hits, masked)
        return sums

    def evaluation_losses(self, num_layers: int) -> tuple[str, ...]:
        """The loss on the labels."""
        return ("masked_lm_loss",)


class NextSentence(OutputObjective):
    """Next-sentence prediction on the labels: `next_sentence_loss`; evaluation adds `next_sentence_accuracy`.

    Examples without a label do not count.
    """

    needed = Needs(heads=True)

    def check(self, student: Any) -> None:
        """A next-sentence head is required."""
        if not hasattr(getattr(student, "cls", None), "seq_relationship"):
            raise ValueError(
                f"{type(student).__name__} has no next-sentence head, which the objective NextSentence needs."
            )

    def output_loss(self, outputs: Outputs, normalizers: Normalizers) -> tuple[Tensor, LossTerms]:
        """The mean over the examples."""
        assert outputs.student.next_sentence_logits is not None
        losses = next_sentence(outputs.student.next_sentence_logits, outputs.inputs["next_sentence_label"])
        loss = losses.sum() / normalizers.examples
        return loss, {"next_sentence_loss": loss}

    def metrics(self, outputs: Outputs) -> MetricSums:
        """Loss and accuracy of the examples."""
        assert outputs.student.next_sentence_logits is not None
        logits, labels = outputs.student.next_sentence_logits.float(), outputs.inputs["next_sentence_label"]
        pairs = (labels >= 0).long()  # single segments have no label
        return {
            "next_sentence_loss": (F.cross_entropy(logits, labels, reduction="none"), pairs),
            "next_sentence_accuracy": ((logits.argmax(-1) == labels).float(), pairs),
        }

    def evaluation_losses(self, num_layers: int) -> tuple[str, ...]:
        """The loss."""
        return ("next_sentence_loss",)
