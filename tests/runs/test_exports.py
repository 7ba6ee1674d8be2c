"""By what an export knows its model."""

import json
from unittest.mock import Mock

import pytest
import torch
from transformers import MobileBertForQuestionAnswering

from mobilebert_hf import fold
from mobilebert_hf.deployment.student import load_student
from mobilebert_hf.runs import exports as manifest_module
from mobilebert_hf.runs.exports import Graph, Manifest, add_export, fingerprint, read_manifest, write_manifest

from ..deployment.helpers import save


@pytest.mark.parametrize("kind", ["student", "folded", "quantization-aware"])
def test_a_model_that_was_saved_and_loaded_is_the_same(kind, tiny_tokenizer, tmp_path):
    model, _ = load_student(save(tmp_path / "model", tiny_tokenizer))
    if kind != "student":
        model = fold(model, quantization_aware=kind == "quantization-aware")
    model.save_pretrained(tmp_path / "model")
    first, _ = load_student(tmp_path / "model")
    first.save_pretrained(tmp_path / "again")
    path = tmp_path / "again" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "transformers_version": "6.0.0", "fields_of_later_versions": 1}))
    assert fingerprint(load_student(tmp_path / "again")[0]) == fingerprint(first)


def test_stock_loads_the_same_and_says_so(tiny_tokenizer, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer)
    MobileBertForQuestionAnswering.from_pretrained(model).save_pretrained(tmp_path / "stock")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "stock" / "config.json").write_text(json.dumps(config))
    assert fingerprint(load_student(tmp_path / "stock")[0]) == fingerprint(load_student(model)[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.qa_outputs.bias.data.add_(1e-3),
        lambda model: setattr(model.config, "mask_padding", False),
        lambda model: setattr(model.config, "id2label", {0: "end", 1: "start"}),
    ],
)
def test_another_model_is_another(change, tiny_tokenizer, tmp_path):
    model, _ = load_student(save(tmp_path / "model", tiny_tokenizer))
    before = fingerprint(model)
    with torch.no_grad():
        change(model)
    assert fingerprint(model) != before


def graph(version):
    return Graph(False, None, {"logits": 1e-6}, version)


def test_what_is_wrong_with_a_manifest_is_named(tmp_path):
    write_manifest(tmp_path, Manifest("model", "digest", "fill-mask", {"onnx/a": graph("1")}))
    path = tmp_path / "export.json"
    path.write_text(path.read_text().replace('"folded": false', '"folded": "no"'))
    with pytest.raises(ValueError, match=r"export\.json: graphs\.onnx/a\.folded is 'no': expected bool"):
        read_manifest(tmp_path)


def test_whoever_is_cut_off_leaves_no_graph_under_anothers_name(tmp_path, monkeypatch):
    def put(text):
        with add_export(tmp_path / "out", "source", "identity") as (manifest, staging):
            (staging / "onnx").mkdir()
            for name in ("onnx/a", "onnx/b") if text == "first" else ("onnx/a",):
                (staging / name).write_text(text)
                manifest.graphs[name] = graph(text)

    put("first")
    monkeypatch.setattr(manifest_module, "move_files", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        put("second")
    assert read_manifest(tmp_path / "out").graphs == {"onnx/b": graph("first")}
    monkeypatch.undo()
    put("third")
    assert read_manifest(tmp_path / "out").graphs == {"onnx/a": graph("third"), "onnx/b": graph("first")}
    assert {path.name: path.read_text() for path in (tmp_path / "out" / "onnx").iterdir()} == {
        "a": "third",
        "b": "first",
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "onnx"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # which may be a disk of its own
