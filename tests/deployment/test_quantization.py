"""Eight bits: what is exported runs on its runtime, is small, and says nearly what the model says."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from transformers import AutoModelForQuestionAnswering, BertTokenizer

from mobilebert_hf import MobileBertConfig, MobileBertForQuestionAnswering, fold
from mobilebert_hf.deployment import FORMATS, export
from mobilebert_hf.deployment.calibration import calibration_batches
from mobilebert_hf.deployment.network import prepare_for_export
from mobilebert_hf.deployment.quantization import QuantizeDequantize, QuantizedLinear, quantize_static
from mobilebert_hf.deployment.student import load_student, sample_inputs
from mobilebert_hf.models.encoder import NoNorm
from mobilebert_hf.runs.exports import graph_files, read_manifest

from .helpers import TINY, save

QUANTIZED = ("int8", "int8-static")

# Of every quantizer and runtime; the others take long to convert.
CASES = [
    ("onnx", "int8"),
    ("onnx", "int8-static"),
    ("openvino", "int8-static"),
    ("tflite", "int8"),
    *(
        pytest.param(format, quantize, marks=pytest.mark.slow)
        for format, quantize in (("openvino", "int8"), ("tflite", "int8-static"), *product(["executorch"], QUANTIZED))
    ),
]


@pytest.fixture
def calibration(tiny_corpus):
    return [str(tiny_corpus)]


@pytest.mark.parametrize(("format", "quantize"), CASES)
def test_every_format_runs_in_eight_bits(format, quantize, exported):
    check_eight_bits(exported(format, quantize), format, quantize)


@pytest.mark.slow
def test_a_tiny_student_runs_in_eight_bits(tiny_tokenizer, calibration, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer, **TINY)
    export(model, tmp_path / "out", "onnx", "int8-static", calibration=calibration)
    check_eight_bits(tmp_path / "out", "onnx", "int8-static")


def check_eight_bits(folder, format, quantize):
    file = FORMATS[format].FILES[quantize]
    graph = read_manifest(folder).graphs[file]
    assert graph.quantize == quantize
    assert 0 < max(graph.relative_errors.values()) <= 0.25
    source, task = load_student(folder.parent / "model")
    run = FORMATS[format].load(folder / file, task)
    inputs = [sample_inputs(source, 1, length, seed) for seed, length in enumerate([1, 2, 64, *[40] * 10])]
    logits = [run({name: value.numpy() for name, value in row.items()})["start_logits"] for row in inputs]
    assert [output.shape[1] for output in logits[:3]] == [1, 2, 64]
    assert len(np.unique(np.concatenate(logits[3:]))) > 256, "what the head gives out is rounded"


def test_lite_rt_hands_all_layers_to_xnnpack_at_once(exported):
    check_delegates(exported("tflite", "int8"))


@pytest.mark.slow
def test_lite_rt_hands_all_layers_of_a_tiny_student_to_xnnpack_at_once(tiny_tokenizer, tmp_path):
    export(save(tmp_path / "model", tiny_tokenizer, **TINY), tmp_path / "out", "tflite", "int8")
    check_delegates(tmp_path / "out")


def check_delegates(folder):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "tflite" / "model_int8.tflite"))
    interpreter.allocate_tensors()
    # A slice of open length, which none of XNNPACK's is, would end what a delegate takes; no public call counts them.
    names = [operator["op_name"] for operator in interpreter._get_ops_details()]
    assert names.count("DELEGATE") == 2, "one for the position ids before the embedding lookup, one for the rest"


@pytest.mark.usefixtures("instant_exports")
def test_files_of_one_model_lie_together(tiny_tokenizer, calibration, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer)
    for quantize in (None, "int8", "int8-static"):
        export(model, tmp_path / "out", "onnx", quantize, calibration=calibration if quantize == "int8-static" else ())
    files = {path.name for path in (tmp_path / "out" / "onnx").iterdir()}
    assert files == {"model.onnx", "model_quantized.onnx", "model_int8.onnx"}
    graphs = json.loads((tmp_path / "out" / "export.json").read_text())["graphs"]
    assert {name: graph["quantize"] for name, graph in graphs.items()} == {
        "onnx/model.onnx": None,
        "onnx/model_quantized.onnx": "int8",
        "onnx/model_int8.onnx": "int8-static",
    }


def test_the_graph_says_what_the_rounded_network_says(exported, tiny_tokenizer, calibration):
    """The error of int8 is already in the PyTorch model; ONNX Runtime adds almost nothing."""
    folder = exported("onnx", "int8-static")
    source, task = load_student(folder.parent / "model")
    # As `export` calibrates.
    batches = calibration_batches(calibration, tiny_tokenizer, source.config.max_position_embeddings, 2)
    network = prepare_for_export(source)
    quantize_static(network, batches)
    run = FORMATS["onnx"].load(folder / FORMATS["onnx"].FILES["int8-static"], task)
    exact, rounded, graph = [], [], []
    with torch.inference_mode():
        for batch in batches:
            real = batch["attention_mask"].bool()
            exact.append(source(**batch).start_logits[real])
            rounded.append(network(**batch).start_logits[real])
            outputs = run({name: value.numpy() for name, value in batch.items()})
            graph.append(torch.from_numpy(outputs["start_logits"])[real])
    exact, rounded, graph = torch.cat(exact), torch.cat(rounded), torch.cat(graph)
    assert (graph - rounded).pow(2).mean() <= 0.25 * (rounded - exact).pow(2).mean()


@pytest.mark.parametrize(
    "format", ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "tflite"))]
)
def test_unusual_students_are_quantized(format, tiny_tokenizer, calibration, tmp_path):
    """Rows without weights, which keep their biases, units that no text wakes, and one token type."""
    model = save(tmp_path / "model", tiny_tokenizer, type_vocab_size=1)
    source, _ = load_student(model)
    with torch.no_grad():
        for norm in (module for module in source.modules() if isinstance(module, NoNorm)):
            norm.bias.normal_()
            norm.weight[::4] = 0
        source.base_model.encoder.layer[0].intermediate.dense.bias.fill_(-1e3)
    source.save_pretrained(model)
    export(model, tmp_path / "out", format, "int8-static", calibration=calibration, tolerance=0.05)


def test_weights_are_quantized_per_row():
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, 4)
    with torch.no_grad():
        linear.weight.mul_(torch.tensor([[1e-3], [1.0], [1e3], [0.0]]))
        rounded = QuantizedLinear(linear)
        weight = rounded(torch.eye(16)).t() - linear.bias[:, None]
    assert rounded.weight.dtype == torch.int8
    assert ((weight - linear.weight).abs() <= 0.5001 * rounded.scale[:, None]).all()
    largest = rounded.weight.abs().amax(dim=1)
    assert ((largest[:3] >= 64) & (largest[:3] <= 127)).all(), "at most halved, for pairs of columns"
    assert largest[3] == 0


def test_activations_are_rounded_and_cut():
    point = QuantizeDequantize(torch.tensor(0.5), torch.tensor(10))
    values = torch.tensor([-100.0, -5.0, -0.3, 0.0, 0.3, 1.24, 122.5, 1000.0])
    assert point(values).tolist() == [-5.0, -5.0, -0.5, 0.0, 0.5, 1.0, 122.5, 122.5]


def test_calibration_has_both_token_types_and_few_texts(tiny_tokenizer, calibration):
    batches = calibration_batches(calibration, tiny_tokenizer, 24, 2)
    assert sum(len(batch["input_ids"]) for batch in batches) == 40
    assert all(batch["input_ids"].shape[1] <= 24 for batch in batches)
    assert all({0, 1} == set(batch["token_type_ids"].unique().tolist()) for batch in batches)


def test_short_texts_are_cut_in_the_middle(tiny_tokenizer, tmp_path):
    (tmp_path / "short.txt").write_text("the river is long\n\n" * 8)
    [batch] = calibration_batches([str(tmp_path / "short.txt")], tiny_tokenizer, 64, 2)
    of_second = batch["token_type_ids"].sum(dim=1)
    assert (of_second >= 3).all(), "more tokens than [SEP]"


@pytest.mark.parametrize(
    ("fields", "arguments", "message"),
    [
        ({}, {"quantize": "int4"}, "quantize='int4': expected one of int8, int8-static, or None for float32"),
        ({}, {"quantize": "int8-static"}, "int8-static needs text for calibration"),
        ({}, {"quantize": "int8", "calibration": ["x"]}, "calibration is only used by int8-static"),
        (
            {"normalization_type": "layer_norm"},
            {"quantize": "int8-static", "calibration": ["x"]},
            "needs a folded student, but normalization_type='layer_norm'",
        ),
        (
            {"hidden_act": "gelu"},
            {"quantize": "int8-static", "calibration": True},
            "hidden_act='gelu': int8-static for ONNX supports relu and relu6",
        ),
    ],
)
def test_what_cannot_be_quantized_is_said(fields, arguments, message, tiny_tokenizer, calibration, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer, **fields)
    if arguments.get("calibration") is True:
        arguments = {**arguments, "calibration": calibration}
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "out", **arguments)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(("format", "quantize"), list(product(FORMATS, ("int8", "int8-static"))))
def test_mobilebert_in_eight_bits_is_a_quarter_of_its_size(format, quantize, calibration, tmp_path):
    """All layers have the same size, so two depths determine all sizes. Exporting 24 takes minutes."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(30_517))]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    text = calibration if quantize == "int8-static" else ()
    sizes = []
    for layers in (1, 2):
        folder, output = tmp_path / f"model-{layers}", tmp_path / f"out-{layers}"
        torch.manual_seed(0)
        MobileBertForQuestionAnswering(MobileBertConfig(num_hidden_layers=layers)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        export(folder, output, format, quantize, calibration=text, tolerance=np.inf)
        files = graph_files(output, FORMATS[format].FILES[quantize])
        sizes.append(sum(file.stat().st_size for file in files))
    one, two = sizes
    whole = one + (MobileBertConfig().num_hidden_layers - 1) * (two - one)
    assert 24e6 < whole <= 27e6


@pytest.fixture(scope="module")
def aware(tiny_tokenizer, tmp_path_factory):
    """The folder of a student that has learned its ranges."""
    folder = tmp_path_factory.mktemp("aware")
    model = AutoModelForQuestionAnswering.from_pretrained(save(folder, tiny_tokenizer))
    student = fold(model, quantization_aware=True).train()
    with torch.no_grad():
        for seed in range(60):
            student(**sample_inputs(student, 8, 40, seed))
    student.eval().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def test_a_quantization_aware_student_is_exported_with_the_ranges_it_learned(aware, calibration, tmp_path):
    output = tmp_path / "out"
    assert 0 < max(export(aware, output, "onnx", "int8-static", tolerance=0.05).values()) <= 0.05
    config = json.loads((output / "config.json").read_text())
    assert (config["model_type"], config["hidden_act"]) == ("mobilebert", "relu6")
    assert config["architectures"] == ["MobileBertForQuestionAnswering"]
    assert "quantization_aware" not in config
    with pytest.raises(ValueError, match=r"has learned its quantization ranges. Remove calibration"):
        export(aware, tmp_path / "other", "onnx", "int8-static", calibration=calibration)
    with pytest.raises(ValueError, match="Pass it as calibration"):
        export(aware, tmp_path / "other", "openvino", "int8-static")


@pytest.mark.usefixtures("instant_exports")
def test_a_quantization_aware_student_is_not_rounded_in_float32(aware, tmp_path):
    assert max(export(aware, tmp_path / "out", "onnx").values()) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("format", "quantize"), [("onnx", "int8"), ("openvino", "int8-static")])
def test_what_measures_its_own_ranges_leaves_the_learned_ones_out(format, quantize, aware, calibration, tmp_path):
    text = calibration if quantize == "int8-static" else ()
    assert 0 < max(export(aware, tmp_path / "out", format, quantize, calibration=text).values()) <= 0.25
