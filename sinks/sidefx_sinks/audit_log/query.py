"""Reading records: by who, what, when, and how it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from sidefx_sinks.audit_log.record import COLUMNS
from sidefx_sinks.audit_log.stored import PAGE, page_query, plain, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from sidefx_sinks.audit_log.record import Record

_TEXTS = ("actor", "action", "target", "outcome", "tenant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Records that match all that is not None. A text that ends in `*` stands for all that begin so."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    outcome: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self, table: sa.Table) -> list[sa.ColumnElement[bool]]:
        """As the database takes them."""
        texts = {name: getattr(self, name) for name in _TEXTS}
        found = [_matches(table.c[name], text) for name, text in texts.items() if text is not None]
        if self.since is not None:
            found.append(table.c.at >= self.since)
        if self.until is not None:
            found.append(table.c.at < self.until)
        return found


def newest(engine: sa.Engine, table: sa.Table, filters: Filters, limit: int) -> list[Record]:
    """The newest that match, the last stored first."""
    with snapshot(engine) as connection:
        query = page_query(table, connection.dialect.name).where(*filters.conditions(table))
        rows = connection.execute(query.order_by(None).order_by(table.c.seq.desc()).limit(limit)).all()
        return [_record(row, connection.dialect.name) for row in rows]


def following(engine: sa.Engine, table: sa.Table, filters: Filters, after: int | None = None) -> Iterator[Record]:
    """All that match, or those stored after that row, in the order of the log; read page by page."""
    more = True
    while more:
        with snapshot(engine) as connection:
            query = page_query(table, connection.dialect.name).where(*filters.conditions(table)).limit(PAGE)
            rows = connection.execute(query if after is None else query.where(table.c.seq > after)).all()
            records = [_record(row, connection.dialect.name) for row in rows]
        more = len(rows) == PAGE
        after = records[-1]["seq"] if records else after
        yield from records


def by_id(engine: sa.Engine, table: sa.Table, ids: Sequence[UUID]) -> dict[str, Record]:
    """Those of these events, by id."""
    with snapshot(engine) as connection:
        rows = connection.execute(page_query(table, connection.dialect.name).where(table.c.id.in_(ids))).all()
        records = [_record(row, connection.dialect.name) for row in rows]
    return {record["id"]: record for record in records}


def last_seq(engine: sa.Engine, table: sa.Table) -> int:
    """The number of the newest row; 0 where there is none."""
    with snapshot(engine) as connection:
        return connection.scalar(sa.select(sa.func.max(table.c.seq))) or 0


def _matches(column: sa.ColumnElement[Any], text: str) -> sa.ColumnElement[bool]:
    if not text.endswith("*"):
        return column == text
    start = text[:-1]
    # LIKE can use an index, and on SQLite does not tell A from a
    return sa.and_(column.startswith(start, autoescape=True), sa.func.substr(column, 1, len(start)) == start)


def _record(row: Any, dialect: str) -> Record:
    values = plain(row, dialect)
    record: Record = {"seq": values[-1], **dict(zip(COLUMNS, values, strict=False)), "hash": values[len(COLUMNS)]}
    for name in ("changes", "metadata"):
        if record[name] is not None:
            record[name] = _parsed(record[name])
    return record


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # somebody has edited it: it is shown as it is
        return text
