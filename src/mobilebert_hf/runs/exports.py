"""What a folder of exports holds, by its `export.json`: graphs of one model, and what is known of each."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import get_annotations
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..files import locked, move_files, remove
from .schema import read_record, write_record

MANIFEST = "export.json"
# Of what all configurations of the library have, what a graph depends on.
COMMON = ("architectures", "id2label")


@dataclass(frozen=True)
class GraphScores:
    """What a graph scores on a task, and the PyTorch model in float32: metrics in percent.

    Args:
        dataset: Hub id of the examples, or their file's or folder's name.
        split: Which of it.
        pytorch: The PyTorch model's.
        graph: The graph's.
    """

    dataset: str
    split: str
    pytorch: dict[str, float]
    graph: dict[str, float]


@dataclass
class Graph:
    """What is known of a graph.

    Args:
        folded: Whether norms are folded.
        quantize: `"int8"`, `"int8-static"`, or None for float32.
        relative_errors: How far each output is off, relative to its largest value.
        version: Of this package, that exported it.
        scores: By task, as far as it was scored.
    """

    folded: bool
    quantize: str | None
    relative_errors: dict[str, float]
    version: str
    scores: dict[str, GraphScores] = field(default_factory=dict)


@dataclass
class Manifest:
    """What a folder of exports holds.

    Args:
        model: Hub id or folder of the model.
        fingerprint: Of the model.
        task: The Hub's name of what it is for.
        graphs: By their paths in the folder.
    """

    model: str = ""
    fingerprint: str = ""
    task: str = ""
    graphs: dict[str, Graph] = field(default_factory=dict)


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


def open_manifest(folder: Path) -> Manifest:
    """What a folder holds already that an export is to be written to.

    Raises:
        ValueError: It holds something else, or is a file.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name a folder.")
    if not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir()):
        return Manifest()
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} holds something that is no export: name a new folder, or empty it.")
    return read_manifest(folder)


def read_manifest(folder: Path) -> Manifest:
    """What an export's folder holds.

    Raises:
        ValueError: It is not an export's, or its manifest is damaged; names the field.
    """
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} holds no export: there is no {MANIFEST} in it.")
    return read_record(folder / MANIFEST, Manifest)


@contextmanager
def adding(folder: Path, place: str, identity: str) -> Iterator[tuple[Manifest, Path]]:
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
        if manifest.graphs and manifest.fingerprint != identity:
            raise ValueError(
                f"{folder} holds exports of {manifest.model}, with other weights or another configuration than "
                f"{place} has: name another folder, or empty it."
            )
        remove(aside)  # of a process that was killed
        aside.mkdir()
        try:
            yield manifest, aside
            manifest.model, manifest.fingerprint = place, identity
            # What is being replaced is not listed in between: whoever is cut off leaves no graph under another's name.
            staying = {name: graph for name, graph in manifest.graphs.items() if not (aside / name).exists()}
            write_manifest(folder, replace(manifest, graphs=staying))
            for part in (*(path for path in aside.iterdir() if path.is_dir()), aside):
                move_files(part, folder / part.relative_to(aside))
            write_manifest(folder, manifest)
        finally:
            remove(aside)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces what `export.json` says."""
    write_record(folder / MANIFEST, manifest)


def graph_files(folder: Path, name: str) -> list[Path]:
    """A graph of an export, and what lies beside it under the same name, such as OpenVINO's weights."""
    return sorted((folder / name).parent.glob(f"{Path(name).stem}.*"))


def graph_size(folder: Path, name: str) -> int:
    """Of a graph of an export, with what lies beside it, in bytes."""
    return sum(path.stat().st_size for path in graph_files(folder, name))
