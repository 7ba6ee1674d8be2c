"""A student as a graph of a runtime, with tokenizer and configuration beside it."""

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from ..files import move_files, write_aside
from ..models.fake_quantization import stop_rounding
from .calibration import calibration_batches
from .check import check
from .formats import FORMATS
from .network import prepare
from .tasks import load_student, unfolded_config

MANIFEST = "export.json"
# How far an output may be off, relative to the output's largest value: in float32, and in 8 bits, where it is to catch
# what is broken: students with logits off by a sixth scored as before. What 8 bits cost, a task's score says.
TOLERANCES = {None: 1e-4, "int8": 0.3, "int8-static": 0.3}


def export(
    model: str | Path,
    output: str | Path,
    format: str = "onnx",
    quantize: str | None = None,
    *,
    calibration: Sequence[str] = (),
    folded: bool = True,
    tolerance: float | None = None,
) -> dict[str, float]:
    """Exports a student to a runtime's format.

    The graph takes any number of rows and tokens that the format knows. It is run on its runtime and compared with the
    PyTorch model before it is called done: nothing is written where it differs.

    Args:
        model: Hub id or folder of a student with any head; its task follows from the head.
        output: A folder that is new, empty, or holds exports of the same model.
        format: `"onnx"`, `"openvino"`, `"executorch"` or `"tflite"`; see `FILES` of its module for the files' names.
        quantize: `"int8"`: weights of 8 bits, activations rounded when the graph runs, as far as the runtime does;
            `"int8-static"`: both of 8 bits, ranges measured before. By default float32.
        calibration: For `"int8-static"`: real text to measure ranges on (files, folders, globs, Hub data sets). A
            quantization-aware student has learned its ranges, which ONNX takes.
        folded: Whether norms are folded first (see `fold`); a student with LayerNorm has none that can be.
        tolerance: How far any output may be off, relative to the output's largest value; by default `TOLERANCES`.

    Returns:
        The largest relative error of each output.

    Raises:
        ImportError: The format's packages are not installed.
        ValueError: There is no such format or quantization, the model is not a student or cannot be quantized like
            that, the folder holds something else, or the graph differs; names what.
    """
    backend = find_format(format)
    folder = Path(output)
    manifest = _open_manifest(folder, str(model))
    source, task = load_student(model)
    folded = folded and source.config.normalization_type == "no_norm"
    learned = format == "onnx" and quantize == "int8-static" and getattr(source.config, "quantization_aware", False)
    if not learned:
        _check_quantization(source, quantize, calibration, folded)
        stop_rounding(source)
    elif calibration:
        raise ValueError(f"{model} has learned its ranges: leave calibration out.")
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    sizes = min(128, source.config.max_position_embeddings), source.config.type_vocab_size
    batches = calibration_batches(calibration, tokenizer, *sizes) if calibration else []
    tolerance = TOLERANCES[quantize] if tolerance is None else tolerance

    file = backend.FILES[quantize]
    staging = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    graph = staging / file
    graph.parent.mkdir(parents=True)
    try:
        backend.write(prepare(source, folded=folded and quantize not in backend.FOLDS), task, graph, quantize, batches)
        errors = check(source, task, backend.load(graph, task), tolerance, batches[:2])
        unfolded_config(source.config).save_pretrained(staging)
        # By it runtimes' pipelines know where to cut a text.
        tokenizer.model_max_length = min(tokenizer.model_max_length, source.config.max_position_embeddings)
        tokenizer.save_pretrained(staging)
        folder.mkdir(exist_ok=True)
        manifest |= {"model": str(model), "task": task.name}
        manifest["graphs"][file] = {"folded": folded, "quantize": quantize, "relative_errors": errors}
        write_aside(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        for part in (graph.parent, staging):
            move_files(part, folder / part.relative_to(staging))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return errors


def find_format(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        ImportError: Its packages are not installed.
        ValueError: There is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"format={name!r}: expected one of {', '.join(FORMATS)}.")
    backend = FORMATS[name]
    if missing := [package for package in backend.PACKAGES if find_spec(package) is None]:
        raise ImportError(f"export to {name} needs {', '.join(missing)}: {backend.INSTALL}")
    return backend


def read_manifest(folder: Path) -> dict[str, Any]:
    """What an export's folder holds.

    Raises:
        ValueError: It is not an export's.
    """
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} holds no export: there is no {MANIFEST} in it.")
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def graph_files(folder: Path, name: str) -> list[Path]:
    """A graph of an export, and what lies beside it under the same name, such as OpenVINO's weights."""
    return sorted((folder / name).parent.glob(f"{Path(name).stem}.*"))


def _open_manifest(folder: Path, model: str) -> dict[str, Any]:
    """What the folder holds already of the same model."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name a folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return {"graphs": {}}
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} holds something that is no export: name a new folder, or empty it.")
    manifest = read_manifest(folder)
    if manifest["model"] != model:
        raise ValueError(f"{folder} holds an export of {manifest['model']}, not of {model}: name another folder.")
    return manifest


def _check_quantization(
    model: PreTrainedModel, quantize: str | None, calibration: Sequence[str], folded: bool
) -> None:
    if quantize not in TOLERANCES:
        known = ", ".join(str(name) for name in TOLERANCES if name)
        raise ValueError(f"quantize={quantize!r}: expected one of {known}, or nothing for float32.")
    if quantize != "int8-static":
        if calibration:
            raise ValueError("calibration is for int8-static alone: leave it out, or quantize so.")
        return
    if not calibration:
        raise ValueError("int8-static measures ranges on real text: name some as calibration.")
    if not folded:
        raise ValueError(
            f"int8-static needs a folded student; this one has normalization_type="
            f"{model.config.normalization_type!r}, or was not to be folded. Use int8."
        )
