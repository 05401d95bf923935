"""`Keeper`: the thread that does what is not urgent: adopts, buries, tidies up, and says how things stand."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from sidefx.dead_letters import DeadLetter
from sidefx.errors import JournalError
from sidefx.journal.segment import Segment, event_id
from sidefx.journal.status import SegmentStatus, SinkRows, Status
from sidefx.report import one_line

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Collection
    from pathlib import Path

    from sidefx.journal.dead import StoredLetters
    from sidefx.journal.directory import Directory
    from sidefx.journal.segment import Fetched
    from sidefx.journal.stored import Masker
    from sidefx.journal.writer import Call, Writer
    from sidefx.options import JournalOptions

    Offer = Callable[[Segment, str, array[int]], object]

_log = logging.getLogger("sidefx.journal")

_ROUND = 1.0
"""Seconds between two rounds."""
_ADOPT_EVERY = 2.0
_COMPACT_EVERY = 2.0
_BURIED_AT_ONCE = 500
_DAMAGED = ("malformed", "not a database")
"""What SQLite says of a file that waiting does not mend."""
_PATIENCE = 5.0
"""Seconds to wait for the writer."""


class Keeper:
    """Keeps the journal's house, in a thread of its own; `round` does one round in the caller's, for tests."""

    def __init__(
        self,
        name: str,
        *,
        directory: Directory,
        writer: Writer,
        letters: StoredLetters,
        options: JournalOptions,
        sinks: Collection[str],
    ) -> None:
        self._name = name
        self._directory = directory
        self._writer = writer
        self._letters = letters
        self._options = options
        self._sinks = sinks
        self.adopted: list[Segment] = []
        """The segments of other processes that it has taken over, and that are not empty yet."""
        self.damaged: dict[Path, str] = {}
        """Segments that cannot be read, with the reason; they are left where they are."""
        self.delayed: dict[Path, str] = {}
        """Segments that could not be taken over when that was last tried, with the reason."""
        self.offer: Offer | None = None
        """Called with what is found in a segment that was adopted, for one sink: in this thread."""
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._adopting = threading.Lock()
        self._unburied: list[tuple[Segment, str, array[int]]] = []
        """What no sink takes, and could not be read yet."""
        self._replacing: Call | None = None
        self._closing = self._left = False
        self._next_adoption = self._next_compaction = 0.0
        self._said: object = None
        self._thread = threading.Thread(target=self._run, name=f"sidefx keeper {name}".strip(), daemon=True)

    def start(self) -> None:
        """Starts its thread."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to bury."""
        self._bell.put(None)

    def close(self, timeout: float) -> None:
        """Ends its thread; waits at most so many seconds."""
        self._closing = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def left(self) -> list[Segment]:
        """What it has adopted, to be closed: from now on it adopts nothing."""
        with self._adopting:
            self._left = True
            return list(self.adopted)

    def _run(self) -> None:
        while not self._closing:
            try:
                self.round()
            except Exception as error:  # noqa: BLE001 - the next round may do better
                _log.error("the journal's keeper failed: %s: %s", type(error).__name__, one_line(error))
            with suppress(Empty):
                self._bell.get(timeout=_ROUND)
                while True:
                    self._bell.get_nowait()

    def round(self) -> None:
        """What is to be done now."""
        self._letters.write()
        unburied, self._unburied = self._unburied, []
        for segment, sink, ids in unburied:
            self._bury(segment, sink, ids)
        now = time.monotonic()
        if now >= self._next_adoption:
            self._next_adoption = now + random.uniform(0.5, 1.0) * _ADOPT_EVERY  # noqa: S311 - so that not all look at once
            self.adopt()
        self._look_at_own()
        self._writer.call(self._let_go)
        if now >= self._next_compaction:
            self._next_compaction = now + _COMPACT_EVERY
            for segment in (self._writer.own, *self.adopted):
                self._writer.call(segment.compact)
        self._publish()

    # --- adoption ---------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Takes over every segment that nobody owns."""
        for path in self._directory.segments():
            if self._closing:
                return
            if path == self._writer.own.path or path in self.damaged:
                continue
            try:
                segment = Segment.adopt(path, self._options)
            except (sqlite3.Error, OSError, JournalError) as error:
                self._leave(path, error)
                continue
            if segment is None:
                continue
            with suppress(OSError):  # what its last owner has said of it is over
                path.with_suffix(".json").unlink()
            try:
                self.take_over(segment)
            except Exception as error:
                if segment in self.adopted:  # its connection is the writer's by now
                    raise
                segment.close()
                self._leave(path, error)
        self._directory.clear()

    def _leave(self, path: Path, error: Exception) -> None:
        """It cannot be read, for ever, or, where that is no finding about the file itself, for now."""
        told = path in self.delayed
        damaged = not isinstance(error, sqlite3.OperationalError | OSError)  # the disk, or the dead letters are busy
        (self.damaged if damaged else self.delayed)[path] = one_line(error)
        if damaged or not told:
            then = "is left where it is" if damaged else "is tried again"
            _log.critical("a segment of the journal cannot be taken over, and %s: %s [%s]", then, one_line(error), path)

    def take_over(self, segment: Segment) -> None:
        """Offers what is in it to the lanes; what no lane takes goes to the dead letters.

        Raises:
            JournalError: the journal is closed.
            sqlite3.Error: it cannot be read, or the dead letters cannot.
        """
        with self._adopting:
            done = self._already_dead(segment)
            rows = {sink: _without(ids, done.get(sink, ())) for sink, ids in segment.pending().items()}
            if self._left:
                msg = "the journal is closed"
                raise JournalError(msg)
            self.adopted.append(segment)
            self.delayed.pop(segment.path, None)
            for sink, settled in done.items():
                self._writer.settle(segment, sink, list(settled))
            if count := sum(map(len, rows.values())):
                _log.info("%d delivery(s) of another process, or another run, are taken over [%s]", count, segment.path)
            for sink, ids in rows.items():
                if sink not in self._sinks:
                    self._bury(segment, sink, ids)
                elif self.offer is not None:
                    self.offer(segment, sink, ids)

    def _already_dead(self, segment: Segment) -> dict[str, set[int]]:
        """Ends what a process had begun: letters on their way out of the segment, or, by a replay, into it."""
        tried = segment.attempted()
        self._letters.store.settle_claims(segment.path.name, {(uuid, sink) for uuid, sink, *_ in tried})
        # a replayed one that has not been tried again is on its way to a sink, which may have a letter of its own of it
        dead = self._letters.store.among((uuid, sink) for uuid, sink, _, attempts in tried if attempts)
        done: dict[str, set[int]] = {}
        for uuid, sink, id_, attempts in tried:
            if attempts and (uuid, sink) in dead:
                done.setdefault(sink, set()).add(id_)
        return done

    def _bury(self, segment: Segment, sink: str, ids: array[int]) -> None:
        reason = f"no sink named {sink!r}"
        for start in range(0, len(ids), _BURIED_AT_ONCE):
            some = ids[start : start + _BURIED_AT_ONCE]
            found = self._writer.call(partial(segment.fetch, sink, some))
            if not found.finished_blocking(_PATIENCE) or found.error is not None:
                self._unburied.append((segment, sink, ids[start:]))
                return
            for fetched in found.result:
                self.bury(segment, sink, fetched, reason)
            self._letters.write()

    def bury(
        self,
        segment: Segment,
        sink: str,
        fetched: Fetched,
        reason: str,
        error: str = "",
        *,
        masker: Masker | None = None,
    ) -> None:
        """It can be delivered to nobody: to the dead letters, with the reason, and with what its sink may see."""
        row = fetched.event
        text = row.json if masker is None else masker.text(row.json)
        letter = DeadLetter(
            sink=sink,
            event=None,
            result="rejected",
            reason=reason,
            error=error,
            attempts=fetched.attempts,
            at=datetime.now(UTC),
            call_site=row.site,
            kind=row.kind,
            event_id=event_id(row.uuid),
            text=None if text is None else text.decode("utf-8", "backslashreplace"),
        )
        self._letters.add(letter, lambda: self._writer.settle(segment, sink, [row.id]))
        _log.error("sinks.%s: %s rejected: %s [event %s]", sink, one_line(row.kind), one_line(reason), letter.event_id)

    def _let_go(self) -> None:
        """Removes adopted segments that are empty: in the writer's thread, whose connections they have become."""
        for segment in [each for each in self.adopted if each.empty]:
            self.adopted.remove(segment)
            segment.close(remove=True)
            self._writer.forget(segment)

    def _look_at_own(self) -> None:
        """A file that was removed, or damaged, keeps nothing for the next process: another one takes its place."""
        if self._replacing is not None and not self._replacing.done:
            return
        own, failure = self._writer.own, self._writer.failure
        lost = "was removed" if not own.path.exists() else "is damaged"
        if own.path.exists() and not (failure is not None and any(word in failure.reason for word in _DAMAGED)):
            return
        try:
            self._directory.prepare()
            self._letters.store.prepare()
            segment = Segment.create(self._directory.new_segment(), self._options)
        except (sqlite3.Error, OSError, JournalError) as error:
            _log.critical("the journal's file %s, and no other can be made: %s [%s]", lost, one_line(error), own.path)
            return
        self._replacing = self._writer.call(partial(self._writer.replace_own, segment))
        self._replacing.finished_blocking(_PATIENCE)
        self.adopted.append(own)
        _log.critical(
            "the journal's file %s: new events go to another one; what was in it ends with this process [%s]",
            lost,
            own.path,
        )

    # --- status -------------------------------------------------------------------------------------

    def _publish(self) -> None:
        looked = self._writer.call(self._segments)
        if not looked.finished_blocking(_PATIENCE) or looked.error is not None:
            return
        path, failure = self._writer.own.path.with_suffix(".json"), self._writer.failure
        said = (failure, looked.result)
        if said != self._said:
            status = Status(
                pid=os.getpid(),
                runtime=self._name,
                at=time.time(),
                state="ok" if failure is None else "failing",
                reason="" if failure is None else failure.reason,
                segments=looked.result,
            )
            with suppress(OSError):  # a disk that takes nothing: the journal itself has told of it
                status.write(path)
                self._said = said
        else:
            try:
                os.utime(path)  # all of it still holds: whoever reads it knows that nobody hangs here
            except OSError:  # somebody has removed it
                self._said = None

    def _segments(self) -> list[SegmentStatus]:
        return [status_of(segment) for segment in (self._writer.own, *self.adopted)]


def status_of(segment: Segment) -> SegmentStatus:
    """How that one stands."""
    leased = {sink: len(ids) for sink, ids in segment.leased.items()}
    return SegmentStatus(
        name=segment.path.stem,
        bytes=segment.bytes,
        oldest=segment.oldest(),
        sinks={
            sink: SinkRows(pending=rows - leased.get(sink, 0), leased=leased.get(sink, 0))
            for sink, rows in sorted(segment.rows.items())
            if rows
        },
    )


def _without(ids: array[int], done: Collection[int]) -> array[int]:
    return type(ids)("Q", (id_ for id_ in ids if id_ not in done)) if done else ids
