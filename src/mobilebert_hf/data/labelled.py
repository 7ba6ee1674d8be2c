"""Reads labelled examples: CSV, TSV, JSON, JSON lines, Parquet, CoNLL columns, saved `datasets` folders, Hub datasets.

Values of text files are read as they are: no text or label such as `NA` or `None` becomes a missing value. Text files
may be compressed.
"""

import csv
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
from datasets import ClassLabel, Dataset, DatasetDict, List

from .corpus import HUB_ID
from .plain_text import OPENERS, open_text

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val", "eval"),
    "test": ("test",),
}
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t", ".tab": "\t"}
CONLL = (".conll", ".conllu", ".bio", ".iob", ".iob2", ".txt")
# A field of a file that quotes fields with quotation marks.
QUOTED = re.compile(r'"(?:[^"]|"")*"')
MAX_FIELD = 2**27


@dataclass
class Examples:
    """Rows of a file or a data set.

    Args:
        source: File, or data set and split, for messages.
        unit: What `numbers` count: `"line"` or `"row"`.
        numbers: The number of each row in the source.
        columns: Values by name, one per row.
        class_names: For each column of a data set whose values are indices of classes: the names of the classes.
    """

    source: str
    unit: str
    numbers: list[int]
    columns: dict[str, list[Any]]
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, index: int) -> str:
        """The place of a row, for messages."""
        return f"{self.source}, {self.unit} {self.numbers[index]}"

    def public_place(self, index: int) -> str:
        """The place of a row without the folder of its file, for results that may be published."""
        return f"{Path(self.source).name}, {self.unit} {self.numbers[index]}"

    def select(self, indices: Sequence[int]) -> "Examples":
        """The rows of these indices."""
        columns = {name: [values[index] for index in indices] for name, values in self.columns.items()}
        return replace(self, numbers=[self.numbers[index] for index in indices], columns=columns)


