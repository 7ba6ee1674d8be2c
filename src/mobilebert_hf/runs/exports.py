"""What a folder of exports holds, by its `export.json`: graphs of one model, and what is known of each."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import get_annotations
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..files import atomic_write_text, locked, move_files, remove

MANIFEST = "export.json"
# Of what all configurations of the library have, what a graph depends on.
COMMON = ("architectures", "id2label")


def fingerprint(model: PreTrainedModel) -> str:
    """A digest of a model's weights and configuration, by which it is known wherever it lies: SHA-256.

    The same in every version of transformers that knows the same fields of such a model.
    """
    kinds = type(model.config).__mro__
    own = {name for kind in kinds[: kinds.index(PreTrainedConfig)] for name in get_annotations(kind)}
    config = {name: value for name, value in model.config.to_dict().items() if name in own.union(COMMON)}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def open_manifest(folder: Path) -> dict[str, Any]:
    """What a folder holds already that an export is to be written to.

    Raises:
        ValueError: It holds something else, or is a file.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name a folder.")
    if not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir()):
        return {"graphs": {}}
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} holds something that is no export: name a new folder, or empty it.")
    return read_manifest(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What an export's folder holds.

    Raises:
        ValueError: It is not an export's.
    """
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} holds no export: there is no {MANIFEST} in it.")
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


@contextmanager
def adding(folder: Path, place: str, identity: str) -> Iterator[tuple[dict[str, Any], Path]]:
    """Lends what a folder's `export.json` says and a folder aside, which go into it afterwards, or not at all.

    Args:
        folder: Of exports; new, empty, or of the same model. One process at a time adds to it, others wait.
        place: Where the model is: its Hub id, or its folder.
        identity: Its `fingerprint`.

    Raises:
        ValueError: The folder holds something else, or exports of another model, or of what this one was before it was
            trained on.
    """
    aside = folder / ".part"  # the folder may be a disk of its own, with nothing beside it
    with locked(folder):
        manifest = open_manifest(folder)
        if manifest["graphs"] and manifest.get("fingerprint") != identity:
            raise ValueError(
                f"{folder} holds exports of {manifest['model']}, with other weights or another configuration than "
                f"{place} has: name another folder, or empty it."
            )
        remove(aside)  # of a process that was killed
        aside.mkdir()
        try:
            yield manifest, aside
            manifest |= {"model": place, "fingerprint": identity}
            # What is being replaced is not listed in between: whoever is cut off leaves no graph under another's name.
            staying = {name: graph for name, graph in manifest["graphs"].items() if not (aside / name).exists()}
            write_manifest(folder, manifest | {"graphs": staying})
            for part in (*(path for path in aside.iterdir() if path.is_dir()), aside):
                move_files(part, folder / part.relative_to(aside))
            write_manifest(folder, manifest)
        finally:
            remove(aside)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replaces what `export.json` says."""
    atomic_write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def graph_files(folder: Path, name: str) -> list[Path]:
    """A graph of an export, and what lies beside it under the same name, such as OpenVINO's weights."""
    return sorted((folder / name).parent.glob(f"{Path(name).stem}.*"))


def graph_size(folder: Path, name: str) -> int:
    """Of a graph of an export, with what lies beside it, in bytes."""
    return sum(path.stat().st_size for path in graph_files(folder, name))
