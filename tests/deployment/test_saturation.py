"""int8 matmuls give the same integers on processors with VNNI and without it."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilebert_hf.deployment import FORMATS, export
from mobilebert_hf.deployment.formats import onnx as onnx_format
from mobilebert_hf.deployment.formats import openvino as openvino_format
from mobilebert_hf.deployment.quantization import QuantizedLinear
from mobilebert_hf.deployment.saturation import LARGEST_PAIR, check_saturation, largest_pair
from mobilebert_hf.deployment.student import load_student, sample_inputs
from mobilebert_hf.models.fake_quantization import matmul_scales, row_scales

from .helpers import TINY, save

QEMU = shutil.which("qemu-x86_64")
GRAPHS = [("onnx", "int8"), ("onnx", "int8-static"), ("openvino", "int8-static")]


def vpmaddubsw(activations, weights):
    """Unsigned activations [n, in] times int8 weights [out, in], as x86 without VNNI multiplies: [n, out]."""
    odd = activations.shape[1] % 2
    activations, weights = (np.pad(values.astype(np.int32), ((0, 0), (0, odd))) for values in (activations, weights))
    products = activations[:, None] * weights
    pairs = products.reshape(*products.shape[:2], -1, 2).sum(3)
    return pairs.clip(-32_768, 32_767).sum(2)


def exact(activations, weights):
    return activations.astype(np.int64) @ weights.T.astype(np.int64)


@st.composite
def weights(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, width = draw(st.integers(1, 6)), draw(st.integers(1, 41))
    values = generator.standard_normal((rows, width)) ** draw(st.sampled_from([1, 3, 9]))
    values = np.where(generator.random(values.shape) < draw(st.sampled_from([0, 0.5])), values.max(), values)
    return torch.from_numpy(values * 10.0 ** draw(st.integers(-30, 30))).float()


@settings(max_examples=200, deadline=None)
@given(weights(), st.integers(0, 2**32))
def test_rounded_weights_saturate_for_no_activations(weight, seed):
    scales = matmul_scales(weight)
    rows = (weight / scales[:, None]).round().to(torch.int8).numpy()
    assert largest_pair(rows) <= LARGEST_PAIR
    assert ((scales >= row_scales(weight)) & (scales <= 2.0001 * row_scales(weight))).all()
    random = np.random.default_rng(seed).integers(0, 256, (4, rows.shape[1]))
    largest = [255 * (rows > 0), 255 * (rows < 0), np.full_like(random, 255), random]
    for activations in largest:
        assert (vpmaddubsw(activations, rows) == exact(activations, rows)).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-127, 127), min_size=1, max_size=9))
def test_the_largest_pair_says_whether_some_activations_saturate(row):
    rows = np.array([row], dtype=np.int8)
    saturates = any(
        (vpmaddubsw(activations, rows) != exact(activations, rows)).any()
        for activations in (255 * (rows > 0), 255 * (rows < 0))
    )
    assert saturates == (largest_pair(rows) > LARGEST_PAIR)


@pytest.mark.parametrize("width", [1, 7, 32])
def test_neighbours_of_one_sign_share_the_range(width):
    linear = torch.nn.Linear(width, 3, bias=False)
    torch.nn.init.ones_(linear.weight)
    assert QuantizedLinear(linear).weight.unique().tolist() == [127 if width == 1 else 64]


@pytest.mark.parametrize(("format", "quantize"), GRAPHS)
def test_every_matmul_of_a_graph_is_looked_at(format, quantize, exported):
    check_matmuls(exported(format, quantize), format, quantize)


@pytest.mark.slow
@pytest.mark.parametrize(("format", "quantize"), GRAPHS)
def test_every_matmul_of_a_tiny_students_graph_is_looked_at(format, quantize, tiny_tokenizer, tiny_corpus, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer, **TINY)
    text = [str(tiny_corpus)] if quantize == "int8-static" else ()
    export(model, tmp_path / "out", format, quantize, calibration=text)
    check_matmuls(tmp_path / "out", format, quantize)


def check_matmuls(folder, format, quantize):
    found = dict(FORMATS[format].unsigned_matmuls(folder / FORMATS[format].FILES[quantize]))
    # ONNX Runtime's attention has the matmuls of query, key and value, which the other graphs have in one with more.
    layers = 2 * (4 + 2 * load_student(folder.parent / "model")[0].config.num_feedforward_networks)
    assert layers <= len(found) <= layers + 5
    assert all(largest_pair(weight) <= LARGEST_PAIR for weight in found.values())
    assert max(np.abs(weight).max() for weight in found.values()) == 127
    assert {weight.shape[1] for weight in found.values()} <= {16, 32, 48, 64}, "[out, in]"


@pytest.mark.usefixtures("instant_exports")
def test_weights_that_saturate_are_refused(tiny_tokenizer, monkeypatch, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer)
    saturating = [("matmul", np.full((2, 4), 100, dtype=np.int8))]
    monkeypatch.setattr(FORMATS["onnx"], "unsigned_matmuls", lambda path: saturating)
    with pytest.raises(ValueError, match=r"matmul would saturate on x86 processors without VNNI.* 128 is allowed"):
        export(model, tmp_path / "out", "onnx", "int8")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
def test_scales_of_the_runtimes_own_quantizers_are_refused(tiny_tokenizer, tiny_corpus, monkeypatch, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer)
    monkeypatch.setattr(onnx_format, "_weight_scales", lambda model: {})
    monkeypatch.setattr(openvino_format, "_requantize", lambda *args: None)
    for format, quantize, text in (("onnx", "int8", ()), ("openvino", "int8-static", [str(tiny_corpus)])):
        with pytest.raises(ValueError, match=r"would saturate on x86 processors without VNNI.* 128 is allowed"):
            export(model, tmp_path / "out", format, quantize, calibration=text)
    assert not list((tmp_path / "out").glob("*"))


def test_what_saturates_is_named():
    weight = np.array([[100, 20, 0], [100, 29, 1]], dtype=np.int8)
    check_saturation([("fine", weight[:1])])
    with pytest.raises(ValueError, match=r"weights of wrong would saturate.* sum to 129; at most 128"):
        check_saturation([("fine", weight[:1]), ("wrong", weight)])


RUN = """
import sys
import numpy as np
arrays = dict(np.load(sys.argv[2]))
if sys.argv[1].endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    outputs = session.run(None, {value.name: arrays[value.name] for value in session.get_inputs()})
else:
    import openvino
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    graph = openvino.Core().compile_model(sys.argv[1], "CPU", options)
    outputs = list(graph({port.get_any_name(): arrays[port.get_any_name()] for port in graph.inputs}).values())
