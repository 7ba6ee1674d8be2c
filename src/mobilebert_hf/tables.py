"""Tables of text, the first row the heading: for a terminal, and for a README."""

from collections.abc import Sequence

from rich.table import Table

Rows = Sequence[Sequence[str]]


def terminal_table(rows: Rows, title: str) -> Table:
    """The first column to the left and unbroken, the others to the right."""
    heading, *body = rows
    table = Table(title=title)
    for index, text in enumerate(heading):
        table.add_column(text, justify="right" if index else "left", no_wrap=not index)
    for row in body:
        table.add_row(*row)
    return table


def markdown_table(rows: Rows) -> str:
    """The first column to the left, the others to the right."""
    heading, *body = rows
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(score: float | None) -> str:
    """`"81.2"`, or `"undefined"`."""
    return "undefined" if score is None else f"{100 * score:.1f}"
