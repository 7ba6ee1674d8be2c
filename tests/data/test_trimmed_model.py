"""Trimmed folders, as users load them, against the folders that they were trimmed from."""

import json
import shutil

import pytest
import torch
import transformers
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from mobilebert_hf.data import trimmed_model
from mobilebert_hf.data.trimmed_model import Trimming, trim_model

from ..helpers import mobilebert
from .tokenizers_of_all_kinds import GERMAN, byte_level_bpe, sentences, wordpiece, xlm_roberta

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
SPECIAL = {
    **dict.fromkeys(("bos_token", "cls_token"), "<s>"),
    **dict.fromkeys(("eos_token", "sep_token"), "</s>"),
    **{f"{name}_token": f"<{name}>" for name in ("pad", "unk", "mask")},
}
CORPUS = sentences(GERMAN, seed=1)
TEXTS = [*CORPUS[:4], "Berg"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "german.txt"
    path.write_text("\n\n".join(CORPUS), encoding="utf-8")
    return str(path)


def bert_tokenizer():
    vocabulary = wordpiece().get_vocab()
    return BertTokenizer(vocab=vocabulary, do_lower_case=False)


def roberta_tokenizer():
    content = json.loads(byte_level_bpe().to_str())["model"]
    return RobertaTokenizer(vocab=content["vocab"], merges=[tuple(pair) for pair in content["merges"]])


def xlm_roberta_tokenizer():
    """Built from the pieces alone, with ids that its class knows by heart."""
    return XLMRobertaTokenizer(vocab=[tuple(entry) for entry in json.loads(xlm_roberta().to_str())["model"]["vocab"]])


def plain_tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=xlm_roberta(), **SPECIAL)


def save(folder, tokenizer, family="Bert", head="Model", **fields):
    """A model with random weights and rows that no token has; and its tokenizer."""
    torch.manual_seed(0)
    ids = {"vocab_size": len(tokenizer) + 3, "pad_token_id": tokenizer.pad_token_id}
    model = getattr(transformers, f"{family}{head}")(
        getattr(transformers, f"{family}Config")(**{**SIZES, **ids, **fields})
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def outputs(folder, auto=AutoModel, **options):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), auto.from_pretrained(folder, **options).eval()
    return tokenizer, model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))[0]


@pytest.mark.parametrize(
    ("make", "family"),
    [
        (bert_tokenizer, "Bert"),
        (roberta_tokenizer, "Roberta"),
        (xlm_roberta_tokenizer, "XLMRoberta"),
        (plain_tokenizer, "Bert"),
    ],
)
def test_a_trimmed_model_has_the_same_outputs(tmp_path, corpus, make, family):
    folder = save(tmp_path / "whole", make(), family, "ForMaskedLM")
    trimming = trim_model(str(folder), [corpus], 1.0, tmp_path / "trimmed")
    assert trimming.left_out == []
    before, expected = outputs(folder, AutoModelForMaskedLM)
    after, found = outputs(tmp_path / "trimmed", AutoModelForMaskedLM)
    assert type(after) is type(before)
    ids = before.convert_tokens_to_ids(after.convert_ids_to_tokens(range(len(after))))
    assert found.shape[-1] == len(after) == trimming.pieces[1] < len(before) == trimming.pieces[0]
    torch.testing.assert_close(found, expected[..., ids], atol=1e-6, rtol=1e-6)
    for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "model_max_length"):
        assert getattr(after, name) == getattr(before, name)
    assert AutoModel.from_pretrained(tmp_path / "trimmed").config.pad_token_id == after.pad_token_id
    assert Trimming.read(tmp_path / "trimmed") == trimming


