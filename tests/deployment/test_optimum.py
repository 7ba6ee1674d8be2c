"""The command in Optimum's own command line."""

import sys

import pytest
from optimum.commands.optimum_cli import main

from .helpers import save


def optimum(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["optimum-cli", *map(str, words)])
    main()


@pytest.mark.usefixtures("instant_exports")
def test_optimum_exports_a_student(tiny_tokenizer, tmp_path, monkeypatch, capsys):
    model = save(tmp_path / "model", tiny_tokenizer)
    words = ["export", "mobilebert", "--model", model, "--format", "openvino"]
    optimum(monkeypatch, *words, tmp_path / "out")
    assert "MB, start_logits within" in capsys.readouterr().out.replace("\n", "")
    assert (tmp_path / "out" / "openvino" / "openvino_model.xml").is_file()
    with pytest.raises(SystemExit, match=r"optimum-cli: .*contains files but no export\.json"):
        optimum(monkeypatch, *words, tmp_path)


@pytest.mark.usefixtures("instant_exports")
def test_optimum_takes_text_before_the_folder(tiny_tokenizer, tiny_corpus, tmp_path, monkeypatch):
    model = save(tmp_path / "model", tiny_tokenizer)
    words = ["export", "mobilebert", "--model", model, "--quantize", "int8-static", "--calibration", tiny_corpus]
    optimum(monkeypatch, *words, tmp_path / "out")
    assert (tmp_path / "out" / "onnx" / "model_int8.onnx").is_file()
    with pytest.raises(SystemExit, match="the folder for graph"):
        optimum(monkeypatch, *words)


def test_optimum_says_what_there_is(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        optimum(monkeypatch, "export", "mobilebert", "--help")
    assert ended.value.code == 0
    assert "onnx, openvino, executorch or tflite" in capsys.readouterr().out
