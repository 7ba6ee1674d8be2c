"""The encoder of MobileBERT and IB-BERT (paper, section 3 and figure 1).

A layer reads h [batch, seq, hidden_size], computes at the intra-block width, and adds its result to h:

    x = Norm(W_in h)                       input bottleneck
    x = Norm(x + W_o attention(Q, K, V))   Q, K, V read h or a bottleneck of it (see the configuration)
    x = Norm(x + W_2 act(W_1 x))           one or more feed-forward networks
    h = Norm(h + W_out x)                  output bottleneck

Teacher and student differ only in the configuration. Module names are those of stock `transformers` MobileBERT, so
that checkpoints are compatible.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration import MobileBertConfig


class NoNorm(nn.Module):
    """Element-wise affine map in place of LayerNorm: weight * x + bias (section 3.3)."""

    def __init__(self, width: int, eps: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., width]."""
        return hidden_states * self.weight + self.bias


NORMS: dict[str, type[nn.Module]] = {"layer_norm": nn.LayerNorm, "no_norm": NoNorm}


def build_norm(config: MobileBertConfig, width: int) -> nn.Module:
    """Creates the norm `config.normalization_type` over the last axis of size `width`."""
    return NORMS[config.normalization_type](width, eps=config.layer_norm_eps)


class Embeddings(nn.Module):
    """Trigrams of word embeddings, projected to `hidden_size`, plus position and token-type embeddings."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        self.trigram_input = config.trigram_input
        self.mask_padding = config.mask_padding
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.embedding_transformation = nn.Linear(
            config.embedding_size * (3 if config.trigram_input else 1), config.hidden_size
        )
        self.project = config.trigram_input or config.embedding_size != config.hidden_size
        self.LayerNorm = build_norm(config, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.position_ids = nn.Buffer(torch.arange(config.max_position_embeddings).expand((1, -1)), persistent=False)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Ids [batch, seq] or `inputs_embeds` [batch, seq, embedding_size] -> [batch, seq, hidden_size]."""
        embeds = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = embeds.shape[:2]
        if length > self.position_ids.shape[1] and position_ids is None:
            raise ValueError(
                f"The sequence has {length} tokens; max_position_embeddings={self.position_ids.shape[1]} is the "
                "longest this model takes. Truncate the input (tokenizer(..., truncation=True, max_length=...))."
            )
        if position_ids is None:
            position_ids = self.position_ids[:, :length]
        if token_type_ids is None:
            token_type_ids = torch.zeros((batch, length), dtype=torch.long, device=embeds.device)

        if self.mask_padding and attention_mask is not None and attention_mask.dim() == 2:
            embeds = embeds * attention_mask.to(embeds.dtype)[:, :, None]
        if self.trigram_input:
            following = nn.functional.pad(embeds[:, 1:], (0, 0, 0, 1))
            previous = nn.functional.pad(embeds[:, :-1], (0, 0, 1, 0))
            embeds = torch.cat([following, embeds, previous], dim=2)
        if self.project:
            embeds = self.embedding_transformation(embeds)

        embeddings = embeds + self.position_embeddings(position_ids) + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(embeddings))


