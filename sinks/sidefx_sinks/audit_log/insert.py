"""Inserting rows of which some may be there already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mysql, postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Sequence


def insert_once(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows whose `id` the table does not have yet; every other conflict is an error, as it should be."""
    statement: sa.Executable
    match connection.dialect.name:
        case "postgresql":
            statement = postgresql.insert(table).on_conflict_do_nothing(index_elements=["id"])
        case "sqlite":
            statement = sqlite.insert(table).on_conflict_do_nothing(index_elements=["id"])
        case "mysql" | "mariadb":  # not INSERT IGNORE, which turns errors of the data into warnings
            statement = mysql.insert(table).on_duplicate_key_update(id=table.c.id)
        case _:
            return insert_unless_known(connection, table, rows)
    connection.execute(statement, rows)
    return None


def insert_unless_known(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """The same in plain SQL: insert, and only where that fails look up which ids are known."""
    try:
        with connection.begin_nested():
            connection.execute(table.insert(), rows)
    except exc.IntegrityError:
        ids = [row["id"] for row in rows]
        known = set(connection.scalars(sa.select(table.c.id).where(table.c.id.in_(ids))))
        if not known:
            raise
        if rest := [row for row in rows if row["id"] not in known]:
            connection.execute(table.insert(), rest)
