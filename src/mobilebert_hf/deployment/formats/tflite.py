"""TFLite, the format the paper ran, run by LiteRT on phones: a text at a time, of any length, ids in int32."""

import io
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...tasks.heads import Task
from ..check import Run, row_by_row
from ..network import Batches
from ..one_text import for_one_text
from ..open_length import open_length
from ..quantization import hold_biases
from ..student import INPUTS, sample_inputs

PACKAGES = ("ai_edge_litert", "ai_edge_quantizer", "litert_torch")
INSTALL = "see requirements-tflite.txt in this project's repository"
FILES = {
    None: "tflite/model.tflite",
    "int8": "tflite/model_int8.tflite",
    "int8-static": "tflite/model_int8_static.tflite",
}

# In 8 bits, where each product rounds its input first, fewer and wider products are faster.
FOLDS = (None,)

# The converter takes no shapes that are open: it is given a text of about this many tokens.
TRACED = 97
# What is not a head's, as the converter names operators by the modules they are of.
BODY = ".*(Embeddings_embeddings|Encoder_encoder).*"
# The name that runtimes look for first.
SIGNATURE = "serving_default"


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
    """Converts the network for one text of any length.

    AI Edge Quantizer quantizes: activations when it runs, or by ranges that it measures.
    """
    if quantize == "int8-static":
        hold_biases(network, calibration)
    # A number that stands for nothing else in a shape.
    others = {size for parameter in network.parameters() for size in parameter.shape}
    longest = min(TRACED, network.config.max_position_embeddings)
    length = next(number for number in range(longest, 0, -1) if number not in others)
    convert(for_one_text(network), task, path, {SIGNATURE: length})
    if quantize is not None:
        quantize_file(path, quantize, {SIGNATURE: list(_rows(calibration, length))})
    open_length(path, length)


def convert(network: nn.Module, task: Task, path: Path, lengths: Mapping[str, int]) -> None:
    """Converts a network for one text of each length, by the name of its signature; all have the same weights."""
    import litert_torch

    converter: Any = litert_torch
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it tells each of its steps
        for name, length in lengths.items():
            inputs = {key: value.int() for key, value in sample_inputs(network, 1, length).items()}
            module = _Named(network, task).eval()
            converter = converter.signature(name, module, sample_kwargs=inputs)
        converter.convert().export(str(path))


def quantize_file(path: Path, quantize: str, texts: Mapping[str, list[dict[str, np.ndarray]]]) -> None:
    """Quantizes a file in place; the texts of each signature are what `int8-static` measures ranges on."""
    from ai_edge_quantizer import quantizer, recipe

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        tool = quantizer.Quantizer(str(path))
        tool.load_quantization_recipe(recipe.dynamic_wi8_afp32() if quantize == "int8" else _static_recipe())
        ranges = tool.calibrate(dict(texts)) if tool.need_calibration else None
        for found in (ranges or {}).values():
            if not found["min"].any() and not found["max"].any():  # XNNPACK cannot scale to a range of 0
                found["max"] = found["max"] + 1
        tool.quantize(ranges).export_model(str(path), overwrite=True)


def _static_recipe() -> Any:
    """The encoder's products in 8 bits; sums, attention and its mask stay in float32, and what a head gives out.

    The word table is rounded, too.
    """
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipe = RecipeManager()
    product = TFLOperationName.FULLY_CONNECTED
    recipe.add_dynamic_config(".*", product, num_bits=8)
    recipe.add_static_config(BODY, product, activation_num_bits=8, weight_num_bits=8)
    recipe.add_weight_only_config(".*", TFLOperationName.EMBEDDING_LOOKUP, num_bits=8)
    return recipe.get_quantization_recipe()


def _rows(batches: Batches, length: int) -> Iterator[dict[str, np.ndarray]]:
    """Each text by itself, cut or padded to `length`."""
    for batch in batches:
        arrays = {name: batch[name][:, :length].numpy() for name in INPUTS}
        for row in range(len(arrays[INPUTS[0]])):
            yield {name: _padded(value[row : row + 1], length) for name, value in arrays.items()}


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, length - values.shape[1]))).astype(np.int32)


def unsigned_matmuls(path: Path) -> tuple[()]:
    """None: XNNPACK multiplies signed activations and signed weights, in 16 bits."""
    return ()


def load(path: Path, task: Task, threads: int = 1) -> Run:
    """Runs a file on LiteRT's CPU kernels, XNNPACK's where it has them.

    Where its lengths are not open, it runs a text in the shortest signature that it fits.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    runners: dict[int, Any] = {}
    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        runners[runner.get_input_details()[INPUTS[0]]["shape_signature"][1]] = runner

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tokens = inputs[INPUTS[0]].shape[1]
        if -1 in runners:
            return runners[-1](**{name: _padded(inputs[name], tokens) for name in INPUTS})
        length = min(length for length in runners if length >= tokens)
        outputs = runners[length](**{name: _padded(inputs[name], length) for name in INPUTS})
        return {name: value[:, :tokens] if value.shape[1] == length else value for name, value in outputs.items()}

    return row_by_row(run)
