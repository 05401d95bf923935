"""`Segment`: one SQLite file of events, each with the sinks that it is for and how far they have come.

Write-ahead log, `locking_mode=EXCLUSIVE`: one connection at a time, which needs no shared memory (https://sqlite.org/wal.html,
section 8). Every method but `taken` and the counts is for one thread at a time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from array import array
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import UUID

from sidefx.errors import JournalError
from sidefx.journal.forks import inside
from sidefx.journal.lock import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from sidefx.options import JournalOptions

SUFFIX = ".sqlite"
_APPLICATION = 0x73646678  # "sdfx": https://sqlite.org/pragma.html#pragma_application_id
_VERSION = 2
_PAGE = 4096
_LARGEST_CHUNK = 2_048 if sqlite3.sqlite_version_info >= (3, 32) else 64
"""Rows a statement: eleven values each, of the 32,766 (before 3.32: 999) that a statement may have."""
_NOTHING = (None,) * 10
_FREE_PAGES_KEPT = 1_024
_PAGES_GIVEN_BACK = 2_000
"""At once, so that what waits to be committed does not wait long: some 40 ms."""

_COLUMNS = "id, uuid, kind, json, at, name, timeout, site, replayed"
# `sinks` is a JSON array of names, as `_array` writes it; it is read of all rows: it stands before what may be large.
# What is not in `progress` is pending. An event goes with the last of its sinks.
_SCHEMA = """
CREATE TABLE event (
    id INTEGER PRIMARY KEY, sinks TEXT NOT NULL, uuid BLOB NOT NULL, kind TEXT NOT NULL, json BLOB NOT NULL,
    at REAL NOT NULL, name TEXT, timeout REAL, site TEXT, replayed INTEGER NOT NULL
);
CREATE TABLE progress (
    event INTEGER NOT NULL, sink TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL,
    PRIMARY KEY (event, sink)
) WITHOUT ROWID;
CREATE VIEW delivery AS
    SELECT event.id AS event, each.value AS sink, coalesce(state, 'pending') AS state, coalesce(attempts, 0) AS attempts
    FROM event, json_each(sinks) AS each LEFT JOIN progress ON progress.event = event.id AND progress.sink = each.value
    WHERE state IS NOT 'done';
CREATE TRIGGER gone AFTER DELETE ON event BEGIN DELETE FROM progress WHERE event = OLD.id; END;
CREATE TABLE probe (bytes BLOB);
"""
_WORK = f"op, {_COLUMNS}, sinks"
# All that is committed together is one INSERT of many rows, into the table, or, where there is more to it than new
# events, into a view: one statement is one turn at the interpreter's lock, for which a busy event loop makes another
# thread wait up to five milliseconds each time. `sinks` is one sink's name there, but for new events.
_SCHEMA_OF_WORK = f"""
CREATE VIEW work ({_WORK}) AS SELECT {", ".join(["NULL"] * 11)} WHERE 0;
CREATE TRIGGER keep INSTEAD OF INSERT ON work WHEN NEW.op = 'keep' BEGIN
    INSERT INTO event ({_COLUMNS}, sinks) VALUES (
        NEW.id, NEW.uuid, NEW.kind, NEW.json, NEW.at, NEW.name, NEW.timeout, NEW.site, NEW.replayed, NEW.sinks
    );
END;
CREATE TRIGGER lease INSTEAD OF INSERT ON work WHEN NEW.op = 'lease' BEGIN
    INSERT INTO progress
    SELECT value, NEW.sinks, 'leased', 1 FROM json_each(NEW.json) WHERE value IN (SELECT id FROM event)
    ON CONFLICT (event, sink) DO UPDATE SET attempts = attempts + 1 WHERE state = 'leased';
