"""From labels to a device by the commands of recipes/own_labels.md, in their order."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from .helpers import mobilebert

PAGE = (Path(__file__).parents[1] / "recipes" / "own_labels.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", PAGE, re.DOTALL)
TRAINING = ["--use_cpu", "true", "--max_seq_length", "32", "--report_to", "none", "--disable_tqdm", "true"]
SMALL = {"intra_bottleneck_size": 16, "intermediate_size": 32, "embedding_size": 16, "num_attention_heads": 2}


def options(command):
    """What makes a step a matter of seconds."""
    small = ["--processes", "1", "--bf16", "false", "--size", "small", "--config_overrides", json.dumps(SMALL)]
    return {"finetune": TRAINING, "distill": [*TRAINING, *small]}.get(command, [])


@pytest.mark.slow
def test_the_page_leads_from_labels_to_a_pipeline(tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tiny_tokenizer), max_position_embeddings=64, **sizes)).save_pretrained("model")
    tiny_tokenizer.save_pretrained("model")
    replaced = {
        "sentence-transformers/all-MiniLM-L6-v2": "model",
        "train_size=2000, test_size=300": "train_size=200, test_size=50",
        "--num_train_epochs 4": "--num_train_epochs 1",
        "--minutes 30": "--minutes 0.2",
    }
    shown = []
    for language, text in BLOCKS:
        for old, new in replaced.items():
            text = text.replace(old, new)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            if language == "python":
                exec(compile(text, "own_labels.md", "exec"), {})
            else:
                _, command, *words = shlex.split(text.replace("\\\n", " "))
                assert mobilebert(monkeypatch, command, *words, *options(command)) == 0, command
        shown.append(output.getvalue())
    *_, scores, files, answer = shown
    assert "accuracy" in scores
    assert "onnx/model_quantized.onnx" in scores
    assert "README.md" in files
    assert "'label': '" in answer
    assert (tmp_path / "runs" / "books-teacher" / "confusion.png").is_file()
