"""ExecuTorch, PyTorch's own runtime for phones, with XNNPACK's kernels: a text at a time."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from ..check import Run, row_by_row
from ..tasks import INPUTS, Task, dynamic_shapes, example_inputs

PACKAGES = ("executorch",)
INSTALL = 'pip install "mobilebert-hf[executorch]"'
FILE = "executorch/model.pte"


def write(network: PreTrainedModel, task: Task, path: Path) -> None:
    """Traces the network for one text of any length, gives XNNPACK what it takes, and writes the program."""
    from transformers.exporters.exporter_executorch import ExecutorchConfig, ExecutorchExporter

    # XNNPACK's reshape has room for one size that is open, so the number of rows is not.
    config = ExecutorchConfig(backend="xnnpack", dynamic=True, dynamic_shapes=dynamic_shapes(network, rows=1))
    program = ExecutorchExporter().export(network, example_inputs(network, rows=1), config=config).program
    ExecutorchExporter.save_program(program, path)


def load(path: Path, task: Task, threads: int = 1) -> Run:
    """Runs a program, whose outputs are in the task's order; on as many threads as the runtime likes."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = method.execute([torch.from_numpy(inputs[name]) for name in INPUTS])
        return {name: output.numpy().copy() for name, output in zip(task.outputs, outputs, strict=False)}

    return row_by_row(run)
