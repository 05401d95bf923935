"""The switches: each makes one receiver slow, failing or hung, where the fault would be in real life."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Mode: TypeAlias = Literal["ok", "slow", "failing", "hung"]

_SLOW_SECONDS = 2.0
_LOCK_SECONDS, _LOCK_PAUSE_SECONDS = 1.5, 0.3
_BUSY_SECONDS = 30.0

_IS_THERE = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'audit_log'"
_MOVE_AWAY = """
BEGIN IMMEDIATE;
ALTER TABLE audit_log RENAME TO audit_log_moved;
CREATE VIEW audit_log AS SELECT * FROM audit_log_moved;
COMMIT;
"""
_MOVE_BACK = """
BEGIN IMMEDIATE;
DROP VIEW audit_log;
ALTER TABLE audit_log_moved RENAME TO audit_log;
COMMIT;
"""
_STAND_IN = "CREATE VIEW audit_log AS SELECT 1 AS seq"  # where no order has been placed yet
_STAND_DOWN = "DROP VIEW audit_log"


class Switch(Protocol):
    """What the page can turn; `meanings` says what each mode is for this receiver."""

    meanings: Mapping[Mode, str]
    mode: Mode

    async def turn(self, mode: Mode) -> None:
        """From its return on, the receiver behaves so."""


class ServerSwitch:
    """A server that asks, for each message, how it is to behave."""

    def __init__(self, failing: str) -> None:
        self.mode: Mode = "ok"
        self.meanings: Mapping[Mode, str] = {
            "ok": "answers at once",
            "slow": f"answers after {_SLOW_SECONDS:g} s",
            "failing": f"answers {failing}",
            "hung": "takes the message, and never answers",
        }
        self._turned = anyio.Event()

    async def turn(self, mode: Mode) -> None:
        """Whoever hung is answered now."""
        self.mode = mode
        self._turned.set()
        self._turned = anyio.Event()

    async def works(self) -> bool:
        """Waits as long as the receiver takes; False where it is to fail."""
        if self.mode == "slow":
            with anyio.move_on_after(_SLOW_SECONDS):
                await self._turned.wait()
        while self.mode == "hung":
            await self._turned.wait()
        return self.mode != "failing"


class TableSwitch:
    """Another program that works on the table `audit_log` of an SQLite database."""

    meanings: Mapping[Mode, str] = {
        "ok": "nobody else uses the database",
        "slow": f"another program locks the database, {_LOCK_SECONDS:g} s at a time",
        "failing": "somebody has put a view in the table's place: every insert is refused",
        "hung": "another program holds the database's write lock, and does not let go",
    }

    def __init__(self, database: Path) -> None:
        self.mode: Mode = "ok"
        self._database = database
        self._turning = anyio.Lock()
        self._undo = ExitStack()

    async def turn(self, mode: Mode) -> None:
        """The other program undoes what it does, and begins with that."""
        async with self._turning:
            await anyio.to_thread.run_sync(self._turn, mode)

    def _turn(self, mode: Mode) -> None:
        self._undo.close()
        self.mode = "ok"
        if mode == "ok":
            return
        with ExitStack() as undo:
            connection = sqlite3.connect(
                self._database, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            undo.callback(connection.close)
            if mode == "hung":
                connection.execute("BEGIN IMMEDIATE")
                undo.callback(connection.execute, "ROLLBACK")
            elif mode == "failing":
                (there,) = connection.execute(_IS_THERE).fetchone()
                away, back = (_MOVE_AWAY, _MOVE_BACK) if there else (_STAND_IN, _STAND_DOWN)
                connection.executescript(away)
                undo.callback(connection.executescript, back)
            else:
                stop = threading.Event()
                thread = threading.Thread(target=_lock_in_turns, args=(connection, stop), daemon=True)
                thread.start()
                undo.callback(thread.join)
                undo.callback(stop.set)
            self._undo = undo.pop_all()
        self.mode = mode


def _lock_in_turns(connection: sqlite3.Connection, stop: threading.Event) -> None:
    while not stop.is_set():
        connection.execute("BEGIN IMMEDIATE")
        stop.wait(_LOCK_SECONDS)
        connection.execute("ROLLBACK")
        stop.wait(_LOCK_PAUSE_SECONDS)
