"""Checkpoints that are whole or not there, and known to be so.

A checkpoint is written into a folder aside, gets a manifest of its files and their digests, and is renamed. A process
that dies while writing leaves the folder aside, which the next one removes; a file that is damaged later does not fit
its digest any more.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from ..files import atomic_write_text, flush

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STAGING = ".being-written"
DAMAGED = "damaged-"
REPLACED = "replaced-"


def publish(staging: Path, final: Path) -> None:
    """Writes the manifest of a finished folder, flushes all of it to the disk, and renames it.

    An older `final` is moved to where `staging` is, for the caller to remove.
    """
    files = {}
    for path in sorted(path for path in staging.rglob("*") if path.is_file()):
        files[str(path.relative_to(staging))] = _digest(path)
        flush(path)
    atomic_write_text(staging / MANIFEST, json.dumps(files, indent=1))
    flush(staging)
    if final.exists():
        os.replace(final, staging.with_name(REPLACED + final.name))
    os.replace(staging, final)
    flush(final.parent)


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint: a file that is missing or changed, or no manifest; None if it is whole."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, digest in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if _digest(path) != digest:
            return f"{name} is not what was written ({path.stat().st_size} bytes)"
    return None


def last_good_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run.

    Newer ones that are damaged are named in a warning and renamed to `damaged-checkpoint-<step>`, so that nothing
    takes them for good ones. What an interrupted process was writing is removed, or published where only that was
    left to do.
    """
    output_dir = Path(output_dir)
    for written in (output_dir / STAGING).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if find_damage(written) is None and not (output_dir / written.name).exists():
            os.replace(written, output_dir / written.name)
    shutil.rmtree(output_dir / STAGING, ignore_errors=True)
    for checkpoint in reversed([Path(path) for path in sort_checkpoints(str(output_dir))]):
        damage = find_damage(checkpoint)
        if damage is None:
            return checkpoint
        aside = checkpoint.with_name(DAMAGED + checkpoint.name)
        logger.warning("%s is damaged: %s. It is skipped, and kept as %s.", checkpoint, damage, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(checkpoint, aside)
    return None


def step_of(checkpoint: str | Path) -> int:
    """The global step after which a checkpoint was written."""
    return int(json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
