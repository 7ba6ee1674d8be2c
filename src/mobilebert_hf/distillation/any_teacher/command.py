"""`mobilebert-hf distill`: one command for the recipe, on as many processes as the machine has use for."""

import os
import subprocess
import sys
from collections.abc import Sequence

import torch

from ...recipe import launch
from .run import RECIPE_ARGUMENTS, distil_any

# One thread each, as small products gain little from more; more processes take more memory than they save time.
MAX_PROCESSES = 8
# Examples of a step, of all processes together. An accelerator takes as long for a few as for many.
BATCH, ACCELERATED_BATCH = 64, 512
WORKERS = 4


def distil_command(
    teacher: str, corpus: Sequence[str], output: str, minutes: float, processes: int | None, options: Sequence[str]
) -> None:
    """Runs the recipe, in this process or under `accelerate launch`.

    Args:
        teacher: Hub id or folder.
        corpus: Files, folders, globs, or Hub data sets.
        output: Folder of the student.
        minutes: For all of it.
        processes: None chooses: 1 with an accelerator, else one for each core.
        options: More options of the recipe, as `--size tiny`.

    Raises:
        ValueError: The run failed in a process of its own, which has said why.
    """
    on_cpu = not torch.accelerator.is_available()
    if processes is None:
        processes = min(os.cpu_count() or 1, MAX_PROCESSES) if on_cpu else 1
    arguments = {
        "teacher": teacher,
        "output_dir": output,
        "minutes": minutes,
        "per_device_train_batch_size": max(1, (BATCH if on_cpu else ACCELERATED_BATCH) // processes),
        "dataloader_num_workers": 0 if on_cpu else WORKERS,
        "use_cpu": on_cpu,
        "bf16": _multiplies_bfloat16(on_cpu),
        "logging_steps": 20,
        "save_steps": 500,
        "save_total_limit": 2,
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    words += ["--corpus", *corpus, *options]
    if processes == 1:
        sys.argv[1:] = words
        launch(distil_any, RECIPE_ARGUMENTS)
        return
    launcher = ["accelerate.commands.launch", "--num_processes", str(processes), "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    launcher += ["--multi_gpu"]  # on a CPU, too: with --cpu there would be one process
    code = subprocess.run([sys.executable, "-m", *launcher, "-m", __name__, *words], check=False).returncode
    if code:
        raise ValueError(f"distillation ended with exit status {code}; what it printed above says why.")


def _multiplies_bfloat16(on_cpu: bool) -> bool:
    if on_cpu:
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


if __name__ == "__main__":
    launch(distil_any, RECIPE_ARGUMENTS)
