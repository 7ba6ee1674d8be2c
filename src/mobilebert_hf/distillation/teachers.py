"""Any BERT-like encoder of transformers as a teacher.

IB-BERT says by itself what transfer compares. For all others, hooks read what passes by: the outputs of the layers,
which are one `ModuleList`; query, key and value in the library's attention interface, behind which the fused kernel
stays on; and, under a masked-LM head, the positions that are predicted, so that they alone become logits. A forward
pass ends with the highest layer that is asked for.
"""

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

RECORDING = "mobilebert_recording"


class Projections(NamedTuple):
    """What a layer's attention reads: [batch, heads, seq, head_size] each, and the factor of the scores."""

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float


class TeacherOutput(NamedTuple):
    """What a teacher says of a batch.

    Args:
        last_hidden_state: [batch, seq, width], or None where not all layers ran.
        layer_outputs: Of the captured layers, [batch, seq, width] each.
        projections: Of the captured layers.
        prediction_logits: [n, vocab] of the n predicted positions, or None.
    """

    last_hidden_state: Tensor | None
    layer_outputs: tuple[Tensor, ...]
    projections: tuple[Projections, ...]
    prediction_logits: Tensor | None


class _Reached(Exception):
    """The highest layer that was asked for has run."""


class EncoderTeacher(nn.Module):
    """An encoder that is asked for some of its layers.

    Args:
        model: An encoder, with a masked-LM head or without a head.

    Raises:
        ValueError: It has no list of as many layers as its configuration says; names what there is.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.layers = find_layers(model)
        self._inputs = set(inspect.signature(model.forward).parameters)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        stop_layer: int | None = None,
        capture_layers: Collection[int] = (),
        capture_projections: Collection[int] = (),
        prediction_mask: Tensor | None = None,
    ) -> TeacherOutput:
        """Runs the encoder up to layer `stop_layer`, or in full with its head.

        Args:
            input_ids: [batch, seq].
            attention_mask: [batch, seq].
            token_type_ids: [batch, seq]; left out where the encoder takes none.
            stop_layer: How many layers run.
            capture_layers: Whose outputs are wanted; -1 is what the first layer reads. That of the last layer is what
                the encoder makes of it, its final norm included where it has one.
            capture_projections: Whose queries, keys and values are wanted.
            prediction_mask: bool [batch, seq], where logits are wanted of a masked-LM head.

        Raises:
            ValueError: Projections are wanted, and the encoder does not use the library's attention interface.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: value for name, value in given.items() if value is not None and name in self._inputs}
        outputs: dict[int, Tensor] = {}
        last: list[Tensor] = []
        logits = None
        with (
            self._reading_layers(outputs, stop_layer),
            self._reading_last(last, prediction_mask),
            recording(self.model, capture_projections) as projections,
            suppress(_Reached),
        ):
            logits = self.model(**inputs).get("logits")
        if last:
            outputs[len(self.layers) - 1] = last[0]
        return TeacherOutput(
            last[0] if last else None,
            tuple(outputs[layer] for layer in capture_layers),
            tuple(projections),
            None if logits is None or prediction_mask is None else logits[0],
        )

    @contextmanager
    def _reading_layers(self, outputs: dict[int, Tensor], stop: int | None) -> Iterator[None]:
        def read(index: int) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                outputs[index] = output if isinstance(output, Tensor) else output[0]
                if index + 1 == stop and stop < len(self.layers):
                    raise _Reached

            return hook

        def read_embeddings(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            outputs[-1] = inputs[0] if inputs else named["hidden_states"]

        handles = [layer.register_forward_hook(read(index)) for index, layer in enumerate(self.layers)]
        handles.append(self.layers[0].register_forward_pre_hook(read_embeddings, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _reading_last(self, last: list[Tensor], prediction_mask: Tensor | None) -> Iterator[None]:
        """Reads the encoder's result, and leaves a head the predicted positions alone, as one row."""

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


def find_layers(model: nn.Module) -> nn.ModuleList:
    """The list of a model's layers.

    Raises:
        ValueError: There is none with as many modules as the configuration has layers.
    """
    config: Any = model.config
    count = config.num_hidden_layers
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    found = [module for module in lists.values() if len(module) == count]
    if not found:
        there = ", ".join(f"{name} of {len(module)}" for name, module in lists.items()) or "none"
        raise ValueError(
            f"{type(model).__name__} cannot be a teacher: it has no list of its {count} layers (lists: {there}). "
            "Expected an encoder that runs one layer after the other."
        )
    return found[0]


# Which layers are being recorded, and into what; a kernel is told neither.
_recorded: list[tuple[Collection[int], list[Projections], list[int]]] = []


@contextmanager
def recording(model: PreTrainedModel, layers: Collection[int]) -> Iterator[list[Projections]]:
    """Inside the block, what the attention of some layers reads is appended to a list, in order of the layers.

    Args:
        model: Any model on the library's attention interface, teacher or student.
        layers: Whose.

    Raises:
        ValueError: The model is not on the interface.
    """
    projections: list[Projections] = []
    if not layers:
        yield projections
        return
    before = model.config._attn_implementation
    AttentionInterface.register(RECORDING, _record)
    AttentionMaskInterface.register(RECORDING, sdpa_mask)
    model.set_attn_implementation(RECORDING)
    counter = [0]
    _recorded.append((layers, projections, counter))
    try:
        yield projections
    finally:
        _recorded.pop()
        model.set_attn_implementation(before)
    if not counter[0]:
        raise ValueError(
            f"{type(model).__name__} does not use the library's attention interface, so its queries, keys and values "
            "cannot be read: transfer feature maps alone."
        )


@torch.compiler.disable  # the count would be compiled in, for each layer anew
def _record(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    layers, projections, counter = _recorded[-1]
    if counter[0] in layers:
        scaling = kwargs.get("scaling")
        projections.append(Projections(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling))
    counter[0] += 1
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
