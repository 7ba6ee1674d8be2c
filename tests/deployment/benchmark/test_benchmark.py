"""The benchmark's parts, on small networks."""

import json
import shutil
import sys

import pytest
import torch

from mobilebert_hf import machine
from mobilebert_hf.data.squad import load_squad
from mobilebert_hf.deployment.benchmark import networks, run, run_benchmark, worker
from mobilebert_hf.deployment.benchmark.networks import (
    BERT,
    DISTILBERT,
    OURS,
    STOCK,
    Setting,
    build_network,
    count_flops,
    precisions_of,
)
from mobilebert_hf.deployment.benchmark.report import HEADINGS, cells, mixed_cells
from mobilebert_hf.deployment.benchmark.run import parse_shape, reuse_results, write_graphs
from mobilebert_hf.deployment.formats import FORMATS

from ...finetuning.helpers import write_squad
from ...helpers import mobilebert
from ...workshop import in_fork
from .helpers import STUDENTS, small_networks


def run_forked(job):
    """A job in a process of its own, which has everything imported."""
    return in_fork(measure, json.dumps(job))


def measure(job):
    machine.WARM_UP = 0.01
    small = small_networks(None)
    worker.build_network = lambda name, model: (
        small[name] if name in (DISTILBERT, BERT) else build_network(name, model)
    )
    return json.loads(json.dumps(worker.measure(json.loads(job))))


@pytest.mark.parametrize(
    "runtime", ["pytorch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("onnx", "openvino", "tflite"))]
)
def test_every_network_is_timed_on_every_runtime(runtime, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "build_networks", small_networks)
    monkeypatch.setattr(run, "run_job", run_forked)
    ours = small_networks(None)[OURS]
    model = str(tmp_path / "model")  # loaded by the worker processes
    ours.save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    questions = write_squad(tmp_path / "dev.json", 20, seed=0)
    options = {"threads": 1, "shapes": [(1, 16), (2, 16)], "seconds": 0.0, "questions": questions}
    results = run_benchmark(tmp_path, model, [runtime], **options)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    precisions = precisions_of(runtime)
    check_mixed(results, precisions, tiny_tokenizer, questions)
    keys = {(row["network"], row["precision"], row["rows"]) for row in results["rows"]}
    assert len(keys) == len(results["rows"]) == 4 * len(precisions) * 2
    for row in results["rows"]:
        assert 0 < row["median_ms"] <= row["p90_ms"]
        assert row["texts_per_second"] == pytest.approx(1e3 * row["rows"] / row["median_ms"])
        assert row["peak_memory"] > 1e6
    if runtime == "pytorch":
        return
    assert (tmp_path / "results.png").stat().st_size > 10_000
    sizes = {row["precision"]: row["bytes"] for row in results["rows"] if row["network"] == BERT and row["rows"] == 1}
    assert 10_000 < sizes["int8"] < sizes["float32"]


def check_mixed(results, precisions, tokenizer, questions):
    """The results of mixed lengths have all texts in each batching."""
    lengths = results["mixed"]["lengths"]
    rows = load_squad(questions, "validation")
    expected = sorted(len(tokenizer(row["question"], row["context"])["input_ids"]) for row in rows)
    assert sorted(lengths) == expected
    ways = [f"{name}, {way}" for name in (OURS, STOCK) for way in ("padded", "sorted", "unpadded")]
    assert [(row["precision"], row["way"]) for row in results["mixed"]["rows"]] == [
        (precision, way) for precision in precisions for way in ways
    ]
    heading, *lines, tokens = mixed_cells(results)
    batches = lengths[:16], lengths[16:]
    assert tokens[-1] == f"{sum(max(batch) * len(batch) for batch in batches) / sum(lengths):.2f}x"
    assert [line[-1] for line in lines if line[2] == f"{STOCK}, padded"] == ["1.00x"] * len(precisions)
    assert len(heading) == len(lines[0])


def results_of(*runtimes, threads=1):
    return {
        "machine": {"processor": "one", "version": "2"},
        "threads": threads,
        "networks": {OURS: {"parameters": 1}},
        "rows": [{"runtime": runtime, "rows": 1, "tokens": 8} for runtime in runtimes],
        "mixed": {"lengths": [3, 4], "rows": [{"runtime": runtime} for runtime in runtimes]},
    }


def test_results_of_other_runtimes_are_reused(tmp_path):
    path = tmp_path / "results.json"
    empty = results_of()
    reuse_results(path, empty, ["ONNX Runtime"], [(1, 8)])
    assert empty == results_of(), "there is nothing yet"
    path.write_text(json.dumps(results_of("PyTorch", "ONNX Runtime")))
    found = results_of()
    found["machine"]["version"] = "3"
    reuse_results(path, found, ["ONNX Runtime"], [(1, 8)])
    assert found == {**results_of("PyTorch"), "machine": found["machine"]}
    other = results_of(threads=2)
    reuse_results(path, other, ["ONNX Runtime"], [(1, 8)])
    assert other == results_of(threads=2), "the threads are others"
    found = results_of()
    reuse_results(path, found, ["ONNX Runtime"], [(1, 8), (2, 8)])
    assert found == results_of(), "the shapes are others"


def test_graphs_of_the_same_network_and_version_are_reused(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(run, "write_ours", lambda network, path, setting: written.append(path) or path.write_text(""))
    monkeypatch.setattr(run, "write_stock", lambda network, path, setting: written.append(path) or path.write_text(""))
    built, other = small_networks(None), small_networks(None)
    other[OURS].config.mask_padding = False

    def write(networks, version):
        monkeypatch.setattr(run, "describe_version", lambda: version)
        written.clear()
        write_graphs(networks, tmp_path, Setting("onnx", "float32", (16,)))
        return len(written)

    assert [write(built, "1"), write(built, "1"), write(other, "1"), write(other, "2")] == [4, 0, 1, 4]
    assert [write(other, "2-dirty"), write(other, "2-dirty")] == [4, 4]


# What differs in the graphs of a runtime; every kind in PyTorch.
KINDS = {
    "onnx": ("layer_norm", "quantization-aware"),
    "openvino": ("layer_norm", "quantization-aware"),
    "tflite": ("layer_norm", "tiny", "quantization-aware"),
}


@pytest.mark.parametrize(
    ("runtime", "kind"),
    [
        *(("pytorch", kind) for kind in STUDENTS),
        *(pytest.param(runtime, kind, marks=pytest.mark.slow) for runtime, kinds in KINDS.items() for kind in kinds),
    ],
)
def test_students_of_every_kind_are_timed(runtime, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "WARM_UP", 0.01)
    model = str(tmp_path / "model")
    STUDENTS[kind](small_networks(None)[OURS]).save_pretrained(model)
    built = {name: build_network(name, model) for name in (OURS, STOCK)}
    job = {"format": runtime, "model": model, "shapes": [(1, 16)], "seconds": 0.0, "lengths": [3, 5]}
    for precision in set(precisions_of(runtime)) - {"bfloat16"}:
        setting = Setting(runtime, precision, (16,))
        graphs = {name: str(path) for name, path in write_graphs(built, tmp_path / "graphs", setting).items()}
        job |= {"precision": precision, "graphs": graphs, "threads": torch.get_num_threads()}
        measured = worker.measure(job)
        assert set(measured["times"]["1x16"]) == {OURS, STOCK}
        assert len(measured["mixed"]) == 6


def test_a_failing_runtime_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "build_networks", small_networks)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    words = ("benchmark", tmp_path, "--runtime", "pytorch", "--shape", "1x8")
    assert mobilebert(monkeypatch, *words).startswith("mobilebert-hf: Timing pytorch failed: ")


def test_questions_need_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="Pass model, too"):
        run_benchmark(tmp_path, questions="dev.json")


