"""What a student with a head learns: the logits of the teacher's head, mixed with labels where there are any."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.masking import IGNORED
from ..training.metric_sums import MetricSums
from ..training.normalizers import Normalizers
from .networks import Needs
from .objectives import LossTerms, OutputObjective, Outputs

# One class, any number of labels, or a number for each text or token; the first and last token of a span.
LogitsType = Literal["class", "classes", "score", "span"]
# Logits of positions that cannot be chosen.
MASKED = -1e9


def soft_loss(student: Tensor, teacher: Tensor, kind: LogitsType, temperature: float = 1.0) -> Tensor:
    """The distance of the student's answers from the teacher's, float32 [n].

    KL(teacher || student) of classes, the mean over the labels of KL of independent labels, both at a temperature and
    times its square (Hinton et al., 2015, arXiv 1503.02531), or the squared difference of scores.

    Args:
        student: [n, outputs], any floating dtype.
        teacher: The same shape.
        kind: The type of the logits.
        temperature: Temperature of both, above 0.
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    if kind == "score":
        return (student - teacher).square().mean(-1) * temperature**2
    if kind == "classes":
        target = teacher.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(teacher, target, reduction="none")
        losses = F.binary_cross_entropy_with_logits(student, target, reduction="none") - entropy
        return losses.mean(-1) * temperature**2
    divergence = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True)
    return divergence.sum(-1) * temperature**2


def hard_loss(logits: Tensor, labels: Tensor, kind: LogitsType) -> Tensor:
    """The loss of the labels, float32 [n]: cross-entropy, 0 at labels of -100; binary cross-entropy; squared error.

    Args:
        logits: [n, outputs].
        labels: int64 [n]; float [n, outputs] for several labels; float [n] for scores.
        kind: The type of the logits.
    """
    logits = logits.float()
    if kind == "score":
        return (logits.squeeze(-1) - labels.float()).square()
    if kind == "classes":
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(-1)
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")


class TaskLogits(OutputObjective):
    """Logits of a task's head: alpha * `hard_loss` + (1 - alpha) * `soft_loss`. Without labels, `soft_loss` alone.

    Args:
        kind: The type of the logits.
        alpha: Share of the labels, from 0 to 1.
        temperature: Temperature of both models' logits, above 0.
        weight: Weight of the loss.

    Raises:
        ValueError: `alpha` or `temperature` is out of range.
    """

    needed = Needs()

    def __init__(self, kind: LogitsType, alpha: float = 0.3, temperature: float = 2.0, weight: float = 1.0) -> None:
        if not 0 <= alpha <= 1 or temperature <= 0:
            raise ValueError(
                f"alpha={alpha}, temperature={temperature}: expected alpha from 0 to 1, temperature above 0."
            )
        self.kind, self.alpha, self.temperature, self.weight = kind, alpha, temperature, weight

    def output_loss(self, outputs: Outputs, normalizers: Normalizers) -> tuple[Tensor, LossTerms]:
        """The mean over examples or, for tags, over labelled tokens; without labels over all tokens."""
        student, teacher = (_logits(side.raw, outputs.real) for side in (outputs.student, outputs.teacher))
        labels = _labels(outputs.inputs)
        positions = [torch.ones(len(part), dtype=torch.bool, device=part.device) for part in student]
        if student[0].ndim == 3:  # a label for each token
            positions = [outputs.real if labels is None else labels[0] != IGNORED]
        soft, hard = outputs.zero, outputs.zero
        for index, (one, other, chosen) in enumerate(zip(student, teacher, positions, strict=True)):
            soft = soft + soft_loss(one[chosen], other[chosen], self.kind, self.temperature).mean() / len(student)
            if labels is not None:
                hard = hard + hard_loss(one[chosen], labels[index][chosen], self.kind).mean() / len(student)
        loss = soft if labels is None else self.alpha * hard + (1 - self.alpha) * soft
        return self.weight * loss, {"logits": soft, **({} if labels is None else {"labels": hard})}

    def metrics(self, outputs: Outputs) -> MetricSums:
        """None: the metrics are those of the task."""
        return {}


def _logits(output: Mapping[str, Any], real: Tensor) -> list[Tensor]:
    """The logits of a model, those of start and end apart, in which padding cannot be chosen."""
    if "start_logits" not in output:
        return [output["logits"]]
    return [output[name].masked_fill(~real, MASKED) for name in ("start_logits", "end_logits")]


def _labels(inputs: Mapping[str, Tensor]) -> list[Tensor] | None:
    if "start_positions" in inputs:
        return [inputs["start_positions"], inputs["end_positions"]]
    return [inputs["task_labels"]] if "task_labels" in inputs else None
