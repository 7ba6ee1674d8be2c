"""Atomic writes of files and folders."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a staging path, in the same folder and with the same suffix, and moves it to `path` at the end.

    The block writes a file or a folder there. If it raises an exception, the staging path is removed and `path` does
    not change.
    """
    staging = path.with_name(f".{path.stem}.part{path.suffix}")
    remove(staging)  # left by a process that was killed
    try:
        yield staging
        for written in (*staging.rglob("*"), staging):
            flush(written)
        if path.is_dir():
            remove(path)
        os.replace(staging, path)
        flush(path.parent)
    finally:
        remove(staging)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds an exclusive lock on a folder, by a lock file in it. Other processes wait."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    with FileLock(lock):
        try:
            yield
        finally:
            lock.unlink()  # waiting processes create it again


def atomic_write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_write(path) as staging:
        staging.write_text(text, encoding="utf-8")


def move_files(source: Path, target: Path) -> None:
    """Moves the files of a folder to another folder, each atomically, and removes the source folder."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        flush(path)
        os.replace(path, target / path.name)
    source.rmdir()


def flush(path: Path) -> None:
    """Writes a file, or the entries of a folder, to the disk (`fsync`)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file or a folder and its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
