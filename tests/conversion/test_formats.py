"""`mobilebert-hf convert` between formats; what TensorFlow wrote is read where TensorFlow is, in an environment."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForPreTraining, AutoTokenizer

from mobilebert_hf import MobileBertForSequenceClassification
from mobilebert_hf.conversion import convert

from ..models.helpers import Original, assert_close, build, run

ROOT = Path(__file__).parents[2]

# Writes the variables of an .npz with an optimizer's slots, as the original's Saver does, in graph mode.
SAVE = """
import sys
import numpy as np
import tensorflow as tf
tf.compat.v1.disable_v2_behavior()
with np.load(sys.argv[1]) as arrays:
    for name in arrays.files:
        tf.compat.v1.get_variable(name, initializer=arrays[name])
        tf.compat.v1.get_variable(name + "/adam_m", initializer=np.zeros_like(arrays[name]))
tf.compat.v1.train.get_or_create_global_step()
with tf.compat.v1.Session() as session:
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver().save(session, sys.argv[2], global_step=5)
"""

LOAD = """
import sys
import numpy as np
import tensorflow as tf
reader = tf.train.load_checkpoint(sys.argv[1])
np.savez(sys.argv[2], **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})
"""


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory):
    """The Python of an environment with TensorFlow over this one's packages."""
    folder = tmp_path_factory.mktemp("tensorflow") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    site = subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    (Path(site) / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT / 'src'}\n")
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "tensorflow-cpu~=2.21"]
    installed = subprocess.run(install, capture_output=True, text=True)
    if "No matching distribution" in installed.stderr or "ConnectionError" in installed.stderr:
        pytest.skip("the package index has no tensorflow-cpu 2.21")
    assert installed.returncode == 0, installed.stderr[-2000:]
    return python


def convert_there(python, *words):
    command = [python, "-c", "from mobilebert_hf_cli import run; run()", "convert", *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["teacher", "student_tame", "student_noopt"])
def test_from_tensorflow_and_back(name, tensorflow, tmp_path):
    recorded = Original(name)
    variables = {key.removeprefix("w/"): value for key, value in recorded.arrays.items() if key.startswith("w/")}
    np.savez(tmp_path / "variables.npz", **variables)
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "bert_config.json").write_text(str(recorded.arrays["config_json"]))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "river"]))
    subprocess.run([tensorflow, "-c", SAVE, tmp_path / "variables.npz", folder / "bert_model.ckpt"], check=True)

    converted = convert_there(tensorflow, folder, tmp_path / "ours")
    assert converted.returncode == 0, converted.stderr
    assert ("stock_prediction_logits within" in converted.stdout) == (name != "teacher")
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "ours").eval()
    case = recorded.case("full")
    output = run(model, input_ids=case["input_ids"].long(), token_type_ids=case["segment_ids"].long())
    assert_close(output.seq_relationship_logits, case["nsp_logits"])
    assert AutoTokenizer.from_pretrained(tmp_path / "ours").tokenize("The river") == ["the", "river"]

    back = convert_there(tensorflow, tmp_path / "ours", tmp_path / "back", "--to", "tensorflow")
    assert back.returncode == 0, back.stderr
    assert (
        json.loads((tmp_path / "back" / "bert_config.json").read_text()).items()
        >= json.loads(str(recorded.arrays["config_json"])).items()
    )
    subprocess.run([tensorflow, "-c", LOAD, tmp_path / "back" / "model.ckpt", tmp_path / "back.npz"], check=True)
    with np.load(tmp_path / "back.npz") as arrays:
        assert set(arrays.files) == set(variables)
        for key in arrays.files:
            np.testing.assert_array_equal(arrays[key], variables[key], key)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ForQuestionAnswering", "ForSequenceClassification", "Model"])
def test_heads_and_tiny_come_back_from_tensorflow(head, tensorflow, tmp_path):
    model = build("MobileBert", head, normalization_type="no_norm", use_bottleneck_attention=True)
    model.save_pretrained(tmp_path / "model")
    there = convert_there(tensorflow, tmp_path / "model", tmp_path / "there", "--to", "tensorflow")
    assert there.returncode == 0, there.stderr
    back = convert_there(tensorflow, tmp_path / "there" / "model.ckpt", tmp_path / "back")
    assert back.returncode == 0, back.stderr
    again = type(model).from_pretrained(tmp_path / "back")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name


@pytest.mark.slow
def test_a_broken_checkpoint_leaves_nothing(tensorflow, tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "bert_config.json").write_text(str(Original("student").arrays["config_json"]))
    (folder / "model.ckpt.index").write_bytes(b"no index")
    converted = convert_there(tensorflow, folder, tmp_path / "ours")
    assert converted.returncode == 1
    assert "cannot be read" in converted.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_stock_students_come_and_go(tmp_path):
    torch.manual_seed(0)
    config = transformers.MobileBertConfig(
        vocab_size=50, hidden_size=32, embedding_size=16, num_hidden_layers=2, intra_bottleneck_size=16
    )
    stock = transformers.MobileBertForMaskedLM(config).eval()
    stock.save_pretrained(tmp_path / "stock")
    errors = convert(tmp_path / "stock", tmp_path / "ours")
    assert set(errors) == {"logits", "stock_logits"}
    assert max(errors.values()) <= 1e-5
    again = transformers.MobileBertForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    ids = torch.arange(12)[None]
    assert torch.equal(run(again, input_ids=ids).logits, run(stock, input_ids=ids).logits)


def test_teachers_are_compared_with_themselves(tmp_path):
    build("IBBert", "ForPreTraining").save_pretrained(tmp_path / "teacher")
    errors = convert(tmp_path / "teacher", tmp_path / "again")
    assert errors == {"prediction_logits": 0, "seq_relationship_logits": 0}


def test_a_difference_is_refused(tmp_path, monkeypatch):
    build("MobileBert", "ForSequenceClassification").save_pretrained(tmp_path / "model")
    save = MobileBertForSequenceClassification.save_pretrained

    def save_wrongly(model, folder):
        with torch.no_grad():
            model.classifier.bias += 1
            save(model, folder)
            model.classifier.bias -= 1

    monkeypatch.setattr(MobileBertForSequenceClassification, "save_pretrained", save_wrongly)
    with pytest.raises(ValueError, match=r"differs from the source in logits by .* 0\.0001 is allowed"):
        convert(tmp_path / "model", tmp_path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_bad_input_is_refused(tmp_path):
    build("MobileBert", "Model").save_pretrained(tmp_path / "model")
    with pytest.raises(FileExistsError, match=r"exists. Choose a new folder"):
        convert(tmp_path / "model", tmp_path)
    with pytest.raises(ValueError, match="to='onnx': expected transformers or tensorflow"):
        convert(tmp_path / "model", tmp_path / "out", "onnx")
    with pytest.raises(ImportError, match=r"mobilebert-hf\[tensorflow\]"):
        convert(tmp_path / "model", tmp_path / "out", "tensorflow")
    for name in ("a", "b"):
        (tmp_path / f"{name}.ckpt.index").touch()
    with pytest.raises(ValueError, match=r"has several checkpoints. Pass one prefix, such as"):
        convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
