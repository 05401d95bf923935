"""A disk that fails and is slow as it is told, and what a killed process leaves on it."""

from __future__ import annotations

import errno
import sqlite3
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

import pytest

from sidefx.journal.dead import DeadStore
from sidefx.journal.segment import Segment

Stage: TypeAlias = Literal["begin", "commit", "committed", "read", "dead", "buried"]
"""Of a segment: before a transaction, before its end, and when nobody knows yet that it is there; and when it is read.
Of the dead letters: before and after each use."""


class Row(NamedTuple):
    """A delivery, as a file has it."""

    uuid: UUID
    sink: str
    leased: bool
    attempts: int


class Disk:
    """What the journals of this process read and write, all of them."""

    def __init__(
        self, patch: pytest.MonkeyPatch, sleep: Callable[[float], object], owner: Callable[[], Hashable]
    ) -> None:
        self.broken: dict[Path | None, set[Stage]] = {}
        """What fails, of which file; None stands for those that are yet to be made."""
        self.uses_left: int | None = None
        """How often the dead letters can still be used before they cannot; None where they can."""
        self.slow: dict[Stage, float] = {}
        """Seconds that it takes."""
        self.segments: dict[Hashable, list[Segment]] = {}
        """Those that are open, by the process that has them."""
        self.written_to: list[Path] = []
        """Those with a transaction that has begun."""
        self.when_left: Callable[[Any, list[Row]], object] = lambda owner, rows: None
        """Called with what is still in a segment that is given away."""
        self._sleep = sleep
        self._owner = owner
        self._patch(patch)

    @property
    def healthy(self) -> bool:
        """Whether it does all that it is to do, at once."""
        return not self.broken and self.uses_left is None and not self.slow

    def mend(self) -> None:
        """From now on it is."""
        self.broken.clear()
        self.slow.clear()
        self.uses_left = None

    def touch(self, path: Path, stage: Stage) -> None:
        """Somebody is there.

        Raises:
            sqlite3.OperationalError: it fails.
        """
        if (seconds := self.slow.get(stage, 0.0)) > 0:
            self._sleep(seconds)
        if stage == "dead" and self.uses_left is not None:
            self.uses_left -= 1
        if stage in self.broken.get(path, ()) or (stage == "dead" and (self.uses_left or 0) < 0):
            msg = f"disk I/O error ({stage})"
            raise sqlite3.OperationalError(msg)

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        disk, transaction, dead_open = self, Segment.transaction, DeadStore._open

        @contextmanager
        def in_transaction(segment: Segment, *, synchronous: str) -> Iterator[None]:
            disk.touch(segment.path, "begin")
            disk.written_to.append(segment.path)
            try:
                with transaction(segment, synchronous=synchronous):
                    yield
                    disk.touch(segment.path, "commit")
            finally:
                disk.written_to.remove(segment.path)
            disk.touch(segment.path, "committed")

        @contextmanager
        def opened(store: DeadStore, **how: Any) -> Iterator[sqlite3.Connection]:
            disk.touch(store.path, "dead")
            with dead_open(store, **how) as connection:
                yield connection
            disk.touch(store.path, "buried")

        patch.setattr(Segment, "transaction", in_transaction)
        patch.setattr(DeadStore, "_open", opened)
        for name in ("fetch", "pending", "attempted", "oldest"):
            patch.setattr(Segment, name, self._reading(getattr(Segment, name)))
        for name in ("create", "adopt"):
            patch.setattr(Segment, name, self._opening(getattr(Segment, name)))
        patch.setattr(Segment, "close", self._closing(Segment.close))

    def _reading(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def read(segment: Segment, *args: Any) -> Any:
            self.touch(segment.path, "read")
            return function(segment, *args)

        return read

    def _opening(self, function: Callable[..., Segment | None]) -> Callable[..., Segment | None]:
        def open_(path: Path, options: Any) -> Segment | None:
            if None in self.broken:
                raise OSError(errno.ENOSPC, "no space left on this device")
            if (segment := function(path, options)) is not None:
                self.segments.setdefault(self._owner(), []).append(segment)
            return segment

        return open_

    def _closing(self, function: Callable[..., None]) -> Callable[..., None]:
        def close(segment: Segment, **how: Any) -> None:
            for owner, segments in self.segments.items():
                if segment in segments:
                    segments.remove(segment)
                    self.when_left(owner, _rows(segment._connection))
                    function(segment, **how)

        return close

    # --- crashes ------------------------------------------------------------------------------------

    def crash(self, owner: Hashable, kill: Callable[[], object]) -> list[Row]:
        """Kills a process: the locks of what it has are free, and nothing is written any more. What is left there."""
        segments = self.segments.pop(owner, [])
        frozen = {file: file.read_bytes() for each in segments for file in _files(each.path) if file.exists()}
        kill()
        for segment in segments:
            segment._connection.close()  # writes the log into the file
            for file in _files(segment.path):
                if file in frozen:
                    file.write_bytes(frozen[file])
            segment._lock.release()
        return [row for segment in segments if segment.path in frozen for row in rows_in(segment.path)]


def rows_in(path: Path) -> list[Row]:
    """The deliveries in a segment that nobody has open: read from a copy, as a process would find it."""
    with tempfile.TemporaryDirectory() as folder:
        for file in _files(path):
            if file.exists():
                (Path(folder) / file.name).write_bytes(file.read_bytes())
        with closing(sqlite3.connect(Path(folder) / path.name)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return _rows(connection)


def _rows(connection: sqlite3.Connection) -> list[Row]:
    query = "SELECT uuid, sink, state, attempts FROM delivery JOIN event ON event.id = event"
    return [
        Row(UUID(bytes=uuid), sink, state == "leased", attempts)
        for uuid, sink, state, attempts in connection.execute(query)
    ]


def claimed_for(path: Path, segment: str) -> list[tuple[UUID, str, str]]:
    """The dead letters that are on their way into a segment: the event, its sink, and the sink that is to have it."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT event, sink, target FROM letter WHERE claimed = ?", (segment,)).fetchall()
    return [(UUID(event), sink, target) for event, sink, target in rows]


def rows_of(segment: Segment, sink: str, uuid: UUID) -> list[tuple[int, Row]]:
    """Those of an event for a sink in a segment that is open, with the event's number there."""
    query = "SELECT id, state, attempts FROM delivery JOIN event ON event.id = event WHERE uuid = ? AND sink = ?"
    return [
        (id_, Row(uuid, sink, state == "leased", attempts))
        for id_, state, attempts in segment._connection.execute(query, (uuid.bytes, sink))
    ]


def _files(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + "-wal")]
