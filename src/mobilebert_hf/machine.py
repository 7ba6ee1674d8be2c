"""What every result of a benchmark depends on."""

import os
from pathlib import Path
from typing import Any

import torch


def describe_machine() -> dict[str, Any]:
    """The processor, its cores, and PyTorch with its threads (Linux)."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    return {"cpu": cpu, "cores": os.cpu_count(), "torch": torch.__version__, "threads": torch.get_num_threads()}
