"""A student as a graph of a runtime, with tokenizer and configuration beside it."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from transformers import AutoTokenizer, PreTrainedModel

from ..machine import describe_version
from ..models.fake_quantization import disable_fake_quantization
from ..models.modeling_folded import FoldedMobileBertPreTrainedModel
from ..runs.exports import Graph, adding, fingerprint, open_manifest
from .calibration import calibration_batches
from .check import check
from .formats import FORMATS
from .network import foldable, prepare
from .saturation import check_saturation
from .student import load_student, unfolded_config

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
    folder = Path(output).resolve()
    open_manifest(folder)
    source, task = load_student(model)
    place, identity = str(Path(model).resolve() if Path(model).is_dir() else model), fingerprint(source)
    folded = (folded and foldable(source)) or isinstance(source, FoldedMobileBertPreTrainedModel)
    learned = format == "onnx" and quantize == "int8-static" and getattr(source.config, "quantization_aware", False)
    if not learned:
        _check_quantization(source, quantize, calibration, folded)
        disable_fake_quantization(source)
    elif calibration:
        raise ValueError(f"{model} has learned its ranges: leave calibration out.")
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    sizes = min(128, source.config.max_position_embeddings), source.config.type_vocab_size
    batches = calibration_batches(calibration, tokenizer, *sizes) if calibration else []
    tolerance = TOLERANCES[quantize] if tolerance is None else tolerance

    file = backend.FILES[quantize]
    with adding(folder, place, identity) as (manifest, aside):
        graph = aside / file
        graph.parent.mkdir()
        backend.write(prepare(source, folded=folded and quantize not in backend.FOLDS), task, graph, quantize, batches)
        check_saturation(backend.unsigned_matmuls(graph))
        errors = check(source, task, backend.load(graph, task), tolerance, batches[:2])
        manifest.task = task.name
        manifest.graphs[file] = Graph(folded, quantize, errors, describe_version())
        unfolded_config(source.config).save_pretrained(aside)
        # By it runtimes' pipelines know where to cut a text.
        tokenizer.model_max_length = min(tokenizer.model_max_length, source.config.max_position_embeddings)
        tokenizer.save_pretrained(aside)
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
