"""`Segment`: one SQLite file of events, with a row for each (event, sink) that has not settled.

Write-ahead log, `locking_mode=EXCLUSIVE`: one connection at a time, which needs no shared memory (https://sqlite.org/wal.html,
section 8). Every method but `taken` and the counts is for one thread at a time.
"""

from __future__ import annotations

import os
import sqlite3
import time
from array import array
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import UUID

from sidefx.errors import JournalError
from sidefx.journal.forks import inside
from sidefx.journal.lock import FileLock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from sidefx.options import JournalOptions

SUFFIX = ".sqlite"
_APPLICATION = 0x73646678  # "sdfx": https://sqlite.org/pragma.html#pragma_application_id
_VERSION = 1
_PAGE = 4096
_LARGEST_CHUNK = 2_048 if sqlite3.sqlite_version_info >= (3, 32) else 64
"""Rows a statement: eleven values each, of the 32,766 (before 3.32: 999) that a statement may have."""
_NOTHING = (None,) * 8
_FREE_PAGES_KEPT = 1_024
_PAGES_GIVEN_BACK = 2_000
"""At once, so that what waits to be committed does not wait long: some 40 ms."""

_SCHEMA = """
CREATE TABLE event (
    id INTEGER PRIMARY KEY, uuid BLOB NOT NULL, kind TEXT NOT NULL, json BLOB NOT NULL, at REAL NOT NULL,
    name TEXT, timeout REAL, site TEXT, replayed INTEGER NOT NULL
);
CREATE TABLE delivery (
    event INTEGER NOT NULL, sink TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL,
    PRIMARY KEY (event, sink)
) WITHOUT ROWID;
CREATE TRIGGER settled AFTER DELETE ON delivery WHEN NOT EXISTS (SELECT 1 FROM delivery WHERE event = OLD.event)
BEGIN DELETE FROM event WHERE id = OLD.event; END;
CREATE TABLE probe (bytes BLOB);
"""
_WORK = "op, id, uuid, kind, json, at, name, timeout, site, replayed, sink"
# All that is committed together is one INSERT of many rows into a view: one statement is one turn at the interpreter's
# lock, for which a busy event loop makes another thread wait up to five milliseconds each time.
_SCHEMA_OF_WORK = f"""
CREATE VIEW work ({_WORK}) AS SELECT {", ".join(["NULL"] * 11)} WHERE 0;
CREATE TRIGGER keep INSTEAD OF INSERT ON work WHEN NEW.op = 'keep' BEGIN
    INSERT INTO event VALUES (
        NEW.id, NEW.uuid, NEW.kind, NEW.json, NEW.at, NEW.name, NEW.timeout, NEW.site, NEW.replayed
    );
    INSERT INTO delivery VALUES (NEW.id, NEW.sink, 'pending', 0);
END;
CREATE TRIGGER share INSTEAD OF INSERT ON work WHEN NEW.op = 'share' BEGIN
    INSERT INTO delivery VALUES (NEW.id, NEW.sink, 'pending', 0);
END;
CREATE TRIGGER lease INSTEAD OF INSERT ON work WHEN NEW.op = 'lease' BEGIN
    UPDATE delivery SET state = 'leased', attempts = attempts + 1
    WHERE sink = NEW.sink AND event IN (SELECT value FROM json_each(NEW.json));
END;
CREATE TRIGGER settle INSTEAD OF INSERT ON work WHEN NEW.op = 'settle' BEGIN
    DELETE FROM delivery WHERE sink = NEW.sink AND event IN (SELECT value FROM json_each(NEW.json));
END;
"""


class EventRow(NamedTuple):
    """An event as it is stored."""

    id: int
    uuid: bytes
    kind: str
    json: bytes
    at: float
    """Unix time at which it was journaled."""
    name: str | None = None
    timeout: float | None = None
    site: str | None = None
    replayed: int = 0


