"""Fits the layers of a student to those of a teacher by least squares, before training.

A layer of the student is h' = D (h + W_out x) + b, where x is narrow. On features of real text, the next features t of
the teacher are regressed on the inputs of x: h itself and, because attention is nearly uniform before training, the
mean of h over the sequence. Reduced-rank regression with the rank of x gives the input bottleneck, the values and the
output bottleneck together. Then each feed-forward network is fitted to the residual: its first matrix is random, on
whitened inputs, its second a regression on the activations. Layers are fitted bottom up, each on the actual outputs of
the student below it.

Sources: reduced-rank regression: Izenman, 1975. Random features: Huang et al., "Extreme learning machine", 2006.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models.configuration import MobileBertConfig
from ..models.modeling_mobilebert import MobileBertModel
from ..training.compat import tqdm
from .losses import mean_pool

# Ridge strength, relative to the mean of the diagonal of the Gram matrix.
RIDGE = 5e-2
# Bounds of the scale of a channel's residual; outside them the weights before it would grow or vanish.
SCALES = (0.2, 1.5)
# Standard deviation of the biases of the random features, whose inputs have standard deviation 1.
OFFSETS = 0.5
# Directions with less than this share of the largest variance are not amplified: on other text they may vary more.
LEAST_VARIANCE = 0.1


def can_be_fitted(config: MobileBertConfig) -> bool:
    """Whether the layers have the form above: NoNorm, narrow inside, values that read the wide state."""
    narrower = config.use_bottleneck and config.intra_bottleneck_size <= config.hidden_size
    return narrower and config.normalization_type == "no_norm" and not config.use_bottleneck_attention


@torch.no_grad()
def fit_layers(
    student: MobileBertModel, states: Sequence[Tensor], targets: Sequence[Sequence[Tensor]], real: Sequence[Tensor]
) -> list[float]:
    """Fits all layers of a student for which `can_be_fitted`.

    Args:
        student: Changed in place.
        states: The student's embeddings of some batches, [batch, seq, width] each, 40,000 tokens or more together.
        targets: For each layer the teacher's features of the batches.
        real: The batches' masks, bool [batch, seq].

    Returns:
        For each layer the mean cosine of its output and the teacher's, on these batches.
    """
    generator = torch.Generator().manual_seed(0)
    states, mask, cosines = list(states), torch.cat([each.flatten() for each in real]), []
    layers: Any = zip(student.encoder.layer, targets, strict=True)
    for layer, wanted in tqdm(layers, "fitting layers", total=len(targets), leave=False):
        target = _flat(wanted)[mask]
        narrow = _fit_attention(layer, states, target, real)
        out = layer.output.bottleneck
        lacking = target - out(narrow, _flat(states)[mask])
        # Scaled by the last norm, the columns of the output bottleneck are orthonormal.
        basis = out.dense.weight * out.LayerNorm.weight[:, None]
        for feed_forward in (*layer.ffn, layer):
            added = _fit_feed_forward(
                feed_forward.intermediate, feed_forward.output.dense, narrow, lacking, basis, generator
            )
            narrow, lacking = narrow + added, lacking - added @ basis.T
        reached = torch.zeros(len(mask), target.shape[1])
        reached[mask] = target - lacking
        cosines.append(float(nn.functional.cosine_similarity(reached[mask], target, dim=-1).mean()))
        parts = reached.split([each.numel() for each in real])
        states = [part.unflatten(0, each.shape) for part, each in zip(parts, real, strict=True)]
    return cosines


def _fit_attention(layer: Any, states: Sequence[Tensor], target: Tensor, real: Sequence[Tensor]) -> Tensor:
    """Fits input bottleneck, values and output bottleneck; feed-forward networks are zero. Returns x [n, rank]."""
    mask = torch.cat([each.flatten() for each in real])
    means = [mean_pool(state, each)[:, None].expand_as(state) for state, each in zip(states, real, strict=True)]
    wide, context = _flat(states)[mask], _flat(means)[mask]
    readable = torch.cat([wide, context], 1)
    centre, wide_centre, target_centre = readable.mean(0), wide.mean(0), target.mean(0)
    readable, wide, target = readable - centre, wide - wide_centre, target - target_centre
    scale = ((wide * target).mean(0) / wide.square().mean(0).clamp(min=1e-12)).clamp(*SCALES)
    solution = ridge(readable, target - scale * wide)
    width, rank = wide.shape[1], layer.bottleneck.input.dense.out_features
    fitted = readable @ solution
    directions = torch.linalg.eigh(fitted.T @ fitted)[1][:, -rank:]
    narrow = solution @ directions  # [2 width, rank]
    attention, out = layer.attention, layer.output.bottleneck
    _set(layer.bottleneck.input.dense, narrow[:width].T, -centre @ narrow)
    _set(attention.self.value, narrow[width:].T)
    _set(attention.output.dense, torch.eye(rank))
    _set(out.dense, directions / scale[:, None])
    out.LayerNorm.weight.copy_(scale)
    out.LayerNorm.bias.copy_(target_centre - scale * wide_centre)
    for dense in (layer.output.dense, *(feed_forward.output.dense for feed_forward in layer.ffn)):
        _set(dense, torch.zeros_like(dense.weight))
    # The actual output of attention: its queries and keys are random, so it is only nearly uniform.
    given = []
    for state, each in zip(states, real, strict=True):
        residual, query_key, value = layer.bottleneck(state)
        given.append(attention.output(attention.self(query_key, value, each[:, None, None, :]), residual))
    return _flat(given)[mask]


def _fit_feed_forward(
    wide: Any, dense: nn.Linear, narrow: Tensor, lacking: Tensor, basis: Tensor, generator: torch.Generator
) -> Tensor:
    """Random features of x, and the regression of the residual of the layer on them. Returns what is added to x."""
    centre = narrow.mean(0)
    variances, directions = torch.linalg.eigh((narrow - centre).T @ (narrow - centre) / len(narrow))
    whiten = directions * variances.clamp(min=variances.max() * LEAST_VARIANCE).rsqrt()
    shape = wide.dense.weight.shape
    weight = torch.randn(shape, generator=generator) @ whiten.T / shape[1] ** 0.5
    _set(wide.dense, weight, OFFSETS * torch.randn(shape[0], generator=generator) - weight @ centre)
    features = wide(narrow)
    feature_mean, lacking_mean = features.mean(0), lacking.mean(0)
    solution = ridge(features - feature_mean, (lacking - lacking_mean) @ basis)
    _set(dense, solution.T, lacking_mean @ basis - feature_mean @ solution)
    return dense(features)


def ridge(inputs: Tensor, outputs: Tensor, strength: float = RIDGE) -> Tensor:
    """The ridge-regression matrix [a, b] from inputs [n, a] to outputs [n, b]."""
    return torch.linalg.solve(ridge_gram(inputs, strength), inputs.T @ outputs)


def ridge_gram(inputs: Tensor, strength: float = RIDGE) -> Tensor:
    """The regularized Gram matrix [a, a] of inputs [n, a]."""
    gram = inputs.T @ inputs
    gram.diagonal().add_(strength * gram.diagonal().mean())
    return gram


def _set(dense: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> None:
    dense.weight.copy_(weight)
    if bias is None:
        dense.bias.zero_()
    else:
        dense.bias.copy_(bias)


def _flat(values: Sequence[Tensor]) -> Tensor:
    """Concatenated batches [batch, seq, width] as [tokens, width], including padding."""
    return torch.cat([value.flatten(0, 1) for value in values])
