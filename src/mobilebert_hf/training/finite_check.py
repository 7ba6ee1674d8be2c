"""Looks after each accumulated batch whether training can go on: finite loss, finite gradients, no signal.

The norm of the gradients that the check needs is the one that clipping uses and the log shows; it is computed once.

The flags are read in every step: the host waits for the backward pass once before the optimizer. A later look would
find that a broken step was taken. A step that the device itself leaves out, by a flag that stays there, is known to
the fused optimizers of PyTorch alone; LAMB, those of `pytorch-optimizer`, and the moments that stages reset are not.
The schedule, the step count and the callbacks would go on as well, and a signal could not end training at the same
step on all processes. The cost is that the next step's kernels are not launched while the backward pass runs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from accelerate import DistributedType

from ..runs.compat import sort_checkpoints
from .gradients import LARGEST_SQUARED, clip_gradients, gradients_of, scaled_norm, total_norm


class FiniteCheck:
    """Ends the training of a trainer by a FloatingPointError before a step that would damage the weights.

    Gradients in float16 are left to the loss scaler. Finite gradients whose norm overflows float32 are clipped as any
    others; without clipping, they end training if their squares overflow.

    Args:
        trainer: A `DurableTrainer`. All its processes end together: they exchange three flags in every step.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._norm: Tensor | float | None = None  # of the gradients of the current step; None: not computed yet

    def begin_step(self) -> None:
        """Forgets the norm of the last step."""
        self._norm = None

    def check_finite_and_signals(self, model: nn.Module, loss: Tensor) -> None:
        """Raises if the loss or a gradient of any process is not finite; passes on a signal to any process.

        Raises:
            FloatingPointError: Names what is not finite, on which rank, and in which step.
        """
        interruption = self.trainer.interruption
        gradients = gradients_of(model) if self.trainer.accelerator.scaler is None else []
        norm = total_norm(gradients).to(loss.device)
        losses, norms, signals = self._gather_flags(
            ~torch.isfinite(loss),
            ~torch.isfinite(norm),
            torch.tensor(interruption.received is not None, device=loss.device),
        )
        if any(losses):
            raise FloatingPointError(self._breakdown(self._describe_loss(loss, losses)))
        if any(norms):
            self._norm = self._norm_of_large(model, gradients)
        elif gradients:
            self._norm = norm
        interruption.agreed = any(signals)

    def clip(self, model: nn.Module, max_norm: float) -> Tensor | float:
        """Clips the gradients to `max_norm`, and returns their norm before."""
        norm = self.global_norm(model)
        clip_gradients(model.parameters(), max_norm, norm)
        return norm

    @property
    def norm_is_global(self) -> bool:
        """Whether a process can compute the norm of all gradients from its parameters; otherwise the library does."""
        accelerator = self.trainer.accelerator
        others = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)
        kind = accelerator.distributed_type
        return kind not in others and (kind != DistributedType.FSDP or accelerator.is_fsdp2)

    def global_norm(self, model: nn.Module) -> Tensor | float:
        """The norm of the gradients: that of the check or, with a loss scaler, after unscaling them."""
        if self._norm is not None:
            return self._norm
        self.trainer.accelerator.unscale_gradients()
        gradients = gradients_of(model)
        norm, largest = total_norm(gradients), total_norm(gradients, math.inf)
        if torch.isfinite(norm) or not torch.isfinite(largest):
            return norm  # the scaler skips a step with gradients that are not finite
        return scaled_norm(gradients, largest.item())

    def _norm_of_large(self, model: nn.Module, gradients: list[Tensor]) -> float:
        """A norm that overflows float32; raises if the step would do damage."""
        largest = total_norm(gradients, math.inf)
        (broken,) = self._gather_flags(~torch.isfinite(largest))
        if any(broken):
            raise FloatingPointError(self._breakdown(self._describe_gradients(model, broken)))
        norm = scaled_norm(gradients, largest.item())
        max_norm = self.trainer.args.max_grad_norm
        clipped = min(1.0, max_norm / norm) if max_norm and self.norm_is_global else 1.0
        (beyond,) = self._gather_flags(largest > LARGEST_SQUARED / clipped)
        if any(beyond):
            raise FloatingPointError(self._breakdown(self._describe_squares(model, largest.item(), beyond)))
        return norm

    def _gather_flags(self, *flags: Tensor) -> list[tuple[bool, ...]]:
        """The values of each flag on all processes; all processes have to call."""
        rows = self.trainer.accelerator.gather(torch.stack(flags).float()).view(-1, len(flags)).bool().tolist()
        return list(zip(*rows, strict=True))

    # ---- messages

    def _describe_loss(self, loss: Tensor, broken: Sequence[bool]) -> str:
        terms = self._terms()
        if math.isfinite(loss.item()):
            return f"The loss is not finite{_on(broken)}, which names it"
        infinite = {name: value for name, value in terms.items() if not math.isfinite(value)}
        if infinite or not terms:
            return f"The loss is not finite{_on(broken)}: {_listed(infinite or {'loss': loss.item()})}"
        return f"The loss is {loss.item():.4g}{_on(broken)}, though each of its terms is finite: {_listed(terms)}"

    def _describe_gradients(self, model: nn.Module, broken: Sequence[bool]) -> str:
        largest = {name: value for name, value in _largest_gradients(model).items() if not math.isfinite(value)}
        if not largest:
            return f"A gradient is not finite{_on(broken)}, which names it"
        others = f" and {len(largest) - 1} other parameters" if len(largest) > 1 else ""
        losses = f"the losses are: {_listed(self._terms())}"
        return f"The gradient of {next(iter(largest))}{others} is not finite{_on(broken)}; {losses}"

    def _describe_squares(self, model: nn.Module, largest: float, beyond: Sequence[bool]) -> str:
        gradients = _largest_gradients(model)
        name = max(gradients, key=lambda name: gradients[name])
        return (
            f"Every gradient is finite, but the square of the largest ({largest:.4g}, of {name}) overflows "
            f"float32{_on(beyond)}, and an optimizer keeps squares; the losses are: {_listed(self._terms())}"
        )

    def _terms(self) -> dict[str, float]:
        return {name: value.item() for name, value in self.trainer.loss_terms().items()}

    def _breakdown(self, what: str) -> str:
        """The message of a run that ends: what happened, where, and what to do."""
        trainer = self.trainer
        kept = sort_checkpoints(trainer.args.output_dir or ".")
        return (
            f"{what}, in {trainer.describe_step(trainer.state.global_step)}. The step was not taken. "
            + (f"The last checkpoint, {kept[-1]}, is from before it. " if kept else "There is no checkpoint yet. ")
            + "Try a lower learning_rate, more warm-up, max_grad_norm=1, or float32 in place of bfloat16."
        )


def _on(flags: Sequence[bool]) -> str:
    """The ranks on which flags are set, for messages of runs with several processes."""
    if len(flags) == 1:
        return ""
    ranks = [str(rank) for rank, flag in enumerate(flags) if flag]
    return f" on {'rank' if len(ranks) == 1 else 'ranks'} {', '.join(ranks)} of {len(flags)}"


def _largest_gradients(model: nn.Module) -> dict[str, float]:
    """The largest absolute gradient of each parameter; under FSDP2 all processes have to call."""
    named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: total_norm([gradient], math.inf).item() for name, gradient in named.items()}


def _listed(terms: dict[str, float]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in terms.items()) or "not named"
