"""Options that take several values, as a shell makes of `--corpus *.txt`."""

from typing import Any

from typer.core import TyperCommand


class SeveralValues(TyperCommand):
    """A command whose repeatable options take several values at once: `--corpus a b` is `--corpus a --corpus b`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats the options, then parses."""
        options = [parameter for parameter in self.params if parameter.param_type_name == "option"]
        several = {name for option in options if getattr(option, "multiple", False) for name in option.opts}
        single = {name for option in options if not getattr(option, "is_flag", False) for name in option.opts}
        arguments = sum(parameter.param_type_name == "argument" for parameter in self.params)
        return super().parse_args(ctx, repeat_options(args, several, single - several, arguments))


def repeat_options(words: list[str], several: set[str], single: set[str], arguments: int) -> list[str]:
    """Repeats an option before its second and later values.

    Args:
        words: The words of a command line.
        several: Names of options that take several values.
        single: Names of options that take one value.
        arguments: Number of the command's arguments. The last values are these if the command line has no others.
    """
    repeated: list[str] = []
    added: list[int] = []
    option, filled, is_value, free = "", False, False, 0
    for word in words:
        if is_value:
            is_value = False
        elif word.startswith("-") and word != "-":
            name, equals, _ = word.partition("=")
            option, filled = (name if name in several else ""), bool(equals)
            is_value = name in single and not equals
        elif not option:
            free += 1
        elif filled:
            added.append(len(repeated))
            repeated.append(option)
        else:
            filled = True
        repeated.append(word)
    missing = max(0, arguments - free)
    for index in reversed(added[len(added) - missing :] if missing else []):
        del repeated[index]
    return repeated