def attend(
    scores: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None, dropout: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes attention from its scores.

    Args:
        scores: [batch, heads, seq, seq], after scaling.
        value: [batch, heads, seq, head_size].
        attention_mask: Broadcastable to the scores: boolean (True = attend), or float, which is added to the scores.
        dropout: Dropout probability.

    Returns:
        The context [batch, seq, heads, head_size], and the attention probabilities after dropout.
    """
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    probabilities = nn.functional.dropout(nn.functional.softmax(scores, dim=-1), p=dropout)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention function of the implementation `"eager"`; shapes as in `attend`."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    return attend(scores, value, attention_mask, dropout)


class SelfAttention(nn.Module):
    """Multi-head attention. The inputs of query, key and value may have different widths."""

    is_causal = False

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.true_hidden_size
        narrow_query = config.use_bottleneck_attention or config.key_query_shared_bottleneck
        query_width = width if narrow_query else config.hidden_size
        value_width = width if config.use_bottleneck_attention else config.hidden_size
        self.head_size = width // config.num_attention_heads
        self.scaling = self.head_size**-0.5
        self.query = nn.Linear(query_width, width)
        self.key = nn.Linear(query_width, width)
        self.value = nn.Linear(value_width, width)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self, query_input: torch.Tensor, value_input: torch.Tensor, attention_mask: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Inputs [batch, seq, input width] -> context [batch, seq, width], by the configured attention kernel."""
        query, key, value = self._project(query_input, value_input)
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        context, _ = kernel(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.dropout.p if self.training else 0.0,
            **kwargs,
        )
        return context.flatten(2)

    def materialize(
        self, query_input: torch.Tensor, value_input: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Like `forward` with the eager kernel; also returns probabilities and scores [batch, heads, seq, seq].

        Scores are scaled by 1/sqrt(head_size), before mask and softmax.
        """
        query, key, value = self._project(query_input, value_input)
        scores = torch.matmul(query, key.transpose(2, 3)) * self.scaling
        dropout = self.dropout.p if self.training else 0.0
        context, probabilities = attend(scores, value, attention_mask, dropout)
        return context.flatten(2), probabilities, scores

    def _project(self, query_input: torch.Tensor, value_input: torch.Tensor) -> list[torch.Tensor]:
        projections = (self.query(query_input), self.key(query_input), self.value(value_input))
        return [x.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for x in projections]


class Residual(nn.Module):
    """Norm(residual + dropout(dense(x)))."""

    def __init__(self, config: MobileBertConfig, in_width: int, out_width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, out_width)
        self.LayerNorm = build_norm(config, out_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """[batch, seq, in_width] and [batch, seq, out_width] -> [batch, seq, out_width]."""
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + residual)


class Intermediate(nn.Module):
    """act(W_1 x), the first half of a feed-forward network."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.true_hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, seq, width] -> [batch, seq, intermediate_size]."""
        return self.activation(self.dense(hidden_states))


class FeedForward(nn.Module):
    """A feed-forward network. The last one of each layer is in `EncoderLayer` itself, as in checkpoints."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        self.intermediate = Intermediate(config)
        self.output = Residual(config, config.intermediate_size, config.true_hidden_size, dropout=0.0)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, seq, width] -> [batch, seq, width]."""
        return self.output(self.intermediate(hidden_states), hidden_states)


class BottleneckLayer(nn.Module):
    """Norm(W h)."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intra_bottleneck_size)
        self.LayerNorm = build_norm(config, config.intra_bottleneck_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, seq, hidden_size] -> [batch, seq, intra_bottleneck_size]."""
        return self.LayerNorm(self.dense(hidden_states))


class Bottleneck(nn.Module):
    """The inputs of the attention block: for the residual, for query and key, and for value (table 1)."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        self.all_narrow = config.use_bottleneck_attention
        self.input = BottleneckLayer(config)
        self.attention = BottleneckLayer(config) if config.key_query_shared_bottleneck else None

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[batch, seq, hidden_size] -> residual input, query/key input, value input."""
        narrow = self.input(hidden_states)
        if self.all_narrow:
            return narrow, narrow, narrow
        query_key = hidden_states if self.attention is None else self.attention(hidden_states)
        return narrow, query_key, hidden_states


class AttentionBlock(nn.Module):
    """Self-attention and its residual connection."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        # With bottlenecks, the original code applies dropout only after the output bottleneck.
        dropout = 0.0 if config.use_bottleneck else config.hidden_dropout_prob
        self.self = SelfAttention(config)
        self.output = Residual(config, config.true_hidden_size, config.true_hidden_size, dropout)


class LayerOutput(nn.Module):
    """The second half of the last feed-forward network, and the output bottleneck."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        dropout = config.hidden_dropout_prob
        width = config.true_hidden_size
        self.dense = nn.Linear(config.intermediate_size, width)
        self.LayerNorm = build_norm(config, width)
        self.dropout = nn.Dropout(0.0 if config.use_bottleneck else dropout)
        self.bottleneck = Residual(config, width, config.hidden_size, dropout) if config.use_bottleneck else None

    def forward(self, wide: torch.Tensor, residual: torch.Tensor, layer_input: torch.Tensor) -> torch.Tensor:
        """[batch, seq, intermediate_size], [batch, seq, width], [batch, seq, hidden_size] -> as `layer_input`."""
        narrow = self.LayerNorm(self.dropout(self.dense(wide)) + residual)
        return narrow if self.bottleneck is None else self.bottleneck(narrow, layer_input)


class EncoderLayer(GradientCheckpointingLayer):
    """One layer; its equations are at the top of this file."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        self.attention = AttentionBlock(config)
        self.intermediate = Intermediate(config)
        self.output = LayerOutput(config)
        self.bottleneck = Bottleneck(config) if config.use_bottleneck else None
        self.ffn = nn.ModuleList(FeedForward(config) for _ in range(config.num_feedforward_networks - 1))

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: Any, materialize: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """[batch, seq, hidden_size] -> the same shape, attention probabilities and attention scores.

        Probabilities and scores are None unless `materialize` is set. `attention_mask` is in the format of the
        configured attention kernel, or of `attend` if `materialize` is set.
        """
        if self.bottleneck is None:
            residual = query_key = value = hidden_states
        else:
            residual, query_key, value = self.bottleneck(hidden_states)
        attention = self.attention.self
        if materialize:
            context, probabilities, scores = attention.materialize(query_key, value, attention_mask)
        else:
            context, probabilities, scores = attention(query_key, value, attention_mask, **kwargs), None, None
        narrow = self.attention.output(context, residual)
        for feed_forward in self.ffn:
            narrow = feed_forward(narrow)
        return self.output(self.intermediate(narrow), narrow, hidden_states), probabilities, scores


class Encoder(nn.Module):
    """The layers. Any range of them can be computed."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self,
        hidden_states: torch.Tensor,
        kernel_mask: Any,
        tensor_mask: torch.Tensor | None,
        start: int = 0,
        stop: int | None = None,
        capture_layers: Collection[int] = (),
        capture_scores: Collection[int] = (),
        layer_inputs: Mapping[int, torch.Tensor] | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Runs layers start, ..., stop - 1; see `MobileBertModel.forward` for the arguments.

        Args:
            hidden_states: [batch, seq, hidden_size], the input of layer `start`.
            kernel_mask: Attention mask in the format of the configured attention kernel.
            tensor_mask: Attention mask as `attend` takes it, for layers whose scores or probabilities are returned.

        Returns:
            The last layer's output, the outputs of `capture_layers`, and the scores of `capture_scores`
            ([batch, heads, seq, seq] each), both in the order of the layers.
        """
        layer_outputs = [hidden_states] if _contains(capture_layers, -1) else []
        attention_scores = []
        for index, layer in enumerate(self.layer[start:stop], start):
            if layer_inputs is not None:
                hidden_states = layer_inputs[index]
            materialize = output_attentions or _contains(capture_scores, index)
            mask = tensor_mask if materialize else kernel_mask
            hidden_states, _, scores = layer(hidden_states, mask, materialize=materialize, **kwargs)
            if _contains(capture_layers, index):
                layer_outputs.append(hidden_states)
            if _contains(capture_scores, index):
                attention_scores.append(scores)
        return hidden_states, tuple(layer_outputs), tuple(attention_scores)


def _contains(layers: Collection[int], index: int) -> bool:
    """Like `index in layers`, which gives wrong results under `torch.compile` when the layers change."""
    return any(index == layer for layer in layers)
