"""Renders tables for a terminal and as Markdown. The first row is the heading."""

from collections.abc import Sequence

from rich.table import Table

Rows = Sequence[Sequence[str]]


def terminal_table(rows: Rows, title: str) -> Table:
    """A `rich` table. The first column is left-aligned and not wrapped, the others are right-aligned."""
    heading, *body = rows
    table = Table(title=title)
    for index, text in enumerate(heading):
        table.add_column(text, justify="right" if index else "left", no_wrap=not index)
    for row in body:
        table.add_row(*row)
    return table


def markdown_table(rows: Rows) -> str:
    """A Markdown table. The first column is left-aligned, the others are right-aligned."""
    heading, *body = rows
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(score: float | None) -> str:
    """Formats a fraction as a percentage, such as `"81.2"`; `"undefined"` for None."""
    return "undefined" if score is None else f"{100 * score:.1f}"
