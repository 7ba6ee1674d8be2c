"""Code examples for model cards."""

import json
from collections.abc import Collection

from ..deployment.formats import FORMATS
from ..tasks.heads import FEATURES, QUESTION_ANSWERING, Task
from .card import Use

MASK = "[MASK]"

SENTENCES = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repo}")
print(model.similarity(model.encode(["A plane is taking off."]), model.encode(["An aeroplane departs."])))"""

TRANSFORMERS = """from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("{repo}"{remote})
tokenizer = AutoTokenizer.from_pretrained("{repo}")
outputs = model(**tokenizer({text}, return_tensors="pt"))"""

PIPELINE = """from transformers import pipeline

run = pipeline("{task}", "{repo}"{remote})
print(run({call}))"""

ONNX = """import onnxruntime
from huggingface_hub import hf_hub_download
from transformers import AutoTokenizer

graph = hf_hub_download("{repo}", "{file}")
session = onnxruntime.InferenceSession(graph)
tokenizer = AutoTokenizer.from_pretrained("{repo}")
inputs = tokenizer({text}, return_tensors="np")
print(session.run(None, dict(inputs)))"""

JAVASCRIPT = """import {{ pipeline }} from "@huggingface/transformers";

const run = await pipeline("{task}", "{repo}", {{ dtype: "{dtype}" }});
console.log(await run({call}));"""


def uses_of(
    repo: str,
    task: Task,
    files: Collection[str],
    *,
    sentences: bool = False,
    remote_code: bool = False,
    mask: str = MASK,
) -> list[Use]:
    """Returns the code examples of a model.

    Args:
        repo: Hub id or folder of the model.
        task: Task of the model's head.
        files: Files of the repository. Exports get an example if they are in it.
        sentences: Whether the model is for sentence-transformers.
        remote_code: Whether the model needs this package or `trust_remote_code=True`.
        mask: The mask token of the tokenizer.
    """
    remote = ", trust_remote_code=True"
    # transformers removed this pipeline in 5.3.
    removed = task == QUESTION_ANSWERING
    text = _words(QUESTION_ANSWERING if removed else FEATURES)
    code = TRANSFORMERS.format(auto_class=task.auto_class, repo=repo, remote=remote if remote_code else "", text=text)
    uses = [Use("transformers", "python", code)]
    if sentences:
        uses.insert(0, Use("sentence-transformers", "python", SENTENCES.format(repo=repo)))
    else:
        title = "Pipeline (or `import mobilebert_hf` instead of remote code)" if removed else "Pipeline"
        call = _python_call(task)
        code = PIPELINE.format(task=task.name, repo=repo, remote=remote if remote_code or removed else "", call=call)
        uses.append(Use(title, "python", code))
    graphs = FORMATS["onnx"].FILES
    for kind, dtype in (("int8", "q8"), (None, "fp32")):
        if graphs[kind] in files:
            uses.append(Use("ONNX Runtime", "python", ONNX.format(repo=repo, file=graphs[kind], text=text)))
            code = JAVASCRIPT.format(task=task.name, repo=repo, dtype=dtype, call=_words(task).replace(MASK, mask))
            return [*uses, Use("transformers.js", "js", code)]
    return uses


def _words(task: Task) -> str:
    """Formats the example of a task as arguments, valid in Python and JavaScript."""
    return ", ".join(json.dumps(text) for text in task.example)


def _python_call(task: Task) -> str:
    """Formats the example of a task as arguments of a Python pipeline, with the mask token of its tokenizer."""
    if task == QUESTION_ANSWERING:
        question, context = map(json.dumps, task.example)
        return f"question={question}, context={context}"
    words = _words(task)
    return f"f{words}".replace(MASK, "{run.tokenizer.mask_token}") if MASK in words else words
