"""Compares an exported graph with the PyTorch model."""

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

# Batch size and sequence length of the compared batches: an empty text ([CLS] [SEP]), one sequence, padding, and
# lengths that the graph was not traced with. `_random_batches` adds the maximum length.
SHAPES = ((1, 2), (1, 7), (3, 33), (2, 64))

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def split_batch(run: Run) -> Run:
    """Makes a graph with batch size 1 accept any batch: runs the sequences one after another."""

    def run_batch(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        size = len(next(iter(inputs.values())))
        outputs = [run({name: value[i : i + 1] for name, value in inputs.items()}) for i in range(size)]
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}

    return run_batch


def network_inputs(network: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the inputs that `network.forward` accepts. DistilBERT has no token types."""
    accepted = inspect.signature(network.forward).parameters
    return {name: value for name, value in inputs.items() if name in accepted}


def run_pytorch(network: nn.Module) -> Run:
    """Gives a PyTorch model the interface of an exported graph: NumPy arrays in and out."""

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
        task: The task of its head.
        run: Runs the graph: inputs by name -> outputs by name.
        tolerance: Largest allowed error of an output, relative to its largest value in the batch.
        batches: Inputs to compare on. Random tokens of several shapes by default.

    Returns:
        The largest relative error of each output.

    Raises:
        ValueError: An output is missing, has another shape, or exceeds the tolerance.
    """
    errors = dict.fromkeys(task.outputs, 0.0)
    for inputs in batches or _random_batches(model):
        expected = model(**inputs)
        actual = run({name: value.numpy() for name, value in inputs.items()})
        for name in task.outputs:
            error = _error(name, actual, expected[name].numpy(), inputs["attention_mask"])
            errors[name] = float(np.maximum(errors[name], error))  # propagates NaN, unlike Python's max
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    if wrong:
        listed = ", ".join(f"{name} is off by {error:.2e}" for name, error in wrong.items())
        raise ValueError(
            f"The exported graph differs from the model: {listed} relative to its largest value; {tolerance:g} is "
            "allowed. Nothing was written."
        )
    return errors


def _random_batches(model: PreTrainedModel) -> Batches:
    max_length = model.config.max_position_embeddings
    shapes = [*(shape for shape in SHAPES if shape[1] <= max_length), (1, max_length)]
    return [sample_inputs(model, *shape, seed) for seed, shape in enumerate(shapes)]


def _error(name: str, actual: Mapping[str, np.ndarray], expected: np.ndarray, mask: torch.Tensor) -> float:
    if name not in actual:
        raise ValueError(f"The exported graph has no output {name}. Its outputs are {', '.join(actual)}.")
    value = np.asarray(actual[name], dtype=np.float64)
    if value.shape != expected.shape:
        raise ValueError(f"{name} of the exported graph has shape {value.shape}: expected {expected.shape}.")
    difference = np.abs(value - expected)
    if difference.shape[:2] == tuple(mask.shape):  # outputs at padding are not compared
        difference = difference[mask.bool().numpy()]
    return float(difference.max() / np.maximum(np.abs(expected).max(), np.finfo(np.float32).tiny))
