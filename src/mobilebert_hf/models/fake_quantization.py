"""Quantization-aware training of a folded student, with weights and activations rounded to int8.

As in the original code (google-research, mobilebert/modeling.py, `use_quantized_training`): The activation function is
relu6. The ranges of activations and attention scores begin at [-6, 6] and are moving averages of the observed minimum
and maximum. Masked scores are at the lower end of their range. Gradients pass through rounding (straight-through
estimator), and are 0 for values that are clipped.
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
    """Marks an activation that quantized models round. This class itself is the identity."""


class FakeQuantizedActivation(QuantizationPoint):
    """Rounds activations to int8, in a range that is a moving average of their minimum and maximum in training.

    Attributes:
        low, high: The range, float32 scalars.
        seen: The number of batches in the moving average. The first ones have larger weights, as in TensorFlow.
        enabled: Whether activations are rounded.
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
            self._update_range(states.detach())
        scale, zero_point = self.grid()
        return torch.fake_quantize_per_tensor_affine(states.float(), scale, zero_point, LOWEST, HIGHEST).to(
            states.dtype
        )

    def _update_range(self, states: Tensor) -> None:
        weight = 1 - torch.clamp((1 + self.seen) / (10 + self.seen), max=DECAY)
        low, high = states.float().aminmax()
        self.low.lerp_(low.clamp(max=0), weight)
        self.high.lerp_(high.clamp(min=0), weight)
        self.seen.add_(1)

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scale (float32) and zero point (int32): values are scale * (q - zero_point), q from 0 to 255."""
        scale = ((self.high - self.low) / (HIGHEST - LOWEST)).clamp(min=torch.finfo(torch.float32).tiny)
        return scale, (-self.low / scale).round().int()


class FakeQuantizedLinear(nn.Linear):
    """`nn.Linear` with its weight rounded to int8, with a scale per row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.enabled = True

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = self.weight
        if self.enabled:
            weight = fake_quantize_rows(weight, matmul_scales(weight.float()))
        return nn.functional.linear(states, weight, self.bias)


class FakeQuantizedEmbedding(nn.Embedding):
    """`nn.Embedding` with its output rounded to int8, with a scale per row."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__(
            embedding.num_embeddings, embedding.embedding_dim, padding_idx=embedding.padding_idx, device="meta"
        )
        self.weight = embedding.weight
        self.enabled = True

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., width]."""
        embeds = super().forward(ids)
        if not self.enabled:
            return embeds
        rows = embeds.flatten(0, -2)
        return fake_quantize_rows(rows, row_scales(rows.float())).view_as(embeds)


def row_scales(weight: Tensor) -> Tensor:
    """The scales [rows] that map each row of [rows, width] to the range from -127 to 127."""
    return (weight.detach().abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)


def matmul_scales(weight: Tensor) -> Tensor:
    """The scales [rows] of a matmul's weight [rows, width] with which int8 matmuls never saturate.

    Without VNNI, x86 processors multiply uint8 activations and int8 weights with `vpmaddubsw`, which adds the products
    of columns 2i and 2i + 1 in int16 and saturates. With these scales, weights and the sums of such pairs are from
    -127 to 127 before rounding. The sum of two products is then at most 255 * 128 = 32,640, which fits int16. The
    scales are 1 to 2 times those of `row_scales`.
    """
    pairs = nn.functional.pad(weight, (0, weight.shape[1] % 2)).unflatten(1, (-1, 2)).sum(2)
    return row_scales(torch.cat([weight, pairs], dim=1))


def fake_quantize_rows(weight: Tensor, scales: Tensor) -> Tensor:
    """Rounds [rows, width] to int8 with scales [rows], with a straight-through gradient; keeps the dtype."""
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scales, zeros, 0, -127, 127).to(weight.dtype)


def make_quantization_aware(embeddings: nn.Module, layers: nn.ModuleList) -> None:
    """Inserts fake quantization of activations, matmuls and embeddings into a folded encoder, in place."""
    for part in (embeddings, layers):
        replace(part, QuantizationPoint, lambda point: FakeQuantizedActivation())
        replace(part, nn.Linear, FakeQuantizedLinear)
    replace(embeddings, nn.Embedding, FakeQuantizedEmbedding)
    for layer in layers:
        layer.scores = FakeQuantizedActivation()


def disable_fake_quantization(model: PreTrainedModel) -> None:
    """Makes a quantization-aware model compute without rounding, and with SDPA, in place."""
    for module in model.modules():
        if isinstance(module, FakeQuantizedActivation | FakeQuantizedLinear | FakeQuantizedEmbedding):
            module.enabled = False
    model.set_attn_implementation("sdpa")


def replace(root: nn.Module, kind: type, make: Callable[[Any], nn.Module]) -> None:
    """Replaces each submodule `m` of type `kind` by `make(m)`."""
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
    """Eager attention with scores rounded by `module.scores`; mask [batch, 1, 1, seq], bool, True = attend."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = torch.where(attention_mask, scores, module.scores.low.to(scores.dtype))
    return attend(module.scores(scores), value, None, dropout)


def boolean_mask(batch_size: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """The mask of `clipped_attention_forward`: [batch, 1, 1, seq], True = attend."""
    return None if attention_mask is None else attention_mask.bool()[:, None, None, :]
