"""`sidefx audit verify`: whether anybody has touched the log."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidefx import MissingExtraError
from sidefx_sinks.audit_log.checkpoint import Checkpoints, read
from sidefx_sinks.audit_log.cli.log import on_log
from sidefx_sinks.audit_log.cli.output import bar, counted, line, note, printable
from sidefx_sinks.audit_log.keys import key_of
from sidefx_sinks.audit_log.stored import expected_count, snapshot
from sidefx_sinks.audit_log.verify import UnreadableArchiveError, named
from sidefx_sinks.audit_log.verify import verify as verified

if TYPE_CHECKING:
    from sidefx_sinks.audit_log.keys import Key
    from sidefx_sinks.audit_log.sink import AuditLog
    from sidefx_sinks.audit_log.verify import Verdict
    from sidefx_sinks.audit_log.walk import Break

_LINES_NAMED = 8
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--checkpoints", type=_FILE, metavar="FILE", help="The checkpoints. Default: the sink's own file.")
@click.option(
    "--key", "key_file", type=_FILE, metavar="FILE", help="Their key: a PEM, a public one will do; or HMAC's."
)
@click.option(
    "--archive", "archives", type=_FILE, multiple=True, metavar="FILE", help="What was archived; several in order."
)
@on_log
def verify(
    log: AuditLog, *, checkpoints: Path | None, key_file: Path | None, archives: tuple[Path, ...], as_json: bool
) -> None:
    """Walk along the chains of hashes, and name the first record that was edited, deleted, inserted or moved.

    With checkpoints it also sees a tail that was cut off and a table that was written anew.

    Exit codes: 0 nobody has touched it, 1 a chain is broken, 2 wrong usage or configuration.
    """
    anchored = _checkpoints(log, checkpoints, key_file)
    began = time.monotonic()
    with log.reading() as opened:
        with snapshot(opened.engine) as connection:
            total = expected_count(connection, log.table)
        try:
            with bar("verifying", total, shown=not as_json) as show:
                good = None if anchored is None else anchored.good
                verdict = verified(opened.engine, log.table, checkpoints=good, archives=archives, progress=show)
        except UnreadableArchiveError as error:
            raise click.UsageError(str(error)) from None
    seconds = max(time.monotonic() - began, 1e-6)
    bad = () if anchored is None else anchored.bad
    if as_json:
        _print_json(log, verdict, anchored, seconds)
    else:
        _say_checkpoints(anchored)
        for text in verdict.notes:
            note(f"note: {text}")
        _say(log, verdict, seconds)
    sys.exit(1 if verdict.found is not None or bad else 0)


def _checkpoints(log: AuditLog, path: Path | None, key_file: Path | None) -> Checkpoints | None:
    """Those to compare with; None where there is no file of them."""
    path = path or log.checkpoints
    if path is None:
        if key_file is not None:
            msg = "--key is the key of checkpoints; name their file with --checkpoints"
            raise click.UsageError(msg)
        return None
    if not path.exists():
        msg = f"there is no file {path}, where the sink's checkpoints should be; was it deleted? See --checkpoints"
        raise FileNotFoundError(msg)
    return read(path, log.table.fullname, _key(log, key_file))


def _key(log: AuditLog, key_file: Path | None) -> Key:
    if key_file is None:
        return log.key()
    try:
        return key_of(key_file.read_text(encoding="utf-8"))
    except MissingExtraError:
        raise
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error), param_hint="--key") from None


def _say(log: AuditLog, verdict: Verdict, seconds: float) -> None:
    found = verdict.found
    if found is None:
        counts = f"{counted(verdict.records, 'record')} in {counted(verdict.chains, 'chain')}{_vouched(verdict)}"
        rate = f"{seconds:.1f} s, {verdict.records / seconds:,.0f} records/s"
        click.echo(f"{printable(log.table.fullname)} is whole: {counts} ({rate})")
        return
    after = f"after {counted(verdict.records, 'sound record')}"
    click.echo(click.style(f"BROKEN, {found.kind}: {_described(found)}", fg="red", bold=True))
    click.echo(f"the first break in {printable(log.table.fullname)}, {after}; what lies behind it was not looked at")


def _vouched(verdict: Verdict) -> str:
    if verdict.chains > 1 and verdict.vouched:
        return f", {len(verdict.vouched):,} of them vouched for up to a checkpoint"
    return "".join(f", vouched for up to record {number:,}" for number in verdict.vouched.values())


def _described(found: Break) -> str:
    number = "a record" if found.chain_seq is None else f"record {found.chain_seq:,}"
    row = "" if found.seq is None else f" (row {found.seq}, id {found.id}, at {found.at})"
    return printable(f"{number} of {named(found.chain)}{row}: {found.reason}")


def _say_checkpoints(anchored: Checkpoints | None) -> None:
    if anchored is None:
        return
    if anchored.bad:
        text = f"PROBLEM: checkpoints whose signatures are wrong or of an unknown key, in {_lines(anchored.bad)}"
        click.echo(click.style(text, fg="red", bold=True))
    if anchored.foreign:
        note(f"note: checkpoints of another log are passed over, in {_lines(anchored.foreign)}")
    if anchored.unreadable:
        note(f"note: no checkpoint stands in {_lines(anchored.unreadable)}; a crash leaves such a line")
    if not anchored.good:
        note("note: there is no good checkpoint of this log yet")


def _lines(numbers: tuple[int, ...]) -> str:
    listed = ", ".join(f"{number:,}" for number in numbers[:_LINES_NAMED])
    return f"line{'' if len(numbers) == 1 else 's'} {listed}{' …' if len(numbers) > _LINES_NAMED else ''}"


def _print_json(log: AuditLog, verdict: Verdict, anchored: Checkpoints | None, seconds: float) -> None:
    line(
        "verify",
        table=log.table.fullname,
        whole=verdict.found is None,
        records=verdict.records,
        chains=verdict.chains,
        anchored=verdict.anchored,
        vouched=verdict.vouched,
        broken=None if verdict.found is None else asdict(verdict.found),
        notes=list(verdict.notes),
        checkpoints=None
        if anchored is None
        else {
            "good": len(anchored.good),
            "bad": list(anchored.bad),
            "foreign": list(anchored.foreign),
            "unreadable": list(anchored.unreadable),
        },
        seconds=round(seconds, 3),
    )