def test_matmul_flops_are_counted():
    built = small_networks(None)
    length, width, inner, layers = 16, 32, 64, 2
    dense = layers * (4 * width * width + 2 * width * inner) + 2 * width
    attention = layers * 2 * length * width
    assert count_flops(built[BERT], length) == 2 * length * (dense + attention)


def test_sizes_and_flops_are_those_of_the_paper():
    """Table 1 of the paper: 25.3M parameters and 5.7 GFLOPs at 128 tokens; BERT_BASE has 109M and 22.5."""
    built = {name: networks.build_network(name, None) for name in (OURS, BERT)}
    assert sum(parameter.numel() for parameter in built[OURS].parameters()) == pytest.approx(25.3e6, rel=0.04)
    assert count_flops(built[OURS], 128) == pytest.approx(5.7e9, rel=0.06)
    assert count_flops(built[BERT], 128) == pytest.approx(22.5e9, rel=0.02)


def test_speedups_are_over_bert_with_the_same_runtime_and_precision():
    def row(network, precision, milliseconds):
        return {
            "runtime": "ONNX Runtime",
            "precision": precision,
            "network": network,
            "rows": 1,
            "tokens": 128,
            "median_ms": milliseconds,
            "p90_ms": milliseconds,
            "texts_per_second": 1e3 / milliseconds,
            "bytes": 1_000_000,
            "peak_memory": 2_000_000,
        }

    rows = [row(OURS, "float32", 20.0), row(BERT, "float32", 90.0), row(OURS, "int8", 10.0), row(BERT, "int8", 30.0)]
    heading, *lines = cells({"rows": rows}, 1, 128)
    assert heading == list(HEADINGS)
    assert [line[6] for line in lines] == ["4.50x", "1.00x", "3.00x", "1.00x"]


@pytest.mark.parametrize("text", ["128", "0x128", "1x", "1 x 128"])
def test_an_invalid_shape_is_refused(text):
    assert parse_shape("16x384") == (16, 384)
    with pytest.raises(ValueError, match="expected batch size and sequence length, such as 1x128"):
        parse_shape(text)


def test_a_text_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(ValueError, match="shapes of 513 tokens: expected at most 512"):
        run_benchmark(tmp_path / "out", shapes=[(1, 128), (1, 513)])
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(FORMATS["tflite"], "PACKAGES", ("nowhere_to_be_found",))
    with pytest.raises(ImportError, match=r"tflite needs nowhere_to_be_found"):
        run_benchmark(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_runtime_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"runtimes=\['ncnn'\]: expected some of pytorch, onnx, openvino, tflite"):
        run_benchmark(tmp_path, runtimes=["ncnn"])
