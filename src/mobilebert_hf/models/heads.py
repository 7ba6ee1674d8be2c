"""Pooler, masked-LM and next-sentence heads, and the output classes of the models."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import modeling_outputs
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from .configuration import MobileBertConfig

Captured = tuple[torch.Tensor, ...] | None


@dataclass
class EncoderOutput(modeling_outputs.BaseModelOutputWithPooling):
    """`BaseModelOutputWithPooling`, and the tensors of `capture_layers` and `capture_scores`.

    Attributes:
        layer_outputs: [batch, seq, hidden_size] for each layer in `capture_layers`, in order.
        attention_scores: [batch, heads, seq, seq] for each layer in `capture_scores`, in order; scaled, before mask
            and softmax.
    """

    layer_outputs: Captured = None
    attention_scores: Captured = None


@dataclass
class MaskedLMOutput(modeling_outputs.MaskedLMOutput):
    """`transformers`' `MaskedLMOutput`, and the captured tensors; see `EncoderOutput`."""

    layer_outputs: Captured = None
    attention_scores: Captured = None


@dataclass
class PreTrainingOutput(ModelOutput):
    """Output of `...ForPreTraining`; see `EncoderOutput` for the captured tensors.

    Attributes:
        loss: Sum of the masked-LM and next-sentence losses for which there are labels.
        prediction_logits: [batch, seq, vocab_size], or [n, vocab_size] at the n positions of `prediction_mask`.
        seq_relationship_logits: [batch, 2]; class 1 means that sentence B is random.
    """

    loss: torch.Tensor | None = None
    prediction_logits: torch.Tensor | None = None
    seq_relationship_logits: torch.Tensor | None = None
    hidden_states: Captured = None
    attentions: Captured = None
    layer_outputs: Captured = None
    attention_scores: Captured = None


class Pooler(nn.Module):
    """The first token's hidden state, followed by dense and tanh if `classifier_activation` is set."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size) if config.classifier_activation else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, seq, hidden_size] -> [batch, hidden_size]."""
        first = hidden_states[:, 0]
        return first if self.dense is None else torch.tanh(self.dense(first))


class PredictionTransform(nn.Module):
    """LayerNorm(act(W x)). It has a LayerNorm even if the encoder has NoNorm."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., hidden_size] -> [..., hidden_size]."""
        return self.LayerNorm(self.activation(self.dense(hidden_states)))


class MaskedLMHead(nn.Module):
    """Logits by the word embeddings [vocab_size, embedding_size] and a matrix for the remaining columns."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__()
        extra = config.hidden_size - config.embedding_size
        if extra < 0:
            raise ValueError(
                f"{type(config).__name__}: hidden_size={config.hidden_size} is not allowed with a masked-LM head; "
                f"it must be at least embedding_size={config.embedding_size}."
            )
        self.config = config
        self.transform = PredictionTransform(config)
        self.dense = nn.Linear(config.vocab_size, extra, bias=False)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., hidden_size] -> [..., vocab_size]."""
        table = self.decoder.weight
        if self.config.mask_padding and self.config.pad_token_id is not None and torch.is_grad_enabled():
            # The tied [PAD] embedding gets no gradient, so that it stays zero and padding never changes an output.
            is_padding = torch.arange(len(table), device=table.device) == self.config.pad_token_id
            table = torch.where(is_padding[:, None], table.detach(), table)
        tied, extra = self.transform(hidden_states).split([table.shape[1], self.dense.out_features], dim=-1)
        return nn.functional.linear(tied, table, self.decoder.bias) + extra @ self.dense.weight


class PreTrainingHeads(nn.Module):
    """The masked-LM head, the next-sentence head, or both."""

    def __init__(self, config: MobileBertConfig, masked_lm: bool, next_sentence: bool) -> None:
        super().__init__()
        if masked_lm:
            self.predictions = MaskedLMHead(config)
        if next_sentence:
            self.seq_relationship = nn.Linear(config.hidden_size, 2)
