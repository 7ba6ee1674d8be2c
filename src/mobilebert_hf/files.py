"""Files and folders that appear whole, under their name, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Lends a path beside `path` to write a file or a folder to, which then gets its name.

    Where the block fails, what was written is removed, and what was there before stays. The path lent has the same
    suffix, by which libraries tell formats.
    """
    aside = path.with_name(f".{path.stem}.part{path.suffix}")
    remove(aside)  # of a process that was killed
    try:
        yield aside
        for written in (*aside.rglob("*"), aside):
            flush(written)
        if path.is_dir():
            remove(path)
        os.replace(aside, path)
        flush(path.parent)
    finally:
        remove(aside)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time do something with a folder, by a lock file in it; others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    with FileLock(lock):
        try:
            yield
        finally:
            lock.unlink()  # who waits for it finds out, and makes another


def write_aside(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def move_files(source: Path, target: Path) -> None:
    """Moves every file of a folder into another one, each whole or not at all, and removes the folder."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        flush(path)
        os.replace(path, target / path.name)
    source.rmdir()


def flush(path: Path) -> None:
    """Makes sure that a file or a folder's entries survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
