"""`sidefx audit list`, `show` and `tail`: records for a person, or as JSON Lines."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidefx_sinks.audit_log.cli.export import write_csv
from sidefx_sinks.audit_log.cli.filters import filtered
from sidefx_sinks.audit_log.cli.log import on_log
from sidefx_sinks.audit_log.cli.output import line, note, printable
from sidefx_sinks.audit_log.query import by_id, following, last_seq, newest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidefx_sinks.audit_log.query import Filters
    from sidefx_sinks.audit_log.record import Record
    from sidefx_sinks.audit_log.sink import AuditLog

_LISTED = 50
_LOOK_EVERY = 0.5
"""Seconds."""
_LOOK_AGAIN = 1_000
"""Rows: one with a lower number may be committed after one with a higher."""
_WIDE = 200
"""Columns of the table where there is no terminal to fit it to."""
_FIELDS = (
    "id", "seq", "at", "action", "actor", "actor_label", "target", "target_label", "outcome", "reason", "tenant",
    "changes", "metadata", "ip", "user_agent", "request_id", "trace_id", "chain", "chain_seq", "prev_hash", "hash",
)  # fmt: skip
_STYLES = {"success": "green", "failure": "red", "denied": "bold red", "unknown": "yellow"}


@click.command("list")
@filtered
@click.option("--limit", type=click.IntRange(min=1), default=_LISTED, show_default=True, help="List at most so many.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@on_log
def list_(log: AuditLog, *, filters: Filters, limit: int, as_csv: bool, as_json: bool) -> None:
    """List records, the newest first."""
    if as_csv and as_json:
        msg = "--csv and --json contradict each other"
        raise click.UsageError(msg)
    with log.reading() as reader:
        records = newest(reader.engine, log.table, filters, limit)
    if as_csv:
        write_csv(sys.stdout, records)
    elif as_json:
        _print_json(records)
    elif records:
        _print_table(records)
    else:
        note(f"no such records in {log.table.fullname}")


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=click.UUID)
@on_log
def show(log: AuditLog, *, ids: tuple[UUID, ...], as_json: bool) -> None:
    """Show all that is known of the records of these events.

    Exit codes: 0 all are shown, 1 there is no such record, 2 wrong usage or configuration.
    """
    with log.reading() as reader:
        found = by_id(reader.engine, log.table, ids)
    wanted = [str(id_) for id_ in dict.fromkeys(ids)]
    shown = [found[id_] for id_ in wanted if id_ in found]
    if as_json:
        _print_json(shown)
    else:
        for record in shown:
            click.echo("\n".join([*_described(record), ""]))
    for id_ in wanted:
        if id_ not in found:
            note(f"no record of event {id_} is in {log.table.fullname}")
    sys.exit(0 if len(shown) == len(wanted) else 1)


@click.command()
@filtered
@click.option("-n", "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="Begin with so many.")
@click.option("-f", "--follow", is_flag=True, help="Go on as records are stored, until Ctrl+C.")
@on_log
def tail(log: AuditLog, *, filters: Filters, lines: int, follow: bool, as_json: bool) -> None:
    """Print the newest records in the order of the log, a line for each."""
    with log.reading() as reader:
        after = last_seq(reader.engine, log.table)
        old = following(reader.engine, log.table, filters, after - _LOOK_AGAIN) if follow else ()
        seen = {record["seq"] for record in old if record["seq"] <= after}
        records = newest(reader.engine, log.table, filters, lines)[::-1] if lines else []
        seen |= {record["seq"] for record in records}
        _print_lines(records, as_json=as_json)
        try:
            while follow:
                after = max({after, *seen})
                seen = {seq for seq in seen if seq > after - _LOOK_AGAIN}
                for record in following(reader.engine, log.table, filters, after - _LOOK_AGAIN):
                    if record["seq"] not in seen:
                        seen.add(record["seq"])
                        _print_lines([record], as_json=as_json)
                sys.stdout.flush()
                time.sleep(_LOOK_EVERY)
        except KeyboardInterrupt:
            sys.exit(0)


def _print_json(records: Iterable[Record]) -> None:
    for record in records:
        line("audit", **record)


def _print_lines(records: Iterable[Record], *, as_json: bool) -> None:
    if as_json:
        _print_json(records)
        return
    for record in records:
        parts = (record["at"], record["outcome"], record["action"], _who(record), _what(record), record["reason"])
        click.echo("  ".join(_text(part) for part in parts))


def _print_table(records: Iterable[Record]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("at", "action", "actor", "target", "outcome", "tenant", "id"):
        table.add_column(column, overflow="fold", no_wrap=column in {"id", "outcome"})
    for record in records:
        outcome = Text(_text(record["outcome"]), style=_STYLES.get(record["outcome"], ""))
        cells = (record["at"][:19] + "Z", record["action"], _who(record), _what(record))
        table.add_row(
            *(Text(_text(cell)) for cell in cells), outcome, Text(_text(record["tenant"])), Text(record["id"])
        )
    console = Console(highlight=False)
    width = shutil.get_terminal_size().columns if console.is_terminal else _WIDE
    Console(highlight=False, width=width).print(table)


def _who(record: Record) -> str | None:
    return _labelled(record["actor"], record["actor_label"])


def _what(record: Record) -> str | None:
    return _labelled(record["target"], record["target_label"])


def _labelled(id_: str | None, label: str | None) -> str | None:
    return f"{id_ or '-'} ({label})" if label else id_


def _described(record: Record) -> list[str]:
    wide = max(map(len, _FIELDS))
    shown = {name: record[name] for name in _FIELDS if record[name] not in (None, {})}
    return [f"{name:{wide}}  {_text(value)}" for name, value in shown.items()]


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
