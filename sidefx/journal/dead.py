"""`DeadStore`: the dead letters of all processes of one app, in one SQLite file.

A rollback journal, not a write-ahead log: any number of processes, the command line among them, may use it at once.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections import Counter, deque
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sidefx.dead_letters import DeadLetter, DeadLetters, as_json, log_what_leaves
from sidefx.errors import JournalError
from sidefx.events import UnknownKindError, event_from_json
from sidefx.journal.forks import inside
from sidefx.journal.segment import event_id, sync_directory
from sidefx.journal.stored import writable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

_log = logging.getLogger("sidefx.journal")

_APPLICATION = 0x73646664  # "sdfd"
_VERSION = 1
_BUSY_SECONDS = 10.0
_READING_SECONDS = 1.0
_GLANCE_SECONDS = 0.05
"""For what is asked on an event loop."""
_UNWRITTEN_KEPT = 10_000
_CHUNK = 500
_PAGE = 100

_SCHEMA = """
CREATE TABLE letter (
    event TEXT NOT NULL, sink TEXT NOT NULL, kind TEXT NOT NULL, json TEXT, result TEXT NOT NULL,
    reason TEXT NOT NULL, error TEXT NOT NULL, attempts INTEGER NOT NULL, at REAL NOT NULL,
    call_site TEXT, request_id TEXT, claimed TEXT, target TEXT,
    UNIQUE (event, sink)
);
CREATE INDEX letter_at ON letter (at);
CREATE INDEX letter_sink ON letter (sink, kind, claimed, at);
CREATE INDEX letter_claimed ON letter (claimed) WHERE claimed IS NOT NULL;
"""
_COLUMNS = "event, sink, kind, json, result, reason, error, attempts, at, call_site, request_id"


class DeadStore:
    """The file. Every method opens and closes it, and may be called in any thread.

    Raises:
        sqlite3.Error: it cannot be used; it has been tried for ten seconds where another process was busy with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Makes the file where it is not there.

        Raises:
            JournalError: what is there is something else.
        """
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            sync_directory(self.path.parent)
        with self._open(making=not self.path.stat().st_size) as connection:
            application, version = (
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            )
            if (application, version) == (0, 0):
                for statement in _SCHEMA.split(";"):  # executescript() would end the transaction that excludes others
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            elif (application, version) != (_APPLICATION, _VERSION):
                msg = f"{self.path}: is no file of dead letters of this version of sidefx; another one can read it"
                raise JournalError(msg)

    def add(self, letters: Iterable[DeadLetter]) -> None:
        """Keeps these; one of the same event and sink is replaced."""
        with self._open() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO letter ({_COLUMNS}) VALUES ({', '.join('?' * 11)})",
                [_row(letter) for letter in letters],
            )

    def letters(
        self,
        *,
        sink: str | None = None,
        kind: str | None = None,
        ids: Collection[UUID] | None = None,
        limit: int | None = None,
    ) -> list[DeadLetter]:
        """Those that match all that is given, the oldest first, at most so many."""
        where, values = _where(sink, kind, ids)
        with self._open(reading=True) as connection:
            query = f"SELECT {_COLUMNS} FROM letter WHERE {where} ORDER BY at, rowid LIMIT ?"
            rows = connection.execute(query, (*values, -1 if limit is None else limit)).fetchall()
        return [_letter(row) for row in rows]

    def counts(self, since: datetime | None = None, *, timeout: float | None = None) -> dict[str, int]:
        """How many there are for each sink, from that time on; waits `timeout` seconds for who writes."""
        with self._open(reading=True, timeout=timeout) as connection:
            query = "SELECT sink, count(*) FROM letter WHERE claimed IS NULL AND at > ? GROUP BY sink ORDER BY sink"
            return dict(connection.execute(query, (0 if since is None else since.timestamp(),)))

    def count(
        self,
        *,
        sink: str | None = None,
        kind: str | None = None,
        ids: Collection[UUID] | None = None,
        before: datetime | None = None,
    ) -> tuple[int, int]:
        """How many match all that is given, and how many of those have no JSON, so that they cannot be replayed."""
        where, values = _where(sink, kind, ids)
        if before is not None:
            where, values = f"{where} AND at < ?", [*values, before.timestamp()]
        with self._open(reading=True) as connection:
            query = f"SELECT count(*), count(*) - count(json) FROM letter WHERE {where}"
            total, without_json = connection.execute(query, values).fetchone()
        return total, without_json

    def newest(
        self,
        *,
        sink: str | None = None,
        kind: str | None = None,
        ids: Collection[UUID] | None = None,
        texts: bool = True,
    ) -> Iterator[DeadLetter]:
        """Those that match all that is given, the newest first, as they are stored: `event` is None.

        Read a page at a time, so that nobody who writes has to wait; `texts=False` leaves the JSON where it is.
        """
        where, values = _where(sink, kind, ids)
        columns = _COLUMNS if texts else _COLUMNS.replace("json", "NULL")
        page = f"SELECT {columns}, at, rowid FROM letter WHERE {where}"
        last: tuple[Any, ...] = (float("inf"), 0)
        while True:
            with self._open(reading=True) as connection:
                query = f"{page} AND (at, rowid) < (?, ?) ORDER BY at DESC, rowid DESC LIMIT {_PAGE}"
                rows = connection.execute(query, (*values, *last)).fetchall()
            yield from (_letter(row[:-2], read=False) for row in rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1][-2:]

    def purge(self, *, before: datetime, sink: str | None = None, kind: str | None = None) -> int:
        """Deletes those that are older, and says how many; 500 at a time, so that nobody has to wait long."""
        where, values = _where(sink, kind, None)
        chosen = f"SELECT rowid FROM letter WHERE {where} AND at < ? LIMIT {_CHUNK}"
        purged, last = 0, _CHUNK
        while last == _CHUNK:
            with self._open() as connection:
                query = f"DELETE FROM letter WHERE rowid IN ({chosen})"
                last = connection.execute(query, (*values, before.timestamp())).rowcount
            purged += last
        return purged

    # --- replay: a letter is claimed for a segment, written into it, and deleted here ------------------

    def claim(
        self,
        segment: str,
        *,
        sink: str | None = None,
        kind: str | None = None,
        ids: Collection[UUID] | None = None,
        to: str | None = None,
        limit: int = _CHUNK,
    ) -> int:
        """Claims those that match for a segment, the oldest first, up to 500: nobody else can replay them. How many.

        They go to the sink `to`, by default to their own.
        """
        where, values = _where(sink, kind, ids)
        with self._open() as connection:
            chosen = f"SELECT rowid FROM letter WHERE {where} AND json IS NOT NULL ORDER BY at, rowid LIMIT ?"
            return connection.execute(
                f"UPDATE letter SET claimed = ?, target = COALESCE(?, sink) WHERE rowid IN ({chosen})",
                (segment, to, *values, min(limit, _CHUNK)),
            ).rowcount

    def claimed(self, segment: str) -> list[tuple[bytes, str, bytes, str]]:
        """What has been claimed for it: the event's UUID, kind and JSON, and the sink it goes to."""
        with self._open(reading=True) as connection:
            query = "SELECT event, kind, json, target FROM letter WHERE claimed = ? ORDER BY at, rowid"
            rows = connection.execute(query, (segment,)).fetchall()
        return [(UUID(event).bytes, kind, text.encode(), target) for event, kind, text, target in rows]

    def settle_claims(self, segment: str, there: Collection[tuple[bytes, str]]) -> None:
        """Deletes what was claimed for the segment and is in it; what is not, is a dead letter as before."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT rowid, event, target FROM letter WHERE claimed = ?", (segment,)
            ).fetchall()
            moved = [(rowid,) for rowid, event, target in rows if (UUID(event).bytes, target) in there]
            connection.executemany("DELETE FROM letter WHERE rowid = ?", moved)
            connection.execute("UPDATE letter SET claimed = NULL, target = NULL WHERE claimed = ?", (segment,))

    def among(self, deliveries: Iterable[tuple[bytes, str]]) -> set[tuple[bytes, str]]:
        """Which of these deliveries, pairs of an event's UUID and a sink, are dead letters."""
        with self._open(reading=True) as connection:
            found = "SELECT 1 FROM letter WHERE event = ? AND sink = ? AND claimed IS NULL"
            return {
                (uuid, sink)
                for uuid, sink in deliveries
                if connection.execute(found, (str(event_id(uuid)), sink)).fetchone()
            }

    @contextmanager
    def _open(
        self, *, reading: bool = False, making: bool = False, timeout: float | None = None
    ) -> Iterator[sqlite3.Connection]:
        patience = (_READING_SECONDS if reading else _BUSY_SECONDS) if timeout is None else timeout
        there = f"{self.path.as_uri()}?mode=rw"  # never made here: it would be readable by others, and without tables
        with inside:
            connection = sqlite3.connect(there, uri=True, isolation_level=None, timeout=patience)
            try:
                connection.execute("PRAGMA synchronous = EXTRA")  # the rollback journal's end is on disk, too
                if making:  # before there is a table, outside of a transaction
                    connection.execute("PRAGMA auto_vacuum = FULL")  # what is purged or replayed makes room on the disk
                connection.execute("BEGIN" if reading else "BEGIN IMMEDIATE")
                yield connection
                if connection.in_transaction:
                    connection.execute("COMMIT")
            finally:
                connection.close()


