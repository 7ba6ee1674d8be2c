"""What objectives ask of the two networks, what the networks return, and the forward pass of this package's models."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.masking import IGNORED
from .projections import Projections, recording

ENCODER_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Needs:
    """What objectives need of a forward pass. Layers are the student's; a teacher maps them to its own.

    Args:
        depth: How many layers run; None: all of them.
        features: The layers whose outputs are compared, ascending; -1 is the output of the embeddings.
        scores: The layers whose raw attention scores are compared, ascending.
        projections: The layers whose queries, keys and values are compared, ascending.
        heads: Whether the outputs of the heads are needed: masked-LM logits at the masked positions, next-sentence
            logits.
        last_hidden_state: Whether the output of the whole encoder is needed.
    """

    depth: int | None = None
    features: tuple[int, ...] = ()
    scores: tuple[int, ...] = ()
    projections: tuple[int, ...] = ()
    heads: bool = False
    last_hidden_state: bool = False

    @classmethod
    def union(cls, depth: int | None, parts: Iterable["Needs"]) -> "Needs":
        """What several objectives need together of a forward pass of `depth` layers."""
        parts = list(parts)

        def layers(name: str) -> tuple[int, ...]:
            return tuple(sorted({layer for part in parts for layer in getattr(part, name)}))

        return cls(
            depth,
            layers("features"),
            layers("scores"),
            layers("projections"),
            any(part.heads for part in parts),
            any(part.last_hidden_state for part in parts),
        )


@dataclass
class LayerOutputs:
    """What a network returned of what it was asked for.

    Args:
        features: [batch, seq, width] by layer of the student; -1 is the output of the embeddings.
        scores: [batch, heads, seq, seq] by layer of the student, scaled, before mask and softmax.
        projections: By layer of the student.
        masked_lm_logits: [n, vocab_size] at the n masked positions, or None.
        next_sentence_logits: [batch, 2], or None.
        last_hidden_state: [batch, seq, width], or None.
        raw: The output of the model.
    """

    features: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[int, Tensor] = field(default_factory=dict)
    projections: dict[int, Projections] = field(default_factory=dict)
    masked_lm_logits: Tensor | None = None
    next_sentence_logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    raw: Any = None


def encoder_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of the encoder in a batch."""
    return {name: inputs[name] for name in ENCODER_INPUTS}


def accepted_inputs(network: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a tokenizer's outputs that a network, or a graph of one, takes by name."""
    names = inspect.signature(getattr(network, "forward", network)).parameters
    return {name: value for name, value in inputs.items() if name in names or "input_ids" not in names}


def run_mobilebert(
    call: nn.Module,
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    needs: Needs,
    layer_inputs: Mapping[int, Tensor] | None = None,
) -> LayerOutputs:
    """The forward pass of a MobileBERT or IB-BERT of this package, no deeper than needed.

    Args:
        call: The model or a wrapper of it, such as `DistributedDataParallel`; called.
        model: The model itself.
        inputs: A batch of `PretrainingCollator`.
        needs: What to return.
        layer_inputs: The inputs of all layers in place of the outputs of the layers below, [batch, seq, width] each.
    """
    last = model.config.num_hidden_layers - 1
    features = tuple(sorted({*needs.features, last})) if needs.last_hidden_state else needs.features
    # With `stop_layer` the heads do not run.
    stop_layer = None if needs.heads else last + 1 if needs.depth is None else needs.depth
    options: dict[str, Any] = {"capture_layers": features, "stop_layer": stop_layer, "layer_inputs": layer_inputs}
    if needs.heads:
        options["prediction_mask"] = inputs["labels"] != IGNORED
    with recording(model, needs.projections) as projections:
        outputs = call(**encoder_inputs(inputs), **options, capture_scores=needs.scores)
    captured = dict(zip(features, outputs.layer_outputs or (), strict=True))
    return LayerOutputs(
        captured,
        dict(zip(needs.scores, outputs.attention_scores or (), strict=True)),
        dict(zip(needs.projections, projections, strict=True)),
        outputs.get("prediction_logits", outputs.get("logits")),
        outputs.get("seq_relationship_logits"),
        captured.get(last),
        outputs,
    )
