"""LAMB as in the original MobileBERT code, and parameter groups with a learning-rate scale for each layer.

Parameter names are those of stock `transformers` MobileBERT, which the teacher shares.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_optimizer
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

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
    """Group the parameters of a model by embeddings, layers and heads, each split by whether weight decay applies.

    The groups are named "embeddings", "layer_0", "layer_1", ..., and "heads", which is everything else, including
    the pooler. Norms (NoNorm too) and biases get neither decay nor trust ratio. A tied parameter is in one group
    only, that of the name the model lists first. Groups without parameters are left out.

    Args:
        model (`nn.Module`): a model with the parameter names of stock MobileBERT.
        weight_decay (`float`): the decay of everything except norms and biases.
        trust_ratio (`bool`): whether the groups are for LAMB: they then have the key `adam`, True in groups
            without trust ratio. AdamW does without that key.

    Returns:
        `list[dict]`: groups with the keys `params`, `name`, `weight_decay` and, for LAMB, `adam`. Up to two groups
            have the same name.
    """
    grouped: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        grouped.setdefault((group_name(name), _is_norm_or_bias(name)), []).append(parameter)
    return [
        {
            "params": parameters,
            "name": name,
            "weight_decay": 0.0 if plain else weight_decay,
            **({"adam": plain} if trust_ratio else {}),
        }
        for (name, plain), parameters in grouped.items()
    ]


def create_optimizer(trainer: Trainer, model: nn.Module, use_lamb: bool) -> torch.optim.Optimizer:
    """LAMB, or the optimizer of `args.optim`, with the groups of [`parameter_groups`].

    Args:
        trainer (`Trainer`): its `args` have the learning rate, betas, epsilon and weight decay.
        model (`nn.Module`): the model to train.
        use_lamb (`bool`): whether to use LAMB in place of `args.optim`.
    """
    args = trainer.args
    groups = parameter_groups(model, args.weight_decay, trust_ratio=use_lamb)
    if use_lamb:
        return lamb(groups, args.learning_rate, (args.adam_beta1, args.adam_beta2), args.adam_epsilon)
    optimizer_class, options = trainer.get_optimizer_cls_and_kwargs(args)
    return optimizer_class(groups, **options)


def per_group_scheduler(optimizer: torch.optim.Optimizer, lr_scales: Callable[[int], Mapping[str, float]]) -> LambdaLR:
    """A scheduler that multiplies the learning rate of each parameter group by `lr_scales(step)[group["name"]]`.

    Args:
        optimizer (`Optimizer`): with groups of [`parameter_groups`].
        lr_scales (`Callable`): from the number of steps taken to a factor for each group name; a pure function.
    """

    def scale_of(name: str) -> Callable[[int], float]:
        return lambda step: lr_scales(step)[name]

    return LambdaLR(optimizer, [scale_of(group["name"]) for group in optimizer.param_groups])


def group_name(parameter: str) -> str:
    """Return the name of a parameter's group, by its name in the model."""
    if layer := _LAYER.search(parameter):
        return f"layer_{layer[1]}"
    return "embeddings" if _EMBEDDINGS.search(parameter) else "heads"


def _is_norm_or_bias(parameter: str) -> bool:
    """Return whether a parameter, by its name in the model, belongs to a norm or is a bias."""
    *_, module, kind = ("", *parameter.split("."))
    return module == "LayerNorm" or kind == "bias"
