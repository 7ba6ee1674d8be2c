"""Folding: from a student with NoNorms to an equivalent network without them, for inference.

NoNorm is affine, so it goes into the linear maps around it. Straight after a linear map it scales that map's rows.
After a residual step h' = gamma * (h + f) + beta the running state is kept as y with h = d * y, channel by channel:

    y' = y + f / d + beta / d',    d' = gamma * d

The factors 1 / d and the terms beta / d' go into the linear map that ends f, the factors d into the maps that read the
state. All of it is computed in float64. In floating point a factor a channel costs no precision, whatever its size;
only where d' would leave [1e-12, 1e12], or gamma is 0, is a factor kept: y' = gamma * d * y + gamma * f + beta and
d' = 1.

The factor that y begins with is free, too. It is chosen so that no channel of y is much larger than another: then
8 bits, with one range for all channels, are enough (see `_even_channels`).
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
# A map x -> W x + b: W [out, in] and b [out], float64.
Affine = tuple[Tensor, Tensor]


@torch.no_grad()
def fold(model: PreTrainedModel, *, quantization_aware: bool = False) -> PreTrainedModel:
    """An equivalent model for inference, without norms in its encoder.

    Args:
        model: A student (`MobileBert...`, of this package or of transformers) with any head, `normalization_type`
            `"no_norm"`. It is not changed.
        quantization_aware: Whether the folded model rounds weights and activations to 8 bits, in ranges that it learns
            when it is trained on; relu is relu6 then. It is equivalent only as far as that allows.

    Returns:
        The `FoldedMobileBert...` with the same head, dtype and device, in evaluation mode. It saves and loads as any
        other model; its `model_type` is `folded_mobilebert`.

    Raises:
        ValueError: The model is not a student, or has norms that are not affine, or its dtype, float16, has no room
            for what it would be.
    """
    source = _as_ours(model)
    config = source.config
    fields = config.to_dict()
    del fields["model_type"]
    if quantization_aware and config.hidden_act == "relu":
        fields["hidden_act"] = "relu6"
    encoder = cast(MobileBertModel, source.base_model)
    folder = _Folder(config)
    layers = [folder.layer(index, cast(EncoderLayer, layer)) for index, layer in enumerate(encoder.encoder.layer)]
    folded_class = getattr(modeling_folded, f"Folded{type(source).__name__}")
    fields |= {"kept": folder.kept or None, "quantization_aware": quantization_aware}
    folded = folded_class(FoldedMobileBertConfig(**fields)).double().eval()
    target = cast(FoldedMobileBertModel, folded.base_model)
    if encoder.pooler is None:
        target.pooler = None
    # Heads and the word table stay as they are.
    outside = {name: value for name, value in source.state_dict().items() if "encoder.layer." not in name}
    folded.load_state_dict(outside, strict=False)
    _fold_embeddings(encoder, target)
    for layer, weights in zip(target.encoder.layer, layers, strict=True):
        _write(cast(FoldedLayer, layer), weights)
    target.encoder.scales.copy_(torch.stack(folder.scales))
    _even_channels(target)
    folded.to(device=model.device, dtype=model.dtype)
    if model.dtype == torch.float16:
        _check_range(folded)
    return folded


def _check_range(folded: PreTrainedModel) -> None:
    """Factors are far from the ends of float32 and bfloat16."""
    if broken := [name for name, parameter in folded.named_parameters() if not parameter.isfinite().all()]:
        raise ValueError(
            f"Folded, {broken[0]} overflows float16: fold the model in float32 (model.float()), and run it in float32 "
            "or bfloat16."
        )


def _as_ours(model: PreTrainedModel) -> MobileBertPreTrainedModel:
    """The model as one of this package's, after all checks."""
    if isinstance(model, transformers.MobileBertPreTrainedModel):
        name = type(model).__name__
        ours = getattr(modeling_mobilebert, name, None) or getattr(modeling_mobilebert_tasks, name)
        stock, model = model, ours(MobileBertConfig.from_dict(model.config.to_dict()))
        if stock.base_model.pooler is None:
            model.base_model.pooler = None
        model.load_state_dict(stock.state_dict())
    if not isinstance(model, MobileBertPreTrainedModel) or isinstance(
        model.config, IBBertConfig | FoldedMobileBertConfig
    ):
        raise ValueError(f"{type(model).__name__} cannot be folded: expected a student, MobileBert....")
    config = model.config
    if config.normalization_type != "no_norm":
        raise ValueError(
            f"normalization_type={config.normalization_type!r} cannot be folded: LayerNorm depends on its input. Only "
            "students with 'no_norm' can."
        )
    if not config.use_bottleneck:
        raise ValueError("use_bottleneck=False cannot be folded: there is no bottleneck for the norms to go into.")
    embeddings = cast(MobileBertModel, model.base_model).embeddings
    if not embeddings.project:
        raise ValueError("Embeddings without a projection cannot be folded: the norm would change the word table.")
    return model


def _affine(linear: nn.Linear) -> Affine:
    return _exact(linear.weight), _exact(linear.bias)


