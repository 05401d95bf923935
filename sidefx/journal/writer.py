"""`Writer`: one thread that writes to every segment of this process; whatever waits is committed together."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

from sidefx.entry import Commit
from sidefx.report import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidefx.journal.segment import NewRow, Segment
    from sidefx.options import JournalOptions

_log = logging.getLogger("sidefx.journal")

_EVENTS_A_COMMIT = 1_000
_LINGER = 0.01
"""Seconds that what nobody waits for (an event has settled) waits for company."""
_COMPANY = 0.1
"""Of the time that a commit takes, how long the next one waits for company, where others wait for it already."""
_PROBE_EVERY = 1.0
"""Seconds between two looks at a disk that has failed."""
_PROBE_BYTES = 65_536


_Rows: TypeAlias = "dict[tuple[Segment, str], list[int]]"
"""Ids of events, by the segment and the sink."""


class Call(Commit):
    """Something done in the writer's thread, between two commits, with what it returned."""

    __slots__ = ("function", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self.function = function
        self.result: Any = None


@dataclass(slots=True)
class _Group:
    """What is committed together."""

    commit: Commit
    rows: list[NewRow] = field(default_factory=list)
    first: int = 0
    """The id of the first; the others' follow it."""
    leases: _Rows = field(default_factory=dict)
    settled: _Rows = field(default_factory=dict)
    urgent: bool = False
    """Whether somebody waits for it, or soon will."""
    answered: bool = False
    """Whether who waits has been told, or is just being told."""
    since: float = 0.0
    """When the first began to wait, by the monotonic clock."""

    def segments(self, own: Segment) -> list[Segment]:
        """Those that it changes, the own one first."""
        first = (own,) if self.rows else ()
        return list(dict.fromkeys((*first, *(segment for segment, _ in (*self.leases, *self.settled)))))


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a segment takes nothing, and since when."""

    reason: str
    since: float = field(default_factory=time.time)
    """Unix time."""


class Writer:
    """Takes work from any thread, and does it in one of its own; `step` does it in the caller's, for tests."""

    def __init__(self, own: Segment, options: JournalOptions, *, name: str = "") -> None:
        self.own = own
        self._options = options
        self._lock = threading.RLock()  # a finaliser may come in anywhere, and settle what is void with it
        self._calls: deque[Call] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._groups: deque[_Group] = deque([self._new_group()])
        self._failures: dict[Segment, Failure] = {}
        self._unwritten: dict[Segment, _Rows] = {}
        """What has settled while its segment took nothing."""
        self._asleep = False
        """Whether only the bell wakes its thread."""
        self._probed = 0.0
        self._closing = self._given_up = False
        self.closed = False
        self.committed = 0
        """Events that were written."""
        self.commits = 0
        self._writing: _Group | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sidefx journal {name}".strip(), daemon=True)
        self._watcher = threading.Thread(target=self._watch, name=f"sidefx journal watch {name}".strip(), daemon=True)

    @property
    def failure(self) -> Failure | None:
        """Why new events cannot be kept; None while they can."""
        return self._failures.get(self.own)

    @property
    def failures(self) -> dict[Segment, Failure]:
        """The same for every segment, those of other processes that were adopted included."""
        return dict(self._failures)

    def start(self) -> None:
        """Starts its threads: one that writes, and one that sees whether that hangs."""
        self._thread.start()
        self._watcher.start()

    def close(self, timeout: float) -> bool:
        """Writes what is there, and ends the thread; whether that took no longer than so many seconds."""
        with self._lock:
            self._closing = True
        self._ring()
        if self._thread.is_alive():
            self._thread.join(timeout)
        else:
            self._finish()
        self._given_up = True
        self._refuse_calls()  # where the disk hangs: nobody waits for it any longer
        return self.closed and not self._thread.is_alive()

    # --- from any thread ----------------------------------------------------------------------------

    def insert(self, rows: Sequence[NewRow]) -> tuple[Segment, int, Commit]:
        """Takes events, each for its sinks; says where, and gives the id of the first: the others' follow it.

        The writer may be asleep: waiting for the commit wakes it.
        """
        with self._lock:
            if self.failure is not None or self._closing:
                return self.own, 0, self._refused()
            group, first = self._groups[-1], self.own.taken(len(rows))
            follows = not group.rows or first == group.first + len(group.rows)
            if len(group.rows) >= _EVENTS_A_COMMIT or group.answered or not follows:
                group = self._new_group()
                self._groups.append(group)
            if not group.rows:
                group.first = first
            group.rows += rows
            self._awaited(group)
        return self.own, first, group.commit

    def lease(self, segment: Segment, sink: str, ids: Sequence[int]) -> Commit:
        """Counts an attempt of each before the sink is called; where the disk has failed, that is not waited for."""
        with self._lock:
            if segment in self._failures or self._closing:
                return self._refused()
            group = self._groups[-1]
            group.leases.setdefault((segment, sink), []).extend(ids)
            self._awaited(group)
        return group.commit

    def settle(self, segment: Segment, sink: str, ids: Sequence[int]) -> None:
        """These have left their lane for good; it is written soon, with whatever else is."""
        with self._lock:
            group = self._groups[-1]
            group.settled.setdefault((segment, sink), []).extend(ids)
            if self._asleep:  # else it looks by itself, soon
                self._ring()

    def call(self, function: Callable[[], Any]) -> Call:
        """Has it called between two commits: what reads a segment, or closes one."""
        call = Call(function)
        self._calls.append(call)
        self._ring()
        if self.closed or self._given_up:  # looked at after appending: nobody comes any more
            self._refuse_calls()
        return call

    def replace_own(self, segment: Segment) -> None:
        """New events go there from now on; to be called in its thread, by `call`."""
        with self._lock:
            lost = [group for group in self._groups if group.rows and not group.answered]
            for group in lost:
                group.rows.clear()
                group.answered = True
            self.own = segment
        for group in lost:
            group.commit.finish("the journal's file was lost")

    def forget(self, segment: Segment) -> None:
        """That one is closed: nothing of it is to be written any more; to be called in its thread, by `call`."""
        self._failures.pop(segment, None)
        self._unwritten.pop(segment, None)

    def look(self) -> None:
        """Gives up on what has waited for longer than `timeout`: until the disk answers, nobody else waits."""
        reason = f"the disk has not answered within {self._options.timeout:g} s"
        late = time.monotonic() - self._options.timeout
        with self._lock:
            waiting = [group for group in (self._writing, *self._groups) if group is not None and group.urgent]
            overdue = [group for group in waiting if group.since < late and not group.answered]
            for group in overdue:
                group.answered = True
        if overdue:
            self._fail(self.own, reason)
        for group in overdue:
            group.commit.finish(reason)

    def _new_group(self) -> _Group:
        return _Group(Commit(self._ring))

    def _ring(self) -> None:
        self._bell.put(None)

    def _awaited(self, group: _Group) -> None:
        if not group.urgent:
            group.urgent = True
            group.since = time.monotonic()

    def _refused(self) -> Commit:
        refused, failure = Commit(), self.failure  # once: it may be over in the next moment
        refused.finish("the journal is closed" if failure is None else failure.reason)
        return refused

    # --- in its thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - whatever it is, this thread must go on: responses wait for it
                _say(logging.CRITICAL, "the journal's writer failed: %s: %s", type(error).__name__, one_line(error))
        self._finish()

    def _turn(self) -> None:
        self._wait()
        self._answer()
        if self._failures and time.monotonic() - self._probed >= _PROBE_EVERY:
            self._probed = time.monotonic()
            self._probe()
        began = time.monotonic()
        if self.step() and self._groups[0].urgent:
            # who has just been told is soon back, and would have to wait for two commits: its own, and this one
            time.sleep(min(_COMPANY * (time.monotonic() - began), _LINGER))

    def _wait(self) -> None:
        """Until somebody waits for something, or what nobody waits for has had its time for company."""
        if self._rung(_LINGER):
            return
        with self._lock:
            self._asleep = not self._groups[0].settled
        if self._asleep:
            self._rung(_PROBE_EVERY if self._failures else None)
            self._asleep = False
            if not self._groups[0].urgent and not self._calls and not self._closing:
                self._rung(_LINGER)

    def _rung(self, seconds: float | None) -> bool:
        """Whether the bell rings within that time."""
        try:
            self._bell.get(timeout=seconds)
        except Empty:
            return False
        return True

    def _finish(self) -> None:
        while self._groups[0].urgent or self._groups[0].settled:
            self.step()
        for segment in tuple(self._unwritten):
            with suppress(sqlite3.Error, OSError):
                self._catch_up(segment)
        for segment, rows in self._unwritten.items():
            count = sum(map(len, rows.values()))
            told = "%d settled event(s) could not be taken down, and will be delivered again [%s]"
            _say(logging.ERROR, told, count, segment.path)
        self._answer()
        self.closed = True
        self._refuse_calls()
        self._ended.set()

    def step(self) -> bool:
        """Commits what waits, at most a thousand events; whether there were any."""
        with self._lock:
            if len(self._groups) > 1:
                self._ring()
            else:
                self._groups.append(self._new_group())
            group = self._writing = self._groups.popleft()
            if group.answered:  # nobody has waited so long
                group.rows.clear()
        own = self.own
        error = None
        for segment in group.segments(own):
            if segment is own:
                error = self._write(segment, group, group.rows)
            else:
                self._write(segment, group)
        with self._lock:
            self._writing = None
            late, group.answered = group.answered, True
        if group.urgent and not late:
            group.commit.finish(error)
        if late:  # those who gave up on these have them in memory
            for id_, (_, sinks) in enumerate(group.rows if error is None else (), group.first):
                for sink in sinks:
                    self.settle(own, sink, [id_])
        return bool(group.rows)

    def _write(self, segment: Segment, group: _Group, rows: Sequence[NewRow] = ()) -> str | None:
        """Commits the group's part of a segment; why it could not: then what has settled is kept for later."""
        if segment.closed:
            return "the file is closed"
        settled = [(sink, ids) for (each, sink), ids in group.settled.items() if each is segment]
        if segment not in self._failures:
            try:
                # what is leased or has settled need not survive a power cut: events would be delivered once more
                with segment.transaction(synchronous=self._options.synchronous if rows else "NORMAL"):
                    segment.insert(group.first, rows)
                    for (each, sink), ids in group.leases.items():
                        if each is segment:
                            segment.lease(sink, ids)
                    for sink, ids in settled:
                        segment.settle(sink, ids)
            except Exception as error:  # noqa: BLE001 - whatever it is, this thread must go on: responses wait for it
                self._fail(segment, one_line(error))
            else:
                self._work_again(segment)
                if rows:
                    self.committed += len(rows)
                    self.commits += 1
                return None
        unwritten = self._unwritten.setdefault(segment, {})
        for sink, ids in settled:
            unwritten.setdefault((segment, sink), []).extend(ids)
        failure = self._failures.get(segment)
        return "the disk has failed" if failure is None else failure.reason

    def _probe(self) -> None:
        """Whether the disk works again."""
        for segment in tuple(self._failures):
            try:
                self._catch_up(segment)  # it makes room, where that is what is missing
                segment.probe(_PROBE_BYTES)
            except Exception as error:  # noqa: BLE001 - as above
                self._failures[segment] = Failure(one_line(error), self._failures[segment].since)
            else:
                self._work_again(segment)

    def _catch_up(self, segment: Segment) -> None:
        """Writes what has settled meanwhile."""
        if rows := self._unwritten.get(segment):
            with segment.transaction(synchronous="NORMAL"):
                for (_, sink), ids in rows.items():
                    segment.settle(sink, ids)
            del self._unwritten[segment]

    def _fail(self, segment: Segment, reason: str) -> None:
        before = self._failures.get(segment)
        self._failures[segment] = Failure(reason) if before is None else Failure(reason, before.since)
        if before is None:
            consequence = "new events are not kept" if segment is self.own else "what settles is not taken down"
            _say(logging.CRITICAL, "the journal has failed, %s: %s [%s]", consequence, reason, segment.path)

    def _work_again(self, segment: Segment) -> None:
        if self._failures and (failure := self._failures.pop(segment, None)) is not None:
            for (_, sink), ids in self._unwritten.pop(segment, {}).items():
                self.settle(segment, sink, ids)
            seconds = time.time() - failure.since
            _say(logging.WARNING, "the journal works again, after %.0f s [%s]", seconds, segment.path)

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._options.timeout / 4)):
            self.look()

    def _refuse_calls(self) -> None:
        with suppress(IndexError):
            while True:
                self._calls.popleft().finish("the journal is closed")

    def _answer(self) -> None:
        while self._calls:
            with suppress(IndexError):
                call = self._calls.popleft()
                try:
                    call.result = call.function()
                except Exception as error:  # noqa: BLE001 - told to whoever asked
                    call.finish(f"{type(error).__name__}: {one_line(error)}")
                else:
                    call.finish()


def _say(level: int, text: str, *values: object) -> None:
    """Logs; a handler that raises does not end a thread that responses wait for."""
    with suppress(Exception):
        _log.log(level, text, *values)
