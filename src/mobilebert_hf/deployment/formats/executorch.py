"""ExecuTorch, PyTorch's runtime for phones, with the XNNPACK backend: batch size 1, any length."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ...models.fake_quantization import replace
from ...tasks.heads import Task
from ..check import Run, split_batch
from ..network import Batches
from ..quantization import QuantizedEmbedding
from ..student import INPUTS, dynamic_shapes, example_inputs

PACKAGES = ("executorch", "torchao")
INSTALL = 'pip install "mobilebert-hf[executorch]"'
FOLDS = ()
# Sequences of each calibration batch that are used: the quantizer's histograms take seconds per sequence.
SEQUENCES_PER_BATCH = 2
FILES = {
    None: "executorch/model.pte",
    "int8": "executorch/model_int8.pte",
    "int8-static": "executorch/model_int8_static.pte",
}


def write(
    network: PreTrainedModel, task: Task, path: Path, quantize: str | None = None, calibration: Batches = ()
) -> None:
    """Traces the network for batch size 1 and any length, lowers it to XNNPACK, and writes the program.

    XNNPACK's quantizer quantizes: `"int8"` activations at run time, `"int8-static"` with calibrated ranges.
    """
    from transformers.exporters.configs import ExecutorchConfig
    from transformers.exporters.exporter_executorch import ExecutorchExporter

    if quantize is not None:
        # The quantizer does not quantize embeddings.
        replace(cast(nn.Module, network.base_model.embeddings), nn.Embedding, QuantizedEmbedding)
    # XNNPACK's reshape supports one dynamic size, so the batch size is fixed.
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
        # Heads are quantized dynamically: static quantization would limit their outputs to 256 values.
        body = network.base_model.embeddings, network.base_model.encoder
        for name, module in network.named_modules():
            if module in body:
                quantizer.set_module_name(name, get_symmetric_quantization_config(is_per_channel=True))
    sequences = [
        {name: value[index : index + 1] for name, value in batch.items()}
        for batch in calibration
        for index in range(min(SEQUENCES_PER_BATCH, len(batch[INPUTS[0]])))
    ]
    return PT2EQuantizer(quantizer, sequences or None)


def unsigned_matmuls(path: Path) -> tuple[()]:
    """Returns nothing: XNNPACK multiplies signed activations and signed weights."""
    return ()


def load(path: Path, task: Task, threads: int = 1) -> Run:
    """Loads a program. ExecuTorch chooses the number of threads."""
    import executorch.kernels.quantized  # noqa: F401 (registers the operators of quantized programs)
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    names = INPUTS[: method.metadata.num_inputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = method.execute([torch.from_numpy(inputs[name]) for name in names])
        return {name: output.numpy().copy() for name, output in zip(task.outputs, outputs, strict=False)}

    return split_batch(run)
