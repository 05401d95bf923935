"""`sidefx audit export`: all records that match, for other systems."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from sidefx_sinks.audit_log.cli.filters import filtered
from sidefx_sinks.audit_log.cli.log import on_log
from sidefx_sinks.audit_log.cli.output import counted, note, printable
from sidefx_sinks.audit_log.mappings import ecs, ocsf
from sidefx_sinks.audit_log.query import following
from sidefx_sinks.audit_log.record import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidefx_sinks.audit_log.query import Filters
    from sidefx_sinks.audit_log.record import Record
    from sidefx_sinks.audit_log.sink import AuditLog

_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What begins a formula in a spreadsheet (https://owasp.org/www-community/attacks/CSV_Injection)."""
_COLUMNS = ("seq", *COLUMNS, "hash")
_MAPPINGS: dict[str, Callable[[Record], dict[str, Any]]] = {"json": dict, "ocsf": ocsf, "ecs": ecs}


@click.command()
@filtered
@click.option(
    "--format", "format_", type=click.Choice(["json", "csv", "ocsf", "ecs"]), default="json", show_default=True,
    help="JSON Lines of the records, of OCSF or of ECS; or CSV.",
)  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="A new file, for its owner alone.")
@on_log
def export(log: AuditLog, *, filters: Filters, format_: str, output: Path | None, as_json: bool) -> None:  # noqa: ARG001 - JSON Lines are the default
    """Write all records that match, in the order of the log."""
    with log.reading() as reader:
        records = following(reader.engine, log.table, filters)
        if output is None:
            _write(sys.stdout, records, format_)
            return
        try:
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            msg = f"{output} is there already; name a new file"
            raise click.BadParameter(msg, param_hint="--output") from None
        with os.fdopen(file, "w", encoding="utf-8", newline="") as stream:
            count = _write(stream, records, format_)
    note(f"{counted(count, 'record')} written to {output}")


def write_csv(stream: TextIO, records: Iterable[Record]) -> int:
    """The records with a heading; returns how many. What a spreadsheet would take for a formula begins with `'`."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    seen = stream.isatty()
    count = 0
    for count, record in enumerate(records, start=1):  # noqa: B007 - counted on the way
        cells = [_cell(record[name]) for name in _COLUMNS]
        writer.writerow([printable(cell) if seen and isinstance(cell, str) else cell for cell in cells])
    return count


def _write(stream: TextIO, records: Iterable[Record], format_: str) -> int:
    if format_ == "csv":
        return write_csv(stream, records)
    mapped = _MAPPINGS[format_]
    count = 0
    for count, record in enumerate(records, start=1):  # noqa: B007 - counted on the way
        stream.write(json.dumps(mapped(record), separators=(",", ":")) + "\n")
    return count


def _cell(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value
