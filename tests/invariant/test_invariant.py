"""The real commands on a fixed tiny input: every step's losses and gradient norm, against committed numbers.

One process, two processes, and accumulated batches must give the same numbers, because they take the same steps. A
change of these numbers is a change of what is trained; where it is meant, record them anew and say why:

    RECORD_INVARIANTS=1 python -m pytest tests/invariant -m 'slow or not slow'

The numbers of a processor with other instructions, which rounds sums otherwise, differ by less than the tolerance,
too; so do those of another number of threads.
"""

import json
import os
from pathlib import Path

import pytest

from mobilebert_hf.data import load_tokenizer

from ..data.helpers import write_corpus
from ..workshop import INSTRUCTION_SETS, TEACHER, InstructionSet, Workshop

TOLERANCE = 1e-5
# A vocabulary of the corpus as it was when the numbers were recorded: they do not depend on how it is trained.
TOKENIZER = Path(__file__).parent / "tokenizer"
# What a step of 16 examples is made of: processes, examples a device, accumulated batches.
LAYOUTS = {"one": (1, 16, 1), "accumulated": (1, 4, 4), "two": (2, 8, 1), "two-accumulated": (2, 4, 2)}
NOT_COMPARED = {"epoch", "step", "tokens_per_second", "hours_left"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return make_workshop(tmp_path_factory.mktemp("invariant"))


def make_workshop(folder):
    corpus = write_corpus(folder / "corpus.txt", documents=40)
    workshop = Workshop(folder, corpus)
    workshop.make_teacher(load_tokenizer(str(TOKENIZER)))
    return workshop


def run(workshop, output_dir, recipe, layout, before=None, launched=False, **changes):
    """The log lines of a run, one a step.

    Args:
        before: A function that each process calls first.
        launched: Whether the run is launched as a user does it, which takes much longer than to fork it.
    """
    processes, batch, accumulated = LAYOUTS[layout]
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
        values = workshop.distillation(**options, **steps)
    else:
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        network = {"config_overrides": {**TEACHER, **no_dropout}, "tokenizer": workshop.teacher}
        values = workshop.pretraining(**options, **network, max_steps=44)
    if launched:
        finished = workshop.run(*workshop.command(recipe, processes, **values))
        assert finished.returncode == 0, finished.stderr[-3000:]
    else:
        fork = workshop.fork(recipe, processes, before, **values)
        assert fork.wait() == [0] * processes, fork.output[-3000:]
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    lines = [{k: v for k, v in line.items() if k not in NOT_COMPARED} for line in history if "loss" in line]
    assert len(lines) == 44
    assert max(line["epoch"] for line in history) > 1, "the order of a second epoch counts too"
    return lines


RECIPES = pytest.mark.parametrize("recipe", ["distill", "pretrain"])


@RECIPES
@pytest.mark.parametrize("layout", ["one", "accumulated", "two"])
def test_every_step_is_as_recorded(workshop, tmp_path, recipe, layout):
    lines = run(workshop, tmp_path, recipe, layout)
    if layout == "one" and os.environ.get("RECORD_INVARIANTS"):
        path = Path(__file__).parent / f"{recipe}.json"
        path.write_text("[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n")
    compare(recipe, lines, TOLERANCE)


@RECIPES
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_every_step_is_as_recorded_on_older_processors(workshop, tmp_path, recipe, instructions):
    lines = run(workshop, tmp_path, recipe, "one", before=InstructionSet(instructions))
    compare(recipe, lines, TOLERANCE)


@pytest.mark.slow
@RECIPES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_step_of_a_launched_run_is_as_recorded(workshop, tmp_path, recipe, layout):
    compare(recipe, run(workshop, tmp_path, recipe, layout, launched=True), TOLERANCE)


@pytest.mark.slow
@RECIPES
def test_compiled_layers_take_the_recorded_steps(workshop, tmp_path, recipe):
    lines = run(workshop, tmp_path, recipe, "two", launched=True, torch_compile_backend="eager")
    compare(recipe, lines, TOLERANCE)


def compare(recipe, lines, tolerance):
    recorded = json.loads((Path(__file__).parent / f"{recipe}.json").read_text())
    for step, (line, expected) in enumerate(zip(lines, recorded, strict=True), 1):
        assert line == pytest.approx(expected, rel=tolerance, abs=1e-12), f"step {step}"
