"""Reads queries, keys and values through the attention interface of transformers, in any model that uses it.

The recording kernel calls the fused SDPA kernel, so nothing else changes.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ..training.compat import attention_implementation, sdpa_attention_forward, sdpa_mask

RECORDING = "mobilebert_recording"


class Projections(NamedTuple):
    """The inputs of a layer's attention: [batch, heads, seq, head_size] each, and the scale of the scores."""

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float

    def scores(self) -> Tensor:
        """The scaled attention scores before mask and softmax, [batch, heads, seq, seq]."""
        return self.query @ self.key.transpose(2, 3) * self.scaling


# The layers being recorded, the list they are recorded into, and a counter of calls: a kernel is told none of them.
_recorded: list[tuple[Collection[int], list[Projections], list[int]]] = []


@contextmanager
def recording(model: PreTrainedModel, layers: Collection[int]) -> Iterator[list[Projections]]:
    """Within the context, appends the projections of the given layers to the list, in the order of the layers.

    Args:
        model: Any model that uses the attention interface, teacher or student.
        layers: The indices of its layers.

    Raises:
        ValueError: The model does not use the interface.
    """
    projections: list[Projections] = []
    if not layers:
        yield projections
        return
    before = attention_implementation(model)
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
            f"{type(model).__name__} does not use the attention interface of transformers, so its queries, keys and "
            "values cannot be read: set attention_weight and relation_weight to 0."
        )


@torch.compiler.disable  # the counter would be compiled in, once per layer
def _record(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    layers, projections, counter = _recorded[-1]
    if counter[0] in layers:
        scaling = kwargs.get("scaling")
        projections.append(Projections(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling))
    counter[0] += 1
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
