"""Reads plain text: UTF-8 with one paragraph per line and a blank line between documents, compressed or not."""

import bz2
import gzip
import io
import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow

logger = logging.getLogger(__name__)

# Suffixes of formats with text in them that must be extracted first.
NOT_PLAIN_TEXT = (
    *(".htm", ".html", ".xhtml", ".xml", ".srt", ".vtt", ".rtf", ".pdf", ".epub", ".doc", ".docx", ".odt"),
    *(".xls", ".xlsx", ".ods", ".ppt", ".pptx", ".ipynb", ".zip", ".tar", ".tgz", ".7z", ".rar", ".pkl", ".npy"),
)
# What the beginnings of other formats match, whatever their files are called.
OTHER_FORMATS = {
    "PDF": rb"%PDF-",
    "a ZIP archive, such as .docx": rb"PK\x03\x04",
    "gzip-compressed": rb"\x1f\x8b",
    "bzip2-compressed": rb"BZh[1-9]1AY",
    "xz-compressed": rb"\xfd7zXZ\x00",
    "zstd-compressed": rb"\x28\xb5\x2f\xfd",
    "RTF": rb"\{\\rtf",
    "HTML or XML": rb"\s*<(!doctype|html|\?xml)",
    "subtitles": rb"\s*(WEBVTT|\d+\r?\n\d+:\d\d:\d\d[,.]\d+ --> )",
    "JSON Lines": rb"\s*\{\s*\"[^\"\n]*\"\s*:",
}
SNIFFED_BYTES = 4096
# LF, CR LF and CR, and the line ends of Unicode: NEL, the line and the paragraph separator.
LINE_ENDS = re.compile(rb"\r*\n|\r|\xc2\x85|\xe2\x80[\xa8\xa9]")
# The longest novels have 6 million characters. A longer document means that documents are not separated.
MAX_DOCUMENT_BYTES = 32 * 2**20


def _open_zstandard(path: str | Path, mode: str) -> IO[bytes]:
    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


# How to open a file, by the suffix of its compression format.
OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstandard,
}


def format_suffix(path: Path) -> str:
    """The suffix of a file's format, without that of its compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in OPENERS else path.suffix.lower()


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file, compressed or not."""
    return OPENERS.get(path.suffix.lower(), open)(path, "rb")


def open_text(path: Path) -> TextIO:
    """Opens a UTF-8 file, compressed or not, with or without a byte-order mark. Line ends are not changed."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="")


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
    try:
        with open_bytes(Path(file)) as stream:
            for number, (offset, raw) in enumerate(_split_lines(stream), 1):
                if len(raw) >= MAX_DOCUMENT_BYTES:
                    raise ValueError(_too_long(file, number))
                try:
                    line = raw.decode("utf-8", encoding_errors)
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{file} is not UTF-8: byte 0x{raw[error.start]:02x} at line {number} (byte offset "
                        f"{offset + error.start}). Convert the file, for example with iconv, or set "
                        "encoding_errors='replace' to read such bytes as U+FFFD"
                    ) from error
                yield number, line.removeprefix("\ufeff").strip()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"cannot read {file}: {error}. Check that it is complete and has the right suffix") from error


def _split_lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yields the byte offsets and contents of lines, up to MAX_DOCUMENT_BYTES of them."""
    offset, pending = 0, b""
    for read in iter(lambda: stream.readline(MAX_DOCUMENT_BYTES), b""):
        raw, begin = pending + read, 0
        for end in LINE_ENDS.finditer(raw):
            yield offset + begin, raw[begin : end.start()]
            begin = end.end()
        offset, pending = offset + begin, raw[begin:]
        if len(pending) >= MAX_DOCUMENT_BYTES:
            break
    if pending:
        yield offset, pending


def _too_long(file: str, number: int) -> str:
    return (
        f"the document of {file} that reaches line {number} is longer than {MAX_DOCUMENT_BYTES // 2**20} MiB: "
        "expected one paragraph per line and blank lines between documents. Add blank lines"
    )


def check_plain_text(path: Path) -> None:
    """Checks the beginning of a file.

    Raises:
        ValueError: if the file cannot be decompressed, or it has the format of a file that is not plain text.
    """
    try:
        with open_bytes(path) as stream:
            beginning = stream.read(SNIFFED_BYTES).removeprefix(b"\xef\xbb\xbf")
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}. Check that it is complete and has the right suffix") from error
    for name, pattern in OTHER_FORMATS.items():
        if re.match(pattern, beginning, re.IGNORECASE):
            raise ValueError(
                f"{path} is {name}, not plain text: convert it to text, or give it the suffix of its format"
            )
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in beginning:
        raise ValueError(f"{path} is UTF-16 or binary, not plain text in UTF-8: convert it, for example with iconv")
