"""The benchmark's parts, on small networks."""

import json
import subprocess
import sys

import pytest
import torch
import transformers

from mobilebert_hf import MobileBertConfig, MobileBertForQuestionAnswering, fold
from mobilebert_hf.data.squad import load_squad
from mobilebert_hf.deployment.benchmark import networks, parts, run, run_benchmark, worker
from mobilebert_hf.deployment.benchmark.networks import (
    BERT,
    OURS,
    STOCK,
    Setting,
    build_network,
    count_flops,
    precisions_of,
)
from mobilebert_hf.deployment.benchmark.report import HEADINGS, cells, detail_cells, limit_cells, mixed_cells
from mobilebert_hf.deployment.benchmark.run import parse_shape, reuse_results, write_graphs
from mobilebert_hf.deployment.formats import FORMATS

from ...finetuning.test_squad import write as write_squad
from ..helpers import TINY

SIZES = {"vocab_size": 200, "num_hidden_layers": 2, "max_position_embeddings": 384}


def small_networks(model):
    """Tiny models of all four networks."""
    torch.manual_seed(0)
    student = {"hidden_size": 64, "embedding_size": 32, "intra_bottleneck_size": 32, "intermediate_size": 64, **SIZES}
    bert = transformers.BertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64, **SIZES)
    distilbert = transformers.DistilBertConfig(
        vocab_size=200, n_layers=2, dim=32, hidden_dim=64, n_heads=4, max_position_embeddings=384
    )
    ours = MobileBertForQuestionAnswering(MobileBertConfig(**student))
    built = {
        OURS: ours,
        STOCK: transformers.MobileBertForQuestionAnswering(transformers.MobileBertConfig(**ours.config.to_dict())),
        "DistilBERT": transformers.DistilBertForQuestionAnswering(distilbert),
        BERT: transformers.BertForQuestionAnswering(bert),
    }
    return {name: network.eval() for name, network in built.items()}


@pytest.mark.parametrize(
    "runtime", ["pytorch", "onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "tflite"))]
)
def test_every_network_is_timed_on_every_runtime(runtime, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("mobilebert_hf.deployment.benchmark.run.build_networks", small_networks)
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
        assert results["details"] == {}
        return
    assert (tmp_path / "results.png").stat().st_size > 10_000
    [(name, details)] = results["details"].items()
    assert list(details) == ["float32", "int8"]
    for precision in details:
        check_details(results, name, precision, ours)
    heading, *lines, _ = limit_cells(results)
    assert [line[0] for line in lines] == [f"{name}, {precision}" for precision in details]
    assert {len(line) for line in lines} == {len(heading)}
    sizes = {row["precision"]: row["bytes"] for row in results["rows"] if row["network"] == BERT and row["rows"] == 1}
    assert 10_000 < sizes["int8"] < sizes["float32"]


def check_details(results, runtime, precision, ours):
    """The profile of the student has all of its FLOPs."""
    measured = results["details"][runtime][precision]
    heading, *lines = detail_cells(results, runtime, precision)
    assert len(heading) == len(lines[-1])
    if runtime != "LiteRT":
        counted = sum(row["flops"] for row in measured["operators"])
        assert counted == pytest.approx(count_flops(ours, 16), rel=0.1)
        assert measured["peak_gflops"] > 1
        assert sum(int(line[3].removesuffix(" %")) for line in lines) == pytest.approx(100, abs=len(lines))
        return
    *parts, _ = measured["parts"]
    assert all(part["ms"] > 0 and part["flops"] > 0 for part in parts)
    # A folded layer has other matmuls, and those of embeddings and head are not included.
    assert sum(part["flops"] for part in parts) == pytest.approx(count_flops(ours, 16), rel=0.2)
    assert [line[0] for line in lines] == [*(part["part"] for part in parts), "all others"]


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
        "details": {runtime: {"int8": {}} for runtime in runtimes},
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


STUDENTS = {
    "layer_norm": lambda student: type(student)(with_fields(student.config, normalization_type="layer_norm")),
    "gelu": lambda student: type(student)(with_fields(student.config, hidden_act="gelu")),
    "tiny": lambda student: type(student)(with_fields(student.config, **TINY)),
    "folded": fold,
    "quantization-aware": lambda student: fold(student, quantization_aware=True),
}


def with_fields(config, **fields):
    return MobileBertConfig.from_dict({**config.to_dict(), **fields})


@pytest.mark.parametrize("kind", STUDENTS)
@pytest.mark.parametrize(
    "runtime", ["pytorch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("onnx", "openvino", "tflite"))]
)
def test_students_of_every_kind_are_timed(kind, runtime, tmp_path):
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
        if runtime == "tflite":
            assert run._has_details(built[OURS], setting) is (kind != "layer_norm")
            if kind != "layer_norm":
                assert parts.measure(job)["peak_gflops"] > 0


def test_a_failing_runtime_is_reported_in_one_line(tmp_path):
    script = "from mobilebert_hf.deployment.benchmark import run; import mobilebert_hf_cli as cli\n"
    script += "from functools import partial; run._run_job = partial(run._run_job, module='nowhere'); cli.run()"
    command = [sys.executable, "-c", script, "benchmark", str(tmp_path), "--runtime", "pytorch", "--shape", "1x8"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "mobilebert-hf: Timing pytorch failed: " in failed.stderr
    assert "Traceback" not in failed.stderr


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
    _, *lines, _ = detail_cells(results, "OpenVINO", "int8")
    assert [line[-1] for line in lines] == ["20 %", "", ""]
    # The matmuls take half of the time; at peak they would take 0.2 of these 0.5.
    assert limit_cells(results)[1:] == [
        ["OpenVINO, int8", "1.20x", "2.40x", "3.00x", "6.00x", "4.29x"],
        ["FLOPs", "1.10x", "", "4.20x", "", ""],
    ]


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
    built = networks.build_networks(None)
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
