"""Teachers: adapters that return, for a batch, what objectives need of a network.

`IBBertTeacher` runs a model of this package. `EncoderTeacher` runs any other BERT-like encoder of transformers and
reads it through hooks: the inputs of its layers, which run one after the other; its queries, keys and values in the
attention interface; and, under a masked-LM head, the masked positions, so that logits are computed only there. A
forward pass ends with the deepest layer that is needed.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..data.masking import IGNORED
from .initialization import check_match
from .networks import LayerOutputs, Needs, encoder_inputs, run_mobilebert
from .projections import recording


class Teacher(nn.Module, ABC):
    """A frozen network and the mapping of the student's layers to its own.

    Args:
        model: The network.
        mapping: For each layer of the student the index of the teacher's layer.
    """

    def __init__(self, model: PreTrainedModel, mapping: Sequence[int]) -> None:
        super().__init__()
        self.model, self.config, self.mapping = model, model.config, tuple(mapping)
        self.layers = find_layers(model)
        self._float32: dict[str, Tensor] = {}
        self.eval().requires_grad_(False)

    def move_to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves the network to a device and a data type. What another type loses is kept for `restore`."""
        if not self._float32 and dtype != torch.float32:
            self._float32 = {name: value.data for name, value in self._tensors()}
        self.to(device, dtype)

    def restore(self) -> None:
        """Makes the network again what was loaded, in float32."""
        self.model.float()
        for name, value in self._tensors() if self._float32 else ():
            value.data.copy_(self._float32[name])

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return chain(self.model.named_parameters(), self.model.named_buffers())

    @abstractmethod
    def check_student(self, config: PreTrainedConfig) -> None:
        """Raises a ValueError that names what does not match if a student of this configuration cannot be compared."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor], needs: Needs) -> LayerOutputs:
        """Runs the network.

        Args:
            inputs: A batch of `PretrainingCollator`.
            needs: What to return, in terms of the student's layers.
        """


class IBBertTeacher(Teacher):
    """An IB-BERT (or MobileBERT) of this package, whose layers the student's match one to one.

    Args:
        model: A `...ForPreTraining` model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model, range(model.config.num_hidden_layers))

    def check_student(self, config: PreTrainedConfig) -> None:
        """All widths that are compared must be equal."""
        check_match(config, self.config)

    def forward(self, inputs: Mapping[str, Tensor], needs: Needs) -> LayerOutputs:
        """Runs the layers that are needed."""
        return run_mobilebert(self.model, self.model, inputs, needs)


