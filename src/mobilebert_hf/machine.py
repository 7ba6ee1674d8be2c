"""Describes the version and the machine, and measures memory and latency."""

import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

DIRTY = "-dirty"
CPUS, STATUS = Path("/proc/cpuinfo"), Path("/proc/self/status")
# Warm-up in seconds before each measurement. By then, idle threads of the previous function have stopped spinning.
WARM_UP = 0.1
# Parts of the names of processor instructions for int8 and bfloat16 matmuls.
MATMUL_INSTRUCTIONS = ("amx", "bf16", "dot", "i8mm", "sve", "vnni")


@cache
def describe_version() -> str:
    """This package's version and, in a clone, its commit, with `DIRTY` if there are uncommitted changes."""
    described = f"mobilebert-hf {version('mobilebert-hf')}"
    clone = Path(__file__).parents[2]
    if not (clone / ".git").exists() or shutil.which("git") is None:
        return described
    command = ["git", "-C", str(clone), "describe", "--always", "--exclude=*", "--abbrev=12", f"--dirty={DIRTY}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{described}, commit {found.stdout.strip()}" if found.returncode == 0 else described


def describe_device(device: torch.device) -> str:
    """The name of a CUDA device or of the processor; the type of other devices."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    lines = CPUS.read_text().splitlines() if CPUS.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def describe_machine() -> dict[str, Any]:
    """The processor, its instructions for int8 and bfloat16 matmuls, its cores, PyTorch's version and threads."""
    available = [name for name, supported in torch.cpu.get_capabilities().items() if supported is True]
    return {
        "cpu": describe_device(torch.device("cpu")),
        "instructions": sorted(name for name in available if any(part in name for part in MATMUL_INSTRUCTIONS)),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "version": describe_version(),
    }


def process_memory(field: str) -> int:
    """A memory field of `/proc/self/status`, such as `"VmRSS"`, in bytes (Linux)."""
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def peak_memory() -> int:
    """The peak memory of this process, in bytes."""
    if STATUS.exists():
        return process_memory("VmHWM")  # on Linux, ru_maxrss includes the parent process
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def time_interleaved(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Measures functions in turns, so that other load on the machine affects all of them equally.

    In each turn a function is called for `WARM_UP` seconds, and then measured three times.

    Args:
        calls: Functions by name.
        seconds: Duration per function. Each one has at least three measurements.

    Returns:
        The latencies in milliseconds of each function.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    deadline = time.monotonic() + seconds * len(calls)
    while time.monotonic() < deadline or len(next(iter(times.values()))) < 3:
        for name, call in calls.items():
            warm = time.monotonic() + WARM_UP
            call()
            while time.monotonic() < warm:
                call()
            for _ in range(3):
                start = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times
