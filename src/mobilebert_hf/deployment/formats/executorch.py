"""ExecuTorch, PyTorch's own runtime for phones, with XNNPACK's kernels: a text at a time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ...models.fake_quantization import replace
from ...tasks.heads import Task
from ..check import Run, row_by_row
from ..network import Batches
from ..quantization import QuantizedEmbedding
from ..student import INPUTS, dynamic_shapes, example_inputs

PACKAGES = ("executorch", "torchao")
INSTALL = 'pip install "mobilebert-hf[executorch]"'
FOLDS = ()
# Texts of each batch on which ranges are measured: the quantizer's histograms take seconds a text.
TEXTS_OF_A_BATCH = 2
FILES = {
    None: "executorch/model.pte",
    "int8": "executorch/model_int8.pte",
    "int8-static": "executorch/model_int8_static.pte",
}


def write(
    network: PreTrainedModel, task: Task, path: Path, quantize: str | None = None, calibration: Batches = ()
) -> None:
    """Traces the network for one text of any length, gives XNNPACK what it takes, and writes the program.

    XNNPACK's own quantizer for `torch.export` quantizes: activations when it runs, or by ranges that it measures.
    """
    from transformers.exporters.configs import ExecutorchConfig
    from transformers.exporters.exporter_executorch import ExecutorchExporter

    if quantize is not None:
        # The quantizer leaves tables as they are.
        replace(cast(nn.Module, network.base_model.embeddings), nn.Embedding, QuantizedEmbedding)
    # XNNPACK's reshape has room for one size that is open, so the number of rows is not.
    config = ExecutorchConfig(
        backend="xnnpack",
        dynamic=True,
        dynamic_shapes=dynamic_shapes(network, rows=1),
        quantizer=_quantizer(network, quantize, calibration),
    )
    program = ExecutorchExporter().export(network, example_inputs(network, rows=1), config=config).program
    ExecutorchExporter.save_program(program, path)


def _quantizer(network: PreTrainedModel, quantize: str | None, calibration: Batches) -> Any:
    if quantize is None:
        return None
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from transformers.exporters import PT2EQuantizer

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    if quantize == "int8-static":
        # A head rounds when it runs: what it gives out would have no more than 256 values.
        body = network.base_model.embeddings, network.base_model.encoder
        for name, module in network.named_modules():
            if module in body:
                quantizer.set_module_name(name, get_symmetric_quantization_config(is_per_channel=True))
    rows = [
        {name: value[row : row + 1] for name, value in batch.items()}
        for batch in calibration
        for row in range(min(TEXTS_OF_A_BATCH, len(batch[INPUTS[0]])))
    ]
    return PT2EQuantizer(quantizer, rows or None)


def unsigned_matmuls(path: Path) -> tuple[()]:
    """None: XNNPACK multiplies signed activations and signed weights, in 16 bits."""
    return ()


def load(path: Path, task: Task, threads: int = 1) -> Run:
    """Runs a program, whose outputs are in the task's order; on as many threads as the runtime likes."""
    import executorch.kernels.quantized  # noqa: F401 (registers what a quantized program calls)
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = method.execute([torch.from_numpy(inputs[name]) for name in INPUTS])
        return {name: output.numpy().copy() for name, output in zip(task.outputs, outputs, strict=False)}

    return row_by_row(run)
