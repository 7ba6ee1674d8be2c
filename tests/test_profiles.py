"""The profiles of the deployment benchmark have all of the student's FLOPs, and say what limits its speed."""

import importlib
import json

import pytest

import deployment
from mobilebert_hf import machine
from mobilebert_hf.deployment.benchmark.networks import BERT, OURS, STOCK, build_network, count_flops
from mobilebert_hf.deployment.benchmark.run import RUNTIMES

from .deployment.benchmark.helpers import STUDENTS, small_networks


def measure_here(job, script):
    [path] = script
    part = importlib.import_module(path.rpartition("/")[2].removesuffix(".py"))
    return json.loads(json.dumps(part.measure(job)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "kind"),
    [
        *((runtime, "as it is") for runtime in deployment.PROFILES),
        *(("tflite", kind) for kind in ("layer_norm", "tiny", "quantization-aware")),
    ],
)
def test_a_profile_has_all_flops(runtime, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "WARM_UP", 0.01)
    monkeypatch.setattr(deployment, "run_job", measure_here)
    student = small_networks(None)[OURS]
    model = str(tmp_path / "model")
    STUDENTS.get(kind, lambda student: student)(student).save_pretrained(model)
    job = {"threads": 1, "shapes": [(1, 16)], "seconds": 0.0, "model": model}
    details = deployment.profile(runtime, build_network(OURS, model), tmp_path, job, (16,))
    if kind == "layer_norm":
        assert details == {}
        return
    assert list(details) == ["float32", "int8"]
    results = {"details": {RUNTIMES[runtime]: details}}
    for precision, measured in details.items():
        assert measured["peak_gflops"] > 0
        heading, *lines = deployment.detail_cells(results, RUNTIMES[runtime], precision)
        assert len(heading) == len(lines[-1])
        if kind == "as it is":
            check_flops(measured, lines, count_flops(student, 16))


def check_flops(measured, lines, flops):
    if "operators" in measured:
        assert sum(row["flops"] for row in measured["operators"]) == pytest.approx(flops, rel=0.1)
        assert sum(int(line[3].removesuffix(" %")) for line in lines) == pytest.approx(100, abs=len(lines))
        return
    *parts, _ = measured["parts"]
    assert all(part["ms"] > 0 and part["flops"] > 0 for part in parts)
    # A folded layer has other matmuls, and those of embeddings and head are not included.
    assert sum(part["flops"] for part in parts) == pytest.approx(flops, rel=0.2)
    assert [line[0] for line in lines] == [*(part["part"] for part in parts), "all others"]


def test_a_matmul_can_be_shorter_than_the_clock_resolution():
    row = {"runtime": "OpenVINO", "precision": "int8", "rows": 1, "tokens": 16}
    operators = [
        {"operator": "Attention", "widths": [8, 8], "count": 2, "ms": 0.5, "flops": 1_000_000},
        {"operator": "FullyConnected", "widths": [8, 8], "count": 2, "ms": 0.0, "flops": 1_000_000},
        {"operator": "Add", "widths": [], "count": 2, "ms": 0.5, "flops": 0},
    ]
    results = {
        "rows": [{**row, "network": name, "median_ms": ms} for name, ms in ((OURS, 1.0), (STOCK, 1.2), (BERT, 3.0))],
        "details": {"OpenVINO": {"int8": {"operators": operators, "peak_gflops": 10.0}}},
        "networks": {OURS: {"flops": {"16": 10}}, STOCK: {"flops": {"16": 11}}, BERT: {"flops": {"16": 42}}},
    }
    _, *lines, _ = deployment.detail_cells(results, "OpenVINO", "int8")
    assert [line[-1] for line in lines] == ["20 %", "", ""]
    # The matmuls take half of the time; at peak they would take 0.2 of these 0.5.
    assert deployment.limit_cells(results)[1:] == [
        ["OpenVINO, int8", "1.20x", "2.40x", "3.00x", "6.00x", "4.29x"],
        ["FLOPs", "1.10x", "", "4.20x", "", ""],
    ]
