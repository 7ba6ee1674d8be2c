"""Loads files, folders, globs and Hub datasets as one dataset of documents with a `text` column.

Plain text is UTF-8 with one paragraph per line and a blank line between documents. Sources that
`datasets.load_dataset` reads (a Hub dataset, Parquet, JSON Lines, CSV, Arrow) have one document per row.
"""

import csv
import glob
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, IterableDataset, Value, concatenate_datasets, load_dataset
from datasets import load_from_disk as load_saved
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from datasets.fingerprint import Hasher

from .faults import shown, surrogate
from .plain_text import NOT_PLAIN_TEXT, check_plain_text, format_suffix, open_text, read_documents

logger = logging.getLogger(__name__)

TEXT_SUFFIXES = (".txt", ".text")
TABLE_BUILDERS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(?::(?P<configuration>[\w.-]+))?")
FEATURES = Features({"text": Value("string")})
# Without quotes: a quotation mark is a character of the text.
TAB_SEPARATED = {"sep": "\t", "quoting": csv.QUOTE_NONE}
# Files of the folders of `Dataset.save_to_disk` and `DatasetDict.save_to_disk`.
SAVED = ("state.json", "dataset_dict.json")

STREAM_SAMPLE_ROWS = 200


def load_documents(
    corpus: Sequence[str],
    *,
    text_column: str = "text",
    streaming: bool = False,
    encoding_errors: str = "strict",
    cache_dir: str | None = None,
) -> Dataset | IterableDataset:
    """Loads all sources of a corpus as one dataset of documents.

    Args:
        corpus (`Sequence[str]`):
            Files (`.gz`, `.bz2`, `.xz` and `.zst` are decompressed), folders, globs, and Hub datasets as `owner/name`
            or `owner/name:configuration` (split `train`).
        text_column (`str`, *optional*, defaults to `"text"`):
            Column of the documents, for sources with columns.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read while iterating, without an Arrow copy in the cache.
        encoding_errors (`str`, *optional*, defaults to `"strict"`):
            For bytes that are not UTF-8: `"strict"` raises an error, `"replace"` reads them as U+FFFD.
        cache_dir (`str`, *optional*):
            Folder of the Arrow copy. Defaults to the cache of `datasets`.

    Returns:
        `Dataset` or `IterableDataset`: one document per row, with the column `text` (string). Plain text comes first,
        then the other sources, each in the order of `corpus`.

    Raises:
        FileNotFoundError: if a source does not exist.
        ValueError: if a source has no text, is not UTF-8, lacks `text_column`, or most of its rows are empty.
    """
    if not corpus:
        raise ValueError("the corpus is an empty list: name at least one file, folder, glob or Hub dataset")
    files, tables = find_sources(corpus)
    parts = [_load_table(table, text_column, streaming, cache_dir) for table in tables]
    if files:
        parts.insert(0, _load_text(files, encoding_errors, streaming, cache_dir))
    return concatenate_datasets(parts)


def find_sources(corpus: Sequence[str]) -> tuple[list[Path], list[dict[str, Any]]]:
    """Splits the entries of a corpus into plain-text files and sources with columns.

    Args:
        corpus (`Sequence[str]`): see [`load_documents`].

    Returns:
        `tuple[list[Path], list[dict]]`: the text files in a stable order, and the arguments of `load_dataset` for each
        source with columns.

    Raises:
        FileNotFoundError: if a source does not exist.
        ValueError: if a folder has no text, or both plain text and files with columns.
    """
    files: list[Path] = []
    tables: list[dict[str, Any]] = []
    for entry in corpus:
        path = Path(entry).expanduser()
        hub = HUB_ID.fullmatch(entry)
        if path.exists():
            paths = [path]
        elif glob.has_magic(entry):
            paths = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            if not paths:
                raise FileNotFoundError(f"no file matches {entry!r}: check the folder and quote the pattern")
        elif hub and format_suffix(path) not in (*TEXT_SUFFIXES, *TABLE_BUILDERS):
            tables.append({"path": entry.partition(":")[0], "name": hub["configuration"]})
            continue
        else:
            raise FileNotFoundError(
                f"no file or folder {entry!r}: give an existing path, a glob, or a Hub dataset as 'owner/name'"
            )
        for match in paths:
            _add_path(match, files, tables)
    return files, tables


def _add_path(path: Path, files: list[Path], tables: list[dict[str, Any]]) -> None:
    """Adds a file, or the files of a folder, to the text files or to the sources with columns."""
    if path.is_file():
        suffix = format_suffix(path)
        if suffix in TABLE_BUILDERS:
            table = {"path": TABLE_BUILDERS[suffix], "data_files": str(path)}
            tables.append({**table, **TAB_SEPARATED} if suffix == ".tsv" else table)
        elif suffix in NOT_PLAIN_TEXT:
            raise ValueError(f"{path} is not plain text: convert it to text, one paragraph per line")
        else:
            check_plain_text(path)
            files.append(path)
        return
    if any((path / name).is_file() for name in SAVED):
        tables.append({"path": str(path)})
        return
    inside = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    text_files = [file for file in inside if format_suffix(file) in TEXT_SUFFIXES]
    with_columns = [file for file in inside if format_suffix(file) in TABLE_BUILDERS]
    if text_files and with_columns:
        raise ValueError(
            f"the folder {path} has both plain text ({text_files[0].name}) and files with columns "
            f"({with_columns[0].name}): name the files to read, or use a glob such as '{path}/*.txt'"
        )
    if with_columns:
        if any(format_suffix(file) == ".tsv" for file in with_columns):
            raise ValueError(f"the folder {path} has .tsv files: name them, or use a glob such as '{path}/*.tsv'")
        tables.append({"path": str(path)})
        return
    if not text_files:
        raise ValueError(
            f"the folder {path} has no text: none of its {len(inside)} files is named "
            f"{', '.join((*TEXT_SUFFIXES, *TABLE_BUILDERS))} (compressed or not). "
            f"For files with other names use a glob such as '{path}/**/*'"
        )
    if len(text_files) < len(inside):
        ignored = len(inside) - len(text_files)
        logger.warning("%s: %d text files are read, %d other files are ignored", path, len(text_files), ignored)
    for file in text_files:
        check_plain_text(file)
    files.extend(text_files)


