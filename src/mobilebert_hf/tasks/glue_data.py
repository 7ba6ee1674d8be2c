"""Loads GLUE from the Hub or from local files, with columns `sentence1`, `sentence2` (for pairs) and `label`.

Local files have the benchmark's layout, with a folder per task: `CoLA/train.tsv`, `CoLA/dev.tsv`, `CoLA/test.tsv` etc.
They are tab-separated without quoting; blank lines are skipped. Their columns are those of the original files, or
`sentence` or `sentence1` and `sentence2`, and `label`. They may be compressed, and have a suffix after the split's
name (`train_sample.tsv.gz`). All faulty lines of a file are named at once.
"""

import lzma
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from transformers import PreTrainedTokenizerBase

from ..data.faults import Fault, settle, shown
from ..data.plain_text import open_bytes
from .glue_tasks import GlueTask

HUB_DATASET = "nyu-mll/glue"
UNLABELLED = -1  # label of test examples on the Hub
HOLDOUT_SEED = 42

# Names of the columns in the original files and on the Hub. The first one that exists is used.
COLUMNS = {
    "sentence1": ("sentence1", "question1", "question", "premise", "#1 string", "sentence"),
    "sentence2": ("sentence2", "question2", "hypothesis", "#2 string", "sentence"),
    "label": ("label", "gold_label", "is_duplicate", "quality", "score"),
}
# CoLA's train and dev files have no header.
COLA_COLUMNS = ["source", "label", "mark", "sentence"]
# Beginnings of the file name of AX's test split.
AX_STEMS = ("diagnostic", "AX")
# MRPC's list of the pairs in its dev split, which is not a split.
MRPC_IDS = "dev_ids."


def load_glue(
    task: GlueTask, source: str = HUB_DATASET, holdout: float | None = None, skipped: Path | None = None
) -> DatasetDict:
    """Loads all available splits of a task.

    Args:
        task: The task.
        source: A folder of local files; or a Hub dataset, or a local copy of it, with a configuration per task.
        holdout: Fraction of the training examples to hold out if there is no validation split. The holdout is
            stratified by label, and always has the same examples.
        skipped: Folder for the faulty rows of each split, which are left out. By default they are errors.

    Returns:
        Splits `train`, `validation` and `test` (for MNLI with `_matched` and `_mismatched`), with the columns
        `sentence1`, `sentence2` (for pairs) and `label`: int64, or float32 for STS-B; -1 in unlabelled test splits.

    Raises:
        FileNotFoundError: The folder, or the task's files in it, do not exist.
        ValueError: A column is missing, rows or labels are invalid, or a file is empty. The message lists the first 20
            faulty rows of a split.
    """
    folder = Path(source).expanduser() / task.name
    if folder.is_dir():
        splits = _load_files(task, folder, skipped)
    elif Path(source).expanduser().is_dir() and not list(Path(source).expanduser().rglob("*.parquet")):
        raise FileNotFoundError(f"{source} has no folder {task.name}: expected the GLUE layout, a folder per task.")
    else:
        splits = _load_hub(task, source, skipped)
    if "train" in splits and not any(split in splits for split in task.validation_splits) and holdout is not None:
        column = None if task.regression else "label"
        parts = splits["train"].train_test_split(holdout, seed=HOLDOUT_SEED, stratify_by_column=column)
        splits["train"], splits[task.validation_splits[0]] = parts["train"], parts["test"]
    return DatasetDict(splits)


