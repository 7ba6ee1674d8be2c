"""Stages of knowledge transfer and strategies, which are lists of stages: data, not control flow.

A [`Stage`] says how many layers run, which losses count, the learning-rate scale of every parameter group, and how
many steps it takes. The stage is a pure function of the global step, so resuming needs no extra state, and a
schedule can be printed, plotted and tested without training.

Steps and layers count from 0. The parameter groups are "embeddings", "layer_0", "layer_1", ..., "heads", as in the
optimizer.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple, get_args

Curve = Literal["wave", "linear", "constant"]


@dataclass(frozen=True)
class Stage:
    """A part of training with fixed depth, losses and learning-rate scales.

    A parameter group with scale 0 is frozen: its parameters require no gradient and do not change.

    Args:
        name (`str`): the name of the stage in tables and logs.
        steps (`int`): its length in optimizer steps, at least 1.
        depth (`int`): how many encoder layers run, in both networks.
        transfer_layers (`tuple[int, ...]`): the layers whose transfer losses count.
        use_distillation_loss (`bool`): whether the losses on the model's outputs count, such as masked-LM
            distillation and next-sentence prediction; requires all layers.
        layer_lr_scales (`tuple[float, ...]`): a factor of the base learning rate for each layer of the model.
        embedding_lr_scale (`float`): the factor for the embeddings.
        head_lr_scale (`float`): the factor for everything else, pooler and heads.
        curve (`Curve`): how the learning rates change over the stage, see [`Stage.curve_factor`].
        warmup (`int`, *optional*, defaults to 0): steps of warm-up; for the "linear" curve only.
        end_factor (`float`, *optional*, defaults to 1e-4): the value of the "linear" curve at its end.
        parallel (`bool`, *optional*, defaults to `False`): whether every layer of the student reads the teacher's
            features of the layer below, and not the student's.
    """

    name: str
    steps: int
    depth: int
    transfer_layers: tuple[int, ...]
    use_distillation_loss: bool
    layer_lr_scales: tuple[float, ...]
    embedding_lr_scale: float
    head_lr_scale: float
    curve: Curve
    warmup: int = 0
    # The original's decay ends here (its `end_lr_rate`) and not at zero; kept to be equal to it at every
    # step.
    end_factor: float = 1e-4
    parallel: bool = False

    def __post_init__(self) -> None:
        layers = len(self.layer_lr_scales)
        scales = self.lr_scales.values()
        for field, allowed, what in (
            ("steps", self.steps >= 1, "at least 1"),
            ("depth", 1 <= self.depth <= layers, f"from 1 to the {layers} layers of layer_lr_scales"),
            (
                "depth",
                not self.use_distillation_loss or self.depth == layers,
                f"{layers}, all layers, for distillation losses",
            ),
            ("transfer_layers", set(self.transfer_layers) <= set(range(self.depth)), "layers that run"),
            (
                "transfer_layers",
                self.use_distillation_loss or self.transfer_layers,
                "given unless distillation losses count",
            ),
            ("lr_scales", min(scales) >= 0.0 and max(scales) > 0.0, "not negative, and not all 0"),
            ("parallel", not (self.parallel and self.use_distillation_loss), "False where distillation losses count"),
            ("layer_lr_scales", not any(self.layer_lr_scales[self.depth :]), "0 for layers that do not run"),
            ("curve", self.curve in get_args(Curve), f"one of {', '.join(get_args(Curve))}"),
            ("warmup", 0 <= self.warmup <= self.steps, f"from 0 to the {self.steps} steps of the stage"),
            ("warmup", self.warmup == 0 or self.curve == "linear", "0 unless the curve is linear"),
            ("end_factor", 0.0 <= self.end_factor <= 1.0, "in [0, 1]"),
        ):
            require(bool(allowed), field, getattr(self, field), what)

    @property
    def lr_scales(self) -> dict[str, float]:
        """The factor of the base learning rate for each parameter group, without the curve; 0 means frozen."""
        layers = {f"layer_{index}": scale for index, scale in enumerate(self.layer_lr_scales)}
        return {"embeddings": self.embedding_lr_scale, **layers, "heads": self.head_lr_scale}

    def curve_factor(self, step: int) -> float:
        """Return the factor of the curve for all parameter groups, from 0 to 1.

        - "constant": 1.
        - "wave": min(0.9 + 0.1 * sqrt(1 - t), 10 * t) where t is the part of the stage that is over: a
          warm-up over its first tenth, then a decay from near 1.0 to 0.9. At the first step it is 0, so that
          step changes nothing; the original resets its optimizer's moments there. A stage of one step has the
          factor 1.
        - "linear": a warm-up from 0, then a straight line that would begin at 1 at the stage's first step
          (not at the end of the warm-up, where the factor therefore drops) and comes to `end_factor` at its
          end.

        Args:
            step (`int`): the step within the stage, from 0 to `steps`, which is the end of the stage.

        Returns:
            `float`: the factor.

        Source: `get_background_lr` and `create_optimizer` of the original code.
        """
        if self.curve == "constant":
            return 1.0
        if self.curve == "linear":
            if step < self.warmup:
                return step / self.warmup
            return self.end_factor + (1.0 - self.end_factor) * (1.0 - step / self.steps)
        if self.steps == 1:
            return 1.0
        over = step % self.steps / self.steps
        return min(0.9 + 0.1 * math.sqrt(1.0 - over), 10.0 * over)


class Position(NamedTuple):
    """The position of a global step: the index of its stage, the stage, and the step within it."""

    stage_index: int
    stage: Stage
    step: int


@dataclass(frozen=True)
class Strategy:
    """Stages of training, one after the other.

    Args:
        name (`str`): what tables and logs call the strategy.
        stages (`tuple[Stage, ...]`): at least one, all for the same number of layers.
    """

    name: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        require(bool(self.stages), "stages", self.stages, "at least one")
        layers = [len(stage.layer_lr_scales) for stage in self.stages]
        require(len(set(layers)) == 1, "layer_lr_scales", layers, "of the same length in all stages")

    @property
    def steps(self) -> int:
        """The number of optimizer steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The global step at which each stage begins; the first is 0."""
        return tuple(accumulate((stage.steps for stage in self.stages[:-1]), initial=0))

    def position(self, global_step: int) -> Position:
        """Return the stage that a global step belongs to, and the step within it.

        Args:
            global_step (`int`): the number of optimizer steps already taken. From the total on, the position
                is the end of the last stage: its step is then the number of steps of that stage.

        Returns:
            [`Position`]: a tuple (stage_index, stage, step).

        Raises:
            ValueError: if the step is negative.
        """
        require(global_step >= 0, "global_step", global_step, "not negative")
        boundaries = self.boundaries
        index = bisect_right(boundaries, global_step) - 1
        stage = self.stages[index]
        return Position(index, stage, min(global_step - boundaries[index], stage.steps))

    def lr_scales(self, global_step: int) -> dict[str, float]:
        """Return the factor of the base learning rate for each parameter group at a global step, curve included.

        Args:
            global_step (`int`): as in [`Strategy.position`].

        Returns:
            `dict[str, float]`: a factor for "embeddings", "layer_0", "layer_1", ..., "heads".

        Raises:
            ValueError: if the step is negative.
        """
        _, stage, step = self.position(global_step)
        factor = stage.curve_factor(step)
        return {group: scale * factor for group, scale in stage.lr_scales.items()}


def require(allowed: bool, field: str, value: object, what: str) -> None:
    """Raise a ValueError that names the field, its value and what is allowed, unless the value is allowed."""
    if not allowed:
        raise ValueError(f"{field} is {value!r}, but must be {what}")
