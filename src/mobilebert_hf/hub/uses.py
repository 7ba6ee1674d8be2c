"""Five lines for each way to use a model, as its card shows them."""

from collections.abc import Collection

from ..deployment.formats import FORMATS
from ..deployment.tasks import TASKS
from .card import Use

QUESTION = '"Where do I live?", "My name is Wolfgang and I live in Berlin."'
TEXT = '"A plane is taking off."'
# What a pipeline is called with, by its task, in Python and in JavaScript.
CALLS = {
    "question-answering": (
        'question="Where do I live?", context="My name is Wolfgang and I live in Berlin."',
        QUESTION,
    ),
    "text-classification": ('"A delightful film."', '"A delightful film."'),
    "token-classification": ('"My name is Wolfgang."', '"My name is Wolfgang."'),
    "fill-mask": ('f"The capital of France is {run.tokenizer.mask_token}."', '"The capital of France is [MASK]."'),
    "feature-extraction": (TEXT, TEXT),
}
AUTO_CLASSES = {task.name: task.auto_class for task in TASKS.values()} | {"fill-mask": "AutoModelForMaskedLM"}

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
    repo: str, task: str, files: Collection[str], *, sentences: bool = False, remote_code: bool = False
) -> list[Use]:
    """How to use a model.

    Args:
        repo: Its id on the Hub, or its folder.
        task: The pipeline's name.
        files: Which it has: exports are shown if they are there.
        sentences: Whether sentence-transformers loads it.
        remote_code: Whether it needs this package, or its code from the repository.
    """
    remote = ", trust_remote_code=True"
    # transformers has this pipeline up to 5.2.
    removed = task == "question-answering"
    call, javascript_call = CALLS[task]
    text = QUESTION if removed else TEXT
    code = TRANSFORMERS.format(
        auto_class=AUTO_CLASSES[task], repo=repo, remote=remote if remote_code else "", text=text
    )
    uses = [Use("transformers", "python", code)]
    if sentences:
        uses.insert(0, Use("sentence-transformers", "python", SENTENCES.format(repo=repo)))
    else:
        title = "The pipeline; `import mobilebert_hf` does instead of remote code" if removed else "The pipeline"
        code = PIPELINE.format(task=task, repo=repo, remote=remote if remote_code or removed else "", call=call)
        uses.append(Use(title, "python", code))
    graphs = FORMATS["onnx"].FILES
    for kind, dtype in (("int8", "q8"), (None, "fp32")):
        if graphs[kind] in files:
            uses.append(Use("ONNX Runtime", "python", ONNX.format(repo=repo, file=graphs[kind], text=text)))
            code = JAVASCRIPT.format(task=task, repo=repo, dtype=dtype, call=javascript_call)
            return [*uses, Use("transformers.js", "js", code)]
    return uses
