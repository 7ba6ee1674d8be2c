"""LAMB as in the original MobileBERT code, and parameter groups that give every layer its own rate.

Names of parameters are those of stock `transformers` MobileBERT, which the teacher shares.
"""

import math
import re
from typing import Any

import pytorch_optimizer
from torch import nn

# Both anchored at a dot or the beginning, so that a bare encoder's names fit as well as a pre-training
# model's.
_LAYER = re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\.")
_EMBEDDINGS = re.compile(r"(?:^|\.)embeddings\.")


class Lamb(pytorch_optimizer.Lamb):
    """`pytorch_optimizer.Lamb` without its bound on the weight norm, a class attribute and no option."""

    clamp = math.inf


def lamb(
    parameters: Any,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-6,
) -> Lamb:
    """Build LAMB as the original: no bias correction, epsilon outside the root, trust ratio unbounded.

    With the moments m and v, an update is u = m / (sqrt(v) + epsilon) + weight_decay * w, and the weights w
    change by -learning_rate * (|w| / |u|) * u. The trust ratio |w| / |u| is 1 where either norm is 0 and in
    groups with `adam=True`. The library adds epsilon to |u| there, which the original does not: that counts only
    for weights whose gradients are all zero. The moments may be reset by `optimizer.state.clear()`: nothing else
    depends on earlier steps.

    Args:
        parameters (`list[dict]`): groups from [`parameter_groups`] with `trust_ratio=True`, whose
            `weight_decay` counts.
        learning_rate (`float`): the base rate, of groups that do not have their own `lr`.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.999)`): the decay rates of m and v.
        epsilon (`float`, *optional*, defaults to 1e-6): added to sqrt(v).

    Returns:
        [`Lamb`]: a `torch.optim.Optimizer`.

    Source: You et al., "Large Batch Optimization for Deep Learning" (arXiv 1904.00962), as the original code
    has it.
    """
    return Lamb(
        parameters,
        lr=learning_rate,
        betas=betas,
        eps=epsilon,
        weight_decouple=False,  # the decay enters the update before the trust ratio is taken
        adam_debias=True,  # despite its name, without it the library divides the step by 1 - beta1 ** step
    )


def parameter_groups(model: nn.Module, weight_decay: float, trust_ratio: bool) -> list[dict[str, Any]]:
    """Group the parameters by place in the network, and each place by whether weight decay counts.

    The places are "embeddings", "layer_0", "layer_1", ..., and "heads", which is all the rest, the pooler
    too. Norms (NoNorm too) and biases get neither decay nor trust ratio. A tied parameter is in one group
    only, that of the name the model lists first. Groups without parameters are left out.

    Args:
        model (`nn.Module`): a model with the parameter names of stock MobileBERT.
        weight_decay (`float`): the decay of everything except norms and biases.
        trust_ratio (`bool`): whether the groups are for LAMB: they then have the key `adam`, True in groups
            without trust ratio. AdamW does without that key.

    Returns:
        `list[dict]`: groups with the keys `params`, `name` (the place), `weight_decay` and, for LAMB, `adam`.
            A place has up to two groups of the same name.
    """
    grouped: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        grouped.setdefault((_place(name), _is_norm_or_bias(name)), []).append(parameter)
    return [
        {
            "params": parameters,
            "name": place,
            "weight_decay": 0.0 if plain else weight_decay,
            **({"adam": plain} if trust_ratio else {}),
        }
        for (place, plain), parameters in grouped.items()
    ]


def _place(parameter: str) -> str:
    """Return the place of a parameter, by its name in the model."""
    if layer := _LAYER.search(parameter):
        return f"layer_{layer[1]}"
    return "embeddings" if _EMBEDDINGS.search(parameter) else "heads"


def _is_norm_or_bias(parameter: str) -> bool:
    """Return whether a parameter, by its name in the model, belongs to a norm or is a bias."""
    *_, module, kind = ("", *parameter.split("."))
    return module == "LayerNorm" or kind == "bias"
