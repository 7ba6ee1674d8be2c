"""Parses the arguments of a recipe from a YAML file and the command line into dataclasses."""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_recipe(argument_classes: Sequence[type], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Parses `--config FILE.yaml --name value ...` into an instance of each class.

    The keys of the file are fields of any of the classes. Options override the file.

    Args:
        argument_classes: Dataclasses for `transformers.HfArgumentParser`, with distinct fields.
        argv: Command-line arguments; by default those of the process.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not YAML, not a mapping, or has an unknown key.
        SystemExit: An option is unknown or has no value, or `--help` is given (argparse).
    """
    argv = sys.argv[1:] if argv is None else argv
    config_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config", type=Path)
    known, options = config_parser.parse_known_args(argv)

    parser = HfArgumentParser(list(argument_classes))  # type: ignore[arg-type]
    parser.add_argument("--config", metavar="FILE.yaml", help="YAML file with any of these options.")
    if known.config is not None:
        values = _read(known.config, [field.name for cls in argument_classes for field in fields(cls) if field.init])
        for action in parser._actions:
            if action.dest in values:
                action.required = False
                if action.nargs == "+" and isinstance(values[action.dest], str):
                    values[action.dest] = [values[action.dest]]  # as on the command line
        # argparse converts string defaults. For YAML, `1e-3` is a string.
        parser.set_defaults(**values)
    *arguments, _ = parser.parse_args_into_dataclasses(options)
    return tuple(arguments)


def parse_mapping(name: str, value: str | dict[str, Any] | None) -> dict[str, Any]:
    """Returns the value of a mapping argument: a mapping from YAML, parsed JSON from the command line, {} for None.

    Raises:
        ValueError: The value is not a JSON object.
    """
    if value is None or isinstance(value, dict):
        return value or {}
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        example = '{"hidden_size": 256}'
        raise ValueError(f"{name}={value!r} is not JSON ({error}); write it as {example}.") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{name}={value!r} must be a JSON object.")
    return parsed


def _read(path: Path, names: list[str]) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: set --config to a YAML file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is a {type(values).__name__}: expected a mapping, lines of `name: value`.")
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"{path}: {key!r} is not an argument of this recipe{hint} See --help for all of them.")
    return values
