"""Loads files, folders, globs and Hub datasets as one dataset of documents with a `text` column.

Plain text is UTF-8 with one paragraph per line and a blank line between documents. Sources that
`datasets.load_dataset` reads (a Hub dataset, Parquet, JSON Lines, CSV, Arrow) have one document per row.
"""

import bz2
import glob
import gzip
import io
import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from datasets.fingerprint import Hasher

logger = logging.getLogger(__name__)

TEXT_SUFFIXES = (".txt", ".text")
TABLE_BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".arrow": "arrow"}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(?::(?P<configuration>[\w.-]+))?")
FEATURES = Features({"text": Value("string")})

# The longest novels have 6 million characters. A longer document means that documents are not separated.
MAX_DOCUMENT_BYTES = 32 * 2**20
STREAM_SAMPLE_ROWS = 200


def _open_zstandard(path: str | Path, mode: str) -> IO[bytes]:
    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


# How to open a file, by the suffix of its compression format.
OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstandard,
}


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
        elif hub and _suffix(path) not in (*TEXT_SUFFIXES, *TABLE_BUILDERS):
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
        builder = TABLE_BUILDERS.get(_suffix(path))
        if builder:
            tables.append({"path": builder, "data_files": str(path)})
        else:
            files.append(path)
        return
    inside = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    text_files = [file for file in inside if _suffix(file) in TEXT_SUFFIXES]
    with_columns = [file for file in inside if _suffix(file) in TABLE_BUILDERS]
    if text_files and with_columns:
        raise ValueError(
            f"the folder {path} has both plain text ({text_files[0].name}) and files with columns "
            f"({with_columns[0].name}): name the files to read, or use a glob such as '{path}/*.txt'"
        )
    if with_columns:
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
    files.extend(text_files)


def _suffix(path: Path) -> str:
    """The suffix of a file's format, without that of its compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in OPENERS else path.suffix.lower()


def open_text(path: Path) -> TextIO:
    """Opens a UTF-8 file, compressed or not, with or without a byte-order mark. Line ends are not changed."""
    opener = OPENERS.get(path.suffix.lower(), open)
    return io.TextIOWrapper(opener(path, "rb"), encoding="utf-8-sig", newline="")


def read_documents(files: list[str], encoding_errors: str) -> Iterator[dict[str, str]]:
    """Reads the documents of plain-text files, one at a time.

    Args:
        files (`list[str]`): paths, compressed or not.
        encoding_errors (`str`): `"strict"` or `"replace"`.

    Yields:
        `dict[str, str]`: the `text` of one document, its paragraphs joined by newlines, without blank lines.

    Raises:
        ValueError: if a file is not UTF-8, cannot be decompressed, or a document is too long; names file and line.
    """
    for file in files:
        paragraphs: list[str] = []
        size = num_documents = 0
        for number, line in _read_lines(file, encoding_errors):
            if line:
                paragraphs.append(line)
                size += len(line)
                if size > MAX_DOCUMENT_BYTES:
                    raise ValueError(_too_long(file, number))
            elif paragraphs:
                yield {"text": "\n".join(paragraphs)}
                paragraphs, size, num_documents = [], 0, num_documents + 1
        if paragraphs:
            yield {"text": "\n".join(paragraphs)}
        elif not num_documents:
            logger.warning("%s has no text", file)


def _read_lines(file: str, encoding_errors: str) -> Iterator[tuple[int, str]]:
    """Yields line numbers from 1 and stripped lines. Reads bytes to give the byte offset in error messages."""
    opener = OPENERS.get(Path(file).suffix.lower(), open)
    offset = 0
    try:
        with opener(file, "rb") as stream:
            for number, raw in enumerate(iter(lambda: stream.readline(MAX_DOCUMENT_BYTES), b""), 1):
                if len(raw) == MAX_DOCUMENT_BYTES:
                    raise ValueError(_too_long(file, number))
                try:
                    line = raw.decode("utf-8", encoding_errors)
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{file} is not UTF-8: byte 0x{raw[error.start]:02x} at line {number} (byte offset "
                        f"{offset + error.start}). Convert the file, for example with iconv, or set "
                        "encoding_errors='replace' to read such bytes as U+FFFD"
                    ) from error
                offset += len(raw)
                yield number, line.removeprefix("\ufeff").strip()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"cannot read {file}: {error}. Check that it is complete and has the right suffix") from error


def _too_long(file: str, number: int) -> str:
    return (
        f"the document of {file} that reaches line {number} is longer than {MAX_DOCUMENT_BYTES // 2**20} MiB: "
        "expected one paragraph per line and blank lines between documents. Add blank lines"
    )


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
        table = load_dataset(**source, split="train", streaming=streaming, cache_dir=cache_dir)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name!r} is no local file or folder, and could not be loaded as a Hub dataset: {error}"
        ) from error
    except (ValueError, DatasetGenerationError) as error:
        raise ValueError(f"cannot read a 'train' split with rows from {name!r}: {error.__cause__ or error}") from error
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