def tokenize_glue(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DatasetDict:
    """Tokenizes all splits, without padding. Truncates the longer sentence of a pair."""

    def tokenize(batch: dict[str, list[Any]]) -> Mapping[str, Any]:
        return tokenizer(batch["sentence1"], batch.get("sentence2"), truncation=True, max_length=max_length)

    sentences = [name for name in ("sentence1", "sentence2") if name in next(iter(splits.values())).features]
    return splits.map(tokenize, batched=True, remove_columns=sentences, desc="tokenizing")


def glue_features(task: GlueTask) -> Features:
    """The columns of a task and their types."""
    label = Value("float32") if task.regression else ClassLabel(names=list(task.labels))
    sentences = ("sentence1", "sentence2") if task.pair else ("sentence1",)
    return Features({**{name: Value("string") for name in sentences}, "label": label})


# ---- local files


def _load_files(task: GlueTask, folder: Path, skipped: Path | None) -> dict[str, Dataset]:
    splits = {}
    for split in ("train", *task.validation_splits, *task.test_splits):
        path = _find_file(task, folder, split)
        if path is None:
            continue
        rows, faults = _read_rows(task, path, labelled=not split.startswith("test"))
        if not rows and not faults:
            raise ValueError(f"{path} is empty: expected a header and one example per line. Download it again.")
        settle(faults, len(rows), _skipped_file(task, skipped, split))
        splits[split] = Dataset.from_list(rows, features=glue_features(task))
    if not splits:
        raise FileNotFoundError(f"{folder} has no train*.tsv, dev*.tsv or test*.tsv (compressed or not).")
    return splits


def _skipped_file(task: GlueTask, skipped: Path | None, split: str) -> Path | None:
    return None if skipped is None else skipped / f"{task.key}-{split}.jsonl"


def _find_file(task: GlueTask, folder: Path, split: str) -> Path | None:
    stems = AX_STEMS if task.key == "ax" and split == "test" else (split.replace("validation", "dev"),)
    found = sorted(
        path for stem in stems for path in folder.glob(f"{stem}*.tsv*") if not path.name.startswith(MRPC_IDS)
    )
    if len(found) > 1:
        raise ValueError(
            f"{folder}: {' and '.join(path.name for path in found)} both match split {split!r}: keep one of them."
        )
    return found[0] if found else None


def _read_rows(task: GlueTask, path: Path, labelled: bool) -> tuple[list[dict[str, Any]], list[Fault]]:
    """The examples of a file, and the lines that are not examples."""
    lines = _read_lines(path)
    number, first = next(lines, (1, b""))
    header = first.decode("utf-8", "replace").split("\t")
    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    if task.key == "cola" and labelled and "sentence" not in header and len(header) == len(COLA_COLUMNS):
        header, lines = COLA_COLUMNS, chain([(number, first)], lines)
    columns = _find_columns(task, path, header, labelled)
    for number, line in lines:
        try:
            rows.append(_read_row(task, line, header, columns))
        except ValueError as error:
            cells = line.decode("utf-8", "replace").split("\t")
            faults.append(Fault(f"{path}, line {number}", f"{error}. Correct or remove the line.", cells))
    return rows, faults


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of the lines that are not blank.

    Lines end with LF or CR LF, or with CR in files without LF. Other characters that end lines in some programs, such
    as U+2028 or a lone CR, can be in a cell.
    """
    try:
        with open_bytes(path) as stream:
            content = stream.read().removeprefix(BOM_UTF8)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}. Check that it is complete, and its suffix.") from error
    lines = content.split(b"\n" if b"\n" in content else b"\r")
    for number, line in enumerate(lines, 1):
        line = line.removesuffix(b"\r")
        if line.strip():
            yield number, line


def _read_row(task: GlueTask, line: bytes, header: list[str], columns: dict[str, int]) -> dict[str, Any]:
    """The example of a line. Raises ValueError without the place if there is none."""
    try:
        cells = line.decode("utf-8").split("\t")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error})") from error
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} columns, expected {len(header)} ({', '.join(header)}) separated by tabs")
    example: dict[str, Any] = {name: cells[index] for name, index in columns.items()}
    label = example.get("label")
    return {**example, "label": UNLABELLED if label is None else _parse_label(task, label)}


def _find_columns(task: GlueTask, path: Path, header: list[str], labelled: bool) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    wanted = ["sentence1", *(["sentence2"] if task.pair else []), "label"]
    columns = {}
    for column in wanted:
        index = next((names.index(name) for name in COLUMNS[column] if name in names), None)
        if index is not None:
            columns[column] = index
        elif column != "label" or labelled:
            raise ValueError(
                f"{path}, line 1: no column {column!r} among {', '.join(header) or 'none'}: expected one of "
                f"{', '.join(COLUMNS[column])}. Name the columns in the first line of the file."
            )
    return columns


def _parse_label(task: GlueTask, text: str) -> int | float:
    if task.regression:
        try:
            score = float(text)
        except ValueError:
            score = float("nan")
        if 0 <= score <= 5:
            return score
        raise ValueError(f"label {shown(text)} is not a number from 0 to 5")
    if text in task.labels:
        return task.labels.index(text)
    if text.isdecimal() and int(text) < len(task.labels):
        return int(text)
    expected = ", ".join(f"{name} (or {index})" for index, name in enumerate(task.labels))
    raise ValueError(f"label {shown(text)} is not a label of {task.name}: expected {expected}")


# ---- the Hub


def _load_hub(task: GlueTask, source: str, skipped: Path | None) -> dict[str, Dataset]:
    splits = {}
    for split, rows in load_dataset(source, task.key).items():
        where = f"{source}, {task.key}, split {split}"
        columns = _find_columns(task, Path(where), rows.column_names, labelled=True)
        rows = rows.select_columns([rows.column_names[index] for index in columns.values()])
        rows = rows.rename_columns({rows.column_names[index]: name for index, name in enumerate(columns)})
        faults = _check_hub_rows(task, rows, where, labelled=not split.startswith("test"))
        settle(list(faults.values()), len(rows) - len(faults), _skipped_file(task, skipped, split))
        if faults:
            rows = rows.select([index for index in range(len(rows)) if index not in faults])
        splits[split] = rows.cast(glue_features(task))
    return splits


def _check_hub_rows(task: GlueTask, rows: Dataset, where: str, labelled: bool) -> dict[int, Fault]:
    """The faults by row."""
    if not len(rows):
        raise ValueError(f"{where} is empty: load the dataset again.")
    names = getattr(rows.features["label"], "names", None)
    if names is not None and tuple(names) != task.labels:
        raise ValueError(f"{where}: labels are {', '.join(names)}; expected {', '.join(task.labels)} in this order.")
    top = 5 if task.regression else len(task.labels) - 1
    faults = {}
    for index, row in enumerate(rows):
        label = row["label"]
        problem = ""
        if empty := [name for name in row if name != "label" and not isinstance(row[name], str)]:
            problem = f"{empty[0]} is {shown(row[empty[0]])}, expected a string"
        elif not isinstance(label, (int, float)) or not (0 <= label <= top or (label == UNLABELLED and not labelled)):
            problem = f"label {shown(label)} is not from 0 to {top}"
        if problem:
            faults[index] = Fault(f"{where}, row {index}", f"{problem}. Correct or remove the row.", row)
    return faults
