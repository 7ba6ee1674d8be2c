"""What every result depends on, what a process takes, and how long a call takes."""

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
# Seconds after which threads that wait for more work no longer spin: until then they slow down whatever comes next.
REST = 0.1
# In the names of a processor's instructions: those that products of 8 and 16 bits live on.
PRODUCTS = ("amx", "bf16", "dot", "i8mm", "sve", "vnni")


@cache
def describe_version() -> str:
    """This package's version; from a clone also its commit, and `DIRTY` if there are changes that are in none."""
    described = f"mobilebert-hf {version('mobilebert-hf')}"
    clone = Path(__file__).parents[2]
    if not (clone / ".git").exists() or shutil.which("git") is None:
        return described
    command = ["git", "-C", str(clone), "describe", "--always", "--exclude=*", "--abbrev=12", f"--dirty={DIRTY}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{described}, commit {found.stdout.strip()}" if found.returncode == 0 else described


def describe_device(device: torch.device) -> str:
    """What computes: the name of a CUDA device or of the processor, the kind of any other device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    lines = CPUS.read_text().splitlines() if CPUS.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def describe_machine() -> dict[str, Any]:
    """The processor, its instructions for small types, its cores, PyTorch and its threads, this package's version."""
    has = [name for name, found in torch.cpu.get_capabilities().items() if found is True]
    return {
        "cpu": describe_device(torch.device("cpu")),
        "instructions": sorted(name for name in has if any(part in name for part in PRODUCTS)),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "version": describe_version(),
    }


def process_memory(field: str) -> int:
    """A line of this process' `/proc/self/status`, such as `"VmRSS"`, in bytes (Linux)."""
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    if STATUS.exists():
        return process_memory("VmHWM")  # Linux' ru_maxrss begins with what the parent had
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def time_in_turns(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Times some functions in turns, so that what disturbs the machine disturbs all of them.

    In each turn calls warm the caches for `REST` seconds, and three count.

    Args:
        calls: By name.
        seconds: For each of them; there are three times of each at least.

    Returns:
        The milliseconds of each call that counts.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    deadline = time.monotonic() + seconds * len(calls)
    while time.monotonic() < deadline or len(next(iter(times.values()))) < 3:
        for name, call in calls.items():
            rested = time.monotonic() + REST
            call()
            while time.monotonic() < rested:
                call()
            for _ in range(3):
                start = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times
