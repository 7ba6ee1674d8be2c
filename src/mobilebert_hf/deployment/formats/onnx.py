"""ONNX, run by ONNX Runtime, transformers.js and Optimum."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...models.modeling_folded import FoldedMobileBertPreTrainedModel
from ..check import Run
from ..ort_encoder import lower
from ..tasks import Task, dynamic_shapes, example_inputs

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INSTALL = 'pip install "mobilebert-hf[export]"'
FILE = "onnx/model.onnx"


def write(network: PreTrainedModel, task: Task, path: Path) -> None:
    """Writes the network as one file, weights and all; a folded one in ONNX Runtime's own form (`ort_encoder.py`)."""
    import onnx_ir
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    if isinstance(network, FoldedMobileBertPreTrainedModel):
        lower(network)
    config = OnnxConfig(dynamic=True, dynamic_shapes=dynamic_shapes(network))
    with redirect_stdout(io.StringIO()):  # torch.onnx tells each of its steps
        program: Any = OnnxExporter().export(network, example_inputs(network), config=config).program
    onnx_ir.save(program, str(path))


def load(path: Path, task: Task, threads: int = 1) -> Run:
    """Runs a file on ONNX Runtime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, dict(inputs)), strict=True))
