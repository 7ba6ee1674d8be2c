"""Labelled examples of a kind of task: columns found, labels inferred and checked, a part held out for validation."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..data.labelled import Examples, has_split, read_rows
from ..data.labels import (
    Problems,
    as_name,
    check_texts,
    choose_columns,
    duplicates,
    hold_out,
    label_sets,
    rarest,
    read_label_names,
    sort_labels,
)
from .kinds import KINDS, SCORE_METRICS, Kind


@dataclass(frozen=True)
class ColumnNames:
    """Which columns of a file are read; None: those with usual names.

    A number counts the columns from 1 and says that the file has no line of column names.

    Args:
        text: Column of the text, or of the tokens.
        pair: Column of the second text.
        label: Column of the labels; for several labels per text, a column for each label.
        names: Names of the labels in order, or a file with a name per line, for labels that are indices.
    """

    text: str | None = None
    pair: str | None = None
    label: tuple[str, ...] | None = None
    names: tuple[str, ...] = field(default=())

    @property
    def has_header(self) -> bool:
        """Whether columns have names."""
        return not any(name is not None and name.isdecimal() for name in (self.text, self.pair, *(self.label or ())))


class LabelledData(NamedTuple):
    """The examples of a run.

    Args:
        kind: The kind of task; for `pairs` with its type of label.
        names: The names of the classes, in the order of their indices; empty for scores.
        splits: `train`, `validation` and, if there is one, `test`. Columns `text` (and `text_pair`) or `tokens`, and
            `label`: an index, a list with 0 or 1 for each class, a score, or an index for each token.
        notes: What is to be said before training.
    """

    kind: Kind
    names: tuple[str, ...]
    splits: dict[str, Examples]
    notes: list[str]

    def counts(self, split: str) -> Counter[str]:
        """The number of examples, or of tokens, by class; none for examples without labels."""
        return _count(self.kind, decode(self.kind, self.names, self.splits[split]))


def load_labelled(
    kind: Kind,
    train: str,
    validation: str | None,
    test: str | None,
    columns: ColumnNames,
    share: float,
    names: tuple[str, ...] | None = None,
) -> LabelledData:
    """Reads and checks all splits.

    Args:
        kind: The kind of task.
        train: File, folder saved by `datasets`, or Hub dataset; see `read_rows`.
        validation: The same; None: the validation split of `train` or, if there is none, a held-out part of it.
        test: The same; None: the test split of `train`, if there is one.
        columns: Which columns are read.
        share: Share of the training examples that is held out.
        names: The names of the classes of a teacher, empty for scores. Labels are then optional. None: the names that
            occur in the training data.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A column is missing, or texts or labels are not as the kind of task needs them.
    """
    sources = {"train": train, "validation": validation, "test": test}
    raw = {
        split: load_examples(kind, source or train, split, columns, labelled=names is None)
        for split, source in sources.items()
        if source is not None or has_split(train, split)
    }
    kind = _resolve(kind, raw["train"])
    notes = []
    if "validation" not in raw:
        counts = _count(kind, raw["train"])
        raw["train"], raw["validation"] = hold_out(raw["train"], share, _stratum(kind, raw["train"], counts))
        notes.append(
            f"{len(raw['validation']):,} of the training examples ({share:.0%} of each class) are held out for "
            "validation, always the same ones. Give --validation to use your own."
        )
    if names is None:
        names = _infer_names(kind, raw["train"], read_label_names(columns.names))
    splits = {split: encode(kind, names, examples) for split, examples in raw.items()}
    for split in ("validation", "test"):
        if split in splits and (same := duplicates(splits["train"], splits[split])):
            one, other = same[0]
            notes.append(
                f"{len(same):,} {split} examples are also training examples, so scores are too high: "
                f"{splits[split].public_place(other)} is {splits['train'].public_place(one)}. Remove them from one."
            )
    return LabelledData(kind, names, splits, notes)


def load_examples(kind: Kind, source: str, split: str, columns: ColumnNames, *, labelled: bool = True) -> Examples:
    """Reads one split with the columns of the kind; labels as they are in the source, names for indices.

    Args:
        kind: The kind of task.
        source: See `read_rows`.
        split: Name of the split.
        columns: Which columns are read.
        labelled: Whether there must be labels; otherwise the column may be missing.

    Raises:
        ValueError: A column is missing, a text is empty, or a label is missing.
    """
    rows = read_rows(source, split, tokens=kind.label == "tags", has_header=columns.has_header)
    text = "tokens" if kind.label == "tags" else "text"
    given = {text: columns.text, "text_pair": columns.pair}
    optional = kind.optional if labelled else (*kind.optional, "label")
    chosen = choose_columns(
        rows,
        kind.columns,
        {**{role: [name] for role, name in given.items() if name is not None}, "label": columns.label},
        optional,
    )
    roles = [role for role in (text, "text_pair") if role in chosen]
    examples = replace(rows, columns={role: rows.columns[chosen[role][0]] for role in roles})
    problems = Problems(examples)
    if kind.label == "tags":
        _check_tokens(problems)
    else:
        check_texts(problems, roles)
    if "label" in chosen:
        found = [rows.columns[name] for name in chosen["label"]]
        names = read_label_names(columns.names) or rows.class_names.get(chosen["label"][0], ())
        examples.columns["label"] = _read_labels(kind, found, chosen["label"], names)
        missing = [index for index, label in enumerate(examples.columns["label"]) if label is None]
        problems.add("the label is missing", "Add the label or remove the row.", missing)
    problems.check()
    if kind.label == "tags" and "label" in examples.columns:
        _check_tags(examples)
    return examples


def _read_labels(kind: Kind, columns: Sequence[list[Any]], titles: Sequence[str], names: Sequence[str]) -> list[Any]:
    if kind.label == "classes":
        return label_sets(columns, titles, names)
    if len(columns) > 1:
        raise ValueError(
            f"label_column={list(titles)}: {kind.name} has one column of labels; multilabel takes several."
        )
    if kind.label == "tags":
        return [None if tags is None else [as_name(tag, names) or "" for tag in tags] for tags in columns[0]]
    return [as_name(value, names) for value in columns[0]]


def _check_tokens(problems: Problems) -> None:
    rows = problems.examples.columns["tokens"]
    other = [index for index, tokens in enumerate(rows) if not isinstance(tokens, list)]
    problems.add("the tokens are not a list of strings", "Choose a column of lists.", other)
    empty = [
        index for index, tokens in enumerate(rows) if isinstance(tokens, list) and not any(map(str.strip, tokens))
    ]
    problems.add("there are no tokens", "Remove the row.", empty)


def _check_tags(examples: Examples) -> None:
    problems = Problems(examples)
    pairs = zip(examples.columns["tokens"], examples.columns["label"], strict=True)
    wrong = [index for index, (tokens, tags) in enumerate(pairs) if len(tokens) != len(tags)]
    problems.add("the numbers of tokens and tags differ", "Give one tag for each token.", wrong)
    empty = [index for index, tags in enumerate(examples.columns["label"]) if "" in tags]
    problems.add("a tag is empty", "Give a tag, such as O, for each token.", empty)
    problems.check()


def _resolve(kind: Kind, train: Examples) -> Kind:
    """The kind with its type of label: pairs are scored if their labels are numbers that are not all whole."""
    if kind is not KINDS["pairs"] or "label" not in train.columns:
        return kind
    numbers = [_number(label) for label in train.columns["label"]]
    if None in numbers or all(number is not None and number.is_integer() for number in numbers):
        return kind
    return replace(kind, label="score", metrics=SCORE_METRICS, problem_type="regression")


def _number(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _labels_of(kind: Kind, label: Any) -> list[str]:
    """The classes of one example."""
    return [label] if kind.label == "class" else [] if kind.label == "score" else label


def _count(kind: Kind, examples: Examples) -> Counter[str]:
    return Counter(name for label in examples.columns.get("label", ()) for name in _labels_of(kind, label))


def _stratum(kind: Kind, examples: Examples, counts: Counter[str]) -> Callable[[int], str]:
    """The rarest class of an example; all scores are one stratum."""
    labels = examples.columns.get("label")
    return lambda index: "" if labels is None else rarest(_labels_of(kind, labels[index]), counts)


def _infer_names(kind: Kind, train: Examples, given: tuple[str, ...]) -> tuple[str, ...]:
    if kind.label == "score":
        return ()
    counts = _count(kind, train)
    names = given or sort_labels(counts)
    if len(counts) < 2 and kind.label != "classes":
        raise ValueError(
            f"{train.source}: all labels are {', '.join(counts) or 'missing'}. At least two classes are needed to "
            "learn from; add examples of another class."
        )
    if not counts:
        raise ValueError(f"{train.source}: no example has a label. Choose another column with --label-column.")
    return names


def encode(kind: Kind, names: Sequence[str], examples: Examples) -> Examples:
    """Replaces labels by indices, lists of 0 and 1, or numbers.

    Args:
        kind: The kind of task.
        names: The names of the classes.
        examples: See `load_examples`. Without labels they are returned as they are.

    Raises:
        ValueError: A label has no name, or is no number; the message names the rows.
    """
    if "label" not in examples.columns:
        return examples
    labels, problems = examples.columns["label"], Problems(examples)
    if kind.label == "score":
        numbers = [_number(label) for label in labels]
        wrong = [index for index, number in enumerate(numbers) if number is None]
        problems.add("the label is no number", "Correct or remove the row.", wrong)
        if kind.name == "rerank":
            outside = [index for index, number in enumerate(numbers) if number is not None and not 0 <= number <= 1]
            problems.add("the relevance is not from 0 to 1", "Divide by the highest relevance.", outside)
        problems.check()
        return _with_labels(examples, numbers)
    index = {name: position for position, name in enumerate(names)}
    for row, label in enumerate(labels):
        for name in dict.fromkeys(_labels_of(kind, label)):
            if name not in index:
                remedy = "Correct it, add training examples of it, or remove the row."
                problems.add(f"the label {name!r} is unknown: it is not among those of training", remedy, [row])
    problems.check()
    if kind.label == "class":
        return _with_labels(examples, [index[label] for label in labels])
    if kind.label == "tags":
        return _with_labels(examples, [[index[tag] for tag in tags] for tags in labels])
    return _with_labels(examples, [[float(name in label) for name in names] for label in labels])


def decode(kind: Kind, names: Sequence[str], examples: Examples) -> Examples:
    """The reverse of `encode`: indices are replaced by names."""
    if "label" not in examples.columns:
        return examples
    labels = examples.columns["label"]
    if kind.label == "class":
        return _with_labels(examples, [names[label] for label in labels])
    if kind.label == "score":
        return examples
    if kind.label == "tags":
        return _with_labels(examples, [[names[tag] for tag in tags] for tags in labels])
    return _with_labels(examples, [[name for name, mark in zip(names, row, strict=True) if mark] for row in labels])


def _with_labels(examples: Examples, labels: list[Any]) -> Examples:
    return replace(examples, columns={**examples.columns, "label": labels})
