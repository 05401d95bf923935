"""`sidefx journal status`: what waits in the journal, in whose hands it is, and whether something is to be done."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from sidefx.cli.group import InOrder
from sidefx.cli.output import age, counted, line, print_rows
from sidefx.cli.place import on_journal
from sidefx.journal.survey import living, survey
from sidefx.problems import printable
from sidefx.report import one_line

if TYPE_CHECKING:
    from sidefx.cli.place import Place
    from sidefx.journal.status import Status
    from sidefx.journal.survey import Seen

_PATIENCE = 1.0
"""Seconds in which a process that has just started, or taken a segment over, says so."""
_LOOK_EVERY = 0.25
_SILENT = 15.0
"""Seconds; longer than a process takes that waits for a slow disk."""
_ROOM = 1_000_000
"""Bytes; a disk with less is full, whatever processes have been able to write down about it."""


@click.group(cls=InOrder)
def journal() -> None:
    """The journal: events on disk that wait for their sinks."""


@journal.command()
@on_journal
def status(place: Place, *, as_json: bool) -> None:
    """Say how the journal stands: what waits, for which sink, in whose hands. Disturbs no running process.

    Exit codes: 0 all is well, 1 the disk is full or fails, a process hangs, a segment cannot be read, or events wait
    where no process runs, 2 wrong usage or configuration.
    """
    overview = _looked_at(place)
    if as_json:
        _print_json(overview)
    else:
        _print(overview)
    sys.exit(1 if overview.problems else 0)


@dataclass(frozen=True, slots=True)
class Overview:
    """All that there is to say."""

    path: str
    processes: list[Status]
    segments: list[tuple[Seen, str]]
    """Each with its state in a word."""
    sinks: dict[str, tuple[int, int, int]]
    """Pending, leased and dead, by sink."""
    free: int
    """Bytes on its disk."""
    problems: list[str]

    @property
    def waiting(self) -> int:
        """Deliveries that have not settled."""
        return sum(pending + leased for pending, leased, _ in self.sinks.values())

    @property
    def dead(self) -> int:
        """Dead letters of all sinks."""
        return sum(dead for *_, dead in self.sinks.values())

    @property
    def oldest(self) -> float | None:
        """When the oldest event that waits was journaled."""
        return min((at for seen, _ in self.segments if (at := _oldest(seen)) is not None), default=None)


# --- looking --------------------------------------------------------------------------------------------


def _looked_at(place: Place) -> Overview:
    end = time.monotonic() + _PATIENCE
    seen = survey(place.directory, place.options)
    while any(each.owned and each.owner is None for each in seen) and time.monotonic() < end:
        time.sleep(_LOOK_EVERY)
        seen = survey(place.directory, place.options)
    processes = living(place.directory)
    segments = [(each, _state(each, processes)) for each in seen]
    problems = [problem for each, state in segments if (problem := _problem(each, state))]
    try:
        dead = place.store.counts()
    except sqlite3.Error as error:
        dead = {}
        problems.append(f"the dead letters cannot be read: {one_line(error)}")
    if (free := shutil.disk_usage(place.directory.path).free) < _ROOM:
        problems.append(f"its disk is full: {decimal(free)} are free")
    return Overview(f"{place.directory.path}", processes, segments, _by_sink(seen, dead), free, problems)


def _state(seen: Seen, processes: list[Status]) -> str:
    if seen.owner is not None:
        own = seen.owner.segments[0].name == seen.name
        return "ok" if not own else "silent" if seen.silent > _SILENT else seen.owner.state
    if seen.owned:
        return "busy"
    if seen.unreadable:
        return "unreadable"
    if not seen.waiting:
        return "empty"
    return "changing hands" if processes else "orphaned"


def _problem(seen: Seen, state: str) -> str:
    match state:
        case "failing" if seen.owner is not None:
            return f"{_owner(seen)} cannot keep new events: {one_line(seen.owner.reason)}"
        case "silent":
            return f"{_owner(seen)} has said nothing for {age(seen.silent)}: it hangs, or is stopped, or so is its disk"
        case "unreadable":
            return f"{seen.name} cannot be looked into, and is left where it is: {seen.unreadable}"
        case "orphaned":
            return f"{_deliveries(seen.waiting)} in {seen.name}, and no process runs here: they go on when one starts"
    return ""


def _by_sink(seen: list[Seen], dead: dict[str, int]) -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = dict.fromkeys(dead, (0, 0, 0))
    for status in (each.status for each in seen if each.status is not None):
        for sink, rows in status.sinks.items():
            pending, leased, _ = found.get(sink, (0, 0, 0))
            found[sink] = (pending + rows.pending, leased + rows.leased, 0)
    return {sink: (*found[sink][:2], dead.get(sink, 0)) for sink in sorted(found)}


def _oldest(seen: Seen) -> float | None:
    return None if seen.status is None or not seen.waiting else seen.status.oldest


# --- saying ---------------------------------------------------------------------------------------------


def _print(overview: Overview) -> None:
    click.echo(f"{printable(overview.path)}, {decimal(overview.free)} free\n")
    for problem in overview.problems:
        click.echo(click.style(f"PROBLEM: {problem}", fg="red", bold=True))
    oldest = "" if overview.oldest is None else f" (the oldest since {_age(overview.oldest)})"
    parts = (
        f"{counted(count, 'process', 'processes') if (count := len(overview.processes)) else 'no process'} running",
        f"{_deliveries(overview.waiting)} waiting{oldest}",
        counted(overview.dead, "dead letter"),
    )
    click.echo(f"{'' if overview.problems else 'the journal is well: '}{', '.join(parts)}")
    if overview.segments:
        click.echo()
        heading = ("owner", "state", "oldest", "size", "segment", "waiting")
        print_rows(heading, [_row(seen, state) for seen, state in overview.segments], cut=False)
    if overview.sinks:
        click.echo()
        rows = [(sink, *(f"{count:,}" for count in counts)) for sink, counts in overview.sinks.items()]
        print_rows(("sink", "pending", "in flight", "dead letters"), rows)


def _row(seen: Seen, state: str) -> tuple[str, ...]:
    oldest = "-" if (at := _oldest(seen)) is None else _age(at)
    size = "-" if seen.status is None else decimal(seen.status.bytes)
    return (_owner(seen), state, oldest, size, seen.name, _waiting(seen))


def _owner(seen: Seen) -> str:
    if seen.owner is not None:
        return f"pid {seen.owner.pid} ({printable(seen.owner.runtime)})"
    return "a process that has not said who it is" if seen.owned else "nobody"


def _waiting(seen: Seen) -> str:
    if seen.status is None:
        return "-"
    counts = [(sink, rows.pending, rows.leased) for sink, rows in seen.status.sinks.items()]
    parts = [
        f"{sink} {pending + leased:,}{f' ({leased:,} in flight)' if leased else ''}" for sink, pending, leased in counts
    ]
    return ", ".join(parts) or "nothing"


def _deliveries(count: int) -> str:
    return counted(count, "delivery", "deliveries")


def _age(at: float) -> str:
    return age(time.time() - at)


def _print_json(overview: Overview) -> None:
    for seen, state in overview.segments:
        line(
            "segment",
            name=seen.name,
            state=state,
            reason=_problem(seen, state),
            pid=None if seen.owner is None else seen.owner.pid,
            runtime=None if seen.owner is None else seen.owner.runtime,
            bytes=None if seen.status is None else seen.status.bytes,
            oldest=_iso(_oldest(seen)),
            sinks={} if seen.status is None else {name: rows.model_dump() for name, rows in seen.status.sinks.items()},
        )
    for sink, (pending, leased, dead) in overview.sinks.items():
        line("sink", name=sink, pending=pending, leased=leased, dead=dead)
    line(
        "journal",
        path=overview.path,
        problems=overview.problems,
        pids=[process.pid for process in overview.processes],
        waiting=overview.waiting,
        oldest=_iso(overview.oldest),
        dead=overview.dead,
        free=overview.free,
    )


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
