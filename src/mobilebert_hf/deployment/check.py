"""Whether an exported graph says what the model says."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..tasks.heads import Task
from .network import Batches
from .student import sample_inputs

# Rows and tokens of the batches that are compared: a text of no words, one row, padding, other lengths than the graph
# was traced with; the longest text comes on top.
SHAPES = ((1, 2), (1, 7), (3, 33), (2, 64))

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def row_by_row(run: Run) -> Run:
    """For a graph that takes one row: runs all rows one after another."""

    def run_all(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        rows = len(next(iter(inputs.values())))
        outputs = [run({name: value[row : row + 1] for name, value in inputs.items()}) for row in range(rows)]
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}

    return run_all


def network_inputs(network: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the inputs that a network takes; DistilBERT takes no token types."""
    taken = inspect.signature(network.forward).parameters
    return {name: value for name, value in inputs.items() if name in taken}


def run_pytorch(network: nn.Module) -> Run:
    """A PyTorch model that is run as graphs are."""

    @torch.inference_mode()
    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {name: torch.from_numpy(value) for name, value in network_inputs(network, inputs).items()}
        return {name: value.numpy() for name, value in network(**tensors).items() if isinstance(value, torch.Tensor)}

    return run


@torch.inference_mode()
def check(
    model: PreTrainedModel, task: Task, run: Run, tolerance: float, batches: Batches | None = None
) -> dict[str, float]:
    """Compares a graph on its runtime with the PyTorch model in float32.

    Args:
        model: The model that was exported.
        task: Its task.
        run: From the graph's inputs to its outputs, by name.
        tolerance: How far any output may be off, relative to the largest value of that output in the batch.
        batches: What to compare on; by default random tokens of several shapes.

    Returns:
        The largest relative error of each output.

    Raises:
        ValueError: An output is missing, has another shape, or is further off; names it and by how much.
    """
    errors = dict.fromkeys(task.outputs, 0.0)
    for inputs in batches or _random_batches(model):
        expected = model(**inputs)
        actual = run({name: value.numpy() for name, value in inputs.items()})
        for name in task.outputs:
            error = _error(name, actual, expected[name].numpy(), inputs["attention_mask"])
            errors[name] = float(np.maximum(errors[name], error))  # which keeps NaN, as Python's max does not
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    if wrong:
        listed = ", ".join(f"{name} is off by {error:.2e}" for name, error in wrong.items())
        raise ValueError(
            f"The exported graph differs from the model: {listed} relative to its largest value, {tolerance:g} is "
            "allowed. Nothing was written."
        )
    return errors


def _random_batches(model: PreTrainedModel) -> Batches:
    longest = model.config.max_position_embeddings
    shapes = [*((rows, length) for rows, length in SHAPES if length <= longest), (1, longest)]
    return [sample_inputs(model, rows, length, seed) for seed, (rows, length) in enumerate(shapes)]


def _error(name: str, actual: Mapping[str, np.ndarray], expected: np.ndarray, mask: torch.Tensor) -> float:
    if name not in actual:
        raise ValueError(f"The exported graph has no output {name}: it has {', '.join(actual)}.")
    value = np.asarray(actual[name], dtype=np.float64)
    if value.shape != expected.shape:
        raise ValueError(f"The exported graph's {name} is {value.shape}, the model's {expected.shape}.")
    difference = np.abs(value - expected)
    if difference.shape[:2] == tuple(mask.shape):  # what is said of padding does not count
        difference = difference[mask.bool().numpy()]
    return float(difference.max() / np.maximum(np.abs(expected).max(), np.finfo(np.float32).tiny))
