"""The norm of all gradients together, and clipping by it, also where the sum of their squares overflows float32.

Gradients that FSDP2 shards are measured whole: every process has to call, and every process gets the same number.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# What has a larger absolute value has a square that float32 does not hold.
LARGEST_SQUARED = math.sqrt(torch.finfo(torch.float32).max)


def gradients_of(model: nn.Module) -> list[Tensor]:
    """The gradients that there are."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def total_norm(gradients: list[Tensor], order: float = 2.0) -> Tensor:
    """The norm of gradients taken for one vector, as PyTorch computes it: infinite where the sum of squares overflows.

    Args:
        gradients: Of any shapes and floating-point dtypes.
        order: 2, or `math.inf` for the largest absolute value, which cannot overflow.

    Returns:
        Shape (), on the device of the first gradient; 0 of none.
    """
    return whole(torch.nn.utils.get_total_norm(gradients, order))


def scaled_norm(gradients: list[Tensor], largest: float) -> float:
    """The 2-norm of gradients taken for one vector, from their parts of the largest absolute value: never overflows.

    Slower than `total_norm`, and one gradient after the other, so that no more memory is needed than for one of them.
    """
    norms = []
    for gradient in gradients:
        scaled = gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / largest
        norms.append(whole(torch.linalg.vector_norm(scaled)).item())
    return largest * math.hypot(*norms)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, norm: Tensor | float) -> None:
    """Scales gradients in place, so that their norm is at most `max_norm`.

    Args:
        parameters: Those whose gradients are scaled.
        max_norm: Positive.
        norm: The gradients' norm, finite: of `total_norm`, or of `scaled_norm`, which float32 need not hold.
    """
    if isinstance(norm, Tensor):
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return
    # The factor may be too small for float32; its root is not.
    root = math.sqrt(min(1.0, max_norm / norm))
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(root).mul_(root)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP2 shards, gathered; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