def test_sentence_encoders_keep_their_files_and_prompts(tmp_path, corpus):
    """In the older layout too, where the model has a folder of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as parts_of

    save(tmp_path / "encoder", plain_tokenizer())
    encoder = parts_of.Transformer(str(tmp_path / "encoder"))
    parts = [encoder, parts_of.Pooling(32, "cls"), parts_of.Dense(32, 16)]
    prompts = {"query": "mountains: ", "document": ""}
    SentenceTransformer(modules=parts, prompts=prompts, device="cpu").save(str(tmp_path / "new"))
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    old = tmp_path / "old"
    (old / "0_Transformer").mkdir()
    for path in old.iterdir():
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            path.rename(old / "0_Transformer" / path.name)
    modules = json.loads((old / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(modules))
    (old / "onnx").mkdir()
    (old / "onnx" / "model.onnx").touch()
    for layout, left_out in (("new", []), ("old", ["onnx/model.onnx"])):
        trimming = trim_model(str(tmp_path / layout), [corpus], 1.0, tmp_path / f"{layout}-trimmed")
        assert trimming.left_out == left_out
        encoders = [SentenceTransformer(str(tmp_path / name), device="cpu") for name in (layout, f"{layout}-trimmed")]
        expected, found = (encoder.encode(TEXTS, prompt_name="query") for encoder in encoders)
        assert expected.shape == (len(TEXTS), 16)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
        pieces = [encoder.tokenizer.tokenize(prompts["query"]) for encoder in encoders]
        assert pieces[0] == pieces[1]


def test_only_what_was_saved_is_saved(tmp_path, corpus):
    """A weight that the files lack would be random."""
    folder = save(tmp_path / "whole", bert_tokenizer())
    weights = load_file(folder / "model.safetensors")
    without = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    save_file({**without, "another.weight": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    trimming = trim_model(str(folder), [corpus], 1.0, tmp_path / "trimmed")
    assert load_file(tmp_path / "trimmed" / "model.safetensors").keys() == without.keys()
    assert trimming.left_out == ["another.weight"]


def test_vocabulary_files_follow(tmp_path, corpus):
    folder = save(tmp_path / "whole", bert_tokenizer())
    pieces = AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(range(len(bert_tokenizer())))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "added_tokens.json").write_text("{}")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").touch()
    trim_model(str(folder), [corpus], 0.9, tmp_path / "trimmed")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "trimmed")
    lines = (tmp_path / "trimmed" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert lines == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert {path.name for path in (tmp_path / "trimmed").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "trimming.json",
    }  # fmt: skip


def test_other_formats_are_not_downloaded(tmp_path, corpus, monkeypatch):
    folder = save(tmp_path / "whole", bert_tokenizer())
    files = ["model.safetensors", "2_Dense/pytorch_model.bin", "2_Dense/model.safetensors", "1_Pooling/config.json"]
    others = ["pytorch_model.bin", "onnx/model.onnx", "openvino/openvino_model.xml", "tf_model.h5"]
    asked = []

    def download(repo, ignore_patterns):
        asked.append(repo)
        assert list(filter_repo_objects([*files, *others], ignore_patterns=ignore_patterns)) == files
        return str(folder)

    monkeypatch.setattr(trimmed_model, "snapshot_download", download)
    trimming = trim_model("organization/name", [corpus], 1.0, tmp_path / "trimmed")
    assert asked == [trimming.model] == ["organization/name"]


def test_the_command_shows_what_it_saved(tmp_path, corpus, monkeypatch, capsys):
    folder = save(tmp_path / "whole", xlm_roberta_tokenizer())
    (folder / "model.onnx").touch()
    options = ["--corpus", corpus, "--keep", "65", "--output", tmp_path / "trimmed"]
    assert not mobilebert(monkeypatch, "trim", folder, *options)
    shown = capsys.readouterr().out
    trimming = Trimming.read(tmp_path / "trimmed")
    assert trimming.pieces == [len(xlm_roberta_tokenizer()), 65]
    for row in trimming.rows()[1:]:
        assert all(cell in shown for cell in row)
    assert "left out: model.onnx" in shown
    assert "choose a new folder" in mobilebert(monkeypatch, "trim", folder, *options)


def test_wrong_input_is_refused_before_anything_is_written(tmp_path, corpus):
    folder = save(tmp_path / "whole", bert_tokenizer())
    output = tmp_path / "trimmed"
    with pytest.raises(ValueError, match="'many': expected a share"):
        trim_model(str(folder), [corpus], "many", output)
    with pytest.raises(ValueError, match="already need"):
        trim_model(str(folder), [corpus], 30, output)
    with pytest.raises(FileNotFoundError, match="missing"):
        trim_model(str(folder), [str(tmp_path / "missing.txt")], 1.0, output)
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "0_BoW", "type": "BoW"}]))
    with pytest.raises(ValueError, match="not a model of transformers"):
        trim_model(str(folder), [corpus], 1.0, output)
    (folder / "modules.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForEverything"]}))
    with pytest.raises(ValueError, match="class BertForEverything is not in transformers"):
        trim_model(str(folder), [corpus], 1.0, output)
    assert not output.exists()
