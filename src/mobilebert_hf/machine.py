"""What every result of a benchmark depends on, and what a process takes."""

import os
import platform
import resource
from pathlib import Path
from typing import Any

import torch

CPUS, STATUS = Path("/proc/cpuinfo"), Path("/proc/self/status")


def describe_machine() -> dict[str, Any]:
    """The processor, its cores, and PyTorch with its threads."""
    lines = CPUS.read_text().splitlines() if CPUS.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    return {"cpu": cpu, "cores": os.cpu_count(), "torch": torch.__version__, "threads": torch.get_num_threads()}


def process_memory(field: str) -> int:
    """A line of this process' `/proc/self/status`, such as `"VmRSS"`, in bytes (Linux)."""
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    if STATUS.exists():
        return process_memory("VmHWM")  # Linux' ru_maxrss begins with what the parent had
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
