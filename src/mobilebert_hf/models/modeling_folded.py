"""MobileBERT for inference, with every NoNorm folded into the adjacent linear layers (see `folding.py`).

A layer is (biases omitted)

    q, k, v, x = W_in y
    x = x + W_o attention(q, k, v)
    x = x + W_2 act(W_1 x)                 one or more feed-forward networks
    y = y + W_out x

The original model's h is y multiplied by a scale per channel, `scales`.
"""

from collections import OrderedDict
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple

from .configuration import MobileBertConfig
from .encoder import Embeddings, eager_attention_forward
from .fake_quantization import (
    CLIPPED,
    QuantizationPoint,
    boolean_mask,
    clipped_attention_forward,
    make_quantization_aware,
)
from .heads import EncoderOutput, Pooler
from .modeling_mobilebert import (
    MobileBertForMaskedLM,
    MobileBertForNextSentencePrediction,
    MobileBertForPreTraining,
    MobileBertPreTrainedModel,
    check_finite,
)
from .modeling_mobilebert_tasks import (
    MobileBertForMultipleChoice,
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)
from .packing import PACKED, pack, packed_attention_forward, unpack

# Arguments of `MobileBertModel.forward` that a folded model does not support.
FOR_TRAINING = ("output_attentions", "start_layer", "stop_layer", "capture_layers", "capture_scores", "layer_inputs")


@strict
class FoldedMobileBertConfig(MobileBertConfig):
    r"""Configuration of a folded model: that of the original model, and the following fields.

    Args:
        scaled_residuals (`list[str]`, *optional*):
            Names of residual connections, such as `"3.output"` in layer 3, with a scale per channel that could not be
            folded, because weights of the NoNorm are 0, very small or very large.
        quantization_aware (`bool`, *optional*, defaults to `False`):
            Whether weights and activations are rounded to int8 (see `fake_quantization.py`).
    """

    model_type = "folded_mobilebert"

    scaled_residuals: list[str] | None = None
    quantization_aware: bool = False


class FoldedResidual(nn.Module):
    """residual + W x + b, or residual_scale * residual + W x + b; see `FoldedMobileBertConfig.scaled_residuals`."""

    def __init__(self, in_width: int, out_width: int, points: bool = True) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, out_width)
        self.residual_scale: nn.Parameter | None = None
        self.branch, self.sum = (QuantizationPoint() if points else nn.Identity() for _ in range(2))

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """[batch, seq, in_width] and [batch, seq, out_width] -> [batch, seq, out_width]."""
        residual = residual if self.residual_scale is None else residual * self.residual_scale
        return self.sum(residual + self.branch(self.dense(hidden_states)))