END;
CREATE TRIGGER settle INSTEAD OF INSERT ON work WHEN NEW.op = 'settle' BEGIN
    DELETE FROM event WHERE id IN (SELECT value FROM json_each(NEW.json)) AND sinks = json_array(NEW.sinks);
    INSERT OR REPLACE INTO progress
    SELECT id, NEW.sinks, 'done', 0 FROM event WHERE id IN (SELECT value FROM json_each(NEW.json));
    DELETE FROM event WHERE id IN (SELECT value FROM json_each(NEW.json))
    AND id NOT IN (SELECT event FROM delivery WHERE event IN (SELECT value FROM json_each(NEW.json)));
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
NewRow: TypeAlias = tuple[NewEvent, tuple[str, ...]]
"""With the sinks that it is for."""


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
        self._new: list[tuple[Any, ...]] = []
        """Events to be written by the transaction."""
        self._work: list[tuple[Any, ...]] = []
        """What else it is to write."""
        self._mend()
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
            self._new.clear()
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

    def insert(self, first: int, rows: Iterable[NewRow]) -> None:
        """Within a transaction: keeps events under ids that were `taken`, and which sinks each is for."""
        for id_, (event, sinks) in enumerate(rows, first):
            self._new.append((id_, *event, _array(sinks)))
            for sink in sinks:
                self.rows[sink] += 1

    def lease(self, sink: str, ids: Sequence[int]) -> None:
        """Within a transaction: the sink is about to be called with these, one attempt more of each."""
        self._work.append(_of_many("lease", sink, ids))
        self.leased.setdefault(sink, set()).update(ids)

    def settle(self, sink: str, ids: Sequence[int]) -> None:
        """Within a transaction: these have settled; an event goes with the last of its sinks."""
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
                f"SELECT {_COLUMNS}, sinks, coalesce(attempts, 0) FROM event "
                "LEFT JOIN progress ON progress.event = id AND sink = ? "
                f"WHERE id IN ({_marks(chunk)}) AND state IS NOT 'done'"
            )
            for *event, sinks, attempts in self._execute(query, (sink, *chunk)):
                if sink in _names(sinks):
                    row = EventRow(*event)
                    found[row.id] = Fetched(row, attempts)
        return [found[id_] for id_ in ids if id_ in found]

    @inside
    def pending(self) -> dict[str, array[int]]:
        """The ids of all that has not settled, in order, by sink."""
        done = set(self._connection.execute("SELECT event, sink FROM progress WHERE state = 'done'"))
        ids: dict[str, array[int]] = {}
        for id_, text in self._connection.execute("SELECT id, sinks FROM event ORDER BY id"):
            for sink in _names(text):
                if (id_, sink) not in done:
                    ids.setdefault(sink, array("Q")).append(id_)
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
            return self._connection.execute("SELECT 1 FROM event LIMIT 1").fetchone() is None
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

    def _mend(self) -> None:
        """Of a row that a disk has damaged, what cannot be read as sinks is taken for the name of one."""
        found = "SELECT DISTINCT typeof(sinks), CAST(sinks AS BLOB) FROM event"
        for type_, raw in self._connection.execute(found).fetchall():
            text = (raw or b"").decode("utf-8", "replace")
            if type_ != "text" or text.encode() != raw or not _is_array(text):
                mended = "UPDATE event SET sinks = ? WHERE typeof(sinks) = ? AND CAST(sinks AS BLOB) IS ?"
                self._execute(mended, (_array((text,)), type_, raw))

    def _count(self) -> None:
        self.rows: Counter[str] = Counter()
        """Deliveries that have not settled, by sink."""
        for text, count in self._connection.execute("SELECT sinks, count(*) FROM event GROUP BY sinks"):
            self.rows.update(dict.fromkeys(_names(text), count))
        done = "SELECT sink, count(*) FROM progress WHERE state = 'done' GROUP BY sink"
        self.rows.subtract(dict(self._connection.execute(done)))
        self.leased: dict[str, set[int]] = {}
        """Of them, those whose sink is being called, or was when a process ended."""
        for sink, event in self._connection.execute("SELECT sink, event FROM progress WHERE state = 'leased'"):
            self.leased.setdefault(sink, set()).add(event)

    def _write(self) -> None:
        rows, insert = self._new, _insert
        if self._work:
            rows, insert = [*(("keep", *row) for row in self._new), *self._work], _insert_work
        self._new, self._work = [], []
        if len(rows) <= _LARGEST_CHUNK:
            if rows:
                self._write_chunk(rows, insert)
            return
        self._connection.execute("BEGIN IMMEDIATE")
        for start in range(0, len(rows), _LARGEST_CHUNK):
            self._write_chunk(rows[start : start + _LARGEST_CHUNK], insert)
        self._connection.execute("COMMIT")

    def _write_chunk(self, rows: list[tuple[Any, ...]], insert: Callable[[int], str]) -> None:
        """As one statement, padded to one of few sizes: few are ever prepared, which would be a turn of its own."""
        size = _size_for(len(rows))
        padding = repeat(None, len(rows[0]) * (size - len(rows)))
        # unlike execute(), it does not give the interpreter's lock away once more to ask for the last row's id
        self._connection.executemany(insert(size), [(*chain.from_iterable(rows), *padding)])

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
    return (op, *_NOTHING[:3], f"[{','.join(map(str, ids))}]", *_NOTHING[4:9], sink)


def _size_for(rows: int) -> int:
    """So many, or up to a quarter more: four sizes from each power of two to the next."""
    step = max(1, 1 << rows.bit_length() >> 3)
    return -(-rows // step) * step


@cache
def _insert(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"] * rows)
    return f"INSERT INTO event ({_COLUMNS}, sinks) SELECT * FROM (VALUES {values}) WHERE column1 NOT NULL"


@cache
def _insert_work(rows: int) -> str:
    return f"INSERT INTO work ({_WORK}) VALUES {', '.join(['(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)'] * rows)}"


@lru_cache(maxsize=256)
def _array(sinks: tuple[str, ...]) -> str:
    """As SQLite's `json_array` writes it, but for some control characters: those are settled by the longer way."""
    return json.dumps(sinks, ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=256)
def _names(array: str) -> tuple[str, ...]:
    """What `_array` was made of."""
    return tuple(json.loads(array))


def _is_array(text: str) -> bool:
    """Whether `_array` has written it."""
    with suppress(ValueError, TypeError, RecursionError):
        names = _names(text)
        return names != () and _array(names) == text and all(isinstance(name, str) for name in names)
    return False


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
