"""`AuditLog`: audit events into a table of an SQL database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Self
from uuid import UUID

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy import exc

from sidefx import AuditEvent, PartialError, PermanentError, TransientError
from sidefx_sinks._secret import Secret, as_secret
from sidefx_sinks.audit_log.database import make_engine, parse_url, shown
from sidefx_sinks.audit_log.faults import code_of, is_refusal, one_line
from sidefx_sinks.audit_log.insert import insert_once
from sidefx_sinks.audit_log.record import record_of
from sidefx_sinks.audit_log.table import audit_table

Rows = dict[UUID, dict[str, Any]]


class AuditLog:
    """Stores each audit event as one row, once: an event that comes again is passed over by its id.

    Synchronous, so the lane runs it in a worker thread. A database that is down does not keep the
    program from starting: the first batch connects, and creates the table.

    Raises:
        ValueError: `url` is not that of a usable database.
    """

    def __init__(
        self,
        *,
        url: Annotated[Secret, Field(description="SQLAlchemy URL of the database, such as sqlite:///audit.db")],
        table: Annotated[
            str,
            Field(
                description="Name of the table, or schema.name",
                max_length=100,
                pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$",
            ),
        ] = "audit_log",
        create_table: Annotated[bool, Field(description="Create the table where there is none")] = True,
        max_record_bytes: Annotated[
            int, Field(gt=0, description="Bytes of a record as JSON; a larger one is rejected")
        ] = 1_000_000,
    ) -> None:
        self._url = parse_url(as_secret(url).get_secret_value())
        self._table = audit_table(table)
        self._where = f"audit log {shown(self._url)}, table {self._table.fullname}"
        self._create_table = create_table
        self._max_record_bytes = max_record_bytes
        self._max_packet: int | None = None
        self._ready = False
        self._engine: sa.Engine | None = None

    def __enter__(self) -> Self:
        self._engine = make_engine(self._url)
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.dispose()
        self._engine = None
        self._ready = False

    def send_batch(self, events: Sequence[AuditEvent]) -> None:
        """Insert the events in one transaction, or around those that the database refuses.

        Raises:
            PartialError: some records are refused for good, by themselves; the rest is stored.
            TransientError: the database cannot be reached, is busy, or lacks the table.
        """
        rows, sizes, failures = self._records(events)
        try:
            with self._translated():
                self._prepare()
                failures |= self._too_large(sizes)
                failures |= self._insert([row for id_, row in rows.items() if id_ not in failures])
        except TransientError as error:
            if not failures:
                raise
            failures |= {id_: error for id_ in rows if id_ not in failures}
        if failures:
            raise PartialError(failures)

    def check(self) -> None:
        """Connect and look at the table, which is created where it is missing and may be.

        Raises:
            TransientError: one line that says what is wrong.
        """
        with self._translated():
            if self._create_table:
                self._create()
            with self._transaction() as connection:
                inspector = sa.inspect(connection)
                if not inspector.has_table(self._table.name, schema=self._table.schema):
                    msg = f"{self._where}: there is no such table; create it, or set create_table = true"
                    raise TransientError(msg)
                columns = inspector.get_columns(self._table.name, schema=self._table.schema)
                found = {column["name"] for column in columns}
        if missing := [column.name for column in self._table.columns if column.name not in found]:
            msg = f"{self._where}: the table lacks the column(s) {', '.join(missing)}; add them"
            raise TransientError(msg)

    def _records(self, events: Sequence[AuditEvent]) -> tuple[Rows, dict[UUID, int], dict[UUID, Exception]]:
        rows: Rows = {}
        sizes: dict[UUID, int] = {}
        failures: dict[UUID, Exception] = {}
        for event in events:
            try:
                row, size = record_of(event)
            except PermanentError as error:
                failures[event.id] = error
                continue
            if size > self._max_record_bytes:
                msg = f"the record has {size:,} bytes, more than max_record_bytes = {self._max_record_bytes:,}"
                failures[event.id] = PermanentError(msg)
                continue
            rows[event.id] = row
            sizes[event.id] = size
        return rows, sizes, failures

    def _too_large(self, sizes: dict[UUID, int]) -> dict[UUID, Exception]:
        """What MariaDB would answer with a cut connection. Escaping at most doubles a record."""
        if self._max_packet is None:
            return {}
        return {
            id_: PermanentError(
                f"the record has {size:,} bytes, over half of the server's max_allowed_packet = {self._max_packet:,}"
            )
            for id_, size in sizes.items()
            if size * 2 > self._max_packet
        }

    def _insert(self, rows: Sequence[dict[str, Any]]) -> dict[UUID, Exception]:
        """Insert the rows; where one is refused, each half by itself, down to the culprits. Order is kept."""
        if not rows:
            return {}
        try:
            with self._transaction() as connection:
                insert_once(connection, self._table, rows)
        except (exc.SQLAlchemyError, UnicodeError) as error:
            if not is_refusal(error):
                raise
            if len(rows) == 1:
                return {rows[0]["id"]: PermanentError(f"{self._where}: refused the record: {code_of(error)}")}
        else:
            return {}
        half = len(rows) // 2
        return self._insert(rows[:half]) | self._insert(rows[half:])

    def _prepare(self) -> None:
        """Before the first batch, and again after any trouble: the table may be gone."""
        if self._ready:
            return
        if self._create_table:
            self._create()
        if self._table_engine.dialect.name in {"mysql", "mariadb"}:
            with self._transaction() as connection:
                self._max_packet = connection.scalar(sa.text("SELECT @@max_allowed_packet"))
        self._ready = True

    def _create(self) -> None:
        """Create the table where there is none; several processes may do so at the same time."""
        if self._table_exists():
            return
        try:
            with self._transaction() as connection:
                self._table.metadata.create_all(connection)
        except exc.DBAPIError:
            if not self._table_exists():  # else another one was quicker
                raise

    def _table_exists(self) -> bool:
        with self._transaction() as connection:
            return sa.inspect(connection).has_table(self._table.name, schema=self._table.schema)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._table_engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # a lock held elsewhere would hold our thread for ever
                connection.exec_driver_sql("SET LOCAL statement_timeout = '60s'")
            yield connection

    @property
    def _table_engine(self) -> sa.Engine:
        if self._engine is None:
            msg = f"{self._where}: not open; use the sink inside `with`"
            raise RuntimeError(msg)
        return self._engine

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Trouble of the database as a `TransientError` that names it, without the password."""
        try:
            yield
        except exc.SQLAlchemyError as error:
            self._ready = False
            msg = f"{self._where}: {one_line(error)}"
            raise TransientError(msg) from error