class FoldedFeedForward(nn.Module):
    """x + W_2 act(W_1 x)."""

    def __init__(self, config: FoldedMobileBertConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.intra_bottleneck_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        if isinstance(self.activation, nn.ReLU):
            # Nothing else reads the input. Allocating an output is slow for long sequences.
            self.activation.inplace = True
        self.inner = QuantizationPoint()
        self.down = FoldedResidual(config.intermediate_size, config.intra_bottleneck_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, seq, width] -> [batch, seq, width]."""
        return self.down(self.inner(self.activation(self.up(hidden_states))), hidden_states)


class FoldedLayer(nn.Module):
    """One layer; its equations are at the top of this file."""

    is_causal = False

    def __init__(self, config: FoldedMobileBertConfig) -> None:
        super().__init__()
        width = config.intra_bottleneck_size
        self.config = config
        self.head_size = width // config.num_attention_heads
        self.input = QuantizationPoint()
        self.block = QuantizationPoint()
        self.context = QuantizationPoint()
        # With bottleneck attention (MobileBERT-TINY), query, key and value read the narrow input.
        self.narrow = nn.Linear(config.hidden_size, width) if config.use_bottleneck_attention else None
        self.projection = nn.Linear(width, 3 * width) if self.narrow else nn.Linear(config.hidden_size, 4 * width)
        self.attention = FoldedResidual(width, width)
        self.ffn = nn.ModuleList(FoldedFeedForward(config) for _ in range(config.num_feedforward_networks))
        # The residual stream between layers is rounded only as an input of matmuls.
        self.output = FoldedResidual(width, config.hidden_size, points=False)

    def forward(self, hidden_states: torch.Tensor, attention_mask: Any, **kwargs: Any) -> torch.Tensor:
        """[batch, seq, hidden_size] -> the same shape; the mask is in the format of the configured kernel."""
        inputs = self.input(hidden_states)
        if self.narrow is not None:
            narrow = self.block(self.narrow(inputs))
            parts = self.projection(narrow).chunk(3, dim=-1)
        else:
            *parts, narrow = self.projection(inputs).chunk(4, dim=-1)
            narrow = self.block(narrow)
        query, key, value = (part.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for part in parts)
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        # The scaling of the scores is folded into the query's weights.
        context, _ = kernel(self, query, key, value, attention_mask, scaling=1.0, dropout=0.0, **kwargs)
        narrow = self.attention(self.context(context.flatten(2)), narrow)
        for feed_forward in self.ffn:
            narrow = feed_forward(narrow)
        return self.output(narrow, hidden_states)


class FoldedEmbeddings(Embeddings):
    """MobileBERT's embeddings, with the norm folded into the projection and the tables."""

    def __init__(self, config: FoldedMobileBertConfig) -> None:
        super().__init__(config)
        self.LayerNorm = nn.Identity()
        self.embedding_transformation: Any = nn.Sequential(
            OrderedDict(read=QuantizationPoint(), dense=self.embedding_transformation)
        )


class FoldedEncoder(nn.Module):
    """The layers and their scales."""

    def __init__(self, config: FoldedMobileBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(FoldedLayer(config) for _ in range(config.num_hidden_layers))
        # The original model's h is y * scales, for each layer.
        self.scales = nn.Parameter(torch.ones(config.num_hidden_layers, config.hidden_size))
        for name in config.scaled_residuals or ():
            residual = self.layer.get_submodule(name)
            assert isinstance(residual, FoldedResidual)
            residual.residual_scale = nn.Parameter(torch.ones(residual.dense.out_features))

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: Any, record: list[torch.Tensor] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """[batch, seq, hidden_size] -> the original model's last h; appends the h of each layer to `record`."""
        for layer, scale in zip(self.layer, self.scales, strict=True):
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
            if record is not None:
                record.append(hidden_states * scale)
        return hidden_states * self.scales[-1]


class FoldedMobileBertPreTrainedModel(MobileBertPreTrainedModel):
    """Base class of the folded models."""

    config: FoldedMobileBertConfig
    config_class = FoldedMobileBertConfig
    supports_gradient_checkpointing = False
    _no_split_modules = ["FoldedEmbeddings", "FoldedLayer"]  # noqa: RUF012 (the library's form)
    _can_record_outputs = {}  # noqa: RUF012

    def _build_encoder(self, config: Any, add_pooling_layer: bool = True) -> "FoldedMobileBertModel":
        return FoldedMobileBertModel(config, add_pooling_layer)


class FoldedMobileBertModel(FoldedMobileBertPreTrainedModel):
    """Embeddings, folded encoder and, if `add_pooling_layer` is set, a pooler."""

    def __init__(self, config: FoldedMobileBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = FoldedEmbeddings(config)
        self.encoder = FoldedEncoder(config)
        self.pooler = Pooler(config) if add_pooling_layer else None
        if config.quantization_aware:
            make_quantization_aware(self.embeddings, self.encoder.layer)
            self.set_attn_implementation(CLIPPED)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> tuple | EncoderOutput:
        """Like `MobileBertModel.forward`, without attentions, captured tensors and ranges of layers.

        Raises:
            FloatingPointError: The result is not finite in float16 (not checked under `torch.compile`).
            ValueError: Both or none of `input_ids` and `inputs_embeds` are given, the sequence is too long, or an
                argument is not supported.
        """
        for name in FOR_TRAINING:
            if kwargs.pop(name, None):
                raise ValueError(f"A folded model does not support {name}: use the original model.")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        states = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, attention_mask)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        recorded = [states] if output_hidden_states else None
        if attention_mask is not None and self.config._attn_implementation == PACKED:
            packed: list[torch.Tensor] | None = None if recorded is None else []
            states = self.encoder(*pack(states, attention_mask), packed, **kwargs)
            states = unpack(states, attention_mask)
            if recorded is not None:
                recorded += [unpack(layer, attention_mask) for layer in packed or ()]
        else:
            mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
            states = self.encoder(states, mask, recorded, **kwargs)
        check_finite(states)
        return EncoderOutput(
            last_hidden_state=states,
            pooler_output=None if self.pooler is None else self.pooler(states),
            hidden_states=None if recorded is None else tuple(recorded),
        )


class FoldedMobileBertForPreTraining(FoldedMobileBertPreTrainedModel, MobileBertForPreTraining):
    """Folded; see `MobileBertForPreTraining`."""


class FoldedMobileBertForMaskedLM(FoldedMobileBertPreTrainedModel, MobileBertForMaskedLM):
    """Folded; see `MobileBertForMaskedLM`."""


class FoldedMobileBertForNextSentencePrediction(FoldedMobileBertPreTrainedModel, MobileBertForNextSentencePrediction):
    """Folded; see `MobileBertForNextSentencePrediction`."""


class FoldedMobileBertForSequenceClassification(FoldedMobileBertPreTrainedModel, MobileBertForSequenceClassification):
    """Folded; see `MobileBertForSequenceClassification`."""


class FoldedMobileBertForQuestionAnswering(FoldedMobileBertPreTrainedModel, MobileBertForQuestionAnswering):
    """Folded; see `MobileBertForQuestionAnswering`."""


class FoldedMobileBertForTokenClassification(FoldedMobileBertPreTrainedModel, MobileBertForTokenClassification):
    """Folded; see `MobileBertForTokenClassification`."""


class FoldedMobileBertForMultipleChoice(FoldedMobileBertPreTrainedModel, MobileBertForMultipleChoice):
    """Folded; see `MobileBertForMultipleChoice`."""


def register_kernels() -> None:
    """Registers the attention kernels for packed tokens and for clipped scores."""
    AttentionInterface.register(PACKED, packed_attention_forward)
    AttentionInterface.register(CLIPPED, clipped_attention_forward)
    AttentionMaskInterface.register(CLIPPED, boolean_mask)
