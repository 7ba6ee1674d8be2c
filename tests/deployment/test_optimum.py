"""The command in Optimum's own command line."""

import subprocess
import sys
from pathlib import Path

from .helpers import save

OPTIMUM = str(Path(sys.executable).with_name("optimum-cli"))


def test_optimum_exports_a_student(tiny_tokenizer, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer)
    command = [OPTIMUM, "export", "mobilebert", "--model", model, "--format", "openvino", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "MB, start_logits within" in done.stdout.replace("\n", "")
    assert (tmp_path / "out" / "openvino" / "openvino_model.bin").is_file()
    refused = subprocess.run([*command[:-1], str(tmp_path)], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "contains files but no export.json" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_optimum_takes_text_before_the_folder(tiny_tokenizer, tiny_corpus, tmp_path):
    model = save(tmp_path / "model", tiny_tokenizer)
    command = [OPTIMUM, "export", "mobilebert", "--model", model, "--quantize", "int8-static"]
    command += ["--calibration", str(tiny_corpus), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "onnx" / "model_int8.onnx").is_file()


def test_optimum_says_what_there_is():
    done = subprocess.run([OPTIMUM, "export", "mobilebert", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "onnx, openvino, executorch or tflite" in done.stdout
