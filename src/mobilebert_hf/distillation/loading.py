"""Loads teachers: safetensors only, and no code of a repository, unless both are allowed."""

from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..training.compat import find_file

SAFETENSORS, PICKLES = ("model.safetensors", "pytorch_model.bin")
# Parts that no teacher is asked for; a checkpoint may lack them.
UNUSED_WEIGHTS = ("pooler.", "position_ids")


class Consent(NamedTuple):
    """What the user allows a teacher's files to do.

    Args:
        remote_code: Run Python files that come with the weights.
        pickle: Read weights from `.bin` files.
    """

    remote_code: bool = False
    pickle: bool = False


class Loaded(NamedTuple):
    """A network in float32 on the CPU, and the names of those of its weights that the files do not have."""

    network: PreTrainedModel
    missing: tuple[str, ...]


def load_config(name: str, consent: Consent, subfolder: str = "") -> PreTrainedConfig:
    """The configuration of a model.

    Raises:
        ValueError: It needs code of its repository, which is not allowed.
    """
    try:
        return AutoConfig.from_pretrained(name, subfolder=subfolder, trust_remote_code=consent.remote_code)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{name} needs Python code that comes with its weights: read that code, and allow it with "
            "--trust_remote_code true."
        ) from error


def load_network(auto_class: Any, name: str, consent: Consent, subfolder: str = "") -> Loaded:
    """A model of an Auto class.

    Raises:
        ValueError: Its weights are pickled, which is not allowed.
    """
    check_weights(name, consent, subfolder)
    network, info = auto_class.from_pretrained(
        name,
        subfolder=subfolder,
        dtype=torch.float32,
        use_safetensors=None if consent.pickle else True,
        trust_remote_code=consent.remote_code,
        output_loading_info=True,
    )
    missing = sorted(key for key in info["missing_keys"] if not any(part in key for part in UNUSED_WEIGHTS))
    return Loaded(network.eval(), tuple(missing))


def check_weights(name: str, consent: Consent, subfolder: str = "") -> None:
    """Checks that a folder has weights in safetensors, or that pickled ones are allowed.

    Raises:
        ValueError: Neither.
    """
    path = f"{subfolder}/" if subfolder else ""

    def has(file: str) -> bool:
        return any(find_file(name, f"{path}{file}{end}") is not None for end in ("", ".index.json"))

    if not consent.pickle and not has(SAFETENSORS) and has(PICKLES):
        raise ValueError(
            f"{name} has the weights of {subfolder or 'its network'} only as {path}{PICKLES}, a pickle, which can run "
            "code: convert them to safetensors, or, if you trust their source, allow it with --allow_pickle true."
        )
