"""Quantization-aware training: a folded student learns with weights and activations rounded to 8 bits.

As in the original code (google-research, mobilebert/modeling.py, `use_quantized_training`): relu6 in the feed-forward
networks; activations rounded in ranges that begin at -6 to 6 and follow what is seen, by a moving average; attention's
scores likewise, masked ones at the lower end of their range. The gradient passes rounding as if it were not there, and
stops where a value is cut off.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .encoder import attend

LOWEST, HIGHEST = 0, 255
INITIAL_RANGE = 6.0
DECAY = 0.999
CLIPPED = "mobilebert_clipped"


class QuantizationPoint(nn.Identity):
    """Where a quantized network rounds an activation; here it does nothing."""


class LearnedRange(QuantizationPoint):
    """A point that rounds to 8 bits, in a range that follows the activations while training.

    Attributes:
        low, high: The range, scalars.
        seen: How many batches it has followed. Like TensorFlow's moving averages, it follows the first ones faster.
        enabled: Whether anything is rounded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Buffer(torch.tensor(-INITIAL_RANGE))
        self.high = nn.Buffer(torch.tensor(INITIAL_RANGE))
        self.seen = nn.Buffer(torch.tensor(0))
        self.enabled = True

    def forward(self, states: Tensor) -> Tensor:
        """Any shape -> the same, rounded."""
        if not self.enabled:
            return states
        if self.training:
            self._follow(states.detach())
        scale, zero_point = self.grid()
        return torch.fake_quantize_per_tensor_affine(states.float(), scale, zero_point, LOWEST, HIGHEST).to(
            states.dtype
        )

    def _follow(self, states: Tensor) -> None:
        weight = 1 - torch.clamp((1 + self.seen) / (10 + self.seen), max=DECAY)
        low, high = states.float().aminmax()
        self.low.lerp_(low.clamp(max=0), weight)
        self.high.lerp_(high.clamp(min=0), weight)
        self.seen.add_(1)

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scale, float32, and zero point, int32, of scale * (q - zero_point) with q from 0 to 255."""
        scale = ((self.high - self.low) / (HIGHEST - LOWEST)).clamp(min=torch.finfo(torch.float32).tiny)
        return scale, (-self.low / scale).round().int()


class RoundedLinear(nn.Linear):
    """`nn.Linear` that computes with its weight rounded row by row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.enabled = True

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = round_rows(self.weight, matmul_scales(self.weight.float())) if self.enabled else self.weight
        return nn.functional.linear(states, weight, self.bias)


class RoundedEmbedding(nn.Embedding):
    """`nn.Embedding` that gives its rows rounded."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__(
            embedding.num_embeddings, embedding.embedding_dim, padding_idx=embedding.padding_idx, device="meta"
        )
        self.weight = embedding.weight
        self.enabled = True

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., width]."""
        rows = super().forward(ids)
        if not self.enabled:
            return rows
        flat = rows.flatten(0, -2)
        return round_rows(flat, row_scales(flat.float())).view_as(rows)


def row_scales(weight: Tensor) -> Tensor:
    """The scales [rows] by which rows [rows, width] are from -127 to 127."""
    return (weight.detach().abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)


def matmul_scales(weight: Tensor) -> Tensor:
    """The scales [rows] of a matmul's weight [rows, width], with which no x86 processor saturates.

    Without VNNI, x86 multiplies unsigned activations and signed weights with `vpmaddubsw`. It adds the products of
    columns 2i and 2i + 1 in 16 bits and saturates. With these scales both weights and the sums of such pairs are from
    -127 to 127 before rounding, so a pair's products are at most 255 * 128 = 32,640 in size and fit. The step is 1 to
    2 times that of `row_scales`: halving the range of all weights always costs a factor of 2.
    """
    pairs = nn.functional.pad(weight, (0, weight.shape[1] % 2)).unflatten(1, (-1, 2)).sum(2)
    return row_scales(torch.cat([weight, pairs], dim=1))


def round_rows(weight: Tensor, scales: Tensor) -> Tensor:
    """Rows [rows, width] rounded to int8 with their scales [rows], with a gradient of ones."""
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scales, zeros, 0, -127, 127).to(weight.dtype)


def make_quantization_aware(embeddings: nn.Module, layers: nn.ModuleList) -> None:
    """Makes the points, products and tables of a folded encoder round, in place."""
    for part in (embeddings, layers):
        replace(part, QuantizationPoint, lambda point: LearnedRange())
        replace(part, nn.Linear, RoundedLinear)
    replace(embeddings, nn.Embedding, RoundedEmbedding)
    for layer in layers:
        layer.scores = LearnedRange()


def stop_rounding(model: PreTrainedModel) -> None:
    """From here on a quantization-aware model computes exactly, and masks hard."""
    for module in model.modules():
        if isinstance(module, LearnedRange | RoundedLinear | RoundedEmbedding):
            module.enabled = False
    model.set_attn_implementation("sdpa")


def replace(root: nn.Module, kind: type, make: Callable[[Any], nn.Module]) -> None:
    """Replaces all modules of a kind."""
    for name in [name for name, module in root.named_modules() if isinstance(module, kind)]:
        root.set_submodule(name, make(root.get_submodule(name)))


def clipped_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention with scores rounded by `module.scores`; the mask [batch, 1, 1, seq] is boolean, True = attend."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = torch.where(attention_mask, scores, module.scores.low.to(scores.dtype))
    return attend(module.scores(scores), value, None, dropout)


def boolean_mask(batch_size: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """[batch, 1, 1, seq], True = attend, as `clipped_attention_forward` takes it."""
    return None if attention_mask is None else attention_mask.bool()[:, None, None, :]