np.save(sys.argv[3], np.stack(outputs))
"""


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="emulates another processor: needs qemu-x86_64 (Debian's qemu-user)")
@pytest.mark.parametrize(("format", "quantize"), GRAPHS)
def test_a_processor_without_vnni_says_the_same(format, quantize, tiny_tokenizer, tiny_corpus, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer, hidden_size=128, intra_bottleneck_size=64, intermediate_size=128)
    text = [str(tiny_corpus)] if quantize == "int8-static" else ()
    export(model, tmp_path / "out", format, quantize, calibration=text)
    graph = tmp_path / "out" / FORMATS[format].FILES[quantize]
    source, _ = load_student(model)
    inputs = sample_inputs(source, 2, 33)
    np.savez(tmp_path / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
    here, emulated = tmp_path / "here.npy", tmp_path / "emulated.npy"
    command = [sys.executable, "-c", RUN, str(graph), str(tmp_path / "inputs.npz")]
    subprocess.run([*command, str(here)], check=True)
    subprocess.run([QEMU, "-cpu", "Haswell", *command, str(emulated)], check=True, capture_output=True)
    here, emulated = np.load(here), np.load(emulated)
    with torch.inference_mode():
        outputs = source(**inputs)
    expected = np.stack([outputs.start_logits, outputs.end_logits])
    largest = np.abs(expected).max()
    # OpenVINO's float32 operators between the matmuls round differently, which can take a value one step further.
    assert np.abs(here - emulated).max() <= (0 if format == "onnx" else 0.1) * largest
    assert np.abs(emulated - expected).max() <= 1.5 * np.abs(here - expected).max()
