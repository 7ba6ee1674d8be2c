"""`torch_compile=True`, layer by layer and objective by objective.

A network that is compiled in one piece is compiled again for every depth that a stage of transfer runs to. Layers are
all alike: what is compiled for one serves the others, at any depth.
"""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from torch import nn

from accelerate import Accelerator

# A layer is compiled once for each way it is called (which network, gradients wanted or not, scores materialised or
# not, one length or any); after PyTorch's own limit, 8, it would run uncompiled without a word.
RECOMPILATIONS = 64


def take_over_compilation(accelerator: Accelerator) -> dict[str, Any] | None:
    """What to give `torch.compile`, as the Trainer's arguments or `accelerate launch` say; None: nothing is compiled.

    The accelerator compiles nothing by itself from then on.
    """
    plugin = accelerator.state.dynamo_plugin
    if plugin.backend == DynamoBackend.NO:
        return None
    options = plugin.to_kwargs()
    plugin.backend = DynamoBackend.NO
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    return options


def compile_layers(layers: Iterable[nn.Module], options: dict[str, Any]) -> None:
    """Compiles what each layer does; its parameters' names and its hooks stay as they are."""
    for layer in layers:
        layer.forward = torch.compile(layer.forward, **options)
