"""From a corpus in another language to a published student by the commands of recipes/README.md, in their order."""

import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .hub.hub_server import HubServer
from .workshop import COMMON, TEACHER

ROOT = Path(__file__).parents[1]
STEPS = ("2. A vocabulary", "3. A teacher", "4. The schedule", "5. The student", "8. Fine-tune it: GLUE")
STEPS += ("9. Fine-tune it: SQuAD", "10. Onto a device", "11. Onto the Hub")
WORDS = """
der die das ein große Brücke über Fluß führt Straße Gebäude alte Mühle schöne Bücher früher Jahr Stadt Müller Äpfel
wächst steht größte häufig öffnet über ältere Universität fährt nächste Zug
"""
SHORT = {name: str(value) for name, value in COMMON.items() if name != "max_seq_length"}
FINETUNING = {
    "num_train_epochs": "1",
    "per_device_train_batch_size": "8",
    "max_seq_length": "32",
    "use_cpu": "true",
    "bf16": "false",
}
# What makes each step a matter of seconds, in place of the recipe's own values.
SMALL = {
    "pretrain.yaml": {
        **SHORT,
        "config_overrides": json.dumps({**TEACHER, "max_position_embeddings": 64}),
        "vocab_size": "200",
        "max_steps": "4",
        "max_seq_length": "24",
    },
    "distill_ib_bert.yaml": {
        **SHORT,
        "config_overrides": json.dumps({"intra_bottleneck_size": 16, "intermediate_size": 32}),
        "transfer_steps": "4",
        "distillation_steps": "2",
        "max_seq_length": "24",
    },
    "finetune_glue.yaml": {**FINETUNING, "task": "cola", "data": "glue", "seeds": "1"},
    "finetune_squad.yaml": {**FINETUNING, "doc_stride": "8", "max_question_length": "8", "feature_processes": "1"},
}


def sentence(rng):
    return " ".join(rng.choices(WORDS.split(), k=8)).capitalize() + "."


def write_data(folder):
    """A German corpus, CoLA's files, and questions in SQuAD's format."""
    rng = random.Random(0)
    (folder / "my-text").mkdir()
    documents = ["\n".join(sentence(rng) for _ in range(12)) for _ in range(40)]
    (folder / "my-text" / "corpus.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    (folder / "glue" / "CoLA").mkdir(parents=True)
    for split, count in (("train", 24), ("dev", 8)):
        lines = "".join(f"x\t{index % 2}\t*\t{sentence(rng)}\n" for index in range(count))
        (folder / "glue" / "CoLA" / f"{split}.tsv").write_text(lines, encoding="utf-8")
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        paragraphs = []
        for index in range(12):
            context = sentence(rng)
            answer = {"text": context.split()[2], "answer_start": len(" ".join(context.split()[:2])) + 1}
            question = {"id": f"{name}{index}", "question": "Was steht über dem Fluß?", "answers": [answer]}
            paragraphs.append({"context": context, "qas": [question]})
        data = {"version": "1.1", "data": [{"title": "x", "paragraphs": paragraphs}]}
        (folder / name).write_text(json.dumps(data), encoding="utf-8")


def commands():
    """The commands of each step, their lines joined."""
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    for step in STEPS:
        [section] = [part for part in sections if part.startswith(step)]
        for block in re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL):
            yield from block.replace("\\\n", " ").strip().splitlines()


def as_words(command):
    """A command in this environment, made short."""
    words = shlex.split(command)
    if words[:2] == ["accelerate", "launch"]:
        small = SMALL[Path(words[words.index("--config") + 1]).name]
        options = [word for name, value in small.items() for word in (f"--{name}", value)]
        return [sys.executable, "-m", "accelerate.commands.launch", "--cpu", *words[2:], *options]
    assert words[0] == "mobilebert-hf", command
    return [sys.executable, "-c", "from mobilebert_hf_cli import run; run()", *words[1:]]


@pytest.mark.slow
def test_the_commands_of_the_recipes_lead_to_a_published_student(tmp_path):
    write_data(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    with HubServer({"hf_me": ["me"]}) as hub:
        environment = hub.environment(tmp_path / "home", "hf_me")
        ran = list(commands())
        for command in ran:
            done = subprocess.run(as_words(command), cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        assert len(ran) >= 14
        files = hub.files("me/mobilebert-squad")
    assert {"README.md", "model.safetensors", "onnx/model.onnx", "onnx/model_int8.onnx"} <= set(files)
    card = files["README.md"].decode()
    assert "SQuAD v1.1 dev, f1" in card
    assert "(vs. PyTorch)" in card
    assert str(tmp_path) not in card
