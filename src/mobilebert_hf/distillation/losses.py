"""The losses of knowledge transfer and distillation, as pure functions of tensors; `objectives.py` applies them.

Every function computes in float32, whatever dtype its inputs have, and returns one unreduced value per position.
The caller drops padding and divides by the number of real positions of the global batch, over all devices and
accumulated batches, which a single call cannot know; [`masked_mean`] takes that number.

Source: Sun et al., "MobileBERT" (arXiv 2004.02984), "Training Objectives", and the original TF 1 code, from
which the decomposition of the feature-map objective and the default weights come.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# That of every LayerNorm of the original code, this parameter-free one included.
LAYER_NORM_EPSILON = 1e-12
# The label of a position that carries no masked-LM or next-sentence loss, as everywhere in transformers.
IGNORED_LABEL = -100


class FeatureMapTerms(NamedTuple):
    """The three parts of the feature-map loss, each float32 [batch, seq]."""

    normalized: Tensor
    mean: Tensor
    variance: Tensor


class MaskedLMTerms(NamedTuple):
    """The masked-LM losses in nats, float32 [n] each: `combined` is minimized, the other two are logged."""

    hard: Tensor
    soft: Tensor
    combined: Tensor


def feature_map_loss(student: Tensor, teacher: Tensor) -> FeatureMapTerms:
    """Feature-map transfer (FMT): the distance of one layer's output from the teacher's, in three parts.

    For each token, over the width: the mean squared difference after a parameter-free LayerNorm of both
    (epsilon 1e-12), the squared difference of the means, and the absolute difference of the biased variances.

    Args:
        student (`Tensor`): the student's features, [batch, seq, width], any floating dtype.
        teacher (`Tensor`): the teacher's features of the same layer and shape.

    Returns:
        [`FeatureMapTerms`]: float32 [batch, seq] each, not weighted.

    Raises:
        ValueError: if the shapes differ or do not have three dimensions.

    Source: "Feature Map Transfer" in the paper; the decomposition and the absolute value are the original
    code's. That code compares each layer's statistics with those of all teacher layers by mistake; here they
    are per layer.
    """
    _check_pair("features", "[batch, seq, width]", student, teacher)
    student, teacher = student.float(), teacher.float()
    width = student.shape[-1:]
    student_normalized = F.layer_norm(student, width, eps=LAYER_NORM_EPSILON)
    teacher_normalized = F.layer_norm(teacher, width, eps=LAYER_NORM_EPSILON)
    return FeatureMapTerms(
        normalized=(student_normalized - teacher_normalized).square().mean(-1),
        mean=(student.mean(-1) - teacher.mean(-1)).square(),
        variance=(student.var(-1, correction=0) - teacher.var(-1, correction=0)).abs(),
    )


def attention_loss(student_scores: Tensor, teacher_scores: Tensor, key_mask: Tensor | None) -> Tensor:
    """Attention transfer (AT): KL(teacher || student) of the attention distributions, mean over the heads.

    The scores must be raw: scaled by 1/sqrt(head size), but neither masked nor put through a softmax. Padded
    query rows come out like any others: the caller's reduction leaves them out. In a row without any real key
    the value and its gradients are 0.

    Args:
        student_scores (`Tensor`): [batch, heads, seq, seq] (queries, keys), any floating dtype.
        teacher_scores (`Tensor`): the teacher's scores of the same layer and shape.
        key_mask (`Tensor`, *optional*): bool [batch, seq], True for a real token. Padded keys are excluded
            from both distributions: whatever they hold, they get exactly zero gradient. `None` means that all
            keys are real.

    Returns:
        `Tensor`: float32 [batch, seq], in nats.

    Raises:
        ValueError: if the shapes differ, do not have four dimensions, or the mask does not fit or is not
            bool.

    Source: "Attention Transfer" in the paper. The original code computes the cross-entropy, which differs by
    the teacher's entropy and has the same gradients.
    """
    _check_pair("attention scores", "[batch, heads, seq, seq]", student_scores, teacher_scores)
    student_scores, teacher_scores = student_scores.float(), teacher_scores.float()
    padded = None
    if key_mask is not None:
        expected = (student_scores.shape[0], student_scores.shape[-1])
        _check_mask("key_mask", key_mask, expected, "[batch, seq] as in the attention scores")
        padded = ~key_mask[:, None, None, :]
        # The lowest finite number and not -inf, so that a row without real keys has a softmax.
        lowest = torch.finfo(torch.float32).min
        student_scores = student_scores.masked_fill(padded, lowest)
        teacher_scores = teacher_scores.masked_fill(padded, lowest)
    student_log = student_scores.log_softmax(-1)
    teacher_log = teacher_scores.log_softmax(-1)
    terms = teacher_log.exp() * (teacher_log - student_log)
    if padded is not None:
        # A padded key's log-probability may overflow to -inf, and 0 * inf is NaN: cut it out instead of
        # multiplying.
        terms = terms.masked_fill(padded, 0.0)
    return terms.sum(-1).mean(1)


def relation_loss(student: Tensor, teacher: Tensor, heads: int, key_mask: Tensor | None) -> Tensor:
    """Relation transfer: the KL divergence of the relations among a layer's queries (or keys, or values).

    The channels of all attention heads are concatenated and split into `heads` relation heads, so student and
    teacher may differ in the number and the size of their attention heads. The relations are the scaled dot
    products of all pairs of positions, X X^t / sqrt(channels), compared as [`attention_loss`] compares scores.

    Args:
        student (`Tensor`): [batch, heads, seq, head_size], any floating dtype.
        teacher (`Tensor`): likewise, with its own number and size of heads.
        heads (`int`): relation heads; divides the width of both.
        key_mask (`Tensor`, *optional*): bool [batch, seq], True for a real token.

    Returns:
        `Tensor`: float32 [batch, seq], in nats.

    Raises:
        ValueError: if a width is not a multiple of `heads`, or the shapes do not fit.

    Source: Wang et al., "MiniLMv2" (arXiv 2012.15828), section 3.2.
    """
    return attention_loss(_relations(student, heads), _relations(teacher, heads), key_mask)


def _relations(projection: Tensor, heads: int) -> Tensor:
    """[batch, attention heads, seq, head_size] -> [batch, heads, seq, seq]."""
    flat = projection.float().transpose(1, 2).flatten(2)
    if flat.shape[-1] % heads:
        raise ValueError(f"heads is {heads}, but must divide the width of the projections, {flat.shape[-1]}")
    cut = flat.unflatten(-1, (heads, -1)).transpose(1, 2)
    return cut @ cut.transpose(2, 3) * cut.shape[-1] ** -0.5


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of the states [batch, seq, width] over the real positions of the mask [batch, seq]: [batch, width]."""
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def masked_lm_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    alpha: float = 0.5,
    temperature: float = 1.0,
) -> MaskedLMTerms:
    """Masked-LM loss mixed with distillation: combined = alpha * hard + (1 - alpha) * soft.

    `hard` is the cross-entropy to the label. `soft` is KL(teacher || student) with both logits divided by the
    temperature, times the temperature squared, so that its gradients keep their size (Hinton et al., 2015).
    All terms are 0 where the label is -100.

    Args:
        student_logits (`Tensor`): [n, vocab], one row a masked position, any floating dtype.
        teacher_logits (`Tensor`, *optional*): [n, vocab]. `None` means no distillation: `soft` is 0 and
            `combined` is
            `hard`, whatever `alpha` is.
        labels (`Tensor`): int64 [n], the original token ids.
        alpha (`float`, *optional*, defaults to 0.5): the share of the hard loss, in [0, 1].
        temperature (`float`, *optional*, defaults to 1.0): above 0.

    Returns:
        [`MaskedLMTerms`]: float32 [n] each, in nats.

    Raises:
        ValueError: if the shapes do not fit, or `alpha` or `temperature` is out of range.

    Source: "Pre-training Distillation" in the paper, without its next-sentence term. The original's
    temperature scales the teacher's hidden state before the head's LayerNorm, which undoes it; this one is a
    temperature of the logits.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}, but must be in [0, 1]")
    if temperature <= 0.0:
        raise ValueError(f"temperature is {temperature}, but must be above 0")
    _check_labels("student_logits", "[n, vocab]", student_logits, labels)
    # Rows of the vocabulary's width are the largest tensors of a step: one softmax serves both losses.
    student_log = student_logits.float().log_softmax(-1)
    hard = F.nll_loss(student_log, labels, ignore_index=IGNORED_LABEL, reduction="none")
    if teacher_logits is None:
        return MaskedLMTerms(hard=hard, soft=torch.zeros_like(hard), combined=hard)
    _check_pair("masked-LM logits", "[n, vocab]", student_logits, teacher_logits)
    if temperature != 1.0:
        student_log = (student_logits.float() / temperature).log_softmax(-1)
        teacher_logits = teacher_logits.float() / temperature
    teacher_log = teacher_logits.float().log_softmax(-1)
    divergence = F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(-1)
    soft = (divergence * temperature**2).masked_fill(labels == IGNORED_LABEL, 0.0)
    return MaskedLMTerms(hard=hard, soft=soft, combined=alpha * hard + (1.0 - alpha) * soft)


def next_sentence(logits: Tensor, labels: Tensor) -> Tensor:
    """Next-sentence loss: the cross-entropy to the label, 0 where the label is -100.

    Args:
        logits (`Tensor`): [batch, 2], any floating dtype.
        labels (`Tensor`): int64 [batch], 0 if the second sentence follows the first and 1 if it is a random
            one.

    Returns:
        `Tensor`: float32 [batch], in nats.

    Raises:
        ValueError: if the shapes do not fit.

    Source: the last term of "Pre-training Distillation" in the paper.
    """
    _check_labels("logits", "[batch, 2]", logits, labels)
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED_LABEL, reduction="none")


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean of the values at the real positions of a batch; 0 when nothing is real.

    Args:
        values (`Tensor`): any shape and floating dtype; what stands at masked positions, even NaN, does not
            count.
        mask (`Tensor`): bool of the same shape, True for a real position.
        count (`Tensor`, *optional*): what to divide the sum by, where this batch is a part of a larger one; by
            default the real positions of this batch.

    Returns:
        `Tensor`: a float32 scalar.

    Raises:
        ValueError: if the mask does not have the shape of the values or is not bool.
    """
    _check_mask("mask", mask, tuple(values.shape), "the shape of the values")
    total = values.float().masked_fill(~mask, 0.0).sum()
    return total / (mask.sum().clamp(min=1) if count is None else count)


def _check_pair(what: str, layout: str, student: Tensor, teacher: Tensor) -> None:
    """Raise a ValueError unless both tensors have one shape, with as many dimensions as the layout names."""
    if student.shape != teacher.shape or student.ndim != layout.count(",") + 1:
        raise ValueError(
            f"the student's {what} have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}, "
            f"but both must have the same shape {layout}"
        )


def _check_labels(name: str, layout: str, logits: Tensor, labels: Tensor) -> None:
    """Raise a ValueError unless there is one label for each row of the logits."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"{name} has shape {tuple(logits.shape)} and labels {tuple(labels.shape)}, "
            f"but they must be {layout} and {layout.split(',')[0]}]"
        )


def _check_mask(name: str, mask: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """Raise a ValueError unless the mask has the shape and is bool (an additive one would be inverted)."""
    if tuple(mask.shape) != expected or mask.dtype != torch.bool:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)} and dtype {mask.dtype}, "
            f"but must have {expected}, {meaning}, and torch.bool"
        )
