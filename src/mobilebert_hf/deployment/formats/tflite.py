"""TFLite, for LiteRT on phones, the format that the paper measured: batch size 1, any length, int32 inputs."""

import io
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...tasks.heads import Task
from ..check import Run, split_batch
from ..dynamic_length import make_length_dynamic
from ..network import Batches
from ..quantization import fit_biases_to_int32
from ..single_sequence import use_single_sequence
from ..student import INPUTS, sample_inputs

PACKAGES = ("ai_edge_litert", "ai_edge_quantizer", "litert_torch")
INSTALL = "see requirements-tflite.txt in this project's repository"
FILES = {
    None: "tflite/model.tflite",
    "int8": "tflite/model_int8.tflite",
    "int8-static": "tflite/model_int8_static.tflite",
}

# In int8 every matmul quantizes its input, so the fewer and wider matmuls after folding are faster.
FOLDS = (None,)

# The converter does not support dynamic shapes: the largest length to trace with.
TRACED_LENGTH = 97
# Matches operators of embeddings and encoder, which the converter names by module.
BODY = ".*(Embeddings_embeddings|Encoder_encoder).*"
# The default signature of TFLite runtimes.
SIGNATURE = "serving_default"


class _TaskOutputs(nn.Module):
    """The network, returning only the outputs of the task."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self.outputs = network, task.outputs

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        outputs = self.network(input_ids, attention_mask, token_type_ids)
        return {name: outputs[name] for name in self.outputs}


def write(
    network: PreTrainedModel, task: Task, path: Path, quantize: str | None = None, calibration: Batches = ()
) -> None:
    """Converts the network for batch size 1 and any length.

    AI Edge Quantizer quantizes: `"int8"` activations at run time, `"int8-static"` with calibrated ranges.
    """
    if quantize == "int8-static":
        fit_biases_to_int32(network, calibration)
    # A length that differs from every dimension of the weights, so that it can be recognized in shapes.
    dimensions = {size for parameter in network.parameters() for size in parameter.shape}
    longest = min(TRACED_LENGTH, network.config.max_position_embeddings)
    length = next(size for size in range(longest, 0, -1) if size not in dimensions)
    convert(use_single_sequence(network), task, path, {SIGNATURE: length})
    if quantize is not None:
        quantize_file(path, quantize, {SIGNATURE: list(_sequences(calibration, length))})
    make_length_dynamic(path, length)


def convert(network: nn.Module, task: Task, path: Path, lengths: Mapping[str, int]) -> None:
    """Converts a network with inputs [1, seq]. `lengths` are sequence lengths by signature; all share the weights."""
    import litert_torch

    converter: Any = litert_torch
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # the converter prints its progress
        for name, length in lengths.items():
            inputs = {key: value.int() for key, value in sample_inputs(network, 1, length).items()}
            module = _TaskOutputs(network, task).eval()
            converter = converter.signature(name, module, sample_kwargs=inputs)
        converter.convert().export(str(path))


def quantize_file(path: Path, quantize: str, calibration: Mapping[str, list[dict[str, np.ndarray]]]) -> None:
    """Quantizes a file in place. `calibration` has inputs for `"int8-static"`, by signature name."""
    from ai_edge_quantizer import quantizer, recipe

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        tool = quantizer.Quantizer(str(path))
        tool.load_quantization_recipe(recipe.dynamic_wi8_afp32() if quantize == "int8" else _static_recipe())
        ranges = tool.calibrate(dict(calibration)) if tool.need_calibration else None
        for found in (ranges or {}).values():
            if not found["min"].any() and not found["max"].any():  # XNNPACK does not support an empty range
                found["max"] = found["max"] + 1
        tool.quantize(ranges).export_model(str(path), overwrite=True)


def _static_recipe() -> Any:
    """int8 linear layers in the encoder and int8 embeddings; float32 sums, attention and outputs of heads."""
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipe = RecipeManager()
    linear = TFLOperationName.FULLY_CONNECTED
    recipe.add_dynamic_config(".*", linear, num_bits=8)
    recipe.add_static_config(BODY, linear, activation_num_bits=8, weight_num_bits=8)
    recipe.add_weight_only_config(".*", TFLOperationName.EMBEDDING_LOOKUP, num_bits=8)
    return recipe.get_quantization_recipe()


def _sequences(batches: Batches, length: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields each sequence as inputs [1, length], truncated or padded."""
    for batch in batches:
        arrays = _complete({name: value.numpy()[:, :length] for name, value in batch.items()})
        for index in range(len(arrays[INPUTS[0]])):
            yield {name: _pad(value[index : index + 1], length) for name, value in arrays.items()}


def _complete(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All inputs of the graph: it has token types also where the tokenizer gives none."""
    given = {"token_type_ids": np.zeros_like(inputs["input_ids"]), **inputs}
    return {name: given[name] for name in INPUTS}


def _pad(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, length - values.shape[1]))).astype(np.int32)


def unsigned_matmuls(path: Path) -> tuple[()]:
    """Returns nothing: XNNPACK multiplies signed activations and signed weights."""
    return ()


def load(path: Path, task: Task, threads: int = 1) -> Run:
    """Loads a file with LiteRT's CPU kernels and XNNPACK.

    If the file has signatures of fixed length, a sequence is padded to the shortest one that fits.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    runners: dict[int, Any] = {}
    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        runners[runner.get_input_details()[INPUTS[0]]["shape_signature"][1]] = runner

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs = _complete(inputs)
        tokens = inputs[INPUTS[0]].shape[1]
        if -1 in runners:
            return runners[-1](**{name: _pad(value, tokens) for name, value in inputs.items()})
        length = min(length for length in runners if length >= tokens)
        outputs = runners[length](**{name: _pad(value, length) for name, value in inputs.items()})
        return {name: value[:, :tokens] if value.shape[1] == length else value for name, value in outputs.items()}

    return split_batch(run)