class EncoderTeacher(Teacher):
    """Any BERT-like encoder of transformers.

    Args:
        model: An encoder, with a masked-LM head or without a head.
        mapping: For each layer of the student the index of the encoder's layer; by default one to one.

    Raises:
        ValueError: The model has no list of as many layers as its configuration says.
    """

    def __init__(self, model: PreTrainedModel, mapping: Sequence[int] | None = None) -> None:
        super().__init__(model, range(len(find_layers(model))) if mapping is None else mapping)
        self._accepted = set(inspect.signature(model.forward).parameters)

    def check_student(self, config: PreTrainedConfig) -> None:
        """Widths and vocabularies must be equal, and every layer of the student must be mapped."""
        for name in ("hidden_size", "vocab_size"):
            own, others = getattr(config, name), getattr(self.config, name)
            if own != others:
                raise ValueError(f"Student and teacher do not match ({name}: student {own}, teacher {others}).")
        if len(self.mapping) != config.num_hidden_layers or max(self.mapping) >= len(self.layers):
            raise ValueError(
                f"mapping={self.mapping} must name one of the teacher's {len(self.layers)} layers for each of the "
                f"student's {config.num_hidden_layers}."
            )

    def forward(self, inputs: Mapping[str, Tensor], needs: Needs) -> LayerOutputs:
        """Runs the encoder, and its head where it has one and logits are needed.

        The output of the last layer is that of the encoder, including its final norm if it has one.

        Raises:
            ValueError: Scores or projections are needed, and the model does not use the attention interface.
        """
        depth = len(self.layers) if needs.depth is None else self._layer(needs.depth - 1) + 1
        recorded = sorted({self._layer(layer) for layer in (*needs.scores, *needs.projections)})
        prediction_mask = inputs["labels"] != IGNORED if needs.heads else None
        given = {name: value for name, value in encoder_inputs(inputs).items() if name in self._accepted}
        outputs: dict[int, Tensor] = {}
        last: list[Tensor] = []
        logits = None
        with (
            self._reading_layers(outputs, depth),
            self._reading_last(last, prediction_mask),
            recording(self.model, recorded) as projections,
            suppress(_Reached),
        ):
            logits = self.model(**given).get("logits")
        if last:
            outputs[len(self.layers) - 1] = last[0]
        self._check_outputs(outputs, needs)
        read = dict(zip(recorded, projections, strict=True))
        return LayerOutputs(
            {layer: outputs[self._layer(layer)] for layer in needs.features},
            {layer: read[self._layer(layer)].scores() for layer in needs.scores},
            {layer: read[self._layer(layer)] for layer in needs.projections},
            logits[0] if needs.heads and logits is not None else None,
            last_hidden_state=last[0] if last else None,
        )

    def _layer(self, layer: int) -> int:
        """The index of the teacher's layer for the student's; -1 is the output of the embeddings in both."""
        return self.mapping[layer] if layer >= 0 else -1

    def _check_outputs(self, outputs: Mapping[int, Tensor], needs: Needs) -> None:
        missing = [self._layer(layer) for layer in needs.features if self._layer(layer) not in outputs]
        if missing:
            raise ValueError(
                f"{type(self.model).__name__} cannot be a teacher: of its {len(self.layers)} layers only "
                f"{max(outputs, default=-1) + 1} ran. Expected an encoder that runs one layer after the other."
            )

    @contextmanager
    def _reading_layers(self, outputs: dict[int, Tensor], depth: int) -> Iterator[None]:
        """Reads the input of each layer as the output of the one before it, up to `depth` layers.

        Some families change an output before the next layer reads it, and some call one layer several times, so that
        calls are counted.
        """
        calls = count()

        def read(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            index = next(calls)
            outputs[index - 1] = inputs[0] if inputs else named["hidden_states"]
            if index == depth:
                raise _Reached

        handles = [
            layer.register_forward_pre_hook(read, with_kwargs=True) for layer in dict.fromkeys(self.layers.children())
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _reading_last(self, last: list[Tensor], prediction_mask: Tensor | None) -> Iterator[None]:
        """Reads the output of the encoder, and passes only the masked positions on to a head, as one sequence."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            last.append(output.last_hidden_state)
            if prediction_mask is not None and module is not self.model:
                output.last_hidden_state = last[0][prediction_mask][None]
            return output

        handle = self.model.base_model.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


class _Reached(Exception):
    """Ends a forward pass after the deepest layer that is needed."""


def as_teacher(model: "PreTrainedModel | Teacher") -> Teacher:
    """The adapter of a model of this package; a `Teacher` as it is."""
    return model if isinstance(model, Teacher) else IBBertTeacher(model)


def find_layers(model: nn.Module) -> nn.ModuleList:
    """The list of a model's layers; a layer that runs several times is in it several times.

    Raises:
        ValueError: There is none with as many modules as the configuration has layers.
    """
    config: Any = model.config
    total = getattr(config, "num_hidden_layers", None)
    groups = next((module for name, module in model.named_modules() if name.endswith("albert_layer_groups")), None)
    if isinstance(groups, nn.ModuleList) and total:
        return nn.ModuleList([groups[index * len(groups) // total] for index in range(total)])
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    found = [module for module in lists.values() if len(module) == total]
    if not found:
        there = ", ".join(f"{name} of {len(module)}" for name, module in lists.items()) or "none"
        raise ValueError(
            f"{type(model).__name__} cannot be a teacher: it has no list of its {total} layers (lists: {there}). "
            "Expected an encoder that runs one layer after the other."
        )
    return found[0]
