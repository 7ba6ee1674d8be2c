"""How much arithmetic a training step of a stage takes: for the time left, and for the share of the hardware's peak.

Only matrix products count, at 2 FLOPs for each multiplication, as usual. Norms, activations, softmax and the losses
take time, but next to no FLOPs.
"""

from typing import NamedTuple

from torch import nn

from ..models.modeling_mobilebert import MobileBertForPreTraining
from .stages import Stage


class StepFlops(NamedTuple):
    """FLOPs of the three parts of a step."""

    teacher: float
    student_forward: float
    student_backward: float


def step_flops(
    stage: Stage,
    student: MobileBertForPreTraining,
    teacher: MobileBertForPreTraining,
    tokens: float,
    length: int,
    predictions: float,
) -> StepFlops:
    """The FLOPs of one step.

    A gradient costs a product as large as the forward pass' for the weights of what learns, and another one for the
    activations of every layer from the lowest one that learns on. (The very first product of that layer needs none:
    it is counted nevertheless, at most a few percent of a layer.)

    Args:
        stage: Says what runs and what learns.
        student: The network; only the shapes of its weights matter.
        teacher: As well.
        tokens: In the batch, padding included.
        length: Tokens of a sequence.
        predictions: Masked positions in the batch.
    """
    forward = backward = 0.0
    flows = stage.embedding_rate > 0  # whether something so far learns, and gradients have to come this far
    embeddings = _products(student.mobilebert.embeddings, tokens)
    forward += embeddings
    backward += 2 * embeddings * flows
    for layer, rate in zip(student.mobilebert.encoder.layer, stage.layer_rates[: stage.depth], strict=False):
        products, attention = _products(layer, tokens), _attention(student, tokens, length)
        flows = flows or rate > 0
        forward += products + attention
        backward += products * (rate > 0) + (products + 2 * attention) * flows
    if stage.pretraining:
        heads = _heads(student, predictions)
        forward += heads
        backward += heads * (1 + (stage.head_rate > 0))
    return StepFlops(_forward(teacher, stage, tokens, length, predictions), forward, backward)


def _forward(network: MobileBertForPreTraining, stage: Stage, tokens: float, length: int, predictions: float) -> float:
    layers = network.mobilebert.encoder.layer[: stage.depth]
    encoder = sum(_products(layer, tokens) + _attention(network, tokens, length) for layer in layers)
    heads = _heads(network, predictions) if stage.pretraining else 0.0
    return _products(network.mobilebert.embeddings, tokens) + encoder + heads


def _products(module: nn.Module, rows: float) -> float:
    return 2 * rows * sum(linear.weight.numel() for linear in module.modules() if isinstance(linear, nn.Linear))


def _attention(network: MobileBertForPreTraining, tokens: float, length: int) -> float:
    """A layer's scores, and their product with the values."""
    return 2 * 2 * tokens * length * network.config.true_hidden_size


def _heads(network: MobileBertForPreTraining, predictions: float) -> float:
    """The masked-LM head; the next-sentence head has two outputs a sequence, which is nothing."""
    return _products(network.cls.predictions, predictions)
