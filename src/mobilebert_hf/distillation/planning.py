"""Plans the numbers of steps to a given time: the first batches are timed, forward and backward, on this machine."""

import os
import time
from itertools import chain, repeat
from statistics import median
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ..data import example_lengths
from ..models.configuration import MobileBertConfig
from ..models.modeling_mobilebert import MobileBertModel
from ..training.compat import prepare_inputs
from .arguments import DistillationArguments
from .costs import forward_flops
from .trainer import DistillationTrainer

# Batches are timed until both are reached: on a fast device, the workers of the data loader need time to start up.
TIMED_BATCHES, TIMED_SECONDS = 18, 4.0
TIMED_UPDATES = 5
# More floating-point operations a second than a core reaches in float32, and characters per token: to read no text
# that there is no time for.
CORE_FLOPS, CHARACTERS_PER_TOKEN = 1.2e11, 5
# The fit of the student and the evaluation read at least as much.
LEAST_TOKENS = 2_000_000
# The first ones allocate memory and choose kernels.
WARM_UP = 2
# For logging, checkpoints, other load on the machine, and lower clock rates when it is hot.
OVERHEAD = 1.2
# The share of the forward passes of both models in the training time per token.
FORWARD = 0.6
# The share of the time that is reserved for the report.
RESERVE = 0.04


def plan_steps(trainer: DistillationTrainer, seconds: float, scored_tokens: int) -> dict[str, int]:
    """Scales the numbers of steps of all stages in proportion, so that the run takes the given time.

    Args:
        trainer: Not trained yet; only gradients are computed.
        seconds: The time for training, evaluation and report.
        scored_tokens: The number of tokens that both models read for the report, in one process.

    Returns:
        `transfer_steps` and `distillation_steps`.

    Raises:
        ValueError: Less than a tenth of a minute is left for training.
    """
    args = trainer.args
    assert isinstance(args, DistillationArguments)
    assert args.minutes is not None
    assert trainer.strategy is not None
    first_cost = trainer.work(1)
    model = trainer.accelerator.unwrap_model(trainer.model).to(args.device).train()
    seconds_per_token = time_token(trainer, model)
    lengths, evaluated = (example_lengths(data) for data in (trainer.train_dataset, trainer.eval_dataset))
    in_the_end = FORWARD * seconds_per_token * (sum(evaluated) / args.world_size + scored_tokens)
    left = seconds * (1 - RESERVE) - in_the_end
    if left < 6:
        raise ValueError(
            f"minutes={args.minutes} would be over before training could begin: allow at least "
            f"{args.minutes + (6 - left) / 60:.1f}."
        )
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    passes = seconds_per_token * per_step * sum(lengths) / len(lengths)
    seconds_per_step = OVERHEAD * (passes + time_update(trainer, model))
    factor = left / (seconds_per_step * trainer.work(trainer.strategy.steps) / first_cost)
    return {
        "transfer_steps": round(args.transfer_steps * factor),
        "distillation_steps": max(1, round(args.distillation_steps * factor)) if args.distillation_steps else 0,
    }


def readable_characters(args: DistillationArguments, config: MobileBertConfig, teacher: PreTrainedModel) -> int | None:
    """The number of characters that a run of `args.minutes` can read at most, on a CPU; None: no limit is known.

    Args:
        args: The arguments of the run.
        config: The student's configuration.
        teacher: An encoder, with or without a head.
    """
    if args.minutes is None or args.device.type != "cpu":
        return None
    with torch.device("meta"):
        student = MobileBertModel(config, add_pooling_layer=False)
    per_token = forward_flops(cast(PreTrainedModel, teacher.base_model), 1, 1) + 3 * forward_flops(student, 1, 1)
    cores = max(os.cpu_count() or 1, args.world_size)
    tokens = max(LEAST_TOKENS, args.minutes * 60 * cores * CORE_FLOPS / per_token)
    return round(tokens * CHARACTERS_PER_TOKEN)


def time_token(trainer: DistillationTrainer, model: nn.Module) -> float:
    """Seconds per token, forward through both models and backward; the mean over all processes."""
    batches = chain.from_iterable(repeat(trainer.get_train_dataloader()))  # again, if they are few
    spent = tokens = 0.0
    timed = -WARM_UP
    while timed < TIMED_BATCHES or spent < TIMED_SECONDS:
        began = time.monotonic()
        inputs: dict[str, Any] = prepare_inputs(trainer, next(batches))
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, inputs)
        trainer.accelerator.backward(loss)
        model.zero_grad()
        _wait(trainer)
        timed += 1
        if timed > 0:
            spent += _mean_over_processes(trainer, time.monotonic() - began)  # so that all stop at the same batch
            tokens += int(inputs["attention_mask"].sum())
    return _mean_over_processes(trainer, spent / tokens)


def time_update(trainer: DistillationTrainer, model: nn.Module) -> float:
    """Seconds for exchanging the gradients between processes and for a step of the optimizer."""
    parameters = [nn.Parameter(torch.zeros_like(parameter)) for parameter in model.parameters()]
    make, options = trainer.get_optimizer_cls_and_kwargs(trainer.args)
    optimizer = make(parameters, **options)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    times = []
    for _ in range(TIMED_UPDATES):
        began = time.monotonic()
        trainer.accelerator.reduce(flat)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        _wait(trainer)
        times.append(time.monotonic() - began)
    return _mean_over_processes(trainer, median(times))


def _wait(trainer: DistillationTrainer) -> None:
    """Waits for the device and for the other processes, as a step does."""
    if trainer.args.device.type != "cpu":
        torch.accelerator.synchronize()
    trainer.accelerator.wait_for_everyone()


def _mean_over_processes(trainer: DistillationTrainer, seconds: float) -> float:
    return float(trainer.accelerator.reduce(torch.tensor(seconds, device=trainer.args.device), reduction="mean"))
