"""Exports that are run, by ONNX Runtime alone."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel

from mobilebert_hf import IBBertConfig, IBBertModel, MobileBertModel, fold
from mobilebert_hf.deployment import export
from mobilebert_hf.deployment.check import SHAPES, check
from mobilebert_hf.deployment.formats import FORMATS
from mobilebert_hf.deployment.student import INPUTS, load_student, sample_inputs
from mobilebert_hf.runs.exports import graph_size, read_manifest
from mobilebert_hf.tasks.heads import EXPORTED, TASKS, find_task

from ..helpers import mobilebert
from ..workshop import FORKS, PATIENCE
from .helpers import SIZES, TINY, InstantFormat, save

# All that concerns the encoder in three exports; the other heads are slow.
CASES = [
    ("ForQuestionAnswering", {**TINY, "type_vocab_size": 1}, True),
    ("ForSequenceClassification", {"normalization_type": "layer_norm"}, False),
    ("ForMaskedLM", {"mask_padding": False}, True),
    *(pytest.param(head, {}, True, marks=pytest.mark.slow) for head in EXPORTED),
]


@pytest.mark.parametrize(("head", "fields", "folded"), CASES)
def test_every_head_exports_and_says_what_the_model_says(head, fields, folded, tiny_tokenizer, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer, head, num_hidden_layers=1, **fields)
    errors = export(model, tmp_path / "out")
    assert set(errors) == set(TASKS[head].outputs)
    assert max(errors.values()) <= 1e-5
    source, _ = load_student(model)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx")
    inputs = sample_inputs(source, 4, 50, seed=9)
    with torch.inference_mode():
        expected = source(**inputs)
    names = [output.name for output in session.get_outputs()]
    # What a tokenizer gives for this model: without token types if there is one.
    taken = [value.name for value in session.get_inputs()]
    assert ("token_type_ids" in taken) == (source.config.type_vocab_size > 1)
    actual = dict(zip(names, session.run(None, {name: inputs[name].numpy() for name in taken}), strict=True))
    for name in TASKS[head].outputs:
        assert np.abs(actual[name] - expected[name].numpy()).max() <= 1e-4 * expected[name].abs().max()
    assert json.loads((tmp_path / "out" / "export.json").read_text())["graphs"]["onnx/model.onnx"]["folded"] is folded


def test_the_folder_is_what_others_load(exported, tiny_tokenizer):
    folder = exported("onnx")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"config.json", "export.json", "onnx/model.onnx", "tokenizer.json", "tokenizer_config.json"}
    # Other tools know the stock type alone.
    assert json.loads((folder / "config.json").read_text())["model_type"] == "mobilebert"
    assert AutoConfig.from_pretrained(folder).architectures == ["MobileBertForQuestionAnswering"]
    assert len(AutoTokenizer.from_pretrained(folder)) == len(tiny_tokenizer)
    assert b"mobilebert_hf" not in (folder / "onnx" / "model.onnx").read_bytes(), "it tells of our files"
    graph = onnx.load(folder / "onnx" / "model.onnx").graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(dimension.dim_param for value in graph.input for dimension in value.type.tensor_type.shape.dim)


# ExecuTorch takes a quarter of a minute for the smallest network.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "head", "fields"),
    [
        ("executorch", "Model", {}),
        ("executorch", "ForSequenceClassification", TINY),
        ("openvino", "ForMaskedLM", {"normalization_type": "layer_norm"}),
        ("tflite", "ForMaskedLM", {}),
        ("tflite", "ForQuestionAnswering", TINY),
    ],
)
def test_every_format_says_what_the_model_says(format, head, fields, tiny_tokenizer, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer, head, num_hidden_layers=1, **fields)
    export(model, tmp_path / "out", format)
    check_float32(tmp_path / "out", format, head)


@pytest.mark.parametrize("format", ["openvino", "tflite"])
def test_every_format_answers_questions(format, exported):
    check_float32(exported(format), format, "ForQuestionAnswering")


def check_float32(folder, format, head):
    errors = read_manifest(folder).graphs[FORMATS[format].FILES[None]].relative_errors
    assert set(errors) == set(TASKS[head].outputs)
    assert max(errors.values()) <= 1e-5
    for path in (folder / FORMATS[format].FILES[None]).parent.iterdir():
        assert b"modeling_folded.py" not in path.read_bytes(), "it tells of our files"


@pytest.mark.slow
@pytest.mark.parametrize("fields", [TINY, {"normalization_type": "layer_norm"}, {"trigram_input": False}], ids=str)
def test_a_tflite_graph_of_any_kind_takes_a_text_of_any_length(fields, tiny_tokenizer, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer, **fields)
    export(model, tmp_path / "out", "tflite")
    check_any_length(model, tmp_path / "out")


def test_a_tflite_graph_takes_a_text_of_any_length(exported):
    folder = exported("tflite")
    check_any_length(folder.parent / "model", folder)


def check_any_length(model, folder):
    from ai_edge_litert.interpreter import Interpreter

    source, task = load_student(model)
    path = folder / FORMATS["tflite"].FILES[None]
    interpreter = Interpreter(str(path))
    assert list(interpreter.get_signature_list()) == ["serving_default"]
    taken = interpreter.get_signature_runner().get_input_details()
    assert {name: list(value["shape_signature"]) for name, value in taken.items()} == {
        name: [1, -1] for name in INPUTS
    }
    run = FORMATS["tflite"].load(path, task)
    for length in (1, 2, 61, 64, 3):
        inputs = sample_inputs(source, 2, length)
        with torch.inference_mode():
            expected = source(**inputs).start_logits
        actual = run({name: value.numpy() for name, value in inputs.items()})["start_logits"]
        torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=1e-4, atol=1e-5)


def test_a_folded_graph_has_fewer_products(exported, tmp_path):
    folders = {True: exported("onnx"), False: tmp_path / "out"}
    export(folders[True].parent / "model", folders[False], folded=False)
    matmuls = {}
    for folded, folder in folders.items():
        nodes = onnx.load(folder / "onnx" / "model.onnx").graph.node
        assert {node.domain for node in nodes} == {""}, "others than ONNX Runtime know the standard alone"
        matmuls[folded] = sum(node.op_type in ("Conv", "MatMul", "Gemm") for node in nodes)
    # Of two bottlenecks, query, key and value, one bottleneck is left, query and key in one, and value; and one
    # convolution is there for the layout.
    assert matmuls[False] - matmuls[True] == 2 * SIZES["num_hidden_layers"] - 1


def test_a_folded_onnx_graph_runs_in_openvino_too(exported):
    folder = exported("onnx")
    source, task = load_student(folder.parent / "model")
    check(source, task, FORMATS["openvino"].load(folder / "onnx" / "model.onnx", task), 1e-5)


@pytest.mark.usefixtures("instant_exports")
def test_an_export_replaces_an_earlier_one_of_its_format_and_nothing_else(tiny_tokenizer, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer)
    for format in ("onnx", "onnx", "openvino"):
        export(model, tmp_path / "out", format)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["onnx", "openvino"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(ValueError, match="mine contains files but no export"):
        export(model, tmp_path / "mine")
    with pytest.raises(ValueError, match=r"thesis\.txt is a file"):
        export(model, tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "words"


@pytest.mark.usefixtures("instant_exports")
def test_a_model_is_known_by_its_weights(tiny_tokenizer, tmp_path, monkeypatch):
    model = save(tmp_path / "model", tiny_tokenizer)
    monkeypatch.chdir(tmp_path)
    export("model", "out")
    export("./model/", tmp_path / "out", "onnx", "int8")
    shutil.copytree(model, tmp_path / "moved")
    export("moved", "out")
    assert read_manifest(tmp_path / "out").model == str(tmp_path / "moved")
    message = r"out has exports of .*moved with other weights or another configuration than .*model"
    for fields in ({"seed": 1}, {"mask_padding": False}):
        save(tmp_path / "model", tiny_tokenizer, **fields)
        with pytest.raises(ValueError, match=message):
            export(model, tmp_path / "out")
    assert list(read_manifest(tmp_path / "out").graphs) == ["onnx/model.onnx", "onnx/model_quantized.onnx"]


@pytest.mark.usefixtures("instant_exports")
def test_the_folder_may_be_the_one_that_one_is_in(tiny_tokenizer, tmp_path, monkeypatch):
    model = save(tmp_path / "model", tiny_tokenizer)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    export(model, ".")
    assert (tmp_path / "out" / "onnx" / "model.onnx").is_file()


def test_exports_into_one_folder_at_once_are_all_there(tiny_tokenizer, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer)
    kinds = (["onnx"], ["onnx", "int8"], ["openvino"])
    processes = [FORKS.Process(target=export_instantly, args=(model, tmp_path / "out", *kind)) for kind in kinds]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    graphs = read_manifest(tmp_path / "out").graphs
    assert set(graphs) == {"onnx/model.onnx", "onnx/model_quantized.onnx", "openvino/openvino_model.xml"}
    assert all((tmp_path / "out" / name).is_file() for name in graphs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def export_instantly(model, folder, format, quantize=None):
    FORMATS[format] = InstantFormat(FORMATS[format].FILES)
    export(model, folder, format, quantize)


@pytest.mark.usefixtures("instant_exports")
def test_a_folded_student_needs_no_folding(tiny_tokenizer, tiny_corpus, tmp_path):
    source, _ = load_student(save(tmp_path / "model", tiny_tokenizer))
    fold(source).save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", quantize="int8-static", calibration=[str(tiny_corpus)], folded=False)
    [graph] = read_manifest(tmp_path / "out").graphs.values()
    assert graph.folded is True


@pytest.mark.usefixtures("instant_exports")
def test_nothing_is_written_where_the_graph_differs(tiny_tokenizer, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer)
    with pytest.raises(ValueError, match=r"start_logits is off by \d\.\d+e-\d+, .*1e-12 is allowed"):
        export(model, tmp_path / "out", tolerance=1e-12)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("broken", range(len(SHAPES) + 1))
def test_a_graph_that_gives_nan_is_refused(broken, tiny_tokenizer, tmp_path):
    model, task = load_student(save(tmp_path / "model", tiny_tokenizer))
    calls = iter(range(len(SHAPES) + 1))

    def run(inputs):
        with torch.inference_mode():
            outputs = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        factor = np.nan if next(calls) == broken else 1.0
        return {name: outputs[name].numpy() * factor for name in task.outputs}

    with pytest.raises(ValueError, match=r"start_logits is off by nan"):
        check(model, task, run, 0.3)


def test_a_missing_output_and_a_wrong_shape_are_named(tiny_tokenizer, tmp_path):
    source, task = load_student(save(tmp_path / "model", tiny_tokenizer))
    with pytest.raises(ValueError, match=r"has no output start_logits. Its outputs are x"):
        check(source, task, lambda inputs: {"x": np.zeros(1)}, 1e-3)
    with pytest.raises(ValueError, match=r"start_logits .*has shape \(1,\): expected \(1, 2\)"):
        check(source, task, lambda inputs: dict.fromkeys(task.outputs, np.zeros(1)), 1e-3)


def test_what_is_no_student_is_refused(tiny_tokenizer, tmp_path):
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1}
    IBBertModel(IBBertConfig(**sizes)).save_pretrained(tmp_path / "teacher")
    BertModel(BertConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path / "bert")
    for name, kind in (("teacher", "ib_bert"), ("bert", "bert")):
        with pytest.raises(ValueError, match=f"model_type='{kind}': expected a student"):
            export(tmp_path / name, tmp_path / "out")
    with pytest.raises(ValueError, match="MobileBertForMultipleChoice has no head to export"):
        find_task("MobileBertForMultipleChoice")


@pytest.mark.usefixtures("instant_exports")
def test_a_head_that_was_not_saved_is_not_made_up(tiny_tokenizer, tmp_path):
    model = Path(save(tmp_path / "model", tiny_tokenizer))
    weights = load_file(model / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "qa_" not in name}, model / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model has no weights for qa_outputs.bias, qa_outputs.weight. Save it with all weights"
    ):
        export(model, tmp_path / "out")


@pytest.mark.usefixtures("instant_exports")
@pytest.mark.parametrize("folded", [False, True])
def test_an_encoder_needs_no_pooler(folded, tiny_tokenizer, tmp_path):
    save_without_pooler(tmp_path / "model", tiny_tokenizer, folded)
    for quantize in (None, "int8"):  # twice the same model
        export(tmp_path / "model", tmp_path / "out", quantize=quantize)
    assert len(read_manifest(tmp_path / "out").graphs) == 2


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
def test_a_graph_needs_no_pooler(folded, tiny_tokenizer, tmp_path):
    save_without_pooler(tmp_path / "model", tiny_tokenizer, folded)
    assert max(export(tmp_path / "model", tmp_path / "out").values()) <= 1e-5


def save_without_pooler(folder, tokenizer, folded):
    sizes = load_student(save(folder, tokenizer, num_hidden_layers=1))[0].config
    encoder = MobileBertModel(sizes, add_pooling_layer=False)
    (fold(encoder) if folded else encoder).save_pretrained(folder)


def test_a_missing_package_and_an_unknown_format_are_named(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="format='coreml': expected one of onnx, openvino, executorch, tflite"):
        export("anything", tmp_path / "out", "coreml")
    monkeypatch.setattr(FORMATS["onnx"], "PACKAGES", ("onnx", "nowhere_to_be_found"))
    with pytest.raises(ImportError, match=r'needs nowhere_to_be_found: pip install "mobilebert-hf\[export\]"'):
        export("anything", tmp_path / "out")


@pytest.mark.usefixtures("instant_exports")
def test_the_command_says_how_near_the_graph_is(tiny_tokenizer, tmp_path, monkeypatch, capsys):
    model = save(tmp_path / "model", tiny_tokenizer)
    for options, file in (([], "onnx/model.onnx"), (["--format", "openvino"], "openvino/openvino_model.xml")):
        assert mobilebert(monkeypatch, "export", model, tmp_path / "out", *options) == 0
        size = graph_size(tmp_path / "out", file) / 1e6
        printed = capsys.readouterr().out.replace("\n", "")
        assert re.search(rf"out/{file}: {size:.1f} MB, start_logits within", printed)
    message = mobilebert(monkeypatch, "export", model, tmp_path)
    assert message.startswith("mobilebert-hf: ")
    assert "contains files but no export.json" in message