class StoredLetters(DeadLetters):
    """The dead letters of a runtime with a journal: what the file has, and what is on its way there."""

    def __init__(self, store: DeadStore, wake: Callable[[], object]) -> None:
        self.store = store
        self.failure: str | None = None
        """Why they cannot be written; None while they can."""
        self._wake = wake
        self._writing = threading.Lock()
        self._unwritten: deque[tuple[DeadLetter, Callable[[], object] | None]] = deque()
        self._going: list[tuple[DeadLetter, Callable[[], object] | None]] = []
        """What is being written."""
        self._counted: dict[bool, dict[str, int]] = {}

    def __len__(self) -> int:
        return sum(self.counts().values())

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self.matching())

    def matching(
        self, *, sink: str | None = None, kind: str | None = None, ids: Collection[UUID] | None = None
    ) -> list[DeadLetter]:
        """Those that match all that is given, the oldest first.

        Raises:
            JournalError: the file cannot be read.
        """
        if not self.store.path.exists():  # it has not been started yet
            return []
        self.write()
        with _told():
            return self.store.letters(sink=sink, kind=kind, ids=ids)

    def counts(self, since: datetime | None = None) -> Mapping[str, int]:
        """How many there are for each sink, from that time on; as they were, where another process is writing."""
        exactly = self._writing.acquire(timeout=_GLANCE_SECONDS)
        try:
            coming = (*self._going, *tuple(self._unwritten))
            unwritten = Counter(letter.sink for letter, _ in coming if since is None or letter.at > since)
            with suppress(sqlite3.Error, OSError):
                self._counted[since is None] = self.store.counts(since, timeout=_GLANCE_SECONDS)
            return unwritten + Counter(self._counted.get(since is None, {}))
        finally:
            if exactly:
                self._writing.release()

    def add(self, letter: DeadLetter, then: Callable[[], object] | None = None) -> None:
        """Has it written by the journal's own thread, and `then` called when it is there."""
        self._unwritten.append((letter, then))
        if len(self._unwritten) > _UNWRITTEN_KEPT:  # where it came from the journal, it is there still
            log_what_leaves(self._unwritten.popleft()[0], _UNWRITTEN_KEPT)
        self._wake()

    def write(self) -> None:
        """Writes what has come; what cannot be written stays, and `failure` says why."""
        with self._writing:
            while coming := self._taken():
                self._going = coming
                try:
                    self.store.add(letter for letter, _ in coming)
                except (sqlite3.Error, OSError) as error:
                    self._unwritten.extendleft(reversed(coming))
                    if self.failure is None:
                        _log.critical(
                            "dead letters cannot be written, and are kept in memory: %s [%s]", error, self.store.path
                        )
                    self.failure = str(error)
                    return
                finally:
                    self._going = []
                self.failure = None
                for _, then in coming:
                    if then is not None:
                        then()

    def leave(self) -> None:
        """Logs what could not be written; nothing runs any more."""
        for letter, _ in self._taken(limit=_UNWRITTEN_KEPT):
            log_what_leaves(letter, 0)

    def _taken(self, limit: int = _CHUNK) -> list[tuple[DeadLetter, Callable[[], object] | None]]:
        taken: list[tuple[DeadLetter, Callable[[], object] | None]] = []
        with suppress(IndexError):
            while len(taken) < limit:
                taken.append(self._unwritten.popleft())
        return taken


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        msg = f"the dead letters cannot be read: {error}"
        raise JournalError(msg) from error


