"""Exports where users load them: runtimes alone, Optimum with an older transformers, transformers.js in Node."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline

from mobilebert_hf.deployment import FORMATS

from ..older import install_older

QUESTION, CONTEXT = "Which river is long?", "The river is long and the mountain is old."

RUNTIMES = {
    "onnx": """
session = onnxruntime.InferenceSession(sys.argv[1])
outputs = session.run(["start_logits", "end_logits"], inputs)
""",
    "openvino": """
outputs = openvino.Core().compile_model(sys.argv[1], "CPU")(inputs)
outputs = [outputs["start_logits"], outputs["end_logits"]]
""",
}

OPTIMUM = """
import json, sys, transformers
from optimum.onnxruntime import ORTModelForQuestionAnswering
answers = {"version": transformers.__version__}
for file in ("model.onnx", "model_quantized.onnx", "model_int8.onnx"):
    model = ORTModelForQuestionAnswering.from_pretrained(sys.argv[1], subfolder="onnx", file_name=file)
    tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
    answerer = transformers.pipeline("question-answering", model=model, tokenizer=tokenizer)
    answers[file] = answerer(question=sys.argv[2], context=sys.argv[3])
print(json.dumps(answers))
"""

JAVASCRIPT = """
import { env, pipeline } from "@huggingface/transformers";
env.localModelPath = process.argv[2];
env.allowRemoteModels = false;
const answers = {};
for (const dtype of ["fp32", "q8", "int8"]) {
  const answerer = await pipeline("question-answering", "exported", { dtype });
  answers[dtype] = await answerer(process.argv[3], process.argv[4]);
}
console.log(JSON.stringify(answers));
"""


@pytest.fixture(scope="module")
def together(exported, tmp_path_factory):
    """A folder `exported` with ONNX in float32 and both int8 quantizations."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for quantize in (None, "int8", "int8-static"):
        shutil.copytree(exported("onnx", quantize).parent, folder, dirs_exist_ok=True)
    return (folder / "out").rename(folder / "exported")


def javascript_score(exported):
    """The score of transformers.js: it leaves special tokens out, [UNK] among them, but reckons with [CLS]."""
    model = AutoModelForQuestionAnswering.from_pretrained(exported.parent / "model")
    tokenizer = AutoTokenizer.from_pretrained(exported)
    inputs = tokenizer(QUESTION, CONTEXT, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    outside = (inputs["token_type_ids"] == 0) | torch.isin(
        inputs["input_ids"], torch.tensor(tokenizer.all_special_ids)
    )
    outside[0, 0] = False
    start, end = (
        logits.masked_fill(outside, -torch.inf).softmax(-1)[0, 1:]
        for logits in (outputs.start_logits, outputs.end_logits)
    )
    return (start[:, None] * end[None, :]).triu().max().item()


@pytest.mark.parametrize("format", RUNTIMES)
def test_a_runtime_needs_nothing_but_the_file(format, exported, tmp_path):
    module = {"onnx": "onnxruntime"}.get(format, format)
    inputs = "{n: v for n, v in numpy.load(sys.argv[2]).items()}"
    code = f"import sys, numpy, {module}\ninputs = {inputs}\n{RUNTIMES[format]}"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    code += "numpy.savez(sys.argv[3], *outputs)"
    folder = exported(format)
    batch = AutoTokenizer.from_pretrained(folder)(QUESTION, CONTEXT, return_tensors="np")
    names = ("input_ids", "attention_mask", "token_type_ids")
    np.savez(tmp_path / "in.npz", **{name: batch[name].astype(np.int64) for name in names})
    file = folder / FORMATS[format].FILES[None]
    command = [sys.executable, "-c", code, str(file), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    model = AutoModelForQuestionAnswering.from_pretrained(folder.parent / "model")
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(batch[name]) for name in names})
    # By default, OpenVINO computes in bfloat16 if the CPU supports it.
    tolerance = 1e-5 if format == "onnx" else 5e-3
    for value, name in zip(np.load(tmp_path / "out.npz").values(), ("start_logits", "end_logits"), strict=True):
        np.testing.assert_allclose(value, expected[name].numpy(), atol=tolerance)


@pytest.mark.slow
def test_optimum_onnx_with_transformers_4(together, tmp_path):
    environment = install_older(tmp_path / "older", "optimum-onnx==0.1.0", "optimum==2.1.0")
    command = [sys.executable, "-c", OPTIMUM, str(together), QUESTION, CONTEXT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers.pop("version") == "4.57.6"
    ours = pipeline("question-answering", model=str(together.parent / "model"))(question=QUESTION, context=CONTEXT)
    for file, answer in answers.items():
        score = answer.pop("score")
        assert score == pytest.approx(ours["score"], rel=1e-3 if file == "model.onnx" else 0.1)
        assert answer == {key: ours[key] for key in answer}


@pytest.mark.slow
def test_transformers_js_in_node(together, tmp_path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no Node here")
    package = "@huggingface/transformers@4.3.1"
    install = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(tmp_path), package]
    installed = subprocess.run(install, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"npm could not install {package}: {installed.stderr[-500:]}")
    (tmp_path / "ask.mjs").write_text(JAVASCRIPT)
    command = ["node", str(tmp_path / "ask.mjs"), str(together.parent), QUESTION, CONTEXT]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers["fp32"]["score"] == pytest.approx(javascript_score(together), rel=1e-3)
    for answer in answers.values():
        assert answer["score"] == pytest.approx(javascript_score(together), rel=0.1)
