"""What the tests of the journal share: an event, a sink that can be held, and what a process leaves that was killed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio

from sidefx import Event, JournalOptions, SideEffects, SinkOptions
from sidefx.events.ids import uuid7
from sidefx.journal.directory import Directory
from sidefx.journal.segment import NewEvent, Segment


class Counted(Event, kind="journal_test.counted"):
    """An event that tells itself apart."""

    n: int = 0
    text: str = ""


class Sink:
    """Takes one event at a time, once it is let; fails as told."""

    def __init__(self, *failures: Exception | None, held: bool = False) -> None:
        self.failures = list(failures)
        self.held = held
        self.called: list[int] = []
        self.given: list[int] = []

    async def send(self, event: Counted) -> None:
        self.called.append(event.n)
        while self.held:  # noqa: ASYNC110 - a plain flag: the test sets it before there is an event loop
            await anyio.sleep(0.001)
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        self.given.append(event.n)


class Batches:
    """Takes batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def send_batch(self, events: Sequence[Counted]) -> None:
        self.batches.append([event.n for event in events])

    @property
    def given(self) -> list[int]:
        """All events, in order."""
        return [n for batch in self.batches for n in batch]


def journaled(
    path: Path,
    *,
    lanes: Mapping[str, SinkOptions] | None = None,
    observers: Iterable[Any] = (),
    journal: Mapping[str, Any] | None = None,
    **sinks: object,
) -> SideEffects:
    """A runtime whose sinks are all journaled in that directory, unless their options say something else."""
    options = {name: SinkOptions(delivery="journal") for name in sinks} | dict(lanes or {})
    return SideEffects(sinks, options, journal=JournalOptions(path=path, **(journal or {})), observers=observers)


def rows_of(events: Iterable[Event]) -> list[NewEvent]:
    """The events as rows."""
    return [
        (event.id.bytes, event.kind, event.model_dump_json().encode(), time.time(), None, None, None, 0)
        for event in events
    ]


def fill(
    segment: Segment, events: Sequence[Event | NewEvent], *, sinks: Sequence[str] = ("s",), attempts: int = 0
) -> list[int]:
    """Keeps the events in the segment, each for these sinks, with so many attempts counted; gives their ids."""
    rows = [row for event in events for row in ([event] if isinstance(event, tuple) else rows_of([event]))]
    first = segment.taken(len(rows))
    ids = list(range(first, first + len(rows)))
    with segment.transaction(synchronous="NORMAL"):
        segment.insert(first, [(row, tuple(sinks)) for row in rows])
        for sink in sinks:
            for _ in range(attempts):
                segment.lease(sink, ids)
    return ids


def left_behind(
    folder: Path, *events: Event | NewEvent, sinks: Sequence[str] = ("s",), attempts: int = 0, killed: bool = True
) -> Path:
    """A segment as a process has left it that was killed (with its log, uncheckpointed), or that has ended cleanly."""
    directory, options = Directory(folder), JournalOptions(path=folder)
    directory.prepare()
    segment = Segment.create(directory.new_segment(), options)
    fill(segment, events, sinks=sinks, attempts=attempts)
    path = directory.new_segment()
    if not killed:
        segment.close()
        return segment.path
    for ending in ("", "-wal"):
        shutil.copy(f"{segment.path}{ending}", f"{path}{ending}")
    segment.close(remove=True)
    return path


def undecodable(json_: bytes, *, kind: str = Counted.kind) -> NewEvent:
    """A row with something else in place of the event's JSON."""
    return (uuid7().bytes, kind, json_, time.time(), None, None, None, 0)


def segments(folder: Path) -> list[Path]:
    """The segments that are there."""
    return Directory(folder).segments()


def names(folder: Path) -> set[str]:
    """The files that are there."""
    return {path.name for path in folder.iterdir()}


def rows_in(path: Path) -> list[tuple[str, str, int, Any]]:
    """What a segment holds that nobody has open: the sink, the state, the attempts and the event, as JSON."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT sink, state, attempts, json FROM delivery JOIN event ON event.id = event ORDER BY event, sink"
        return [(sink, state, attempts, json.loads(text)) for sink, state, attempts, text in connection.execute(query)]


def sound(path: Path) -> bool:
    """Whether SQLite finds no damage in a file that nobody has open."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("PRAGMA integrity_check")] == ["ok"]
