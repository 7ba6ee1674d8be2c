"""Turns columns into texts and labels, checks them before training, and cuts off a held-out part."""

import ast
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .labelled import Examples
from .plain_text import open_text

SEED = 42
SHOWN = 5
# Between the labels of a text. The first one that occurs is used.
SEPARATORS = "|;,"
TRUE, FALSE = ("1", "true", "yes", "1.0"), ("0", "false", "no", "0.0", "")


def choose_columns(
    examples: Examples,
    usual: Mapping[str, Sequence[str]],
    given: Mapping[str, Sequence[str] | None],
    optional: Sequence[str] = (),
) -> dict[str, list[str]]:
    """The names of the columns of each role: those given, else the usual ones.

    Args:
        examples: Rows with all columns.
        usual: Usual names by role, in lower case; the first one that exists, and is not taken, is chosen.
        given: Names by role; None for the usual ones.
        optional: Roles that may be missing.

    Raises:
        ValueError: A column does not exist; the message lists those that do.
    """
    there = {name.lower(): name for name in examples.columns}
    chosen: dict[str, list[str]] = {}
    for role, names in given.items():
        if names is not None:
            missing = [name for name in names if name.lower() not in there]
            if missing:
                raise ValueError(
                    f"{examples.source}: no column {', '.join(map(repr, missing))}. Its columns are "
                    f"{', '.join(examples.columns)}."
                )
            chosen[role] = [there[name.lower()] for name in names]
    is_conll = list(examples.columns) == [str(index + 1) for index in range(len(examples.columns))]
    if is_conll and "tokens" in usual:
        chosen = {"tokens": ["1"], "label": [list(examples.columns)[-1]], **chosen}
    for role, names in usual.items():
        taken = {name for columns in chosen.values() for name in columns}
        found = next((there[name] for name in names if name in there and there[name] not in taken), None)
        if role in chosen or (found is None and role in optional):
            continue
        if found is None:
            option = {"text_pair": "pair", "tokens": "text"}.get(role, role)
            raise ValueError(
                f"{examples.source}: no column for the {role.replace('_', ' ')}: expected one of {', '.join(names)}, "
                f"found {', '.join(examples.columns)}. Name it with --{option}-column."
            )
        chosen[role] = [found]
    return chosen


