"""Random damage to everything that is read from files: each reader answers, or says what is wrong in one error.

Inputs are valid files with bytes that are cut off, flipped, repeated or inserted. Memory is limited, and no reader
leaves half-written files.
"""

import json
import resource
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mobilebert_hf.conversion.original import read_config
from mobilebert_hf.data.plain_text import check_plain_text, read_documents
from mobilebert_hf.data.squad import load_squad
from mobilebert_hf.data.vocabulary_file import read_vocabulary
from mobilebert_hf.hub.checks import check_contents
from mobilebert_hf.runs.checkpoints import MANIFEST, find_damage
from mobilebert_hf.runs.exports import read_manifest
from mobilebert_hf.runs.facts import ModelFacts
from mobilebert_hf.runs.run_folder import Recipe
from mobilebert_hf.runs.schema import read_record
from mobilebert_hf.tasks.glue_data import load_glue
from mobilebert_hf.tasks.glue_tasks import TASKS

pytestmark = pytest.mark.slow
MEMORY = 2 * 2**30  # more than the process has when a test begins

QUESTION = {"id": "1", "question": "who ?", "answers": [{"text": "cat", "answer_start": 4}]}
SQUAD = {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": "the cat", "qas": [QUESTION]}]}]}
BERT = {"hidden_act": "relu", "use_bottleneck": True, "key_query_shared_bottleneck": True, "hidden_size": 32}
GRAPH = {"folded": True, "quantize": None, "relative_errors": {"logits": 0.1}, "version": "0.1.0"}
EXPORT = {"model": "org/m", "fingerprint": "0", "task": "fill-mask", "graphs": {"onnx/model.onnx": GRAPH}}
PIECES = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [
            b"\x00",
            b"\r",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"\xe2\x80\xa8",
            b"\\ud83d",
            b"{",
            b"[" * 2000,
            b"NaN",
            b"../",
            b"-1",
        ]
    ),
)


@st.composite
def damaged(draw, valid):
    """A valid file with one to three pieces of damage."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["cut", "insert", "flip", "repeat", "replace"]))
        if kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = draw(PIECES)
        elif kind == "flip" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "repeat":
            content[at:at] = content[at : at + draw(st.integers(0, 64))] * draw(st.integers(1, 20))
        elif kind == "replace":
            content[at : at + draw(st.integers(0, 16))] = draw(PIECES)
    return bytes(content)


def fuzz(valid, read, name):
    """Tests that a reader of a file with this name raises nothing but errors with a message."""

    @settings(max_examples=120, deadline=5000, suppress_health_check=list(HealthCheck))
    @given(content=damaged(valid))
    def test(content, folder):
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content)
        try:
            read(path)
        except (ValueError, OSError) as error:
            message = str(error)
        else:
            message = "read"
        assert message.strip()
        assert [file for file in folder.rglob("*") if file.is_file()] == [path]

    return test


@pytest.fixture(autouse=True)
def limited_memory():
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def weights(path):
    save_file({"layer.weight": torch.arange(12.0).reshape(3, 4), "layer.bias": torch.ones(3)}, path)
    return path.read_bytes()


def read_weights(path):
    check_contents({path.name: path}, path.parent)


READERS = {
    "plain text": (
        b"First.\nSecond.\n\nAnother \xc3\xa9.\n" * 4,
        lambda p: list(read_documents([str(p)], "strict")),
        "a.txt",
    ),
    "beginning of plain text": (b"First.\n\nSecond.\n", check_plain_text, "a.txt"),
    "gzip": (bytes.fromhex("1f8b08000000000002ff4bcb2c2a2ed1e30200"), check_plain_text, "a.txt.gz"),
    "GLUE": (
        b"sentence1\tsentence2\tlabel\nA\tB\t1\nC\tD\t0\n",
        lambda p: load_glue(TASKS["rte"], str(p.parents[1])),
        "RTE/train.tsv",
    ),
    "SQuAD": (json.dumps(SQUAD).encode(), lambda p: load_squad(str(p), "train"), "a.json"),
    "JSON Lines": (
        (json.dumps({"context": "the cat", **QUESTION}) + "\n").encode() * 3,
        lambda p: load_squad(str(p), "train"),
        "a.jsonl",
    ),
    "vocabulary": (b"[PAD]\n[UNK]\n[CLS]\na\n##b\n", read_vocabulary, "vocab.txt"),
    "configuration": (json.dumps(BERT).encode(), read_config, "bert_config.json"),
    "export manifest": (json.dumps(EXPORT).encode(), lambda p: read_manifest(p.parent), "export.json"),
    "facts": (
        json.dumps({"summary": "A", "datasets": ["a/b"], "version": "0.1.0"}).encode(),
        lambda p: read_record(p, ModelFacts),
        "facts.json",
    ),
    "recipe": (
        b"# A, B\n# mobilebert-hf 0.1.0\n" + yaml.safe_dump({"corpus": ["a"], "steps": 3}).encode(),
        Recipe.read,
        "recipe.yaml",
    ),
    "checkpoint manifest": (json.dumps({"a": "0"}).encode(), lambda p: find_damage(p.parent), MANIFEST),
}


@pytest.mark.parametrize("name", READERS)
def test_damage_is_an_error_with_a_message_or_nothing(name, tmp_path):
    fuzz(*READERS[name])(folder=tmp_path)


def test_damaged_weights_are_named(tmp_path):
    valid = weights(tmp_path / "model.safetensors")
    fuzz(valid, read_weights, "model.safetensors")(folder=tmp_path)
    for length in range(0, len(valid), 7):
        (tmp_path / "model.safetensors").write_bytes(valid[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            read_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["../x/model.onnx", "/etc/passwd", "onnx/../../model.onnx", "..\\model.onnx"])
def test_a_manifest_names_no_file_outside_of_its_folder(tmp_path, name):
    (tmp_path / "export.json").write_text(json.dumps({**EXPORT, "graphs": {name: GRAPH}}))
    with pytest.raises(ValueError, match="expected a path inside of the folder"):
        read_manifest(tmp_path)
