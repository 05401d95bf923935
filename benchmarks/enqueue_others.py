"""The other libraries in `journal_enqueue.py`, each as its documentation has it for durable use.

Each stores the same JSON in SQLite. What its connection is set to is asked of the connection and printed.
"""

from __future__ import annotations

import importlib.util
import sqlite3
import threading
from pathlib import Path
from typing import Any, ClassVar

from disk import EVENTS

from sidefx import audit

_LEVELS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}


def _json(number: int) -> str:
    return audit("order.create", actor=1, target="order:1", metadata={"n": number}).model_dump_json()


class Queue:
    """What each has: made in an empty directory, then called from as many threads as there are callers."""

    name: ClassVar[str]
    survives: ClassVar[str] = "power cut"
    distribution: ClassVar[str]
    module: ClassVar[str]
    file: ClassVar[str] = "queue.sqlite"
    table: ClassVar[str]
    remark: ClassVar[str] = "a commit for each event"

    def __init__(self, directory: Path) -> None:
        raise NotImplementedError

    @classmethod
    def missing(cls) -> str | None:
        """What to `pip install`."""
        return None if importlib.util.find_spec(cls.module) else cls.distribution

    def put(self, text: str) -> None:
        """Returns when it is stored."""
        raise NotImplementedError

    def request(self) -> None:
        """Three events, each acknowledged."""
        for number in range(EVENTS):
            self.put(_json(number))

    def connection(self) -> Any:
        """The one that writes."""
        raise NotImplementedError

    def settings(self) -> str:
        """As the connection has them."""
        ask = self.connection().execute
        synchronous = _LEVELS[ask("PRAGMA synchronous").fetchone()[0]]
        return f"journal_mode={ask('PRAGMA journal_mode').fetchone()[0]}, synchronous={synchronous}, {self.remark}"

    def close(self) -> None:
        """Closes its files."""

    def held(self, directory: Path) -> int:
        """How many events are in its file."""
        connection = sqlite3.connect(directory / self.file)
        try:
            return connection.execute(f"SELECT count(*) FROM {self.table}").fetchone()[0]  # noqa: S608 - ours
        finally:
            connection.close()


class PersistQueue(Queue):
    """`SQLiteAckQueue`: it sets the write-ahead log, and leaves `synchronous` at SQLite's default, FULL."""

    name = "persist-queue, SQLiteAckQueue"
    distribution = "persist-queue"
    module = "persistqueue"
    file = "data.db"
    table = "ack_queue_default"
    kind: ClassVar[str] = "SQLiteAckQueue"

    def __init__(self, directory: Path) -> None:
        import persistqueue  # noqa: PLC0415 - optional

        self._queue = getattr(persistqueue, self.kind)(str(directory), multithreading=True)

    def put(self, text: str) -> None:
        self._queue.put(text)

    def connection(self) -> Any:
        return self._queue._putter  # noqa: SLF001 - it has no public way to it

    def close(self) -> None:
        self._queue.close()


class PersistQueuePlain(PersistQueue):
    """`SQLiteQueue`: the same without acknowledgements by the reader."""

    name = "persist-queue, SQLiteQueue"
    table = "queue_default"
    kind = "SQLiteQueue"


class Huey(Queue):
    """A task of `SqliteHuey` with `fsync=True`, called: a pickled message."""

    name = "huey, SqliteHuey(fsync=True)"
    distribution = "huey"
    module = "huey"
    table = "task"

    def __init__(self, directory: Path) -> None:
        from huey import SqliteHuey  # noqa: PLC0415 - optional

        self._huey = SqliteHuey("bench", filename=str(directory / self.file), fsync=True, results=False)
        self._task = self._huey.task()(_consume)

    def put(self, text: str) -> None:
        self._task(text)

    def connection(self) -> Any:
        return self._huey.storage.conn

    def close(self) -> None:
        self._huey.storage.close()


def _consume(text: str) -> None:
    """What no consumer runs here."""


class LiteQueue(Queue):
    """As it comes: the write-ahead log with NORMAL, so that a power cut may take what it has acknowledged."""

    name = "litequeue, as it comes"
    survives = "killed process"
    distribution = "litequeue"
    module = "litequeue"
    table = "Queue"
    synchronous: ClassVar[str | None] = None

    def __init__(self, directory: Path) -> None:
        from litequeue import LiteQueue as Library  # noqa: PLC0415 - optional

        self._queue = Library(directory / self.file)
        self._lock = threading.Lock()  # its connection is one for all threads, and has no lock of its own
        if self.synchronous is not None:
            self._queue.conn.execute(f"PRAGMA synchronous = {self.synchronous}")

    def put(self, text: str) -> None:
        with self._lock:
            self._queue.put(text)

    def connection(self) -> Any:
        return self._queue.conn

    def close(self) -> None:
        self._queue.conn.close()


class LiteQueueFull(LiteQueue):
    """The same with FULL, set afterwards on its connection."""

    name = "litequeue, synchronous=FULL"
    survives = "power cut"
    synchronous = "FULL"


class SQLAlchemy(Queue):
    """An insert into a table of one's own and a commit, for each event. One connection: SQLite has one writer."""

    name = "SQLAlchemy, an insert and a commit for each"
    distribution = "sqlalchemy"
    module = "sqlalchemy"
    table = "event"
    a_transaction: ClassVar[bool] = False

    def __init__(self, directory: Path) -> None:
        import sqlalchemy as sa  # noqa: PLC0415 - optional

        url = f"sqlite:///{directory / self.file}"
        self._engine = sa.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=300)

        @sa.event.listens_for(self._engine, "connect")
        def _set(connection: Any, record: Any) -> None:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")

        metadata = sa.MetaData()
        table = sa.Table(
            self.table, metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("json", sa.Text)
        )
        metadata.create_all(self._engine)
        self._insert = sa.insert(table)

    def put(self, text: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(self._insert, {"json": text})

    def connection(self) -> Any:
        return self._engine.raw_connection().driver_connection

    def close(self) -> None:
        self._engine.dispose()


class SQLAlchemyRequest(SQLAlchemy):
    """The three of a request in one transaction."""

    name = "SQLAlchemy, a commit for each request"
    remark = "a commit for each request"

    def request(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(self._insert, [{"json": _json(number)} for number in range(EVENTS)])


OTHERS: list[type[Queue]] = [
    PersistQueue,
    PersistQueuePlain,
    Huey,
    LiteQueue,
    LiteQueueFull,
    SQLAlchemy,
    SQLAlchemyRequest,
]
