"""`sidefx check`: every mistake in the configuration, or what it comes to."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import anyio
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidefx.cli.connect import Answer, ask
from sidefx.cli.output import line, print_problems
from sidefx.config import Config, ConfigError, config_path, load
from sidefx.events import kinds
from sidefx.problems import printable
from sidefx.routes import kinds_of
from sidefx.sink import inspect_sink

if TYPE_CHECKING:
    from sidefx.options import BatchOptions, SinkOptions

_STYLES = {"ok": "green", "failed": "bold red", "has no check": "dim"}
_WHOLE = {"event", "sink", "delivery", "timeout", "deadline"}
_WIDE = 160
"""Columns of the tables where there is no terminal to fit them to."""


@click.command()
@click.argument("path", metavar="[CONFIG]", required=False)
@click.option("--connect", is_flag=True, help="Open every sink, and ask it whether its receiver answers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines.")
@click.pass_obj
def check(config: str | None, path: str | None, *, connect: bool, as_json: bool) -> None:
    """Check a configuration: print every mistake in it, or which event goes where and how.

    Exit codes: 0 all is well, 1 a sink does not answer (--connect), 2 wrong usage or configuration.
    """
    if config is not None and path is not None and config != path:
        msg = "--config and CONFIG name two files; give one of them"
        raise click.UsageError(msg)
    source = config_path(config or path)
    try:
        loaded = load(source)
    except ConfigError as error:
        print_problems(error.problems, as_json=as_json)
        sys.exit(2)
    routes = _routes(loaded)
    if as_json:
        _print_json(loaded, routes)
    else:
        _print_tables(source, loaded, routes)
    if connect:
        answers = anyio.run(ask, loaded, backend="asyncio")
        _print_answers(answers, as_json=as_json)
        sys.exit(1 if any(answer.status == "failed" for answer in answers) else 0)


def _routes(config: Config) -> dict[str, list[str]]:
    """Every known kind of event with the sinks that it goes to."""
    taken = {name: kinds_of(inspect_sink(sink), config.options[name]) for name, sink in config.sinks.items()}
    return {kind: [name for name in taken if kind in taken[name]] for kind in sorted(kinds())}


def _print_json(config: Config, routes: dict[str, list[str]]) -> None:
    for name, options in config.options.items():
        line("sink", name=name, type=config.types[name], options=json.loads(options.model_dump_json()))
    for kind, names in routes.items():
        line("route", event=kind, sinks=names)


def _print_tables(source: str, config: Config, routes: dict[str, list[str]]) -> None:
    count = len(config.sinks)
    click.echo(f"{printable(source)}: no mistakes, {count} sink{'' if count == 1 else 's'}\n")
    events = _table("event", "sinks")
    for kind, names in routes.items():
        events.add_row(kind, _text(", ".join(names)) if names else Text("no sink", style="dim"))
    _print(events)
    if not config.sinks:
        return
    click.echo()
    sinks = _table("sink", "type", "delivery", "timeout", "deadline", "how")
    for name, options in config.options.items():
        times = (options.delivery, f"{options.timeout:g} s", f"{options.deadline:g} s")
        how = _how(options, batch=inspect_sink(config.sinks[name]).batch)
        sinks.add_row(*map(_text, (name, config.types[name], *times, how)))
    _print(sinks)


def _how(options: SinkOptions, *, batch: bool) -> str:
    """The rest of the options, in the order in which a lane applies them; what limits nothing is left out."""
    parts = {
        "filter": options.filter is not None,
        f"sample {options.sample:g}": options.sample < 1,
        f"redact {', '.join(options.redact)}": bool(options.redact),
        f"buffer {options.buffer.max_events:,} {options.buffer.when_full}": True,
        f"batch {_batch(options.batch)}": batch,
        f"{options.concurrency} at a time": True,
        f"at most {options.rate_limit}": options.rate_limit is not None,
        f"breaker {options.breaker.failures} failures, {options.breaker.reset:g} s": True,
        f"retry {options.retry.attempts} attempts, {options.retry.initial:g} to {options.retry.max:g} s": True,
        f"fallback {options.fallback}": options.fallback is not None,
    }
    return "; ".join(part for part, applies in parts.items() if applies)


def _batch(options: BatchOptions) -> str:
    size = f", {options.max_bytes:,} bytes" if options.max_bytes is not None else ""
    linger = f", {options.linger:g} s" if options.linger else ""
    return f"{options.max_events:,}{size}{linger}"


def _print_answers(answers: list[Answer], *, as_json: bool) -> None:
    if as_json:
        for answer in answers:
            line("connection", sink=answer.sink, status=answer.status, reason=answer.reason)
        return
    table = _table("sink", "answer", "reason")
    for answer in answers:
        table.add_row(_text(answer.sink), Text(answer.status, style=_STYLES[answer.status]), _text(answer.reason))
    _print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in _WHOLE)
    return table


def _print(table: Table) -> None:
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=_WIDE)).print(table)


def _text(value: str) -> Text:
    return Text(printable(value))  # what comes from the file is no markup, and steers no terminal
