"""Inserting records of which some may be there already."""

from __future__ import annotations

from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

from sidefx_sinks.audit_log.record import COLUMNS, canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidefx_sinks.audit_log.record import Record

_LOOKED_UP_AT_ONCE = 1_000
_LINKED = (*COLUMNS, "hash")
_values = itemgetter(*_LINKED)
_hashed = itemgetter(*COLUMNS)
_ID, _AT = _LINKED.index("id"), _LINKED.index("at")
_POSTGRESQL_TYPES = {"id": "uuid", "at": "timestamptz", "chain_seq": "bigint"}


def known_ids(connection: sa.Connection, table: sa.Table, records: Sequence[Record]) -> set[str]:
    """Which of the records' ids the table has."""
    found: set[str] = set()
    for start in range(0, len(records), _LOOKED_UP_AT_ONCE):
        ids = [record["id"] for record in records[start : start + _LOOKED_UP_AT_ONCE]]
        match connection.dialect.name:
            case "postgresql":
                query = f"SELECT id::text FROM {_name(connection, table)} WHERE id = ANY(%s::uuid[])"  # noqa: S608 - our own name
                found.update(connection.exec_driver_sql(query, (ids,)).scalars())
            case "sqlite" | "mysql" | "mariadb" as dialect:
                marks = ", ".join(["?" if dialect == "sqlite" else "%s"] * len(ids))
                query = f"SELECT id FROM {_name(connection, table)} WHERE id IN ({marks})"  # noqa: S608 - our own name
                by_hex = {id_.replace("-", ""): id_ for id_ in ids}
                found.update(by_hex[known] for known in connection.exec_driver_sql(query, tuple(by_hex)).scalars())
            case _:
                query_ = sa.select(table.c.id).where(table.c.id.in_([UUID(id_) for id_ in ids]))
                found.update(map(str, connection.scalars(query_)))
    return found


def insert_linked(connection: sa.Connection, table: sa.Table, records: Sequence[Record]) -> None:
    """Insert records that the table does not have, which have their places in the chains.

    Their values are text already, as the drivers of the three databases take it.
    """
    quote = connection.dialect.identifier_preparer.quote
    columns = ", ".join(map(quote, _LINKED))
    target = f"INSERT INTO {_name(connection, table)} ({columns})"
    match connection.dialect.name:
        case "sqlite":
            marks = ", ".join("?" * len(_LINKED))
            connection.exec_driver_sql(f"{target} VALUES ({marks})", list(_unzoned(records)))
        case "mysql" | "mariadb":  # which its driver sends in one statement
            marks = ", ".join(["%s"] * len(_LINKED))
            connection.exec_driver_sql(f"{target} VALUES ({marks})", list(_unzoned(records)))
        case "postgresql":  # one value for all rows: lists of values cost the driver twice as much
            rows = ", ".join(f"{quote(name)} {_POSTGRESQL_TYPES.get(name, 'text')}" for name in _LINKED)
            source = f"SELECT {columns} FROM json_to_recordset(%s::json) AS new ({rows})"  # noqa: S608 - our own names
            connection.exec_driver_sql(f"{target} {source}", (_as_json(records),))
        case _:
            connection.execute(table.insert(), [typed(record) for record in records])


def insert_once(connection: sa.Connection, table: sa.Table, records: Sequence[Record]) -> None:
    """Insert the records whose `id` the table does not have yet; every other conflict is an error, as it should be."""
    rows = [typed(record) for record in records]
    statement: sa.Executable
    match connection.dialect.name:
        case "postgresql":
            statement = postgresql.insert(table).on_conflict_do_nothing(index_elements=["id"])
        case "sqlite":
            statement = sqlite.insert(table).on_conflict_do_nothing(index_elements=["id"])
        case (
            _
        ):  # on MariaDB, INSERT IGNORE turns errors of the data into warnings, and an upsert is an UPDATE to triggers
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


def typed(record: Record) -> dict[str, Any]:
    """The record with values of the columns' own types."""
    return {**record, "id": UUID(record["id"]), "at": datetime.fromisoformat(record["at"])}


def _unzoned(records: Sequence[Record]) -> Iterator[tuple[Any, ...]]:
    """The values as SQLite and MariaDB keep them: ids without hyphens, times without a zone."""
    for record in records:
        values = list(_values(record))
        values[_ID] = values[_ID].replace("-", "")
        values[_AT] = f"{values[_AT][:10]} {values[_AT][11:26]}"
        yield tuple(values)


def _as_json(records: Sequence[Record]) -> str:
    """An array of what is hashed of each record, with its hash."""
    objects = (f'{canonical(_hashed(record))[:-1]},"hash":"{record["hash"]}"}}' for record in records)
    return f"[{','.join(objects)}]"


def _name(connection: sa.Connection, table: sa.Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)
