"""Collects the faults of a data file, so that all of them are named at once, before work starts."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import atomic_write_text

logger = logging.getLogger(__name__)

SHOWN = 20  # faults that a message lists


@dataclass(frozen=True)
class Fault:
    """What is wrong with one row of a data file.

    Args:
        where: The file, and the line, row or question in it.
        problem: The value, what was expected, and what to do.
        row: The row as it was read.
    """

    where: str
    problem: str
    row: Any

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


def settle(faults: Sequence[Fault], kept: int, skipped: Path | None) -> None:
    """Raises the faults of a file, or leaves their rows out.

    Args:
        faults: The faults, in the order of the rows.
        kept: The number of rows without a fault.
        skipped: JSON Lines file for the rows that are left out; None raises the faults.

    Raises:
        ValueError: There are faults and `skipped` is None, or no row is without a fault. The message lists the first
            20 and the number of the others.
    """
    if not faults:
        return
    if skipped is None or not kept:
        advice = (
            "Correct the file, or leave out these rows with bad_rows=skip." if kept else "No row is without a fault."
        )
        raise ValueError("\n".join([*_listed(faults), f"{len(faults)} of {kept + len(faults)} rows. {advice}"]))
    skipped.parent.mkdir(parents=True, exist_ok=True)
    # Lone surrogates can be faults; ASCII represents them.
    rows = (json.dumps({"where": f.where, "problem": f.problem, "row": f.row}, default=str) for f in faults)
    text = "\n".join(rows) + "\n"
    if not (skipped.exists() and skipped.read_text(encoding="utf-8") == text):  # written by the main process
        atomic_write_text(skipped, text)
    logger.warning(
        "%d of %d rows are left out and written to %s:\n%s",
        len(faults),
        kept + len(faults),
        skipped,
        "\n".join(_listed(faults)),
    )


def _listed(faults: Sequence[Fault]) -> list[str]:
    lines = [str(fault) for fault in faults[:SHOWN]]
    return [*lines, f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else lines


def shown(value: Any) -> str:
    """A value in a message, shortened."""
    text = ascii(value) if isinstance(value, str) and surrogate(value) is not None else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def surrogate(text: str) -> int | None:
    """The index of the first lone surrogate, half a character, which no file in UTF-8 can have."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None
