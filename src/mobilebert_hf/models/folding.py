"""Folding: converts a student with NoNorm to an equivalent model without norms, for inference.

NoNorm is affine, so it is folded into the adjacent linear layers. A NoNorm after a linear layer scales its rows. A
NoNorm after a residual connection computes h' = gamma * (h + f) + beta. Instead of h, the folded model computes y,
where h = d * y per channel:

    y' = y + f / d + beta / d',    d' = gamma * d

1 / d and beta / d' are folded into the linear layer that computes f, and d into the linear layers that read h. All of
this is computed in float64. Scales per channel cost no precision in floating point. If gamma is 0, or d' would leave
[1e-12, 1e12], the residual is scaled explicitly: y' = gamma * d * y + gamma * f + beta, d' = 1.

The first d can be chosen freely. `_equalize_channels` chooses it so that all channels of y have similar ranges, which
int8 with one scale per tensor needs.
"""

from typing import cast

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import modeling_folded, modeling_mobilebert, modeling_mobilebert_tasks
from .configuration import IBBertConfig, MobileBertConfig
from .encoder import EncoderLayer, FeedForward, NoNorm
from .modeling_folded import FoldedLayer, FoldedMobileBertConfig, FoldedMobileBertModel, FoldedResidual
from .modeling_mobilebert import MobileBertModel, MobileBertPreTrainedModel

SMALLEST, LARGEST = 1e-12, 1e12
# The weight [out, in] and bias [out] of a linear layer, float64.
Affine = tuple[Tensor, Tensor]
# For each linear layer of a folded layer, by module name: its parameters, and the scale of its residual or None.
LayerWeights = dict[str, tuple[Affine, Tensor | None]]


@torch.no_grad()
def fold(model: PreTrainedModel, *, quantization_aware: bool = False) -> PreTrainedModel:
    """Creates an equivalent model for inference, without norms in its encoder.

    Args:
        model: A `MobileBert...` model of this package or of `transformers`, with any head and
            `normalization_type="no_norm"`. It is not changed.
        quantization_aware: Whether the folded model rounds weights and activations to int8, for quantization-aware
            training. Then relu becomes relu6, and outputs differ by the rounding.

    Returns:
        The `FoldedMobileBert...` with the same head, dtype and device, in evaluation mode. Its `model_type` is
        `folded_mobilebert`; it saves and loads like any other model.

    Raises:
        ValueError: The model is not a MobileBERT with NoNorm, or its folded weights overflow float16.
    """
    source = _to_mobilebert(model)
    config = source.config
    fields = config.to_dict()
    del fields["model_type"]
    if quantization_aware and config.hidden_act == "relu":
        fields["hidden_act"] = "relu6"
    encoder = cast(MobileBertModel, source.base_model)
    folder = _Folder(config)
    layers = [folder.layer(index, cast(EncoderLayer, layer)) for index, layer in enumerate(encoder.encoder.layer)]
    folded_class = getattr(modeling_folded, f"Folded{type(source).__name__}")
    fields |= {"scaled_residuals": folder.scaled_residuals or None, "quantization_aware": quantization_aware}
    folded = folded_class(FoldedMobileBertConfig(**fields)).double().eval()
    target = cast(FoldedMobileBertModel, folded.base_model)
    if encoder.pooler is None:
        target.pooler = None
    # The heads and the word embeddings do not change.
    outside = {name: value for name, value in source.state_dict().items() if "encoder.layer." not in name}
    folded.load_state_dict(outside, strict=False)
    _fold_embeddings(encoder, target)
    for layer, weights in zip(target.encoder.layer, layers, strict=True):
        _write(cast(FoldedLayer, layer), weights)
    target.encoder.scales.copy_(torch.stack(folder.scales))
    _equalize_channels(target)
    folded.to(device=model.device, dtype=model.dtype)
    overflowed = [name for name, parameter in folded.named_parameters() if not parameter.isfinite().all()]
    if model.dtype == torch.float16 and overflowed:
        raise ValueError(
            f"Folded, {overflowed[0]} overflows float16: fold the model in float32 (model.float()), and run it in "
            "float32 or bfloat16."
        )
    return folded


