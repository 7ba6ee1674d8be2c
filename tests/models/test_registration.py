"""Importing the package registers its models with the Auto classes and pipelines, without output."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertTokenizer

import mobilebert_hf
from mobilebert_hf import models
from mobilebert_hf.hub.remote_code import add_remote_code
from mobilebert_hf.tasks.heads import HEADS

from .helpers import FAMILIES, build

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "paper", "is", "short", "long", "##er", "."]
PIPELINES = {
    "fill-mask": "ForMaskedLM",
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "feature-extraction": "Model",
}

# The argument is the parent of the saved folders. Prints the results as JSON.
RESOLVE = """
import json, sys, pathlib
import transformers
import mobilebert_hf
mobilebert_hf.register()

def full_name(thing):
    return f"{type(thing).__module__}.{type(thing).__qualname__}"

found = {}
for folder in pathlib.Path(sys.argv[1]).iterdir():
    head = folder.name.split("-")[1]
    auto_model = getattr(transformers, "AutoModel" + head.removeprefix("Model"))
    found[folder.name] = {
        "config": full_name(transformers.AutoConfig.from_pretrained(folder)),
        "model": full_name(auto_model.from_pretrained(folder)),
        "tokenizer": full_name(transformers.AutoTokenizer.from_pretrained(folder)),
    }
    for task, task_head in TASKS.items():
        if task_head == head:
            text = "the [MASK] is short ." if task == "fill-mask" else "the paper is long ."
            found[folder.name]["pipeline"] = transformers.pipeline(task, model=str(folder))(text)
found["stock"] = [
    transformers.MobileBertModel.__module__,
    transformers.MobileBertConfig.__module__,
    transformers.MobileBertForMaskedLM(transformers.MobileBertConfig(num_hidden_layers=1)).config.__module__,
]
print(json.dumps(found, default=float))
""".replace("TASKS", repr(PIPELINES))


def python(*arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a new process loads from a saved folder of every head of MobileBERT and IB-BERT."""
    parent = tmp_path_factory.mktemp("saved")
    vocabulary = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    vocabulary.write_text("\n".join(TOKENS))
    tokenizer = BertTokenizer(str(vocabulary))
    for family in FAMILIES:
        for head in ("Model", *HEADS):
            folder = parent / f"{family}-{head}"
            build(family, head, vocab_size=len(TOKENS), num_hidden_layers=1).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return json.loads(python("-c", RESOLVE, str(parent)).stdout.splitlines()[-1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["Model", *HEADS])
def test_auto_classes_resolve(found, family, head):
    resolved = found[f"{family}-{head}"]
    model_class = getattr(models, f"{family}{head}")
    assert resolved["model"] == f"{model_class.__module__}.{model_class.__name__}"
    assert resolved["config"] == f"mobilebert_hf.models.configuration.{family}Config"
    assert resolved["tokenizer"].endswith(".BertTokenizer")


@pytest.mark.parametrize("family", FAMILIES)
def test_fill_mask(found, family):
    answers = found[f"{family}-ForMaskedLM"]["pipeline"]
    assert len(answers) == 5
    assert {answer["token_str"] for answer in answers} <= set(TOKENS)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_classification(found, family):
    (answer,) = found[f"{family}-ForSequenceClassification"]["pipeline"]
    assert answer["label"] in {"LABEL_0", "LABEL_1"}


@pytest.mark.parametrize("family", FAMILIES)
def test_token_classification(found, family):
    answers = found[f"{family}-ForTokenClassification"]["pipeline"]
    assert [answer["word"] for answer in answers] == ["the", "paper", "is", "long", "."]


@pytest.mark.parametrize("family", FAMILIES)
def test_feature_extraction(found, family):
    (states,) = found[f"{family}-Model"]["pipeline"]
    assert (len(states), len(states[0])) == (7, 64)


def test_stock_classes_by_name_stay_stock(found):
    stock = "transformers.models.mobilebert"
    assert found["stock"] == [
        f"{stock}.modeling_mobilebert",
        f"{stock}.configuration_mobilebert",
        f"{stock}.configuration_mobilebert",
    ]


LIGHT = """
import sys, transformers.models.mobilebert.modeling_mobilebert
before = set(sys.modules)  # transformers imports scipy if it is installed
import mobilebert_hf
heavy = {"matplotlib", "sklearn", "scipy", "datasets", "evaluate", "pytorch_optimizer"}
print(*sorted(heavy & {name.split(".")[0] for name in set(sys.modules) - before}))
"""


def test_importing_is_light_and_prints_nothing():
    done = python("-c", LIGHT)
    # transformers imports torchao if it is installed, which prints messages.
    ours = [
        line for line in done.stderr.splitlines() if "torchao" not in line and "torch/utils/_pytree.py" not in line
    ]
    assert (done.stdout.strip(), ours) == ("", [])


def test_only_the_registration_module_registers():
    package = Path(mobilebert_hf.__file__).parent
    registering = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and ast.unparse(statement.value.func).rpartition(".")[2].startswith("register")
    }
    assert registering == {"__init__.py"}


PACKED = """
import torch, transformers
model = transformers.AutoModel.from_pretrained(
    sys.argv[1], trust_remote_code=True, attn_implementation="mobilebert_packed"
)
ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
with torch.inference_mode():
    packed = model(ids, attention_mask=(ids > 0).long()).last_hidden_state
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(packed[0], model(ids, attention_mask=(ids > 0).long()).last_hidden_state[0])
"""


def test_remote_code_registers_its_kernels(tmp_path):
    folder = tmp_path / "folded"
    models.fold(build("MobileBert", "Model", num_hidden_layers=1)).save_pretrained(folder)
    add_remote_code(folder)
    python("-c", "import sys; sys.modules['mobilebert_hf'] = None\n" + PACKED, str(folder))