def _load_text(
    files: list[Path], encoding_errors: str, streaming: bool, cache_dir: str | None
) -> Dataset | IterableDataset:
    arguments: dict[str, Any] = {"files": [str(file.resolve()) for file in files], "encoding_errors": encoding_errors}
    if next(read_documents(**arguments), None) is None:
        raise ValueError(f"the corpus is empty: no text in {', '.join(str(file) for file in files[:5])}")
    if streaming:
        return IterableDataset.from_generator(read_documents, features=FEATURES, gen_kwargs=arguments)
    # `datasets` hashes only the arguments, and would load a stale copy after a file changed.
    stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    try:
        documents = Dataset.from_generator(
            read_documents,
            features=FEATURES,
            gen_kwargs=arguments,
            cache_dir=cache_dir,
            fingerprint=Hasher.hash(["documents", arguments, stats]),
        )
    except DatasetGenerationError as error:
        # Only the cause names the file and line.
        raise error.__cause__ or error from None
    logger.info("%d documents in %d text files", len(documents), len(files))
    return documents


def _load_table(
    source: dict[str, Any], text_column: str, streaming: bool, cache_dir: str | None
) -> Dataset | IterableDataset:
    """Loads one source with columns, and selects the text column and the rows with text."""
    name = source.get("data_files", source["path"])
    try:
        if any((Path(name) / file).is_file() for file in SAVED):
            table = _load_saved(name, streaming)
        else:
            table = load_dataset(**source, split="train", streaming=streaming, cache_dir=cache_dir)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name!r} is no local file or folder, and could not be loaded as a Hub dataset: {error}"
        ) from error
    except (ValueError, DatasetGenerationError) as error:
        reason = _find_bad_line(source) or error.__cause__ or error
        raise ValueError(f"cannot read a 'train' split with rows from {name!r}: {reason}") from error
    sample = list(table.take(STREAM_SAMPLE_ROWS)) if streaming else []
    columns = list(sample[0]) if sample else table.column_names
    if not columns or (streaming and not sample):
        raise ValueError(f"cannot read a 'train' split with rows from {name!r}: it has no rows")
    if text_column not in columns:
        raise ValueError(
            f"{name!r} has no column {text_column!r}: set text_column to one of {', '.join(sorted(columns))}"
        )
    kind = table.features[text_column] if table.features else Value("string")
    if kind not in (Value("string"), Value("large_string")):
        raise ValueError(f"the column {text_column!r} of {name!r} has {kind}: set text_column to a column of strings")
    table = table.select_columns([text_column])
    table = table if text_column == "text" else table.rename_column(text_column, "text")
    if table.features is None or table.features["text"] != FEATURES["text"]:
        table = table.cast(FEATURES)
    with_text = table.filter(_have_text, batched=True, input_columns="text")
    if streaming:
        check_dropped(sum(_have_text([row[text_column] for row in sample])), len(sample), name, text_column)
        return with_text
    check_dropped(len(with_text), len(table), name, text_column)
    # An unfiltered table is faster to read, because it has no table of indices.
    return table if len(with_text) == len(table) else with_text


def _load_saved(folder: str, streaming: bool) -> Dataset | IterableDataset:
    """Loads a folder that was saved by `save_to_disk`, of several splits the split `train`."""
    saved = load_saved(folder)
    if isinstance(saved, DatasetDict):
        if "train" not in saved:
            raise ValueError(f"it has the splits {', '.join(saved)}")
        saved = saved["train"]
    return saved.to_iterable_dataset() if streaming else saved


def _find_bad_line(source: dict[str, Any]) -> str | None:
    """Names the first line of a JSON Lines file that is not JSON or has a lone surrogate, if there is one."""
    if source["path"] != "json" or "data_files" not in source:
        return None
    with open_text(Path(source["data_files"])) as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError as error:
                return f"line {number} is not JSON ({error}). Correct or remove it"
            for name, value in row.items() if isinstance(row, dict) else ():
                if isinstance(value, str) and surrogate(value) is not None:
                    return f"line {number} has a lone surrogate in {name!r}, {shown(value)}. Remove it"
    return None


def _have_text(documents: list[str | None]) -> list[bool]:
    return [bool(document and document.strip()) for document in documents]


def check_dropped(kept: int, total: int, name: str, text_column: str) -> None:
    """Logs how many documents of a source are empty, and checks that most are not.

    Args:
        kept (`int`): number of documents with text.
        total (`int`): number of all documents.
        name (`str`): name of the source, for the message.
        text_column (`str`): the column that was read.

    Raises:
        ValueError: if more than half of the documents are empty.
    """
    logger.info("%s: %d documents kept, %d empty ones dropped", name, kept, total - kept)
    if kept < total / 2:
        raise ValueError(
            f"{total - kept} of the {total} documents of {name!r} have no text in the column {text_column!r}: "
            "expected a document per row. Set another text_column, or remove the empty rows"
        )
