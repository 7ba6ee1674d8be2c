"""Atomic checkpoints with digests.

A checkpoint is written to a staging folder, gets a manifest with the digests of its files, and is renamed. An
interrupted process leaves the staging folder, which the next one removes. Files that are damaged later no longer match
their digests.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from ..files import atomic_write_text, flush
from .compat import PREFIX_CHECKPOINT_DIR, sort_checkpoints

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STAGING = ".being-written"
DAMAGED = "damaged-"
REPLACED = "replaced-"


def publish(staging: Path, final: Path) -> None:
    """Writes the manifest of a complete staging folder, flushes everything to disk, and renames it to `final`.

    An existing `final` is moved next to `staging`; the caller removes it.
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
    """Returns what is wrong with a checkpoint (manifest or file missing, file changed), or None if it is valid."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, digest in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if _digest(path) != digest:
            return f"{name} has changed since it was written ({path.stat().st_size} bytes)"
    return None


def last_good_checkpoint(output_dir: str | Path) -> Path | None:
    """Returns the newest valid checkpoint of a run, or None.

    Newer damaged checkpoints are logged and renamed to `damaged-checkpoint-<step>`. Staging folders of interrupted
    processes are removed, or published if they are complete.
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
        renamed = checkpoint.with_name(DAMAGED + checkpoint.name)
        logger.warning("%s is damaged: %s. It is skipped and renamed to %s.", checkpoint, damage, renamed.name)
        shutil.rmtree(renamed, ignore_errors=True)
        os.replace(checkpoint, renamed)
    return None


def checkpoint_step(checkpoint: str | Path) -> int:
    """Returns the global step of a checkpoint."""
    return int(json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
