"""`sidefx dead replay`: dead letters go back into the journal, from which a running process delivers them."""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sidefx.cli.filters import Filters, filtered
from sidefx.cli.output import counted, line, note
from sidefx.cli.place import on_journal
from sidefx.journal.replay import Replay
from sidefx.journal.survey import heard, living
from sidefx.problems import printable
from sidefx.report import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from sidefx.cli.place import Place
    from sidefx.journal.status import Status

_PATIENCE = 30.0
"""Seconds to wait for a running process, unless `--wait` says otherwise."""
_LOOK_EVERY = 0.2
_ASKED_AT_ONCE = 1_000
_PIDS_NAMED = 8


@dataclass(frozen=True, slots=True)
class Handed:
    """What has been moved into the journal."""

    segment: Path
    deliveries: list[tuple[bytes, str]]
    """Pairs of an event's UUID and a sink."""
    broken_off: str
    """Why the rest was not; empty where all were."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What has become of it."""

    delivered: int
    dead: int
    """Those that are dead letters again."""
    sinks: tuple[str, ...]
    """Theirs."""
    remaining: int
    stopped: bool
    """Whether the user did not want to wait any longer."""


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=click.UUID)
@filtered
@click.option("--all", "everything", is_flag=True, help="Replay all of them.")
@click.option("--to", metavar="SINK", help="Send them to this sink, instead of each to its own.")
@click.option("--wait", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait so long until all are delivered.")
@click.option("--no-wait", is_flag=True, help="Do not wait for what comes of it.")
@on_journal
def replay(
    place: Place,
    *,
    ids: tuple[UUID, ...],
    filters: Filters,
    everything: bool,
    to: str | None,
    wait: float | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Send dead letters to their sinks again: those of the events ID, of a sink, of a kind, or all.

    They go back into the journal, and a running process takes them from there within two seconds; where none runs, the
    next one does. Waits 30 seconds for a running process, and says how many have been delivered.

    Exit codes: 0 all is well, 1 some were not handed over, not delivered in time, or are dead letters again, 2 wrong
    usage or configuration.
    """
    _check_usage(
        chosen=bool(ids or filters.sink or filters.kind), everything=everything, both=no_wait and wait is not None
    )
    place.check_user()
    if to is not None:
        place.check_sink(to)
    place.store.prepare()
    selection: dict[str, Any] = {**filters.matching(), "ids": ids or None}
    total, without_json = place.store.count(**selection)
    unknown = [f"{id_}" for id_ in ids if not any(place.store.newest(**filters.matching(), ids=[id_], texts=False))]
    handed = _hand_over(place, selection, to, total - without_json, shown=not as_json) if total > without_json else None
    processes = living(place.directory)
    if not as_json:
        _say_left(filters, without_json, unknown)
        if handed is not None:
            _say_handed(handed, processes)
        elif not unknown and not without_json:
            note(filters.nothing(place))
    followed = None
    patience = (_PATIENCE if processes else 0.0) if wait is None else wait
    if handed is not None and handed.deliveries and not handed.broken_off and not no_wait and patience:
        followed = _follow(place, handed, patience, shown=not as_json)
        if not as_json:
            _say_followed(followed, patience)
    if as_json:
        _print_json(handed, without_json, unknown, processes, followed)
    left = without_json or unknown or (handed is not None and handed.broken_off)
    unwell = followed is not None and (followed.dead or followed.remaining or followed.stopped)
    sys.exit(1 if left or unwell else 0)


def _check_usage(*, chosen: bool, everything: bool, both: bool) -> None:
    if not chosen and not everything:
        msg = "say which: --sink, --kind, the ids of events, or --all"
        raise click.UsageError(msg)
    if chosen and everything:
        msg = "--all means all of them; leave out either it, or --sink, --kind and the ids"
        raise click.UsageError(msg)
    if both:
        msg = "--wait and --no-wait contradict each other"
        raise click.UsageError(msg)


# --- handing over ---------------------------------------------------------------------------------------


def _hand_over(place: Place, selection: dict[str, Any], to: str | None, total: int, *, shown: bool) -> Handed:
    """Moves them into a segment, and lets go of it: whoever looks for segments that nobody owns, finds it."""
    replay = Replay(place.directory, place.store, place.options)
    name = replay.segment.path.name
    broken_off, sound = "", False
    deliveries: list[tuple[bytes, str]] = []
    try:
        try:
            with _bar("handing over", total, shown=shown) as show:
                for _ in replay.move(**selection, to=to):
                    show(replay.moved)
        except KeyboardInterrupt:
            broken_off = "stopped"
        except (sqlite3.Error, OSError) as error:
            broken_off = one_line(error)
        deliveries = [(uuid, sink) for uuid, sink, *_ in replay.segment.attempted()]
        if broken_off:
            place.store.settle_claims(name, set(deliveries))
        sound = True
    finally:  # where it is not sound, whoever adopts it ends what was begun
        replay.segment.close(remove=sound and not deliveries)
    return Handed(replay.segment.path, deliveries, broken_off)


def _say_left(filters: Filters, without_json: int, unknown: list[str]) -> None:
    for id_ in unknown:
        note(f"no dead letter{filters.described()} of event {id_} is here; it may have been replayed, or purged")
    if without_json:
        note(f"{counted(without_json, 'dead letter')} cannot be replayed: the event could not be written as JSON")


def _say_handed(handed: Handed, processes: list[Status]) -> None:
    if handed.broken_off:
        note(f"broken off: {handed.broken_off}; what was not handed over is a dead letter as before")
    if handed.deliveries:
        moved = counted(len(handed.deliveries), "dead letter")
        click.echo(f"{moved} handed over; {_takers(processes)}")
    for process in processes:
        if process.state == "failing":
            note(f"process {process.pid} has trouble with its disk: {one_line(process.reason)}")


def _takers(processes: list[Status]) -> str:
    if not processes:
        return "no process runs here: they are delivered when one starts"
    if len(processes) == 1:
        (process,) = processes
        return f"a running process takes them: pid {process.pid} ({printable(process.runtime)})"
    pids = ", ".join(f"{process.pid}" for process in processes[:_PIDS_NAMED])
    more = ", …" if len(processes) > _PIDS_NAMED else ""
    return f"one of {len(processes)} running processes takes them: pids {pids}{more}"


# --- waiting --------------------------------------------------------------------------------------------


def _follow(place: Place, handed: Handed, seconds: float, *, shown: bool) -> Followed:
    """Waits until all have settled, or for so many seconds, or until the user has had enough."""
    end = time.monotonic() + seconds
    total = remaining = len(handed.deliveries)
    stopped = False
    try:
        with _bar("delivering", total, shown=shown) as show:
            while handed.segment.exists() and remaining and (left := end - time.monotonic()) > 0:
                remaining = _remaining(place, handed.segment.stem, remaining)
                show(total - remaining)
                time.sleep(min(_LOOK_EVERY, left))
    except KeyboardInterrupt:
        stopped = True
    if not handed.segment.exists():  # it goes with the last of its events
        remaining = 0
    dead = _dead_again(place, handed.deliveries)
    delivered = max(total - remaining - len(dead), 0)
    return Followed(delivered, len(dead), tuple(sorted({sink for _, sink in dead})), remaining, stopped)


def _remaining(place: Place, segment: str, before: int) -> int:
    """How many have not settled, as the process says that has the segment; as before, where none has it yet."""
    said = (each for status in heard(place.directory) for each in status.segments if each.name == segment)
    found = next(said, None)
    return before if found is None else found.waiting


def _dead_again(place: Place, deliveries: list[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
    found: list[tuple[bytes, str]] = []
    for start in range(0, len(deliveries), _ASKED_AT_ONCE):
        found += place.store.among(deliveries[start : start + _ASKED_AT_ONCE])
    return found


def _say_followed(followed: Followed, patience: float) -> None:
    parts = [f"{followed.delivered:,} delivered"] if followed.delivered or not followed.remaining else []
    if followed.dead:
        only = f" --sink {printable(followed.sinks[0])}" if len(followed.sinks) == 1 else ""
        parts.append(f"{followed.dead:,} dead again (sidefx dead list{only})")
    if followed.remaining:
        when = "" if followed.stopped else f" after {patience:g} s"
        parts.append(f"{followed.remaining:,} still to be delivered{when}")
    click.echo(", ".join(parts))
    if followed.remaining:
        what = "stopped waiting; they" if followed.stopped else "they"
        note(f"{what} are safe in the journal, and delivered all the same (sidefx journal status)")


def _print_json(
    handed: Handed | None, without_json: int, unknown: list[str], processes: list[Status], followed: Followed | None
) -> None:
    line(
        "replay",
        handed_over=0 if handed is None else len(handed.deliveries),
        broken_off="" if handed is None else handed.broken_off,
        without_json=without_json,
        unknown=unknown,
        processes=[{"pid": process.pid, "runtime": process.runtime} for process in processes],
        delivered=None if followed is None else followed.delivered,
        dead=None if followed is None else followed.dead,
        remaining=None if followed is None else followed.remaining,
    )


@contextmanager
def _bar(what: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Something to look at on a terminal, which is told how many there are by now."""
    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda completed: progress.update(task, completed=completed)