def _to_mobilebert(model: PreTrainedModel) -> MobileBertPreTrainedModel:
    """Converts a stock model to this package's class, and checks that it can be folded."""
    if isinstance(model, transformers.MobileBertPreTrainedModel):
        name = type(model).__name__
        model_class = getattr(modeling_mobilebert, name, None) or getattr(modeling_mobilebert_tasks, name)
        stock, model = model, model_class(MobileBertConfig.from_dict(model.config.to_dict()))
        if stock.base_model.pooler is None:
            model.base_model.pooler = None
        model.load_state_dict(stock.state_dict())
    if not isinstance(model, MobileBertPreTrainedModel) or isinstance(
        model.config, IBBertConfig | FoldedMobileBertConfig
    ):
        raise ValueError(f"{type(model).__name__} cannot be folded: expected a student, MobileBert... .")
    config = model.config
    if config.normalization_type != "no_norm":
        raise ValueError(
            f"normalization_type={config.normalization_type!r} cannot be folded: LayerNorm is not affine. Only models "
            "with 'no_norm' can."
        )
    if not config.use_bottleneck:
        raise ValueError("use_bottleneck=False cannot be folded: it requires bottlenecks.")
    embeddings = cast(MobileBertModel, model.base_model).embeddings
    if not embeddings.project:
        raise ValueError(
            "Embeddings without a projection cannot be folded: their norm would change the word embeddings."
        )
    return model


def _affine(linear: nn.Linear) -> Affine:
    return _to_float64(linear.weight), _to_float64(linear.bias)


