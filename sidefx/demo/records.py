"""The audit log as somebody reads it who only knows the database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_COLUMNS = ("seq", "at", "action", "actor", "target", "outcome", "reason")
_BUSY_SECONDS = 1.0


class Records:
    """The rows of the table `audit_log` in an SQLite file, which need not exist yet."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def count(self) -> int:
        """How many there are."""
        rows = self._select("SELECT count(*) FROM audit_log")
        return int(rows[0][0]) if rows else 0

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """The last ones, the newest first."""
        rows = self._select(f"SELECT {', '.join(_COLUMNS)} FROM audit_log ORDER BY seq DESC LIMIT ?", limit)  # noqa: S608 - fixed names
        return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]

    def _select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Nothing where there is no such file or table yet, or where it is being written to for too long."""
        try:
            with closing(sqlite3.connect(f"{self._database.as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as db:
                return db.execute(query, values).fetchall()
        except sqlite3.OperationalError:
            return []
