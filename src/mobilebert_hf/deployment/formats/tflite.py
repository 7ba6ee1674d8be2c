"""TFLite, the format the paper ran, run by LiteRT on phones: a text at a time, ids in int32."""

import io
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..check import Run, row_by_row
from ..tasks import INPUTS, Task, sample_inputs

PACKAGES = ("litert_torch", "ai_edge_litert")
INSTALL = "see requirements-tflite.txt in this project's repository"
FILE = "tflite/model.tflite"

# Tokens of a text, padding included: the converter takes no shapes that are open.
LENGTHS = (32, 64, 128, 256, 384, 512)


class _Named(nn.Module):
    """The network with the task's outputs and no others."""

    def __init__(self, network: PreTrainedModel, task: Task) -> None:
        super().__init__()
        self.network, self.outputs = network, task.outputs

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        outputs = self.network(input_ids, attention_mask, token_type_ids)
        return {name: outputs[name] for name in self.outputs}


def write(network: PreTrainedModel, task: Task, path: Path) -> None:
    """Converts the network for one text of each of `LENGTHS`: signatures `tokens_<length>`, with the same weights."""
    import litert_torch

    longest = network.config.max_position_embeddings
    converter: Any = litert_torch
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it tells each of its steps
        for length in sorted({*(length for length in LENGTHS if length < longest), min(longest, max(LENGTHS))}):
            inputs = {name: value.int() for name, value in sample_inputs(network, 1, length).items()}
            module = _Named(network, task).eval()
            converter = converter.signature(f"tokens_{length}", module, sample_kwargs=inputs)
        converter.convert().export(str(path))


def load(path: Path, task: Task, threads: int = 1) -> Run:
    """Runs a file on LiteRT's CPU kernels, XNNPACK's where it has them; a text in the shortest signature it fits."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    runners = {
        int(name.split("_")[1]): interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()
    }

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tokens = inputs[INPUTS[0]].shape[1]
        length = min(length for length in runners if length >= tokens)
        padded = {name: np.pad(inputs[name], ((0, 0), (0, length - tokens))).astype(np.int32) for name in INPUTS}
        outputs = runners[length](**padded)
        return {name: value[:, :tokens] if value.shape[1] == length else value for name, value in outputs.items()}

    return row_by_row(run)
