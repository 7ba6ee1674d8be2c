"""Reads and writes dataclasses as JSON, with type checks. Errors name the file and the field."""

import json
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..files import atomic_write_text

Record = TypeVar("Record")


def write_record(path: Path, record: Any) -> None:
    """Writes a dataclass as JSON, atomically."""
    atomic_write_text(path, json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n")


def read_record(path: Path, kind: type[Record]) -> Record:
    """Reads a file written by `write_record`.

    Args:
        path: The JSON file.
        kind: A dataclass. Field types can be str, int, float, bool, dataclasses, `tuple[T, ...]`, `dict[str, T]`, and
            `T | None`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not JSON, or a field is missing, unknown or of the wrong type.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is not JSON ({error}).") from error
    try:
        return decode(kind, content, "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def decode(kind: Any, value: Any, name: str) -> Any:
    """Converts a JSON value to the type of an annotation.

    Args:
        kind: The type annotation.
        value: The JSON value.
        name: Path of the field for errors, such as `scores[0].value`; empty for the root.

    Raises:
        ValueError: The value does not have this type.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in get_args(kind):
            return None
        [kind] = [option for option in get_args(kind) if option is not NoneType]
        return decode(kind, value, name)
    if is_dataclass(kind):
        return _decode_record(kind, value, name)
    if origin is tuple:
        items = _expect(list, value, name)
        return tuple(decode(get_args(kind)[0], item, f"{name}[{index}]") for index, item in enumerate(items))
    if origin is dict:
        pairs = _expect(dict, value, name)
        return {key: decode(get_args(kind)[1], item, f"{name}.{key}") for key, item in pairs.items()}
    return _expect(kind, value, name)


def _decode_record(kind: Any, value: Any, name: str) -> Any:
    given, hints = _expect(dict, value, name), get_type_hints(kind)
    prefix = f"{name}." if name else ""
    for key in given:
        if key not in hints:
            raise ValueError(f"{prefix}{key} is not a field of {kind.__name__}: expected {', '.join(hints)}.")
    for field in fields(kind):
        if field.name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{field.name} is missing.")
    return kind(**{key: decode(hints[key], item, f"{prefix}{key}") for key, item in given.items()})


def _expect(kind: type, value: Any, name: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{name or 'the file'} is {value!r}: expected {kind.__name__}.")
    return value
