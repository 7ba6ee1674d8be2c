"""`mobilebert-hf pretrain` and `mobilebert-hf distill`: the recipes, on as many processes as the machine can use.

`python -m mobilebert_hf.launch pretrain|distill ...` runs a recipe in one process of a launcher.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .recipe import launch

# On CPUs, one process a core with one thread each: small matmuls gain little from more threads, and more processes
# take more memory than they save time.
MAX_PROCESSES = 8
# Examples of a step, over all processes. An accelerator takes as long for a few as for many.
BATCH_SIZE, ACCELERATED_BATCH_SIZE = 64, 512
WORKERS = 4


def run_recipe(name: str, options: Sequence[str], processes: int | None = None) -> None:
    """Runs a recipe in this process or, with several processes, under `accelerate launch`.

    Args:
        name: `"pretrain"` or `"distill"`.
        options: The options of the recipe, such as `--size tiny`.
        processes: None: 1 with an accelerator, else one for each core.

    Raises:
        ValueError: The run failed in a process of its own, which has printed the reason.
    """
    processes = default_processes() if processes is None else processes
    if processes == 1:
        _run(name, options)
        return
    launcher = ["accelerate.commands.launch", "--num_processes", str(processes), "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    launcher += ["--multi_gpu"]  # on CPUs, too: with --cpu there would be one process
    command = [sys.executable, "-m", *launcher, "-m", "mobilebert_hf.launch", name, *options]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise ValueError(f"{name} ended with exit status {code}; the reason is printed above.")


def machine_options(processes: int | None) -> list[str]:
    """The options of a distillation of half an hour on this machine.

    Args:
        processes: As in `run_recipe`.
    """
    on_cpu = not torch.accelerator.is_available()
    batch_size = BATCH_SIZE if on_cpu else ACCELERATED_BATCH_SIZE
    arguments = {
        "minutes": 30,
        "per_device_train_batch_size": max(1, batch_size // (processes or default_processes())),
        "dataloader_num_workers": 0 if on_cpu else WORKERS,
        "use_cpu": on_cpu,
        "bf16": _multiplies_bfloat16(on_cpu),
        "logging_steps": 20,
        "save_steps": 500,
        "save_total_limit": 2,
    }
    return [option for name, value in arguments.items() for option in (f"--{name}", str(value))]


def default_processes() -> int:
    """1 with an accelerator, else one for each core."""
    return 1 if torch.accelerator.is_available() else min(os.cpu_count() or 1, MAX_PROCESSES)


def _multiplies_bfloat16(on_cpu: bool) -> bool:
    if on_cpu:
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _run(name: str, options: Sequence[str]) -> None:
    recipe, argument_classes = _recipes()[name]
    sys.argv[1:] = options
    launch(recipe, argument_classes)


def _recipes() -> dict[str, tuple[Callable[..., Any], tuple[type, ...]]]:
    """Imported when a recipe runs in this process, and not to start others."""
    from .distillation.pretrain import RECIPE_ARGUMENTS as PRETRAINING
    from .distillation.pretrain import pretrain
    from .distillation.run import RECIPE_ARGUMENTS as DISTILLATION
    from .distillation.run import distill

    return {"pretrain": (pretrain, PRETRAINING), "distill": (distill, DISTILLATION)}


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2:])
