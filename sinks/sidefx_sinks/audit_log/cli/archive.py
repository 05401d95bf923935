"""`sidefx audit archive`: what is old goes to a file, and the rest stays verifiable."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidefx_sinks.audit_log.append_only import AppendOnlyError
from sidefx_sinks.audit_log.archive import BrokenChainError
from sidefx_sinks.audit_log.archive import archive as archived
from sidefx_sinks.audit_log.cli.filters import Moment
from sidefx_sinks.audit_log.cli.log import on_log
from sidefx_sinks.audit_log.cli.output import bar, counted, line, note
from sidefx_sinks.audit_log.stored import expected_count, snapshot

if TYPE_CHECKING:
    from sidefx_sinks.audit_log.sink import AuditLog


@click.command()
@click.option("--older-than", "before", type=Moment(), required=True, metavar="TIME", help="As in 365d, or 2026-01-01.")
@click.option("--to", "path", type=click.Path(path_type=Path), required=True, metavar="FILE", help="A new file.")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal either.")
@on_log
def archive(log: AuditLog, *, before: datetime, path: Path, yes: bool, as_json: bool) -> None:
    """Move each chain's records up to the first that is not so old into a new file, and delete them from the table.

    The file, for its owner alone, is JSON Lines: each record as it was hashed. Give it to verify with --archive. With a
    key, a checkpoint says that the records were archived; without one, verify needs the archive to know.

    Exit codes: 0 done, or nothing is so old; 1 a chain is broken, or the database refuses; 2 wrong usage.
    """
    if sys.stdin.isatty() and not yes:
        what = f"Delete the records before {before:%Y-%m-%d %H:%M} from {log.table.fullname}, once they are in {path}?"
        click.confirm(what, abort=True, err=True)
    with log.reading() as reader, snapshot(reader.engine) as connection:
        total = expected_count(connection, log.table)
    with log:
        try:
            with bar("archiving", total, shown=not as_json) as show:
                done = archived(log.engine, log.table, before, path, anchors=log.anchors, progress=show)
        except FileExistsError:
            msg = f"{path} is there already; name a new file"
            raise click.BadParameter(msg, param_hint="--to") from None
        except (BrokenChainError, AppendOnlyError) as error:
            note(str(error))
            sys.exit(1)
        anchored = log.anchors is not None
    if as_json:
        line("archive", records=done.records, chains=done.chains, before=before.isoformat(), checkpoint=anchored)
    elif not done.records:
        click.echo("nothing is so old")
    else:
        click.echo(f"{counted(done.records, 'record')} of {counted(done.chains, 'chain')} moved to {path}")
        if not anchored:
            note("note: the sink has no checkpoints: verify needs this file (--archive) to see that nothing is missing")
