"""Parses the arguments of a recipe from a YAML file and the command line into dataclasses."""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from copy import copy
from dataclasses import fields, is_dataclass
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
    known, options = _config_parser().parse_known_args(argv)

    parser = HfArgumentParser(
        list(argument_classes),  # type: ignore[arg-type]
        usage="%(prog)s [--config FILE.yaml] [--OPTION VALUE ...]",
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="YAML file with any of these options.")
    _group_options(parser, argument_classes)
    if known.config is not None:
        values = _read(known.config)
        names = [field.name for cls in argument_classes for field in fields(cls) if field.init]
        _check_names(known.config, values, names)
        for action in parser._actions:
            if action.dest in values:
                action.required = False
                if action.nargs == "+" and isinstance(values[action.dest], str):
                    values[action.dest] = [values[action.dest]]  # as on the command line
        # argparse converts string defaults. For YAML, `1e-3` is a string.
        parser.set_defaults(**values)
    *arguments, _ = parser.parse_args_into_dataclasses(options)
    return tuple(arguments)


def read_argument(name: str, argv: Sequence[str]) -> list[str] | None:
    """The values of one argument, before it is known which classes the others belong to.

    Args:
        name: The name of the argument.
        argv: The options of the command line; those not given are read from the file of `--config`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not YAML, or not a mapping.
    """
    parser = _config_parser()
    parser.add_argument(f"--{name}", nargs="+")
    known, _ = parser.parse_known_args(argv)
    values = getattr(known, name)
    if values is None and known.config is not None:
        values = _read(known.config).get(name)
    return [values] if isinstance(values, str) else values


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


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows one spelling of each option, and no default of None."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy(action)
        shown.option_strings = [option for option in action.option_strings if "-" not in option[2:]][-1:]
        return super()._format_action_invocation(shown)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _config_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    return parser


def _group_options(parser: argparse.ArgumentParser, argument_classes: Sequence[type]) -> None:
    """Groups the options in the help by the class that defines them, under the first line of its docstring."""
    options = parser._optionals._group_actions
    bases = (base for argument_class in argument_classes for base in argument_class.__mro__)
    for cls in filter(is_dataclass, dict.fromkeys(bases)):
        group = parser.add_argument_group((cls.__doc__ or cls.__name__).strip().partition("\n")[0].removesuffix("."))
        group._group_actions += [action for action in options if action.dest in cls.__annotations__]
        options[:] = [action for action in options if action.dest not in cls.__annotations__]
        for action in group._group_actions:
            if isinstance(action, argparse._StoreFalseAction):
                action.help = argparse.SUPPRESS  # `--no_pooler` is `--pooler false`


def _check_names(path: Path, values: dict[str, Any], names: list[str]) -> None:
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"{path}: {key!r} is not an argument of this recipe{hint} See --help for all of them.")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: set --config to a YAML file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is a {type(values).__name__}: expected a mapping, lines of `name: value`.")
    return values