def _where(sink: str | None, kind: str | None, ids: Collection[UUID] | None) -> tuple[str, list[Any]]:
    conditions, values = ["claimed IS NULL"], []
    for column, value in (("sink", sink), ("kind", kind)):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    if ids is not None:
        conditions.append("event IN (SELECT value FROM json_each(?))")  # any number of them
        values.append(json.dumps([str(id_) for id_ in ids]))
    return " AND ".join(conditions), values


def _row(letter: DeadLetter) -> tuple[Any, ...]:
    text = letter.text if letter.event is None else as_json(letter.event, limit=None)
    about = (writable(letter.reason), writable(letter.error), letter.attempts, letter.at.timestamp())
    where = (writable(letter.call_site), writable(letter.request_id))
    return (str(letter.event_id), letter.sink, letter.kind, text, letter.result, *about, *where)


def _letter(row: tuple[Any, ...], *, read: bool = True) -> DeadLetter:
    event_id, sink, kind, text, result, reason, error, attempts, at, call_site, request_id = row
    event = None
    if text is not None and read:
        with suppress(UnknownKindError, ValueError):
            event = event_from_json(kind, text)
    return DeadLetter(
        sink=sink,
        event=event,
        result=result,
        reason=reason,
        error=error,
        attempts=attempts,
        at=datetime.fromtimestamp(at, UTC),
        call_site=call_site,
        request_id=request_id,
        kind=kind,
        event_id=UUID(event_id),
        text=text,
    )
