"""Export of a student to an inference runtime, with its tokenizer and configuration."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from transformers import AutoTokenizer, PreTrainedModel

from ..machine import describe_version
from ..models.fake_quantization import disable_fake_quantization
from ..models.modeling_folded import FoldedMobileBertPreTrainedModel
from ..runs.exports import Graph, add_export, fingerprint, open_manifest
from .calibration import calibration_batches
from .check import check
from .formats import FORMATS
from .network import foldable, prepare_for_export
from .saturation import check_saturation
from .student import load_student, unfolded_config

# Largest allowed error of an output, relative to its largest value. The int8 limits only detect broken graphs: with
# logits off by a sixth, students kept their task score. `score_export` measures the cost of int8 on a task.
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
    """Exports a student to the format of an inference runtime.

    The graph accepts every batch size and length that the format supports. It is run on its runtime and compared with
    the PyTorch model. Nothing is written if an output differs.

    Args:
        model: Hub id or folder of a student with any head. The head determines the task.
        output: A folder that is new, empty, or contains exports of the same model.
        format: `"onnx"`, `"openvino"`, `"executorch"` or `"tflite"`. `FILES` of each format lists its file names.
        quantize: None for float32; `"int8"` for dynamic quantization (of weights only, if the runtime does not support
            it); `"int8-static"` for calibrated ranges.
        calibration: Text for `"int8-static"`: files, folders, globs or Hub data sets. Not for quantization-aware
            students in ONNX, which have learned their ranges.
        folded: Whether to fold the norms first (see `fold`). LayerNorm cannot be folded.
        tolerance: Largest allowed error of an output, relative to its largest value. `TOLERANCES` by default.

    Returns:
        The largest relative error of each output.

    Raises:
        ImportError: The packages of the format are not installed.
        ValueError: An argument is not supported, the folder contains other files, or the graph differs from the model.
    """
    backend, folder = find_format(format), Path(output).resolve()
    open_manifest(folder)
    student, task = load_student(model)
    source, identity = str(Path(model).resolve() if Path(model).is_dir() else model), fingerprint(student)
    folded = (folded and foldable(student)) or isinstance(student, FoldedMobileBertPreTrainedModel)
    learned = format == "onnx" and quantize == "int8-static" and getattr(student.config, "quantization_aware", False)
    _check_quantization(student, quantize, calibration, folded, learned)
    if not learned:
        disable_fake_quantization(student)
    tokenizer, limit = AutoTokenizer.from_pretrained(str(model)), student.config.max_position_embeddings
    tokenizer.model_max_length = min(tokenizer.model_max_length, limit)  # pipelines of other runtimes truncate here
    sizes = min(128, limit), student.config.type_vocab_size
    batches = calibration_batches(calibration, tokenizer, *sizes) if calibration else []
    tolerance = TOLERANCES[quantize] if tolerance is None else tolerance
    with add_export(folder, source, identity) as (manifest, staging):
        graph = staging / backend.FILES[quantize]
        graph.parent.mkdir()
        network = prepare_for_export(student, folded=folded and quantize not in backend.FOLDS)
        backend.write(network, task, graph, quantize, batches)
        check_saturation(backend.unsigned_matmuls(graph))
        errors = check(student, task, backend.load(graph, task), tolerance, batches[:2])
        manifest.task = task.name
        manifest.graphs[backend.FILES[quantize]] = Graph(folded, quantize, errors, describe_version())
        unfolded_config(student.config).save_pretrained(staging)
        tokenizer.save_pretrained(staging)
    return errors


def find_format(name: str) -> ModuleType:
    """Returns the module of a format.

    Raises:
        ImportError: The packages of the format are not installed.
        ValueError: The format is unknown.
    """
    if name not in FORMATS:
        raise ValueError(f"format={name!r}: expected one of {', '.join(FORMATS)}.")
    backend = FORMATS[name]
    if missing := [package for package in backend.PACKAGES if find_spec(package) is None]:
        raise ImportError(f"export to {name} needs {', '.join(missing)}: {backend.INSTALL}")
    return backend


def _check_quantization(
    model: PreTrainedModel, quantize: str | None, calibration: Sequence[str], folded: bool, learned: bool
) -> None:
    if learned:
        if calibration:
            raise ValueError("The student has learned its quantization ranges. Remove calibration.")
        return
    if quantize not in TOLERANCES:
        known = ", ".join(str(name) for name in TOLERANCES if name)
        raise ValueError(f"quantize={quantize!r}: expected one of {known}, or None for float32.")
    if quantize != "int8-static":
        if calibration:
            raise ValueError("calibration is only used by int8-static. Remove it, or set quantize to int8-static.")
        return
    if not calibration:
        raise ValueError("int8-static needs text for calibration. Pass it as calibration.")
    if not folded:
        raise ValueError(
            f"int8-static needs a folded student, but normalization_type={model.config.normalization_type!r} or "
            "folding is turned off. Use int8."
        )
