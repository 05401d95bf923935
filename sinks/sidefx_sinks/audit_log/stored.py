"""Records read back from the table, as the text that was hashed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from math import isfinite
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from sidefx_sinks.audit_log.chain import Head, read_heads
from sidefx_sinks.audit_log.record import COLUMNS, timestamp
from sidefx_sinks.audit_log.table import head_table

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_TEXTUAL = frozenset({"sqlite", "postgresql", "mysql", "mariadb"})
"""Databases that give ids and times as the text that was hashed."""

PAGE = 5_000
"""Records that are read at once."""


def pages(
    engine: sa.Engine, table: sa.Table, size: int
) -> Generator[tuple[list[Any], dict[str, Head] | None], None, None]:
    """The rows in the order of the log, page by page, each as the values of `COLUMNS`, then `hash` and `seq`.

    The last page comes with the heads, the others with None. All are of one state of the table: one transaction that
    sees no other's changes; on SQLite one for each page, because there it would keep writers out, and they take turns
    anyway. While a page is looked at, a thread reads the next one.
    """
    with ExitStack() as stack:
        connection = None if engine.dialect.name == "sqlite" else stack.enter_context(snapshot(engine))
        ahead = stack.enter_context(ThreadPoolExecutor(1, "sidefx-audit-pages"))
        read = ahead.submit(_read, engine, connection, table, None, size)
        while True:
            rows, heads = read.result()
            if heads is None:
                read = ahead.submit(_read, engine, connection, table, rows[-1][-1], size)
            yield rows, heads
            if heads is not None:
                return


@contextmanager
def snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that sees one state of the database."""
    with engine.connect() as connection:
        if connection.dialect.name in {"postgresql", "mysql", "mariadb"}:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901 - the same
        yield connection


def page_query(table: sa.Table, dialect: str) -> sa.Select[Any]:
    """`COLUMNS` as text, `hash` and `seq`, in the order of the log."""
    columns: list[sa.ColumnElement[Any]] = [_as_text(table, name, dialect) for name in COLUMNS]
    return sa.select(*columns, table.c.hash, table.c.seq).order_by(table.c.seq)


def plain(row: Any, dialect: str) -> tuple[Any, ...]:
    """The row as text where the database has not made it so."""
    if dialect in _TEXTUAL:
        return tuple(row)
    values = list(row)
    values[_ID], values[_AT] = str(values[_ID]), timestamp(values[_AT])
    return tuple(values)


_ID, _AT = COLUMNS.index("id"), COLUMNS.index("at")


def _read(
    engine: sa.Engine, connection: sa.Connection | None, table: sa.Table, after: int | None, size: int
) -> tuple[list[Any], dict[str, Head] | None]:
    with snapshot(engine) if connection is None else nullcontext(connection) as reader:
        dialect = reader.dialect.name
        query = page_query(table, dialect).limit(size)
        query = query if after is None else query.where(table.c.seq > after)  # a forged row's number may be negative
        rows = list(reader.execute(query).all())
        heads = read_heads(reader, table) if len(rows) < size else None
    if dialect not in _TEXTUAL:
        return [plain(row, dialect) for row in rows], heads
    return rows, heads


def _as_text(table: sa.Table, name: str, dialect: str) -> sa.ColumnElement[Any]:
    column = table.c[name]
    if name in {"changes", "metadata"}:
        return sa.type_coerce(column, sa.Text)
    if name == "id" and dialect in {"sqlite", "mysql", "mariadb"}:
        text = sa.type_coerce(column, sa.Text)
        parts = [sa.func.substr(text, start, length) for start, length in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))]
        if dialect == "sqlite":
            joined: Any = parts[0]
            for part in parts[1:]:
                joined = joined.concat("-").concat(part)
            as_we_write = sa.func.length(sa.cast(text, sa.LargeBinary)) == 32
            return _unless_odd(text, as_we_write, joined).label(name)
        return sa.type_coerce(sa.func.concat_ws("-", *parts), sa.Text).label(name)
    if name == "id" and dialect == "postgresql":
        return sa.cast(column, sa.Text).label(name)
    if name == "at":
        return _at_as_text(column, dialect)
    return column


def _at_as_text(column: sa.ColumnElement[Any], dialect: str) -> sa.ColumnElement[Any]:
    text: sa.ColumnElement[Any]
    match dialect:
        case "sqlite":
            raw = sa.type_coerce(column, sa.Text)
            as_we_write = raw.op("GLOB")("????-??-?? ??:??:??.??????")
            text = _unless_odd(raw, as_we_write, sa.func.replace(raw, " ", "T").concat("Z"))
        case "postgresql":
            text = sa.func.to_char(sa.func.timezone("UTC", column), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        case "mysql" | "mariadb":
            text = sa.func.date_format(column, "%Y-%m-%dT%H:%i:%s.%fZ")
        case _:
            return column
    return sa.type_coerce(text, sa.Text).label("at")


def _unless_odd(
    text: sa.ColumnElement[Any], as_we_write: sa.ColumnElement[bool], shown: sa.ColumnElement[Any]
) -> sa.ColumnElement[Any]:
    """SQLite keeps text of any form: what is not as we write it is marked, lest it reads like what was hashed."""
    whole = sa.and_(sa.func.typeof(text) == "text", as_we_write)
    return sa.type_coerce(sa.case((whole, shown), else_=sa.literal("? ").concat(text)), sa.Text)


def in_chain_now(engine: sa.Engine, table: sa.Table, chain: str, chain_seq: int) -> bool:
    """The same, outside of any transaction."""
    with snapshot(engine) as connection:
        return in_chain(connection, table, chain, chain_seq)


def in_chain(connection: sa.Connection, table: sa.Table, chain: str, chain_seq: int) -> bool:
    """Whether the table has that record of the chain, wherever it stands."""
    query = sa.select(table.c.seq).where(table.c.chain == chain, table.c.chain_seq == chain_seq).limit(1)
    return connection.scalar(query) is not None


def expected_count(connection: sa.Connection, table: sa.Table) -> int:
    """How many records there should be, as the heads have it: for a progress bar."""
    head = head_table(table)
    total = connection.scalar(sa.select(sa.func.sum(head.c.seq - head.c.base_seq))) or 0
    return int(total) if isfinite(total) else 0