def _gamma_beta(norm: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(norm, NoNorm)
    return _to_float64(norm.weight), _to_float64(norm.bias)


def _to_float64(tensor: Tensor) -> Tensor:
    """Moves a tensor to the CPU, because not every device supports float64."""
    return tensor.to("cpu", torch.float64)


def _fold_norm(affine: Affine, norm: nn.Module) -> Affine:
    """x -> norm(affine(x))."""
    (weight, bias), (gamma, beta) = affine, _gamma_beta(norm)
    return weight * gamma[:, None], bias * gamma + beta


def _compose(outer: Affine, inner: Affine) -> Affine:
    """x -> outer(inner(x))."""
    return outer[0] @ inner[0], outer[0] @ inner[1] + outer[1]


def _scale_input(affine: Affine, scale: Tensor) -> Affine:
    """x -> affine(scale * x)."""
    return affine[0] * scale, affine[1]


class _Folder:
    """Folds layers in order. `scales` has d of each layer's output, `scaled_residuals` is as in the configuration."""

    def __init__(self, config: MobileBertConfig) -> None:
        self.config = config
        self.scaled_residuals: list[str] = []
        self.scales: list[Tensor] = []

    def layer(self, index: int, layer: EncoderLayer) -> LayerWeights:
        """Folds layer `index`."""
        scale = self.scales[-1] if self.scales else torch.ones(self.config.hidden_size, dtype=torch.float64)
        assert layer.bottleneck is not None
        narrow = _fold_norm(_affine(layer.bottleneck.input.dense), layer.bottleneck.input.LayerNorm)
        weights: LayerWeights = {}
        attention = layer.attention.self
        query, key, value = (_affine(linear) for linear in (attention.query, attention.key, attention.value))
        query = (query[0] * attention.scaling, query[1] * attention.scaling)
        if layer.bottleneck.attention is not None:
            shared = _fold_norm(_affine(layer.bottleneck.attention.dense), layer.bottleneck.attention.LayerNorm)
            query, key = _compose(query, shared), _compose(key, shared)
        if self.config.use_bottleneck_attention:
            weights["narrow"] = _scale_input(narrow, scale), None
            weights["projection"] = _stack(query, key, value), None
        else:
            weights["projection"] = _scale_input(_stack(query, key, value, narrow), scale), None

        inner = torch.ones(self.config.intra_bottleneck_size, dtype=torch.float64)
        output = layer.attention.output
        inner = self._residual(weights, index, "attention", _affine(output.dense), output.LayerNorm, inner)
        stacked = cast(list[FeedForward], list(layer.ffn))
        halves = [(ffn.intermediate.dense, ffn.output.dense, ffn.output.LayerNorm) for ffn in stacked]
        halves.append((layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm))
        for number, (up, down, norm) in enumerate(halves):
            weights[f"ffn.{number}.up"] = _scale_input(_affine(up), inner), None
            inner = self._residual(weights, index, f"ffn.{number}.down", _affine(down), norm, inner)
        bottleneck = layer.output.bottleneck
        assert bottleneck is not None
        outer = _scale_input(_affine(bottleneck.dense), inner)
        self.scales.append(self._residual(weights, index, "output", outer, bottleneck.LayerNorm, scale))
        return weights

    def _residual(
        self, weights: LayerWeights, index: int, name: str, affine: Affine, norm: nn.Module, scale: Tensor
    ) -> Tensor:
        """Folds gamma * (h + W x + b) + beta, where h = scale * y; returns the scale of the result."""
        (weight, bias), (gamma, beta) = affine, _gamma_beta(norm)
        product = gamma * scale
        fits = (product.abs() >= SMALLEST) & (product.abs() <= LARGEST)
        residual_scale = torch.where(fits, 1.0, product)
        factor = torch.where(fits, 1 / scale, gamma)
        shift = torch.where(fits, beta / product, beta)
        weights[name] = (weight * factor[:, None], bias * factor + shift), None if fits.all() else residual_scale
        if not fits.all():
            self.scaled_residuals.append(f"{index}.{name}")
        return torch.where(fits, product, 1.0)


def _stack(*affines: Affine) -> Affine:
    return torch.cat([weight for weight, _ in affines]), torch.cat([bias for _, bias in affines])


def _write(layer: FoldedLayer, weights: LayerWeights) -> None:
    for name, ((weight, bias), residual_scale) in weights.items():
        module = layer.get_submodule(name)
        linear = module.dense if isinstance(module, FoldedResidual) else cast(nn.Linear, module)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
        if residual_scale is not None:
            cast(nn.Parameter, module.residual_scale).copy_(residual_scale)


def _fold_embeddings(encoder: MobileBertModel, target: FoldedMobileBertModel) -> None:
    embeddings = encoder.embeddings
    gamma, _ = _gamma_beta(embeddings.LayerNorm)
    weight, bias = _fold_norm(_affine(embeddings.embedding_transformation), embeddings.LayerNorm)
    target.embeddings.embedding_transformation.dense.weight.copy_(weight)
    target.embeddings.embedding_transformation.dense.bias.copy_(bias)
    for name in ("position_embeddings", "token_type_embeddings"):
        table = _to_float64(getattr(embeddings, name).weight) * gamma
        getattr(target.embeddings, name).weight.copy_(table)


def _equalize_channels(folded: FoldedMobileBertModel) -> None:
    """Equalizes the ranges of the residual stream's channels for int8, in place.

    Each channel is divided by sqrt(activation size / weight size), and the weights that read it are multiplied by
    this, as in SmoothQuant (Xiao et al., 2023, equation 4 with alpha = 1/2). Activation sizes are estimated from the
    weights that write the channel: biases add up, other terms as their squares do. The factors are powers of 2, so
    that results do not change by a single bit.
    """
    embeddings, layers = folded.embeddings, cast(list[FoldedLayer], list(folded.encoder.layer))
    tables = [embeddings.position_embeddings, embeddings.token_type_embeddings]
    writers = [embeddings.embedding_transformation.dense, *(layer.output.dense for layer in layers)]
    readers = [layer.projection if layer.narrow is None else layer.narrow for layer in layers]
    constant = torch.stack([writer.bias for writer in writers]).sum(dim=0).abs()
    varying = torch.stack([writer.weight.square().sum(dim=1) for writer in writers]).sum(dim=0).sqrt()
    size = constant + varying + sum(table.weight.abs().amax(dim=0) for table in tables)
    weights = torch.stack([reader.weight.abs().amax(dim=0) for reader in readers]).amax(dim=0)
    exponents = (size / weights).log2() / 2
    # Channels that are always 0 or never read do not change.
    known = exponents.isfinite()
    factor = torch.where(known, exponents - exponents[known].mean(), 0.0).round().exp2()
    for writer in writers:
        writer.weight.div_(factor[:, None])
        writer.bias.div_(factor)
    for table in tables:
        table.weight.div_(factor)
    for reader in readers:
        reader.weight.mul_(factor)
    folded.encoder.scales.mul_(factor)
