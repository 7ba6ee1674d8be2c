"""The FLOPs of a training step in a stage: for the time left, and for the utilization of the hardware.

Only matmuls count, at 2 FLOPs for each multiplication. Norms, activations, softmax and the losses have few FLOPs.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from .stages import Stage
from .teachers import find_layers


class StepFlops(NamedTuple):
    """FLOPs of the three parts of a step."""

    teacher: float
    student_forward: float
    student_backward: float


def step_flops(
    stage: Stage,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokens: float,
    length: int,
    predictions: float,
    mapping: Sequence[int] | None = None,
) -> StepFlops:
    """The FLOPs of one step.

    The backward pass has a matmul as large as that of the forward pass for the weights that are trained, and another
    one for the activations of every layer from the lowest trained layer on. (The first matmul of that layer needs
    none; it is counted nevertheless, at most a few percent of a layer.)

    Args:
        stage: Says what runs and what is trained.
        student: The student; only the shapes of its weights matter.
        teacher: The teacher, likewise.
        tokens: The number of tokens of the batch, including padding.
        length: The number of tokens of a sequence.
        predictions: The number of masked positions of the batch.
        mapping: The teacher's layer for each layer of the student; by default the one with the same index.
    """
    forward = backward = 0.0
    flows = stage.embedding_lr_scale > 0  # whether something so far is trained, so that gradients are needed here
    embeddings = _matmuls(_embeddings(student), tokens)
    forward += embeddings
    backward += 2 * embeddings * flows
    for layer, rate in zip(find_layers(student), stage.layer_lr_scales[: stage.depth], strict=False):
        matmuls, attention = _matmuls(layer, tokens), _attention(student, tokens, length)
        # A layer with the teacher's features as input passes no gradient down.
        flows = (flows and not stage.parallel) or rate > 0
        forward += matmuls + attention
        backward += matmuls * (rate > 0) + (matmuls + 2 * attention) * flows
    if stage.use_distillation_loss:
        heads = _heads(student, predictions)
        forward += heads
        backward += heads * (1 + (stage.head_lr_scale > 0))
    return StepFlops(_forward(teacher, stage, mapping, tokens, length, predictions), forward, backward)


def forward_flops(network: PreTrainedModel, tokens: float, length: int) -> float:
    """The FLOPs of an encoder's forward pass, without heads."""
    layers = find_layers(network)
    encoder = sum(_matmuls(layer, tokens) + _attention(network, tokens, length) for layer in layers)
    return _matmuls(_embeddings(network), tokens) + encoder


def _forward(
    network: PreTrainedModel,
    stage: Stage,
    mapping: Sequence[int] | None,
    tokens: float,
    length: int,
    predictions: float,
) -> float:
    depth = stage.depth if mapping is None else mapping[stage.depth - 1] + 1
    layers = find_layers(network)[:depth]
    encoder = sum(_matmuls(layer, tokens) + _attention(network, tokens, length) for layer in layers)
    heads = _heads(network, predictions) if stage.use_distillation_loss else 0.0
    return _matmuls(_embeddings(network), tokens) + encoder + heads


def _embeddings(network: PreTrainedModel) -> nn.Module:
    """The embeddings, or the token embeddings of a network that has nothing else before its layers."""
    return getattr(network.base_model, "embeddings", None) or network.get_input_embeddings()


def _matmuls(module: nn.Module, positions: float) -> float:
    return 2 * positions * _weights(module)


def _weights(module: nn.Module) -> int:
    return sum(linear.weight.numel() for linear in module.modules() if isinstance(linear, nn.Linear))


def _attention(network: PreTrainedModel, tokens: float, length: int) -> float:
    """The scores of a layer, and their matmul with the values."""
    return 2 * 2 * tokens * length * getattr(network.config, "true_hidden_size", network.config.hidden_size)


def _heads(network: PreTrainedModel, predictions: float) -> float:
    """What is not the encoder; of the heads the masked-LM head alone counts, others have a few outputs a sequence."""
    return 2 * predictions * (_weights(network) - _weights(network.base_model))
