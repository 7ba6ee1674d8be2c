"""OpenVINO's intermediate representation, run by OpenVINO and Optimum Intel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from ..check import Run
from ..tasks import Task, dynamic_shapes, example_inputs

PACKAGES = ("openvino",)
INSTALL = 'pip install "mobilebert-hf[openvino]"'
FILE = "openvino/openvino_model.xml"


def write(network: PreTrainedModel, task: Task, path: Path) -> None:
    """Traces the network and writes the graph, and its weights into a `.bin` file beside it."""
    from transformers.exporters.exporter_openvino import OpenVINOConfig, OpenVINOExporter

    config = OpenVINOConfig(dynamic=True, dynamic_shapes=dynamic_shapes(network))
    program = OpenVINOExporter().export(network, example_inputs(network), config=config).program
    OpenVINOExporter.save_program(program, path)


def load(path: Path, task: Task, threads: int = 1) -> Run:
    """Runs a file on OpenVINO's CPU plugin, in float32."""
    import openvino

    options: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {output.get_any_name(): value.copy() for output, value in compiled(dict(inputs)).items()}

    return run
