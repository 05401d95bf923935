"""A file that remembers, through a restart, who has got which mail."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from uuid import UUID

_SCHEMA = """
CREATE TABLE IF NOT EXISTS recipient (
    event BLOB NOT NULL,
    recipient BLOB NOT NULL,
    answer TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (event, recipient)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS recipient_at ON recipient (at);
PRAGMA user_version = 1;
"""
_KEPT = 30 * 24 * 3600  # seconds: longer than any deadline, and than most dead letters wait for their replay
_WRITES_BETWEEN_SWEEPS = 1000
_PATIENCE = 5.0  # seconds to wait for another process that writes


class State:
    """An SQLite file (0600), which the processes of one app may share; on a local disk.

    It holds a hash of event and address in place of the address, and the answer: empty for a
    delivery, else why the recipient was refused. What is older than 30 days goes.

    Its journal is SQLite's rollback journal and not a WAL, which several processes may not share
    safely before SQLite 3.51.3. A write waits for the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._writes = 0

    def open(self) -> None:
        """Make the file where there is none.

        Raises:
            OSError, sqlite3.Error: it cannot be used.
        """
        with self._lock:
            self._open()

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            _sweep(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def close(self) -> None:
        """Leave the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def read(self, event_id: UUID, recipients: tuple[str, ...]) -> dict[str, str]:
        """What is known of these recipients."""
        with self._lock:
            rows = self._open().execute("SELECT recipient, answer FROM recipient WHERE event = ?", (event_id.bytes,))
            answers = dict(rows.fetchall())
        hashes = {one: _hash(event_id, one) for one in recipients}
        return {one: answers[key] for one, key in hashes.items() if key in answers}

    def write(self, event_id: UUID, answers: Mapping[str, str]) -> None:
        """Note these answers; committed when it returns."""
        now = int(time.time())
        rows = [(event_id.bytes, _hash(event_id, one), answer, now) for one, answer in answers.items()]
        with self._lock, _transaction(self._open()) as connection:
            connection.executemany("INSERT OR REPLACE INTO recipient VALUES (?, ?, ?, ?)", rows)
            self._writes += 1
            if self._writes % _WRITES_BETWEEN_SWEEPS == 0:
                _sweep(connection)

    def forget_refusals(self, event_id: UUID) -> None:
        """Keep of that event who has the mail."""
        with self._lock, _transaction(self._open()) as connection:
            connection.execute("DELETE FROM recipient WHERE event = ? AND answer != ''", (event_id.bytes,))


def _sweep(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM recipient WHERE at < ?", (int(time.time()) - _KEPT,))


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    try:
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _hash(event_id: UUID, address: str) -> bytes:
    return sha256(event_id.bytes + address.encode()).digest()
