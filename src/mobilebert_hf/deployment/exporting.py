"""A student as a graph of a runtime, with tokenizer and configuration beside it."""

import json
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from transformers import AutoTokenizer

from ..files import write_aside, written_aside
from .check import check
from .formats import FORMATS
from .network import prepare
from .tasks import load_student

MANIFEST = "export.json"
TOLERANCE = 1e-4


def export(
    model: str | Path, output: str | Path, format: str = "onnx", *, folded: bool = True, tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Exports a student to a runtime's format.

    The graph takes any number of rows and tokens. It is run on its runtime and compared with the PyTorch model before
    it is called done: nothing is written where it differs.

    Args:
        model: Hub id or folder of a student with any head; its task follows from the head.
        output: A folder that is new, empty, or holds exports of the same model, which may be of other formats.
        format: `"onnx"` (`onnx/model.onnx`), `"openvino"`, `"executorch"` or `"tflite"`.
        folded: Whether norms are folded first (see `fold`); a student with LayerNorm has none that can be.
        tolerance: How far any output may be off, relative to the output's largest value.

    Returns:
        The largest relative error of each output.

    Raises:
        ImportError: The format's packages are not installed.
        ValueError: There is no such format, the model is not a student, the folder holds something else, or the graph
            differs; names what.
    """
    backend = _find_format(format)
    folder = Path(output)
    _check_folder(folder, str(model))
    source, task = load_student(model)
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    folded = folded and source.config.normalization_type == "no_norm"
    network = prepare(source, folded=folded)
    place = folder / backend.FILE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with written_aside(place.parent) as aside:
            aside.mkdir()
            backend.write(network, task, aside / place.name)
            errors = check(source, task, backend.load(aside / place.name, task), tolerance)
            manifest = {"model": str(model), "task": task.name, "folded": folded, "relative_errors": errors}
            write_aside(aside / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()
    source.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return errors


def _find_format(name: str) -> ModuleType:
    if name not in FORMATS:
        raise ValueError(f"format={name!r}: expected one of {', '.join(FORMATS)}.")
    backend = FORMATS[name]
    if missing := [package for package in backend.PACKAGES if find_spec(package) is None]:
        raise ImportError(f"export to {name} needs {', '.join(missing)}: {backend.INSTALL}")
    return backend


def _check_folder(folder: Path, model: str) -> None:
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name a folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"*/{MANIFEST}")]
    if not manifests:
        raise ValueError(f"{folder} holds something that is no export: name a new folder, or empty it.")
    for manifest in manifests:
        if manifest["model"] != model:
            raise ValueError(f"{folder} holds an export of {manifest['model']}, not of {model}: name another folder.")