def event_id(uuid: bytes) -> UUID:
    """The id of a row's event; of a row that a disk has damaged, some id."""
    return UUID(bytes=bytes(uuid)[:16].ljust(16, b"\0"))


NewEvent: TypeAlias = tuple[bytes, str, bytes, float, str | None, float | None, str | None, int]
"""The same without its id."""
NewRow: TypeAlias = tuple[int, NewEvent, tuple[str, ...]]
"""With its id, and the sinks that it is for."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A row that was read back, for one sink."""

    event: EventRow
    attempts: int
    """Of its delivery: how often the sink has been called, or was about to be."""


class Segment:
    """An open segment; whoever has it, has its lock."""

    def __init__(self, path: Path, lock: FileLock, connection: sqlite3.Connection) -> None:
        self.path = path
        self._lock = lock
        self._connection = connection
        self._synchronous = ""
        self.closed = False
        self._work: list[tuple[Any, ...]] = []
        """What is to be written by the transaction."""
        self._next = 1 + max(self._number("SELECT max(id) FROM event"), 0)
        self._count()
        inside.keep(self)

    def __repr__(self) -> str:
        return f"<Segment {self.path.name}>"

    # --- making and opening -----------------------------------------------------------------------

    @classmethod
    @inside
    def create(cls, path: Path, options: JournalOptions) -> Self:
        """A new one, locked; it is there after a power cut, too.

        Raises:
            OSError, sqlite3.Error: the disk does not let it.
        """
        while (lock := FileLock.acquire(path.with_suffix(".lock"))) is None:
            time.sleep(0.01)  # its name is new: somebody tidies up, and has taken it for a lock that was left
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_directory(path.parent)
            return cls(path, lock, _connected(path, options))
        except BaseException:
            _remove(path)
            lock.release(remove=True)
            raise

    @classmethod
    @inside
    def adopt(cls, path: Path, options: JournalOptions) -> Self | None:
        """The one that is there, locked; None where somebody else owns it, or has just removed it.

        Raises:
            JournalError: it is no journal of this version.
            OSError, sqlite3.Error: it cannot be read, or is damaged.
        """
        lock = FileLock.acquire(path.with_suffix(".lock"))
        if lock is None:
            return None
        if not path.exists():
            lock.release(remove=True)
            return None
        try:
            return cls(path, lock, _connected(path, options))
        except BaseException:
            lock.release()
            raise

    @inside
    def close(self, *, remove: bool = False) -> None:
        """Closes it and gives it to whoever wants it; `remove` where there is nothing left in it."""
        self.closed = True
        with suppress(sqlite3.Error):  # what was acknowledged is on disk: the next owner reads it
            self._connection.close()
        if remove:
            _remove(self.path)
        self._lock.release(remove=remove)
        inside.drop(self)

    def forget(self) -> None:
        """In a forked child: it is the parent's. Its connection must not even be closed here, which would write."""
        import ctypes  # noqa: PLC0415 - forks with an open journal are rare

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))  # never finalised: at most this much leaks

    # --- what the writer does ---------------------------------------------------------------------

    def taken(self, count: int) -> int:
        """The first of so many new ids."""
        first = self._next
        self._next += count
        return first

    @contextmanager
    def transaction(self, *, synchronous: str) -> Iterator[None]:
        """All or nothing; on disk when the block has been left, with `FULL`.

        Raises:
            sqlite3.Error: it is not there.
        """
        with inside:
            if synchronous != self._synchronous:
                self._connection.execute(f"PRAGMA synchronous = {synchronous}")
                self._synchronous = synchronous
            self._work.clear()
            try:
                yield
                self._write()
            except BaseException:
                with suppress(sqlite3.Error):  # a statement that fails has been rolled back by itself
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                with suppress(sqlite3.Error):
                    self._count()
                raise

    def insert(self, rows: Iterable[NewRow]) -> None:
        """Within a transaction: keeps events, and which sinks each is for."""
        for id_, event, (first, *others) in rows:
            self._work.append(("keep", id_, *event, first))
            self._work += [("share", id_, *_NOTHING, sink) for sink in others]
            for sink in (first, *others):
                self.rows[sink] += 1

    def lease(self, sink: str, ids: Sequence[int]) -> None:
        """Within a transaction: the sink is about to be called with these, one attempt more of each."""
        self._work.append(_of_many("lease", sink, ids))
        self.leased.setdefault(sink, set()).update(ids)

    def settle(self, sink: str, ids: Sequence[int]) -> None:
        """Within a transaction: these have settled; an event goes with the last of its deliveries."""
        self._work.append(_of_many("settle", sink, ids))
        self.rows[sink] -= len(ids)
        self.leased.setdefault(sink, set()).difference_update(ids)

    def probe(self, size: int) -> None:
        """Writes that many bytes and removes them: whether the disk takes something again.

        Raises:
            sqlite3.Error: it does not.
        """
        with self.transaction(synchronous="FULL"):
            self._execute("INSERT INTO probe VALUES (zeroblob(?))", (size,))
            self._execute("DELETE FROM probe", ())

    @inside
    def compact(self) -> None:
        """Gives pages to the file system that have been free for good, some of them at a time."""
        free = self._number("PRAGMA freelist_count")
        if free > _FREE_PAGES_KEPT:
            # a script, for `execute` makes one step of what gives no columns, and each step gives back one page
            pages = min(free - _FREE_PAGES_KEPT // 2, _PAGES_GIVEN_BACK)
            self._connection.executescript(f"PRAGMA incremental_vacuum({pages}); PRAGMA wal_checkpoint(TRUNCATE)")

    # --- reading ----------------------------------------------------------------------------------

    @inside
    def fetch(self, sink: str, ids: Sequence[int]) -> list[Fetched]:
        """What is kept under these ids for that sink, in their order; what has settled is not among them."""
        found: dict[int, Fetched] = {}
        for chunk in _chunks(ids):
            query = (
                "SELECT event.*, attempts FROM event JOIN delivery ON delivery.event = event.id "
                f"WHERE sink = ? AND event.id IN ({_marks(chunk)})"
            )
            for *event, attempts in self._execute(query, (sink, *chunk)):
                row = EventRow(*event)
                found[row.id] = Fetched(row, attempts)
        return [found[id_] for id_ in ids if id_ in found]

    @inside
    def pending(self) -> dict[str, array[int]]:
        """The ids of all that has not settled, in order, by sink."""
        ids: dict[str, array[int]] = {}
        for sink, event in self._connection.execute("SELECT sink, event FROM delivery ORDER BY event"):
            ids.setdefault(sink, array("Q")).append(event)
        return ids

    @inside
    def attempted(self) -> list[tuple[bytes, str, int, int]]:
        """The deliveries that were tried, or are replayed: the event's UUID, the sink, the event's id, the attempts."""
        tried = "SELECT uuid, sink, event, attempts FROM delivery JOIN event ON event.id = event"
        query = f"{tried} WHERE attempts > 0 OR replayed"
        return self._connection.execute(query).fetchall()

    @property
    def empty(self) -> bool:
        """Whether nothing in it is to be delivered; not where nobody can tell."""
        with inside, suppress(sqlite3.Error):
            return self._connection.execute("SELECT 1 FROM delivery LIMIT 1").fetchone() is None
        return False

    @inside
    def oldest(self) -> float | None:
        """When the oldest event was journaled, as Unix time; None where there is none."""
        row = self._connection.execute("SELECT at FROM event ORDER BY id LIMIT 1").fetchone()
        return None if row is None else row[0]

    @property
    def bytes(self) -> int:
        """Its size on disk, the log included."""
        return sum(_size(self.path.with_name(self.path.name + ending)) for ending in ("", "-wal"))

    # --- within -----------------------------------------------------------------------------------

    def _count(self) -> None:
        self.rows: Counter[str] = Counter(
            dict(self._connection.execute("SELECT sink, count(*) FROM delivery GROUP BY sink"))
        )
        """Deliveries that have not settled, by sink."""
        self.leased: dict[str, set[int]] = {}
        """Of them, those whose sink is being called, or was when a process ended."""
        for sink, event in self._connection.execute("SELECT sink, event FROM delivery WHERE state = 'leased'"):
            self.leased.setdefault(sink, set()).add(event)

    def _write(self) -> None:
        work, self._work = self._work, []
        if len(work) <= _LARGEST_CHUNK:
            if work:
                self._write_chunk(work)
            return
        self._connection.execute("BEGIN IMMEDIATE")
        for start in range(0, len(work), _LARGEST_CHUNK):
            self._write_chunk(work[start : start + _LARGEST_CHUNK])
        self._connection.execute("COMMIT")

    def _write_chunk(self, work: list[tuple[Any, ...]]) -> None:
        """As one statement, of a number of rows that is a power of two: few of them are ever prepared."""
        size = 1 << (len(work) - 1).bit_length()
        padding = repeat(None, 11 * (size - len(work)))
        # unlike execute(), it does not give the interpreter's lock away once more to ask for the last row's id
        self._connection.executemany(_statement(size), [(*chain.from_iterable(work), *padding)])

    def _execute(self, statement: str, values: Iterable[Any]) -> sqlite3.Cursor:
        return self._connection.execute(statement, tuple(values))

    def _number(self, query: str) -> int:
        return self._connection.execute(query).fetchone()[0] or 0


def sync_directory(path: Path) -> None:
    """What was made in it, is in it after a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def now() -> float:
    """Unix time, as rows have it."""
    return time.time()


def _connected(path: Path, options: JournalOptions) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        _prepare(connection, path, options)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, options: JournalOptions) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # before the log is first used: no shared memory
    connection.execute("PRAGMA synchronous = FULL")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) == (0, 0):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    elif (application, version) != (_APPLICATION, _VERSION):  # before anything is written
        found = f"{application:#x}, {version}"
        msg = f"{path}: is no journal of this version of sidefx ({found}); another one can read it"
        raise JournalError(msg)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        msg = f"{path}: SQLite cannot use a write-ahead log here"
        raise JournalError(msg)
    connection.execute("PRAGMA journal_size_limit = 4194304")
    if options.max_bytes is not None:
        connection.execute(f"PRAGMA max_page_count = {options.max_bytes // _PAGE}")
    if (application, version) == (0, 0):
        connection.executescript(
            f"BEGIN; {_SCHEMA} {_SCHEMA_OF_WORK} "
            f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION}; COMMIT;"
        )


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """In sizes that are powers of two: few statements, each prepared once, and few turns at the interpreter's lock."""
    start, size = 0, _LARGEST_CHUNK
    while start < len(items):
        while size > len(items) - start:
            size //= 2
        yield items[start : start + size]
        start += size


def _marks(items: Sequence[Any]) -> str:
    return ", ".join("?" * len(items))


def _of_many(op: str, sink: str, ids: Sequence[int]) -> tuple[Any, ...]:
    return (op, None, None, None, f"[{','.join(map(str, ids))}]", *_NOTHING[3:], sink)


@cache
def _statement(rows: int) -> str:
    row = f"({', '.join('?' * 11)})"
    return f"INSERT INTO work ({_WORK}) VALUES {', '.join([row] * rows)}"


def _remove(path: Path) -> None:
    """With all that belongs to it; SQLite's log after the file itself, which without it would be what it was before."""
    for each in (path.with_suffix(".new"), path.with_suffix(".json"), path):
        with suppress(FileNotFoundError):
            each.unlink()
    remove_logs(path)


def remove_logs(path: Path) -> None:
    """What SQLite keeps beside a file that is not there any more."""
    for ending in ("-wal", "-shm", "-journal"):  # `-shm` is of somebody who has looked into it
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
