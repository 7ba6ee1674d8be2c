"""The benchmarks measure what they say."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import data
import processors
import training_steps
from mobilebert_hf.deployment import FORMATS
from mobilebert_hf.deployment.student import load_student, sample_inputs

SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "embedding_size": 32, "vocab_size": 1200}


def test_the_plain_way_and_ours_compute_the_same():
    rows = training_steps.compare(**SIZES)
    assert {row["stage"] for row in rows} == {"layer 0", "layer 1", "distillation"}
    assert max(row["loss_error"] for row in rows) <= 1e-5
    assert max(row["gradient_error"] for row in rows) <= 5e-5, "so small a network sums up few terms"


def test_an_error_would_be_seen():
    pair = training_steps.Pair((2, 16), **SIZES)
    pair.plain(0)()
    plain = pair.gradients()
    pair.ours(0)()
    ours = pair.gradients()
    assert training_steps.gradient_error(ours, plain) <= 1e-5
    name = max(ours, key=lambda name: ours[name].abs().max())
    ours[name] = ours[name] * 1.001
    assert training_steps.gradient_error(ours, plain) > 1e-4


def test_every_stage_is_timed_in_every_way():
    rows = training_steps.time_stages((2, 16), range(3), repeats=2, **SIZES)
    assert [row["stage"] for row in rows] == ["layer 0", "layer 1", "distillation"]
    assert all(row[f"{way}_seconds"] > 0 for row in rows for way in ("plain", "hard", "soft", "bfloat16"))


def test_a_gpus_costs_are_shown_beside_the_plain_ways():
    costs = {"plain": 0.4, "ours": 0.2, "compiled": 0.1}
    stage = {way: {"seconds": seconds, "bytes": 1000 * seconds} for way, seconds in costs.items()}
    results = {"batch": [4, 100], "machine": {"peak_flops": 1e6}, "stages": {"layer 0": {"flops": 3e4, **stage}}}
    assert training_steps.gpu_cells(results)[1] == ["layer 0", "1,000", "2,000 (2.0x)", "4,000 (4.0x)", "0.25", "30%"]


def test_padding_is_counted():
    lengths = np.tile([10, 20], 32)
    shares = data.padding_shares(lengths)
    assert shares["grouped"] == 0
    assert 0.2 < shares["random"] <= 0.25


@pytest.mark.parametrize("quantize", ["int8", "int8-static"])
def test_unsigned_weights_say_the_same(quantize, exported, tmp_path):
    folder = exported("onnx", quantize)
    path = Path(shutil.copy(folder / FORMATS["onnx"].FILES[quantize], tmp_path))
    source, head = load_student(folder.parent / "model")
    inputs = {name: value.numpy() for name, value in sample_inputs(source, 2, 33).items()}
    signed = FORMATS["onnx"].load(path, head)(inputs)["start_logits"]
    processors._make_unsigned(path)
    unsigned = FORMATS["onnx"].load(path, head)(inputs)["start_logits"]
    assert not list(FORMATS["onnx"].unsigned_matmuls(path)), "no int8 weights are left"
    assert np.abs(unsigned - signed).max() <= 1e-5 * np.abs(signed).max()


def test_the_table_of_processors_has_both():
    found = {"here": {"relative_error": 0.01, "accuracy": 81.0}, "Haswell": {"relative_error": 0.2, "accuracy": 70.5}}
    graph = {"format": "onnx", "quantize": "int8", "weights": "full", "largest_pair": 254, "milliseconds": 7.25}
    machine = {"cpu": "EPYC", "instructions": ["avx512_vnni"]}
    results = {
        "machine": machine,
        "examples": 9,
        "emulated": {"Haswell": "no VNNI"},
        "pytorch": 80.0,
        "graphs": [{**graph, "processors": found}],
    }
    heading, reference, row = processors.cells(results)
    assert heading[3:] == [
        f"{measure}: {name}"
        for measure in ("error", "SST-2, 9 examples")
        for name in ("EPYC, VNNI", "Haswell, no VNNI, emulated")
    ]
    assert reference[-2:] == ["80.00", "80.00"]
    assert row == ["onnx, int8", "full range", "7.2 ms", "0.010", "0.200", "+1.00", "-9.50"]