def read_label_names(names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of labels, in order: as given, or the lines of a file that is given instead."""
    if names and len(names) == 1 and Path(names[0]).expanduser().is_file():
        with open_text(Path(names[0]).expanduser()) as stream:
            return tuple(line.strip() for line in stream if line.strip())
    return tuple(names or ())


def as_name(value: Any, names: Sequence[str] = ()) -> str | None:
    """A label as a string; None if it is missing. An index is replaced by its name, if there are names."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if names and text not in names and text.isdecimal() and int(text) < len(names):
        return names[int(text)]
    return text or None


def label_sets(columns: Sequence[list[Any]], titles: Sequence[str], names: Sequence[str]) -> list[list[str] | None]:
    """The labels of each row, for rows with any number of labels.

    Args:
        columns: One column with lists, or with strings of labels separated by `|`, `;` or `,`; or a column per label
            with 0 and 1.
        titles: The names of the columns.
        names: Names of the labels; see `as_name`.

    Returns:
        A list per row, in the order of the source; None where the value is missing or neither 0 nor 1.
    """
    if len(columns) > 1:
        return [_hot_labels(row, titles) for row in zip(*columns, strict=True)]
    texts = [value for value in columns[0] if isinstance(value, str) and not value.startswith("[")]
    separator = next((mark for mark in SEPARATORS if any(mark in text for text in texts)), SEPARATORS[-1])
    found: list[list[str] | None] = []
    for value in columns[0]:
        if isinstance(value, str) and value.startswith("["):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                value = value.strip("[] ").split()  # as NumPy prints arrays
        if value is None:
            found.append(None)
            continue
        parts = value.split(separator) if isinstance(value, str) else value if isinstance(value, list) else [value]
        found.append(list(dict.fromkeys(name for part in parts if (name := as_name(part, names)) is not None)))
    return found


def _hot_labels(row: tuple[Any, ...], titles: Sequence[str]) -> list[str] | None:
    marks = ["" if value is None else str(value).strip().lower() for value in row]
    if any(mark not in (*TRUE, *FALSE) for mark in marks):
        return None
    return [title for title, mark in zip(titles, marks, strict=True) if mark in TRUE]


def sort_labels(found: Iterable[str]) -> tuple[str, ...]:
    """Names in a fixed order: numbers by value, others by the alphabet."""
    names = set(found)
    if all(name.lstrip("-").isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


class Problems:
    """Collects what is wrong with rows, to report all of it at once.

    Args:
        examples: The rows.
    """

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        self.found: dict[tuple[str, str], list[int]] = {}

    def add(self, what: str, remedy: str, indices: Iterable[int]) -> None:
        """Notes the rows, if there are any, that have a problem, and what to do."""
        indices = list(indices)
        if indices:
            self.found.setdefault((what, remedy), []).extend(indices)

    def check(self) -> None:
        """Raises a ValueError that names file, rows, problems and remedies, if there are problems."""
        lines = []
        for (what, remedy), indices in self.found.items():
            numbers = ", ".join(str(self.examples.numbers[index]) for index in indices[:SHOWN])
            more = f" and {len(indices) - SHOWN:,} more" if len(indices) > SHOWN else ""
            unit = self.examples.unit + ("s" if len(indices) > 1 else "")
            lines.append(f"{self.examples.source}, {unit} {numbers}{more}: {what}. {remedy}")
        if lines:
            raise ValueError("\n".join(lines))


def check_texts(problems: Problems, roles: Sequence[str]) -> None:
    """Notes rows whose text is empty or no string."""
    for role in roles:
        values = problems.examples.columns[role]
        empty = [index for index, value in enumerate(values) if value is None or not str(value).strip()]
        problems.add(f"the {role.replace('_', ' ')} is empty", "Add the text or remove the row.", empty)
        other = [index for index, value in enumerate(values) if value is not None and not isinstance(value, str)]
        problems.add(f"the {role.replace('_', ' ')} is not a string", "Choose a column of texts.", other)


def text_keys(examples: Examples) -> list[tuple[Any, ...]]:
    """The texts of every row, equal for rows with exactly the same texts."""
    columns = [values for role, values in examples.columns.items() if role != "label"]
    return [
        tuple(tuple(text) if isinstance(text, list) else text for text in row) for row in zip(*columns, strict=True)
    ]


def duplicates(one: Examples, other: Examples) -> list[tuple[int, int]]:
    """Pairs of rows, one of each, with exactly the same texts."""
    first = {key: index for index, key in enumerate(text_keys(one))}
    return [(first[key], index) for index, key in enumerate(text_keys(other)) if key in first]


def hold_out(
    examples: Examples, share: float, strata: Callable[[int], str], seed: int = SEED
) -> tuple[Examples, Examples]:
    """Splits rows into a training and a held-out part, with the same shares of each stratum, reproducibly.

    A stratum of at least two rows has at least one in each part. Rows whose texts occur twice are for training.

    Args:
        examples: The rows.
        share: Share of the held-out part, between 0 and 1.
        strata: The stratum of a row, such as its label.
        seed: Seed of the order.
    """
    keys = text_keys(examples)
    times = Counter(keys)
    groups: dict[str, list[int]] = {}
    for index in np.random.default_rng(seed).permutation(len(examples)):
        if times[keys[index]] == 1:
            groups.setdefault(strata(int(index)), []).append(int(index))
    alone = [rows[0] for rows in groups.values() if len(rows) == 1]
    held = set(alone[: round(share * len(alone))])
    for rows in groups.values():
        if len(rows) > 1:
            held.update(rows[: min(max(round(share * len(rows)), 1), len(rows) - 1)])
    kept = [index for index in range(len(examples)) if index not in held]
    return examples.select(kept), examples.select(sorted(held))


def rarest(labels: Iterable[str], counts: Counter[str]) -> str:
    """The rarest of a row's labels: the stratum of rows with several."""
    return min(labels, key=lambda label: (counts[label], label), default="")
