"""`export.json`, the manifest of an export folder: the exported model and its graphs."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import get_annotations
from pathlib import Path, PurePosixPath

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..files import locked, move_files, remove
from .schema import read_record, write_record

MANIFEST = "export.json"
# Fields of the base `PreTrainedConfig` that an exported graph depends on.
COMMON = ("architectures", "id2label")


@dataclass(frozen=True)
class GraphScores:
    """Scores of a graph and of the PyTorch model on a task.

    Args:
        dataset: Hub id of the data set, or the name of its file or folder.
        split: Split of the data set.
        pytorch: Metrics of the PyTorch model in float32, in percent.
        graph: Metrics of the graph, in percent.
    """

    dataset: str
    split: str
    pytorch: dict[str, float]
    graph: dict[str, float]


@dataclass
class Graph:
    """An exported graph.

    Args:
        folded: Whether the norms are folded.
        quantize: `"int8"`, `"int8-static"`, or None for float32.
        relative_errors: Error of each output, relative to its largest value.
        version: Version of this package that exported the graph.
        scores: Scores by task.
    """

    folded: bool
    quantize: str | None
    relative_errors: dict[str, float]
    version: str
    scores: dict[str, GraphScores] = field(default_factory=dict)


@dataclass
class Manifest:
    """The contents of `export.json`.

    Args:
        model: Hub id or folder of the exported model.
        fingerprint: `fingerprint` of the model.
        task: The Hub's name of the model's task.
        graphs: Graphs by path in the folder.
    """

    model: str = ""
    fingerprint: str = ""
    task: str = ""
    graphs: dict[str, Graph] = field(default_factory=dict)


def fingerprint(model: PreTrainedModel) -> str:
    """Returns the SHA-256 of a model's weights and configuration.

    It is the same in all versions of transformers that define the same fields for the configuration class.
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
    """Reads the manifest of an export folder, or creates an empty one if the folder is new or empty.

    Raises:
        ValueError: The folder contains other files, or is a file.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file: expected a folder.")
    if not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir()):
        return Manifest()
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} contains files but no {MANIFEST}. Choose a new folder, or empty it.")
    return read_manifest(folder)


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of an export folder.

    Raises:
        ValueError: The folder has no manifest, or the manifest is damaged or names a file outside of the folder.
    """
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} is not an export: it has no {MANIFEST}.")
    manifest = read_record(folder / MANIFEST, Manifest)
    for name in manifest.graphs:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise ValueError(f"{folder / MANIFEST} names {name!r}: expected a path inside of the folder.")
    return manifest


@contextmanager
def add_export(folder: Path, source: str, identity: str) -> Iterator[tuple[Manifest, Path]]:
    """Yields the manifest and a staging folder. Moves both into `folder` if the block succeeds.

    Args:
        folder: Export folder: new, empty, or with exports of the same model. It is locked; other processes wait.
        source: Hub id or folder of the model.
        identity: `fingerprint` of the model.

    Raises:
        ValueError: The folder contains other files, or exports of a model with another fingerprint.
    """
    staging = folder / ".part"  # inside the folder, because the folder can be a mount point
    with locked(folder):
        manifest = open_manifest(folder)
        if manifest.graphs and manifest.fingerprint != identity:
            raise ValueError(
                f"{folder} has exports of {manifest.model} with other weights or another configuration than {source}. "
                "Choose another folder, or empty it."
            )
        remove(staging)  # left by a killed process
        staging.mkdir()
        try:
            yield manifest, staging
            manifest.model, manifest.fingerprint = source, identity
            # Unlist replaced graphs first, so that an interruption leaves no graph with the entry of another.
            unchanged = {name: graph for name, graph in manifest.graphs.items() if not (staging / name).exists()}
            write_manifest(folder, replace(manifest, graphs=unchanged))
            for part in (*(path for path in staging.iterdir() if path.is_dir()), staging):
                move_files(part, folder / part.relative_to(staging))
            write_manifest(folder, manifest)
        finally:
            remove(staging)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `export.json`."""
    write_record(folder / MANIFEST, manifest)


def graph_files(folder: Path, name: str) -> list[Path]:
    """Returns the files of a graph, including weights in a separate file (OpenVINO)."""
    return sorted((folder / name).parent.glob(f"{Path(name).stem}.*"))


def graph_size(folder: Path, name: str) -> int:
    """Returns the size of all files of a graph, in bytes."""
    return sum(path.stat().st_size for path in graph_files(folder, name))