def _gamma_beta(norm: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(norm, NoNorm)
    return _exact(norm.weight), _exact(norm.bias)


def _exact(tensor: Tensor) -> Tensor:
    """In float64, on the CPU, because not every device has it."""
    return tensor.to("cpu", torch.float64)


def _after(affine: Affine, norm: nn.Module) -> Affine:
    """A linear map with a norm straight after it."""
    (weight, bias), (gamma, beta) = affine, _gamma_beta(norm)
    return weight * gamma[:, None], bias * gamma + beta


def _compose(outer: Affine, inner: Affine) -> Affine:
    """x -> outer(inner(x))."""
    return outer[0] @ inner[0], outer[0] @ inner[1] + outer[1]


def _reads(affine: Affine, scale: Tensor) -> Affine:
    """A map of h, as one of y where h = scale * y."""
    return affine[0] * scale, affine[1]


class _Folder:
    """Folds layer after layer, carrying the scale of the inter-block state."""

    def __init__(self, config: MobileBertConfig) -> None:
        self.config = config
        self.kept: list[str] = []
        self.scales: list[Tensor] = []

    def layer(self, index: int, layer: EncoderLayer) -> dict[str, tuple[Affine, Tensor | None]]:
        """The maps of a folded layer, by module name, each with the factor that its residual step keeps, or None."""
        scale = self.scales[-1] if self.scales else torch.ones(self.config.hidden_size, dtype=torch.float64)
        assert layer.bottleneck is not None
        narrow = _after(_affine(layer.bottleneck.input.dense), layer.bottleneck.input.LayerNorm)
        maps: dict[str, tuple[Affine, Tensor | None]] = {}
        attention = layer.attention.self
        query, key, value = (_affine(linear) for linear in (attention.query, attention.key, attention.value))
        query = (query[0] * attention.scaling, query[1] * attention.scaling)
        if layer.bottleneck.attention is not None:
            shared = _after(_affine(layer.bottleneck.attention.dense), layer.bottleneck.attention.LayerNorm)
            query, key = _compose(query, shared), _compose(key, shared)
        if self.config.use_bottleneck_attention:
            maps["narrow"] = _reads(narrow, scale), None
            maps["projection"] = _stack(query, key, value), None
        else:
            maps["projection"] = _reads(_stack(query, key, value, narrow), scale), None

        inner = torch.ones(self.config.intra_bottleneck_size, dtype=torch.float64)
        output = layer.attention.output
        inner = self._residual(maps, index, "attention", _affine(output.dense), output.LayerNorm, inner)
        stacked = cast(list[FeedForward], list(layer.ffn))
        halves = [(ffn.intermediate.dense, ffn.output.dense, ffn.output.LayerNorm) for ffn in stacked]
        halves.append((layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm))
        for number, (up, down, norm) in enumerate(halves):
            maps[f"ffn.{number}.up"] = _reads(_affine(up), inner), None
            inner = self._residual(maps, index, f"ffn.{number}.down", _affine(down), norm, inner)
        bottleneck = layer.output.bottleneck
        assert bottleneck is not None
        outer = _reads(_affine(bottleneck.dense), inner)
        self.scales.append(self._residual(maps, index, "output", outer, bottleneck.LayerNorm, scale))
        return maps

    def _residual(
        self,
        maps: dict[str, tuple[Affine, Tensor | None]],
        index: int,
        name: str,
        affine: Affine,
        norm: nn.Module,
        scale: Tensor,
    ) -> Tensor:
        """Folds gamma * (h + W x + b) + beta, where h = scale * y; returns the scale of the result."""
        (weight, bias), (gamma, beta) = affine, _gamma_beta(norm)
        carried = gamma * scale
        fits = (carried.abs() >= SMALLEST) & (carried.abs() <= LARGEST)
        # Per channel: what the residual, the map, and beta are multiplied by.
        keep = torch.where(fits, 1.0, carried)
        factor = torch.where(fits, 1 / scale, gamma)
        shift = torch.where(fits, beta / carried, beta)
        maps[name] = (weight * factor[:, None], bias * factor + shift), None if fits.all() else keep
        if not fits.all():
            self.kept.append(f"{index}.{name}")
        return torch.where(fits, carried, 1.0)


def _stack(*affines: Affine) -> Affine:
    return torch.cat([weight for weight, _ in affines]), torch.cat([bias for _, bias in affines])


def _write(layer: FoldedLayer, maps: dict[str, tuple[Affine, Tensor | None]]) -> None:
    for name, ((weight, bias), keep) in maps.items():
        module = layer.get_submodule(name)
        linear = module.dense if isinstance(module, FoldedResidual) else cast(nn.Linear, module)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
        if keep is not None:
            cast(nn.Parameter, module.keep).copy_(keep)


def _fold_embeddings(encoder: MobileBertModel, target: FoldedMobileBertModel) -> None:
    embeddings = encoder.embeddings
    gamma, _ = _gamma_beta(embeddings.LayerNorm)
    weight, bias = _after(_affine(embeddings.embedding_transformation), embeddings.LayerNorm)
    target.embeddings.embedding_transformation.dense.weight.copy_(weight)
    target.embeddings.embedding_transformation.dense.bias.copy_(bias)
    for name in ("position_embeddings", "token_type_embeddings"):
        table = _exact(getattr(embeddings, name).weight) * gamma
        getattr(target.embeddings, name).weight.copy_(table)


def _even_channels(folded: FoldedMobileBertModel) -> None:
    """Divides each channel of the state by a factor, and multiplies what reads it, so that 8 bits suffice for both.

    The factor is the root of how large the channel becomes over how large its readers' weights are: activations and
    weights share the work, as in SmoothQuant (Xiao et al., 2023, equation 4 with alpha = 1/2), but here nothing has to
    be measured or added. How large it becomes is estimated from what is written to it: constant terms add up, others
    as their squares do. Factors are powers of 2: not a bit of any result changes.
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
    # Channels that nothing writes or reads stay as they are.
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
