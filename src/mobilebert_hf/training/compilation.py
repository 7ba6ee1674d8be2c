"""`torch_compile=True`, layer by layer.

A model that is compiled as a whole is recompiled for every depth that a stage of transfer runs to. Its layers are
alike: code that is compiled for one layer serves the others, at any depth.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def compile_layers(layers: Iterable[nn.Module], options: dict[str, Any]) -> None:
    """Compiles the forward pass of each layer; the names of parameters and the hooks stay the same."""
    for layer in layers:
        layer.forward = torch.compile(layer.forward, **options)
