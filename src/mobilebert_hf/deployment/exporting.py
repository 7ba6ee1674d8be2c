"""A student as a graph of a runtime, with tokenizer and configuration beside it."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils.import_utils import is_onnx_available, is_onnxruntime_available, is_onnxscript_available

from ..files import write_aside, written_aside
from ..models import fold
from .check import Run, check
from .tasks import Task, load_student, sample_inputs

MANIFEST = "export.json"
TOLERANCE = 1e-4


def export(
    model: str | Path, output: str | Path, *, folded: bool = True, tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Exports a student to ONNX, for ONNX Runtime, transformers.js and Optimum.

    The graph, `onnx/model.onnx`, takes any number of rows and tokens. It is run on ONNX Runtime and compared with the
    PyTorch model before it is called done: nothing is written where it differs.

    Args:
        model: Hub id or folder of a student with any head; its task follows from the head.
        output: A folder that is new, empty, or holds an earlier export.
        folded: Whether norms are folded first (see `fold`); a student with LayerNorm has none that can be.
        tolerance: How far any output may be off, relative to the output's largest value.

    Returns:
        The largest relative error of each output.

    Raises:
        ImportError: ONNX or its runtime is not installed.
        ValueError: The model is not a student, the folder holds something else, or the graph differs; names what.
    """
    _check_packages()
    folder = Path(output)
    _check_folder(folder)
    source, task = load_student(model)
    folded = folded and source.config.normalization_type == "no_norm"
    program = _trace(fold(source) if folded else source, task)
    with written_aside(folder) as aside:
        (aside / "onnx").mkdir(parents=True)
        path = aside / "onnx" / "model.onnx"
        _save(program, path)
        errors = check(source, task, onnx_runner(path), tolerance)
        source.config.save_pretrained(aside)
        AutoTokenizer.from_pretrained(str(model)).save_pretrained(aside)
        manifest = {"model": str(model), "task": task.name, "folded": folded, "relative_errors": errors}
        write_aside(aside / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return errors


def _check_packages() -> None:
    packages = {
        "onnx": is_onnx_available(),
        "onnxruntime": is_onnxruntime_available(),
        "onnxscript": is_onnxscript_available(),
    }
    if missing := [name for name, available in packages.items() if not available]:
        raise ImportError(f'export to ONNX needs {", ".join(missing)}: pip install "mobilebert-hf[export]"')


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} holds something that is no export: name a new folder, or empty it.")


def _trace(model: PreTrainedModel, task: Task) -> Any:
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    length = min(16, model.config.max_position_embeddings)
    inputs: dict[str, Any] = dict(sample_inputs(model, 2, length))
    with redirect_stdout(io.StringIO()):  # torch.onnx tells each of its steps
        return OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic=True)).program


def _save(program: Any, path: Path) -> None:
    """As one file, weights and all, which every runtime loads by itself."""
    import onnx_ir

    onnx_ir.save(program, str(path))


def onnx_runner(path: Path, threads: int = 1) -> Run:
    """Runs a file on ONNX Runtime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, dict(inputs)), strict=True))