def read_rows(source: str, split: str, *, tokens: bool = False, has_header: bool = True) -> Examples:
    """Reads all columns of a source.

    Args:
        source: A file, a folder saved by `datasets`, or a Hub dataset as `owner/name` or `owner/name:configuration`.
        split: `"train"`, `"validation"` or `"test"`, the split of a data set; ignored for a file.
        tokens: Whether text files without named columns are CoNLL columns.
        has_header: Whether the first line of CSV and TSV files names the columns. Without names they are `"1"`, `"2"`
            and so on, as those of CoNLL columns are.

    Raises:
        FileNotFoundError: The source, or the split in it, does not exist.
        ValueError: A file cannot be read; the message names file and line.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        rows = _load_dataset(source, split)
        if rows is None:
            raise FileNotFoundError(
                f"{source!r} is no file, no folder saved by datasets, and no Hub dataset with a split "
                f"{' or '.join(SPLITS[split])}. Check the path."
            )
        return _from_dataset(rows, f"{source}, split {split}")
    suffix = _suffix(path)
    if suffix == ".parquet":
        # The features of `datasets`, such as names of classes, are in the metadata of the schema.
        return _from_dataset(Dataset(pyarrow.parquet.read_table(path)), str(path))
    try:
        if suffix in (".json", ".jsonl", ".ndjson"):
            examples = _read_json(path)
        elif suffix in CONLL and tokens:
            examples = _read_conll(path)
        elif suffix in DELIMITERS:
            examples = _read_separated(path, suffix, has_header)
        else:
            known = ".csv, .tsv, .json, .jsonl, .parquet" + (f", {', '.join(CONLL)}" if tokens else "")
            raise ValueError(f"{path}: files of labels end in {known}, compressed or not ({', '.join(OPENERS)}).")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}). Convert it, for example with iconv.") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}). Check that it is complete.") from error
    if not len(examples):
        raise ValueError(f"{path} has no examples. Give a file with at least two.")
    return examples


def has_split(source: str, split: str) -> bool:
    """Whether a source is a data set with this split; a file has none."""
    return not Path(source).expanduser().is_file() and _load_dataset(source, split) is not None


# ---- data sets


def _load_dataset(source: str, split: str) -> Dataset | None:
    """The split of a saved folder or a Hub dataset; None if there is none."""
    folder, hub = Path(source).expanduser(), HUB_ID.fullmatch(source)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        saved = datasets.load_from_disk(str(folder))
        if isinstance(saved, Dataset):
            return saved if split == "train" else None
        found: DatasetDict = saved
    elif folder.is_dir():
        found = datasets.load_dataset(str(folder))
    elif hub:
        found = datasets.load_dataset(source.partition(":")[0], hub["configuration"])
    else:
        return None
    return next((found[name] for name in SPLITS[split] if name in found), None)


def _from_dataset(rows: Dataset, source: str) -> Examples:
    features = {name: kind.feature if isinstance(kind, List) else kind for name, kind in rows.features.items()}
    names = {name: tuple(kind.names) for name, kind in features.items() if isinstance(kind, ClassLabel)}
    columns = {name: rows[name][:] for name in rows.column_names}
    return Examples(source, "row", list(range(1, len(rows) + 1)), columns, names)


# ---- text files


def _suffix(path: Path) -> str:
    """The suffix of the format, without that of the compression."""
    return (Path(path.stem) if path.suffix.lower() in OPENERS else path).suffix.lower()


def _read_json(path: Path) -> Examples:
    """JSON lines, or one JSON list of objects."""
    with open_text(path) as stream:
        first = stream.read(1)
        stream.seek(0)
        if first == "[":
            try:
                rows = list(enumerate(json.load(stream), 1))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {error.lineno}: {error}. Correct the file.") from error
        else:
            rows = [(number, _parse_line(path, number, line)) for number, line in enumerate(stream, 1) if line.strip()]
    unit = "row" if first == "[" else "line"
    for number, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{path}, {unit} {number}: {str(row)[:40]!r} is not a JSON object with named columns.")
    names = dict.fromkeys(name for _, row in rows for name in row)
    columns = {name: [row.get(name) for _, row in rows] for name in names}
    return Examples(str(path), unit, [number for number, _ in rows], columns)


def _parse_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number}: not a JSON object ({error}). Correct or remove the line.") from error


def _read_separated(path: Path, suffix: str, has_header: bool) -> Examples:
    with open_text(path) as stream:
        head = stream.readline()
    # Spreadsheets separate by the character that their language allows.
    delimiter = max(DELIMITERS[suffix], key=head.count)
    rows = list(_read_fields(path, delimiter, csv.QUOTE_NONE)) if delimiter == "\t" else []
    quoted = [field for _, row in rows for field in row if '"' in field]
    # Tables separated by tabs are mostly written without quoting, and quotation marks then belong to the text.
    is_plain = rows and len({len(row) for _, row in rows}) == 1 and not (quoted and all(map(QUOTED.fullmatch, quoted)))
    if not is_plain:
        rows = list(_read_fields(path, delimiter, csv.QUOTE_MINIMAL))
    if not rows:
        raise ValueError(f"{path} is empty. Give a file with a line of column names, and an example per line.")
    names = [name.strip() for name in rows[0][1]]
    if not has_header:
        names = [str(number) for number in range(1, len(names) + 1)]
    rows = rows[1:] if has_header else rows
    for number, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{path}, line {number}: {len(row)} columns, expected {len(names)} ({', '.join(names)}), separated by "
                f"{delimiter!r}. Correct or remove the line; texts with {delimiter!r} in them need quotation marks."
            )
    columns = {name: [row[index] for _, row in rows] for index, name in enumerate(names)}
    return Examples(str(path), "line", [number for number, _ in rows], columns)


def _read_fields(path: Path, delimiter: str, quoting: Any) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row, with the number of the line where the row begins."""
    csv.field_size_limit(MAX_FIELD)
    begins = 1
    with open_text(path) as stream:
        lines = csv.reader(stream, delimiter=delimiter, quoting=quoting)
        for row in lines:
            if row:
                yield begins, row
            begins = lines.line_num + 1


def _read_conll(path: Path) -> Examples:
    """A token per line, an empty line between sentences; columns are separated by tabs or by spaces."""
    sentences: list[tuple[int, list[list[str]]]] = []
    current: list[list[str]] = []
    with open_text(path) as stream:
        text = [line.rstrip("\r\n") for line in stream]
    has_tabs = any("\t" in line for line in text)
    for number, line in enumerate([*text, ""], 1):
        # Metadata of CoNLL-U. The token `#` has a tag in another column.
        is_comment = line.startswith("#") and (" = " in line or (has_tabs and "\t" not in line))
        fields = line.split("\t") if has_tabs else line.split()
        if is_comment or fields[:1] == ["-DOCSTART-"]:
            continue
        if not line.strip():
            if current:
                sentences.append((number - len(current), current))
            current = []
        elif current and len(fields) != len(current[0]):
            raise ValueError(
                f"{path}, line {number}: {len(fields)} columns, but {len(current[0])} in the line before. Expected a "
                "token and its columns per line, and an empty line between sentences."
            )
        else:
            current.append(fields)
    width = len(sentences[0][1][0]) if sentences else 0
    wrong = next((number for number, rows in sentences if len(rows[0]) != width), None)
    if wrong is not None:
        raise ValueError(f"{path}, line {wrong}: expected {width} columns as in the first sentence. Correct the line.")
    columns = {str(index + 1): [[row[index] for row in rows] for _, rows in sentences] for index in range(width)}
    return Examples(str(path), "line", [number for number, _ in sentences], columns)
