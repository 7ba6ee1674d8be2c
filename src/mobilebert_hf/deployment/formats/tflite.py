"""TFLite, the format the paper ran, run by LiteRT on phones: a text at a time, ids in int32."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..check import Run, row_by_row
from ..network import Batches
from ..tasks import INPUTS, Task, sample_inputs

PACKAGES = ("ai_edge_litert", "ai_edge_quantizer", "litert_torch")
INSTALL = "see requirements-tflite.txt in this project's repository"
FILES = {
    None: "tflite/model.tflite",
    "int8": "tflite/model_int8.tflite",
    "int8-static": "tflite/model_int8_static.tflite",
}

# The converter folds norms by itself. It leaves shared what folding composes, which is 4 % less arithmetic; in 8 bits,
# where each product rounds its input first, fewer and wider products are faster.
FOLDS = (None,)

# Tokens of a text, padding included: the converter takes no shapes that are open.
LENGTHS = (32, 64, 128, 256, 384, 512)


class _Named(nn.Module):
    """The network with the task's outputs and no others."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self.outputs = network, task.outputs

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        outputs = self.network(input_ids, attention_mask, token_type_ids)
        return {name: outputs[name] for name in self.outputs}


def write(
    network: PreTrainedModel, task: Task, path: Path, quantize: str | None = None, calibration: Batches = ()
) -> None:
    """Converts the network for one text of each of `LENGTHS` that it takes."""
    longest = network.config.max_position_embeddings
    lengths = {*(length for length in LENGTHS if length < longest), min(longest, max(LENGTHS))}
    convert(network, task, path, sorted(lengths), quantize, calibration)


def convert(
    network: nn.Module,
    task: Task,
    path: Path,
    lengths: Sequence[int],
    quantize: str | None = None,
    calibration: Batches = (),
) -> None:
    """Converts a network for one text of each length: signatures `tokens_<length>`, with the same weights.

    AI Edge Quantizer quantizes: activations when it runs, or by ranges that it measures.
    """
    import litert_torch

    converter: Any = litert_torch
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it tells each of its steps
        for length in lengths:
            inputs = {name: value.int() for name, value in sample_inputs(network, 1, length).items()}
            module = _Named(network, task).eval()
            converter = converter.signature(f"tokens_{length}", module, sample_kwargs=inputs)
        converter.convert().export(str(path))
        if quantize is not None:
            _quantize(path, quantize, calibration)


def _quantize(path: Path, quantize: str, calibration: Batches) -> None:
    from ai_edge_quantizer import quantizer, recipe

    tool = quantizer.Quantizer(str(path))
    tool.load_quantization_recipe(recipe.dynamic_wi8_afp32() if quantize == "int8" else _static_recipe())
    ranges = None
    if tool.need_calibration:
        rows = {signature: list(_rows(calibration, length)) for length, signature in _signatures(path).items()}
        ranges = tool.calibrate(rows)
    tool.quantize(ranges).export_model(str(path), overwrite=True)


def _static_recipe() -> Any:
    """Products in 8 bits; sums, attention and its mask stay in float32. The word table is rounded, too."""
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipe = RecipeManager()
    recipe.add_static_config(".*", TFLOperationName.FULLY_CONNECTED, activation_num_bits=8, weight_num_bits=8)
    recipe.add_weight_only_config(".*", TFLOperationName.EMBEDDING_LOOKUP, num_bits=8)
    return recipe.get_quantization_recipe()


def _signatures(path: Path) -> dict[int, str]:
    from ai_edge_litert.interpreter import Interpreter

    return {int(name.split("_")[1]): name for name in Interpreter(str(path)).get_signature_list()}


def _rows(batches: Batches, length: int) -> Iterator[dict[str, np.ndarray]]:
    """Each text by itself, cut or padded to `length`."""
    for batch in batches:
        arrays = {name: batch[name][:, :length].numpy() for name in INPUTS}
        for row in range(len(arrays[INPUTS[0]])):
            yield {name: _padded(value[row : row + 1], length) for name, value in arrays.items()}


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, length - values.shape[1]))).astype(np.int32)


def load(path: Path, task: Task, threads: int = 1) -> Run:
    """Runs a file on LiteRT's CPU kernels, XNNPACK's where it has them; a text in the shortest signature it fits."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    runners = {
        int(name.split("_")[1]): interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()
    }

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tokens = inputs[INPUTS[0]].shape[1]
        if tokens > max(runners):
            raise ValueError(f"{path} takes {max(runners)} tokens at most, and was given {tokens}: truncate the text.")
        length = min(length for length in runners if length >= tokens)
        outputs = runners[length](**{name: _padded(inputs[name], length) for name in INPUTS})
        return {name: value[:, :tokens] if value.shape[1] == length else value for name, value in outputs.items()}

    return row_by_row(run)
