"""The real commands on a fixed tiny input: every step's losses and gradient norm, against committed numbers.

One process, two processes, and accumulated batches must give the same numbers, because they take the same steps. A
change of these numbers is a change of what is trained; where it is meant, record them anew and say why:

    RECORD_INVARIANTS=1 python -m pytest tests/invariant -m 'slow or not slow'

The numbers of another instruction set (ATEN_CPU_CAPABILITY=avx2) or number of threads differ by less than the
tolerance, too.
"""

import json
import os
from pathlib import Path

import pytest

from mobilebert_hf.data import train_wordpiece

from ..data.conftest import write_corpus
from ..workshop import TEACHER, Workshop

TOLERANCE = 1e-5
# What a step of 16 examples is made of: processes, examples a device, accumulated batches.
LAYOUTS = {"one": (1, 16, 1), "accumulated": (1, 4, 4), "two": (2, 8, 1), "two-accumulated": (2, 4, 2)}
NOT_COMPARED = {"epoch", "step", "tokens_per_second", "hours_left"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return make_workshop(tmp_path_factory.mktemp("invariant"))


def make_workshop(folder):
    corpus = write_corpus(folder / "corpus.txt", documents=40)
    workshop = Workshop(folder, corpus)
    workshop.make_teacher(train_wordpiece([str(corpus)], 200, folder / "tokenizer"))
    return workshop


def launch(workshop, recipe, layout, **changes):
    """The log lines of a run, one a step."""
    processes, batch, accumulated = LAYOUTS[layout]
    output_dir = workshop.folder / f"{recipe}-{layout}"
    options = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulated,
        "short_seq_probability": 0.5,
        "save_strategy": "no",
        "max_grad_norm": 1.0,
        **changes,
    }
    if recipe == "distill":
        steps = {"transfer_steps": 24, "distillation_steps": 20, "teacher_dtype": "float32"}
        finished = workshop.distill(processes, **options, **steps)
    else:
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        network = {**TEACHER, **no_dropout}
        tokenizer = workshop.teacher
        finished = workshop.pretrain(processes, **options, max_steps=44, config_overrides=network, tokenizer=tokenizer)
    assert finished.returncode == 0, finished.stderr[-3000:]
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    lines = [{k: v for k, v in line.items() if k not in NOT_COMPARED} for line in history if "loss" in line]
    assert len(lines) == 44
    assert max(line["epoch"] for line in history) > 1, "the order of a second epoch counts too"
    return lines


@pytest.mark.parametrize("recipe", ["distill", "pretrain"])
@pytest.mark.parametrize(
    "layout", ["one", "accumulated", "two", pytest.param("two-accumulated", marks=pytest.mark.slow)]
)
def test_every_step_is_as_recorded(workshop, recipe, layout):
    lines = launch(workshop, recipe, layout)
    if layout == "one" and os.environ.get("RECORD_INVARIANTS"):
        path = Path(__file__).parent / f"{recipe}.json"
        path.write_text("[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n")
    compare(recipe, lines, TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["distill", "pretrain"])
def test_compiled_layers_take_the_recorded_steps(workshop, recipe):
    compare(recipe, launch(workshop, recipe, "two", torch_compile_backend="eager"), TOLERANCE)


def compare(recipe, lines, tolerance):
    recorded = json.loads((Path(__file__).parent / f"{recipe}.json").read_text())
    for step, (line, expected) in enumerate(zip(lines, recorded, strict=True), 1):
        assert line == pytest.approx(expected, rel=tolerance, abs=1e-12), f"step {step}"
