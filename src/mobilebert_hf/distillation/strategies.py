"""The strategies of knowledge transfer, each a list of stages.

[`auxiliary`], [`joint`] and [`progressive`] are those of "Training Strategies" in the MobileBERT paper (arXiv
2004.02984), as in the original code. [`parallel`] is for teachers whose embeddings the student cannot copy.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, get_args

from .stages import Curve, Position, Stage, Strategy, require

__all__ = [
    "Curve", "Freezing", "Position", "Stage", "Strategy", "StrategyName",
    "auxiliary", "build_strategy", "joint", "parallel", "progressive",
]  # fmt: skip

Freezing = Literal["hard", "soft"]
StrategyName = Literal["auxiliary", "joint", "parallel", "progressive"]

# From the original code. The layer that is being transferred learns at this factor of the base rate ...
TRANSFER_LR_SCALE = 3.0
# ... and, where freezing is soft, the finished layers below it learn at this factor of its rate.
BACKGROUND_LR_SCALE = 0.1
# The full-scale recipe warms up for 10k of its 500k steps of distillation.
WARMUP_RATIO = 0.02


def auxiliary(num_layers: int, steps: int, warmup_ratio: float = WARMUP_RATIO, only_last: bool = False) -> Strategy:
    """Auxiliary knowledge transfer: all layers' transfer losses and distillation count together.

    Args:
        num_layers (`int`): encoder layers of the student.
        steps (`int`): the length of the only stage.
        warmup_ratio (`float`, *optional*, defaults to 0.02): the part of the stage that is warm-up,
            in [0, 1].
        only_last (`bool`, *optional*, defaults to `False`): whether only the last layer's transfer losses count.

    Returns:
        [`Strategy`]: everything learns at factor 1, on a linear curve.

    Raises:
        ValueError: if a number is out of range.
    """
    stage = _distillation(
        "auxiliary transfer",
        num_layers,
        steps,
        warmup_ratio,
        range(num_layers)[-1:] if only_last else range(num_layers),
    )
    return Strategy("auxiliary", (stage,))


def joint(
    num_layers: int,
    transfer_steps: int,
    distillation_steps: int,
    transfer_lr_scale: float = TRANSFER_LR_SCALE,
    warmup_ratio: float = WARMUP_RATIO,
    embedding_lr_scale: float = 0.0,
) -> Strategy:
    """Joint knowledge transfer: first all layers' transfer losses at once, then distillation.

    In the transfer stage the layers learn, all at the factor and on the curve that the current layer has in
    [`progressive`]; heads are frozen, as there. Only the order of the layers differs.

    Args:
        num_layers (`int`): encoder layers of the student.
        transfer_steps (`int`): the length of the transfer stage, at least 1.
        distillation_steps (`int`): the length of the distillation stage; 0 leaves it out.
        transfer_lr_scale (`float`, *optional*, defaults to 3.0): the layers' factor of the base learning rate.
        warmup_ratio (`float`, *optional*, defaults to 0.02): the part of the distillation stage that is
            warm-up, in [0, 1].
        embedding_lr_scale (`float`, *optional*, defaults to 0.0): the embeddings' factor during transfer; 0, the
            original's, freezes them.

    Returns:
        [`Strategy`]: one or two stages.

    Raises:
        ValueError: if a number is out of range.
    """
    require(num_layers >= 1, "num_layers", num_layers, "at least 1")
    require(transfer_steps >= 1, "transfer_steps", transfer_steps, "at least 1")
    layers = tuple(range(num_layers))
    transfer = _transfer(
        "joint transfer", transfer_steps, layers, (transfer_lr_scale,) * num_layers, embedding_lr_scale
    )
    return Strategy("joint", (transfer, *_final_stage(num_layers, distillation_steps, warmup_ratio)))


def parallel(
    num_layers: int,
    transfer_steps: int,
    distillation_steps: int,
    transfer_lr_scale: float = TRANSFER_LR_SCALE,
    warmup_ratio: float = WARMUP_RATIO,
    embedding_lr_scale: float = 0.0,
) -> Strategy:
    """Parallel knowledge transfer: all layers learn at once, each on the teacher's features of the layer below.

    Unlike in [`progressive`], no layer waits for the layers below it; unlike in [`joint`], no layer trains on the
    inputs of untrained layers. The second half of the transfer is joint, so that the layers fit together.

    Args:
        num_layers (`int`): encoder layers of the student.
        transfer_steps (`int`): steps of both halves of the transfer, at least 2.
        distillation_steps (`int`): the length of the distillation stage; 0 leaves it out.
        transfer_lr_scale (`float`, *optional*, defaults to 3.0): see [`joint`].
        warmup_ratio (`float`, *optional*, defaults to 0.02): see [`joint`].
        embedding_lr_scale (`float`, *optional*, defaults to 0.0): see [`joint`].

    Returns:
        [`Strategy`]: two or three stages.

    Raises:
        ValueError: if a number is out of range.
    """
    require(transfer_steps >= 2, "transfer_steps", transfer_steps, "at least 2")
    half = transfer_steps // 2
    joined = joint(
        num_layers, transfer_steps - half, distillation_steps, transfer_lr_scale, warmup_ratio, embedding_lr_scale
    )
    alone = replace(joined.stages[0], name="parallel transfer", steps=half, parallel=True)
    return Strategy("parallel", (alone, *joined.stages))


def progressive(
    num_layers: int,
    transfer_steps: int,
    distillation_steps: int,
    freezing: Freezing = "soft",
    transfer_lr_scale: float = TRANSFER_LR_SCALE,
    background_lr_scale: float = BACKGROUND_LR_SCALE,
    warmup_ratio: float = WARMUP_RATIO,
    embedding_lr_scale: float = 0.0,
) -> Strategy:
    """Progressive knowledge transfer: a stage for each layer, bottom up, then distillation.

    In a layer's stage only its own transfer losses count, it learns at `transfer_lr_scale`, and nothing above it
    runs. Heads are frozen until the distillation stage, in which everything learns at factor 1.

    Args:
        num_layers (`int`): encoder layers of the student.
        transfer_steps (`int`): the length of all layers' stages together, at least one step a layer. What is
            left over by the division goes to the lowest layers, one step each.
        distillation_steps (`int`): the length of the distillation stage; 0 leaves it out.
        freezing (`Freezing`, *optional*, defaults to `"soft"`): "hard" freezes the finished layers below the
            current one; "soft", the original code's way, lets them learn slowly.
        transfer_lr_scale (`float`, *optional*, defaults to 3.0): the current layer's factor of the base learning
            rate.
        background_lr_scale (`float`, *optional*, defaults to 0.1): what multiplies `transfer_lr_scale` for the layers
            below, if freezing is soft.
        warmup_ratio (`float`, *optional*, defaults to 0.02): the part of the distillation stage that is
            warm-up, in [0, 1].
        embedding_lr_scale (`float`, *optional*, defaults to 0.0): the embeddings' factor during transfer; 0, the
            original's, freezes them.

    Returns:
        [`Strategy`]: `num_layers` stages named "layer 0", "layer 1", ..., and the distillation stage.

    Raises:
        ValueError: if a number is out of range or `freezing` is unknown.
    """
    require(num_layers >= 1, "num_layers", num_layers, "at least 1")
    require(
        transfer_steps >= num_layers,
        "transfer_steps",
        transfer_steps,
        f"at least one for each of {num_layers} layers",
    )
    require(freezing in get_args(Freezing), "freezing", freezing, f"one of {', '.join(get_args(Freezing))}")
    below = transfer_lr_scale * background_lr_scale if freezing == "soft" else 0.0
    steps, left_over = divmod(transfer_steps, num_layers)
    stages = [
        _transfer(
            f"layer {layer}",
            steps + (layer < left_over),
            (layer,),
            (below,) * layer + (transfer_lr_scale,) + (0.0,) * (num_layers - layer - 1),
            embedding_lr_scale,
        )
        for layer in range(num_layers)
    ]
    return Strategy("progressive", (*stages, *_final_stage(num_layers, distillation_steps, warmup_ratio)))


def build_strategy(
    name: StrategyName,
    num_layers: int,
    transfer_steps: int,
    distillation_steps: int,
    freezing: Freezing = "soft",
    transfer_lr_scale: float = TRANSFER_LR_SCALE,
    warmup_ratio: float = WARMUP_RATIO,
    embedding_lr_scale: float = 0.0,
    only_last: bool = False,
) -> Strategy:
    """Build a strategy by its name, so that all can be compared for the same number of steps.

    Args:
        name (`StrategyName`): "auxiliary", "joint", "parallel" or "progressive".
        num_layers (`int`): encoder layers of the student.
        transfer_steps (`int`): steps of transfer.
        distillation_steps (`int`): steps of distillation. The auxiliary strategy, which does both at once,
            takes the sum.
        freezing (`Freezing`, *optional*, defaults to `"soft"`): see [`progressive`]; the others freeze no
            layer.
        transfer_lr_scale (`float`, *optional*, defaults to 3.0): see [`progressive`] and [`joint`]; not for
            auxiliary.
        warmup_ratio (`float`, *optional*, defaults to 0.02): the part of the last stage that is warm-up, in
            [0, 1].
        embedding_lr_scale (`float`, *optional*, defaults to 0.0): see [`joint`]; not for auxiliary, which freezes
            nothing.
        only_last (`bool`, *optional*, defaults to `False`): see [`auxiliary`].

    Returns:
        [`Strategy`]: the strategy.

    Raises:
        ValueError: if the name is unknown or a number is out of range.
    """
    if name == "auxiliary":
        return auxiliary(num_layers, transfer_steps + distillation_steps, warmup_ratio, only_last)
    options = {
        "transfer_lr_scale": transfer_lr_scale,
        "warmup_ratio": warmup_ratio,
        "embedding_lr_scale": embedding_lr_scale,
    }
    if name == "joint":
        return joint(num_layers, transfer_steps, distillation_steps, **options)
    if name == "parallel":
        return parallel(num_layers, transfer_steps, distillation_steps, **options)
    require(name == "progressive", "name", name, f"one of {', '.join(get_args(StrategyName))}")
    return progressive(num_layers, transfer_steps, distillation_steps, freezing, **options)


def _transfer(
    name: str, steps: int, layers: tuple[int, ...], lr_scales: tuple[float, ...], embedding_lr_scale: float
) -> Stage:
    """Return a stage of transfer alone, no deeper than it must be."""
    return Stage(
        name=name,
        steps=steps,
        depth=max(layers) + 1,
        transfer_layers=layers,
        use_distillation_loss=False,
        layer_lr_scales=lr_scales,
        embedding_lr_scale=embedding_lr_scale,
        head_lr_scale=0.0,
        curve="wave",
    )


def _distillation(
    name: str, num_layers: int, steps: int, warmup_ratio: float, transfer_layers: Iterable[int] = ()
) -> Stage:
    """Return a stage of distillation, in which everything learns."""
    require(num_layers >= 1, "num_layers", num_layers, "at least 1")
    require(0.0 <= warmup_ratio <= 1.0, "warmup_ratio", warmup_ratio, "in [0, 1]")
    return Stage(
        name=name,
        steps=steps,
        depth=num_layers,
        transfer_layers=tuple(transfer_layers),
        use_distillation_loss=True,
        layer_lr_scales=(1.0,) * num_layers,
        embedding_lr_scale=1.0,
        head_lr_scale=1.0,
        curve="linear",
        warmup=round(warmup_ratio * steps),
    )


def _final_stage(num_layers: int, steps: int, warmup_ratio: float) -> tuple[Stage, ...]:
    """Return the distillation stage after transfer, or nothing if it has no steps."""
    require(steps >= 0, "distillation_steps", steps, "0 or more")
    return (_distillation("distillation", num_layers, steps, warmup_ratio),) if steps else ()
