"""Folders of files as checkpoints: what is damaged is noticed, and no moment of publishing is without a whole one."""

import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilebert_hf.runs.checkpoints import STAGING, find_damage, last_good_checkpoint, publish

from ..workshop import FORKS, Death

CONTENTS = {"model.safetensors": b"weights" * 9, "optimizer.pt": b"moments" * 5, "trainer_state.json": b"{}"}


def write_one(run, step, text=b""):
    """A valid checkpoint, published from a staging folder."""
    staging = run / STAGING / f"checkpoint-{step}"
    staging.mkdir(parents=True)
    for name, content in CONTENTS.items():
        (staging / name).write_bytes(content + text)
    publish(staging, run / staging.name)
    return run / staging.name


@settings(deadline=None)
@given(st.data())
def test_a_flipped_bit_or_a_missing_end_of_any_file_is_noticed(data):
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_one(Path(folder), 3)
        assert find_damage(checkpoint) is None
        path = checkpoint / data.draw(st.sampled_from([*CONTENTS, "manifest.json"]))
        content = bytearray(path.read_bytes())
        position = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del content[position:]
        path.write_bytes(content)
        assert find_damage(checkpoint) is not None


def test_the_newest_whole_checkpoint_is_found_by_its_step(tmp_path):
    for step in (9, 10, 100):
        write_one(tmp_path, step)
    (tmp_path / "checkpoint-100" / "optimizer.pt").unlink()
    assert last_good_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.glob("*checkpoint*")) == [
        "checkpoint-10",
        "checkpoint-9",
        "damaged-checkpoint-100",
    ]


def test_without_a_whole_checkpoint_there_is_none(tmp_path):
    assert last_good_checkpoint(tmp_path) is None
    (write_one(tmp_path, 2) / "manifest.json").unlink()
    assert last_good_checkpoint(tmp_path) is None


@pytest.mark.parametrize("change", range(1, 12))
def test_a_checkpoint_that_is_written_again_is_there_wherever_the_process_dies(tmp_path, change):
    """Old or new, the only checkpoint of a run survives; `change` counts the changes in the run's folder."""
    write_one(tmp_path, 3, b"old")
    process = FORKS.Process(target=_write_again, args=(tmp_path, change))
    process.start()
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0)
    kept = last_good_checkpoint(tmp_path)
    assert kept == tmp_path / "checkpoint-3"
    text = b"new" if process.exitcode == 0 else (kept / "optimizer.pt").read_bytes()[-3:]
    assert (kept / "optimizer.pt").read_bytes() == CONTENTS["optimizer.pt"] + text
    assert (process.exitcode == 0) == (change > 8), "the changes that there are"


def _write_again(run, change):
    Death(run, count=change)()
    write_one(run, 3, b"new")
