"""Which log a command is about: a sink of the configuration, or `--url`."""

from __future__ import annotations

import functools
import json
import sys
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy import exc

from sidefx import ConfigError, SidefxError, SinkStartError
from sidefx_sinks.audit_log.cli.output import note
from sidefx_sinks.audit_log.faults import one_line
from sidefx_sinks.audit_log.sink import AuditLog

if TYPE_CHECKING:
    from collections.abc import Callable

FIND_SINK = "sidefx.sink"
"""Where in its context's `meta` a published command finds what finds a sink: `(type, name) -> (name, sink)`."""


def log_of(sink: str | None, url: str | None, table: str | None) -> AuditLog:
    """The log that is meant, not open.

    Raises:
        ConfigError: the configuration has no such sink, or has mistakes in it.
        click.UsageError: the options contradict each other, or the URL is none.
    """
    if url is None:
        if table is not None:
            msg = "--table goes with --url; a sink of the configuration has its own"
            raise click.UsageError(msg)
        name, found = click.get_current_context().meta[FIND_SINK]("audit_log", sink)
        if not isinstance(found, AuditLog):
            msg = f"the sink {name!r} is no audit_log"
            raise click.UsageError(msg)
        return found
    if sink is not None:
        msg = "--sink and --url both say which log is meant; give one of them"
        raise click.UsageError(msg)
    try:
        return AuditLog(url=url, table=table or "audit_log", create_table=False)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def on_log(function: Callable[..., None]) -> Callable[..., None]:
    """The command `function(log, as_json=..., ...)`, with options that say which log is meant and how to print.

    What it cannot do, it says, and ends with 2 where the user can name it otherwise, else with 1.
    """

    @click.option("--sink", metavar="NAME", help="The sink in the configuration; default: the one of type audit_log.")
    @click.option("--url", metavar="URL", help="SQLAlchemy URL of the database, instead of a sink.")
    @click.option("--table", metavar="NAME", help="With --url: the table. Default: audit_log.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON Lines.")
    @functools.wraps(function)
    def command(*, sink: str | None, url: str | None, table: str | None, as_json: bool, **options: Any) -> None:
        try:
            function(log_of(sink, url, table), as_json=as_json, **options)
        except ConfigError as error:
            _fail([str(problem) for problem in error.problems], 2, as_json=as_json)
        except SinkStartError as error:
            _fail([str(error)], 2, as_json=as_json)
        except BrokenPipeError:  # `| head` has seen enough
            raise
        except exc.SQLAlchemyError as error:
            _fail([f"the audit log's database: {one_line(error)}"], 1, as_json=as_json)
        except (SidefxError, OSError) as error:
            _fail([str(error)], 1, as_json=as_json)

    return command


def _fail(reasons: list[str], code: int, *, as_json: bool) -> None:
    for reason in reasons:
        if as_json:
            click.echo(json.dumps({"record": "problem", "reason": reason}))
        else:
            note(reason)
    sys.exit(code)
