"""Runs that are killed, interrupted, or run into a full disk or a damaged checkpoint, and go on to the same weights.

Real processes run the recipes; weights are compared byte by byte with those of a run that nothing happened to.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path

import pytest
from filelock import FileLock

from mobilebert_hf.data import train_wordpiece
from mobilebert_hf.distillation import DistillationTrainer
from mobilebert_hf.hub import run_card
from mobilebert_hf.runs.checkpoints import find_damage

from .data.helpers import write_corpus
from .workshop import PATIENCE, RECIPES, Death, Workshop

# 4 layers' worth of stages in 18 steps of 64 examples: an epoch has 5 steps, a checkpoint comes after every third.
STEPS = {"transfer_steps": 12, "distillation_steps": 6, "save_steps": 3, "gradient_accumulation_steps": 4}
OPTIONS = {**STEPS, "per_device_train_batch_size": 16, "max_seq_length": 20, "save_total_limit": 2}
TWO_LENGTHS = {"max_seq_length": 16, "long_seq_length": 32, "long_seq_ratio": 0.5}


class Undrawn:
    """Leaves out the picture of the run, which takes longer than the run, and calls another function first or not."""

    def __init__(self, before=None):
        self.before = before

    def __call__(self):
        run_card.draw_report = lambda *args: None
        if self.before is not None:
            self.before()


class SignalInStep:
    """Sends a signal to the process and its workers when it computes a loss for the `count`-th time."""

    def __init__(self, number, count):
        self.number, self.left = number, count

    def __call__(self):
        DistillationTrainer.compute_loss = self._counted(DistillationTrainer.compute_loss)

    def _counted(self, compute_loss):
        def counted(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                os.killpg(os.getpid(), self.number)
            return compute_loss(*args, **kwargs)

        return counted


DeathInStep = partial(SignalInStep, signal.SIGKILL)


class SmallFiles:
    """Lets no file grow beyond a size, as a full disk would."""

    def __init__(self, size):
        self.size = size

    def __call__(self):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recovery")
    corpus = write_corpus(folder / "corpus.txt", documents=40)
    workshop = Workshop(folder, corpus)
    workshop.make_teacher(train_wordpiece([str(corpus)], 200, folder / "tokenizer"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield workshop


def start(workshop, output_dir, processes=1, before=None, recipe="distill", **changes):
    if recipe == "distill":
        values = workshop.distillation(output_dir=str(output_dir), **{**OPTIONS, **changes})
    else:
        options = {**OPTIONS, "max_steps": 18, "tokenizer": workshop.teacher, **changes}
        options = {k: v for k, v in options.items() if k not in ("transfer_steps", "distillation_steps")}
        values = workshop.pretraining(output_dir=str(output_dir), **options)
    return workshop.fork(recipe, processes, Undrawn(before), **values)


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def finish(workshop, output_dir, processes=1, **changes):
    """Runs to the end, and returns what was printed."""
    run = start(workshop, output_dir, processes, **changes)
    assert run.wait() == [0] * processes, run.output[-3000:]
    return run.output


@pytest.fixture(scope="module")
def untouched(workshop):
    """The weights of a run that nothing happened to, once for each kind."""
    kept = {}

    def run(processes=1, **changes):
        key = (processes, *sorted(map(str, changes.items())))
        if key not in kept:
            output_dir = workshop.folder / f"untouched-{len(kept)}"
            finish(workshop, output_dir, processes, **changes)
            kept[key] = weights(output_dir)
        return kept[key]

    return run


def kill_and_go_on(workshop, tmp_path, before, processes=1, **changes):
    run = start(workshop, tmp_path / "run", processes, before, **changes)
    assert -signal.SIGKILL in run.wait(), "it lived on"
    assert not (tmp_path / "run" / "model.safetensors").exists()
    finish(workshop, tmp_path / "run", processes, **changes)
    return weights(tmp_path / "run")


DEATHS = {
    "before the first checkpoint": lambda run: DeathInStep(4 * 2 + 1),
    "inside a stage and a step": lambda run: DeathInStep(4 * 10 + 3),
    "where a stage begins": lambda run: DeathInStep(4 * 6 + 1),
    "while a checkpoint is written": lambda run: Death(run, r"open \.being-written/checkpoint-9/trainer_state"),
    "before a checkpoint gets its manifest": lambda run: Death(run, r"open \.being-written/checkpoint-9/\.manifest"),
    "before a checkpoint gets its name": lambda run: Death(run, r"rename \.being-written/checkpoint-9 checkpoint-9"),
    "before an old checkpoint is removed": lambda run: Death(run, r"rmtree checkpoint-3"),
    "before the final model is written": lambda run: Death(run, r"rename \.being-written/model.safetensors"),
}


# The others kill at moments that are further apart from each other.
SLOW_DEATHS = ("where a stage begins", "before a checkpoint gets its manifest", "before an old checkpoint is removed")


@pytest.mark.parametrize(
    "moment", [pytest.param(m, marks=pytest.mark.slow) if m in SLOW_DEATHS else m for m in DEATHS]
)
def test_a_killed_run_goes_on_to_the_same_weights(workshop, untouched, tmp_path, moment):
    assert kill_and_go_on(workshop, tmp_path, DEATHS[moment](tmp_path / "run")) == untouched()


@pytest.mark.parametrize(
    "moment", ["inside a stage and a step", pytest.param("before a checkpoint gets its name", marks=pytest.mark.slow)]
)
def test_pretraining_with_dropout_goes_on_too(workshop, untouched, tmp_path, moment):
    options = {"recipe": "pretrain", "config_overrides": {"num_hidden_layers": 2, "hidden_size": 32,
               "embedding_size": 16, "max_position_embeddings": 32, "intra_bottleneck_size": 64,
               "intermediate_size": 64, "hidden_dropout_prob": 0.2}}  # fmt: skip
    assert kill_and_go_on(workshop, tmp_path, DEATHS[moment](tmp_path / "run"), **options) == untouched(**options)


@pytest.mark.parametrize(
    "step",
    [pytest.param(5, marks=pytest.mark.slow), 9, pytest.param(14, marks=pytest.mark.slow)],
    ids=["short", "boundary", "long"],
)
def test_two_lengths_go_on_too(workshop, untouched, tmp_path, step):
    """The long phase begins after step 9, with batches half as large and twice as many of them."""
    count = 4 * min(step, 9) + 8 * max(step - 9, 0) + 1
    assert kill_and_go_on(workshop, tmp_path, DeathInStep(count), **TWO_LENGTHS) == untouched(**TWO_LENGTHS)


def test_a_stream_goes_on_too(workshop, untouched, tmp_path):
    options = {"streaming": True, "streaming_buffer_size": 7}
    assert kill_and_go_on(workshop, tmp_path, DeathInStep(4 * 10 + 3), **options) == untouched(**options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"streaming": True, "streaming_buffer_size": 7}], ids=["prepared", "streamed"]
)
@pytest.mark.parametrize("moment", ["inside a stage and a step", "before a checkpoint gets its name"])
def test_two_processes_go_on_too(workshop, untouched, tmp_path, moment, options):
    death = DEATHS[moment](tmp_path / "run")
    run = start(workshop, tmp_path / "run", 2, death, **options)
    wait_for_any([process.sentinel for process in run.processes], PATIENCE)
    run.signal(signal.SIGKILL)  # as a launcher ends the others
    run.wait()
    finish(workshop, tmp_path / "run", 2, **options)
    assert weights(tmp_path / "run") == untouched(2, **options)


def test_a_finished_run_is_left_as_it_is(workshop, untouched, tmp_path):
    """The library alone would take one more step."""
    finish(workshop, tmp_path / "run")
    finish(workshop, tmp_path / "run")
    assert weights(tmp_path / "run") == untouched()


# ---- damage


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def killed(workshop):
    """The folder of a run that was killed after its checkpoint of step 9."""
    folder = workshop.folder / "killed"
    start(workshop, folder, before=DeathInStep(4 * 10 + 3)).wait()
    return folder


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("optimizer.pt", truncate),
        ("model.safetensors", flip_a_bit),
        ("rng_state.pth", Path.unlink),
        ("manifest.json", Path.unlink),
    ],
)
def test_a_damaged_checkpoint_is_named_and_skipped(workshop, untouched, killed, tmp_path, name, damage):
    shutil.copytree(killed, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoint-9" / name)
    output = finish(workshop, tmp_path / "run")
    assert f"{tmp_path / 'run' / 'checkpoint-9'} is damaged: {name}" in output
    assert (tmp_path / "run" / "damaged-checkpoint-9").is_dir()
    assert weights(tmp_path / "run") == untouched()


def test_a_full_disk_ends_the_run_and_leaves_earlier_checkpoints(workshop, untouched, tmp_path):
    run = tmp_path / "run"
    start(workshop, run, before=DeathInStep(4 * 7 + 1)).wait()
    largest = max(path.stat().st_size for path in (run / "checkpoint-6").iterdir())
    stopped = start(workshop, run, before=SmallFiles(largest - 1))
    assert stopped.wait() == [1]
    assert f"OSError: {run / 'checkpoint-9'} could not be written" in stopped.output
    assert "make room, and the same command goes on" in stopped.output
    assert find_damage(run / "checkpoint-6") is None
    assert not (run / ".being-written").exists()
    finish(workshop, run)
    assert weights(run) == untouched()


@pytest.mark.slow
def test_a_disk_that_is_really_full_ends_the_run_too(workshop, untouched, tmp_path):
    """A file system of our own, with room for half the next checkpoint's model, then for the model alone."""
    if subprocess.run(["unshare", "-Urm", "true"], check=False).returncode:
        pytest.skip("mounting needs user namespaces, which are not allowed here")
    run, kept = tmp_path / "run", tmp_path / "kept"
    start(workshop, run, before=DeathInStep(4 * 4 + 1)).wait()
    pages = {path: -(-path.stat().st_size // 4096) for path in run.rglob("*") if path.is_file()}
    model = pages[run / "checkpoint-3" / "model.safetensors"]
    rooms = [sum(pages.values()) + model // 2, sum(pages.values()) + model + 4, 16_384]
    config = workshop.write("distill", **workshop.distillation(output_dir=str(run), **OPTIONS))
    attempt = f"{sys.executable} {RECIPES / 'distill.py'} --config {config}; echo exit code $?; ls -A {run};"
    script = f"cp -a {run} {kept}; mount -t tmpfs -o size={4 * rooms[0]}k tmpfs {run}; cp -a {kept}/. {run}; {attempt}"
    for room in rooms[1:]:
        script += f"cp -a {run}/. {kept}; mount -o remount,size={4 * room}k {run}; {attempt}"
    finished = workshop.run("unshare", "-Urm", "sh", "-c", f"{script} cp {run}/model.safetensors {kept}")
    codes = [line for line in finished.stdout.splitlines() if line.startswith("exit code")]
    assert codes == ["exit code 1", "exit code 1", "exit code 0"], finished.stderr[-3000:]
    assert finished.stderr.count(f"OSError: {run / 'checkpoint-6'} could not be written") == 2
    assert ".being-written" not in finished.stdout.split()
    assert find_damage(kept / "checkpoint-3") is None
    assert weights(kept) == untouched()


# ---- signals


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGTERM, {}),
        (signal.SIGINT, {"dataloader_num_workers": 1}),
        pytest.param(signal.SIGINT, {}, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, {"dataloader_num_workers": 1}, marks=pytest.mark.slow),
    ],
    ids=["SIGTERM", "SIGINT-workers", "SIGINT", "SIGTERM-workers"],
)
def test_a_signal_ends_the_run_with_a_checkpoint(workshop, untouched, tmp_path, number, options):
    run = start(workshop, tmp_path / "run", before=SignalInStep(number, 4 * 4 + 1), **options)
    assert run.wait() == [0], run.output[-3000:]
    assert f"{number.name}: writing a checkpoint after this step" in run.output
    assert "the same command goes on from there" in run.output
    assert (tmp_path / "run" / "checkpoint-5").is_dir()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    finish(workshop, tmp_path / "run")
    assert weights(tmp_path / "run") == untouched()


def test_a_second_run_in_the_same_folder_is_refused(workshop, tmp_path):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        run = start(workshop, tmp_path / "run")
        assert run.wait() == [1]
    assert f"{tmp_path / 'run'} is in use by another run" in run.output
    assert not (tmp_path / "run" / "recipe.yaml").exists()
