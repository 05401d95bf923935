"""What the commands print: JSON Lines, problems, and rows for a person or for a pipe."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click
from rich.cells import cell_len, set_cell_size

from sidefx.problems import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidefx.problems import Problem

_GAP = "  "
_INDENT = "    "
_LEGIBLE = 40
"""Columns that the last one needs to stand beside the others."""
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def line(record: str, **values: Any) -> None:
    """One record as a line of JSON."""
    click.echo(json.dumps({"record": record, **values}))


def print_problems(problems: Iterable[Problem], *, as_json: bool) -> None:
    """A line for each: on standard error, or as records."""
    for problem in problems:
        if as_json:
            line("problem", path=problem.path, reason=problem.reason, suggestion=problem.suggestion)
        else:
            click.echo(str(problem), err=True)


def note(text: str) -> None:
    """Says something about what is printed, where it is in nobody's way."""
    click.echo(text, err=True)


def terminal_width() -> int | None:
    """Columns of the terminal that is written to; None where it is none: then lines are as long as they are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_rows(heading: Sequence[str], rows: Sequence[Sequence[str]], *, cut: bool = True) -> None:
    """Rows in columns. On a narrow terminal, the last column stands below the others, and with `cut` it is one line.

    No control character of a cell reaches the terminal, and no cell is markup.
    """
    cells = [[printable(cell) for cell in row] for row in (heading, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)][:-1]
    columns = terminal_width()
    beside = columns is None or sum(widths) + len(_GAP) * len(widths) + _LEGIBLE <= columns
    limit = columns if cut else None
    for index, (*first, last) in enumerate(cells):
        start = "".join(
            f"{cell}{' ' * (wide - cell_len(cell))}{_GAP}" for cell, wide in zip(first, widths, strict=True)
        )
        text = shortened(start + last, limit) if beside else shortened(start, columns)
        bold = True if index == 0 or not beside else None  # None: not even the codes that say "not bold"
        click.echo(click.style(text.rstrip(), bold=bold))
        if index and not beside:
            click.echo(shortened(f"{_INDENT}{last}", limit))


def shortened(text: str, limit: int | None) -> str:
    """The text in so many columns of a terminal, with a mark where it has been cut."""
    if limit is None or cell_len(text) <= limit:
        return text
    return set_cell_size(text, max(limit - 1, 0)).rstrip() + "…"


def age(seconds: float) -> str:
    """A length of time, roughly: `5 min`."""
    name, unit = next(((name, unit) for name, unit in _UNITS if seconds >= unit), _UNITS[-1])
    return f"{max(seconds, 0) // unit:.0f} {name}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 dead letter`, `1,200 dead letters`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
