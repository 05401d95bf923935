"""`AuditLog`: audit events into a table of an SQL database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self
from uuid import UUID

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy import exc

from sidefx import AuditEvent, PartialError, PermanentError, SinkStartError, TransientError
from sidefx_sinks._secret import Secret, as_secret
from sidefx_sinks.audit_log.anchors import AnchorOptions, Anchors
from sidefx_sinks.audit_log.chain import (
    Chaining,
    Head,
    begin_chains,
    chain_of,
    linked,
    lock_heads,
    move_heads,
    read_heads,
)
from sidefx_sinks.audit_log.database import WRITING, creating_alone, make_engine, parse_url, shown
from sidefx_sinks.audit_log.faults import code_of, is_refusal, one_line
from sidefx_sinks.audit_log.insert import insert_linked, insert_once, known_ids
from sidefx_sinks.audit_log.keys import Key, key_of
from sidefx_sinks.audit_log.record import Record, record_of
from sidefx_sinks.audit_log.stored import in_chain
from sidefx_sinks.audit_log.table import audit_table, head_table

Records = dict[UUID, Record]

_CHAINS_REMEMBERED = 100_000


class AuditLog:
    """Stores each audit event as one row, once: an event that comes again is passed over by its id.

    Each row is chained to the one before it by a hash over both, so that `sidefx audit verify` finds what was changed.

    Synchronous, so the lane runs it in a worker thread. A database that is down does not keep the
    program from starting: the first batch connects, and creates the table.

    Raises:
        ValueError: `url` is not that of a usable database, or the settings of checkpoints contradict each other.
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
        chain: Annotated[
            Chaining, Field(description="Chain the records by their hashes: those of the log, or of each tenant")
        ] = "log",
        checkpoints: Annotated[
            str | None, Field(description="File to which signed checkpoints of the chains are appended")
        ] = None,
        checkpoint_events: Annotated[
            bool, Field(description="Emit each checkpoint as an audit.checkpoint event, for another sink")
        ] = False,
        checkpoint_key: Annotated[
            Secret | None, Field(description="Key of the checkpoints: an Ed25519 PEM, or 32 bytes or more for HMAC")
        ] = None,
        checkpoint_key_file: Annotated[str | None, Field(description="The file that holds the key")] = None,
        checkpoint_every: Annotated[int, Field(gt=0, description="Records between two checkpoints")] = 1_000,
        checkpoint_seconds: Annotated[
            float, Field(ge=0, description="Seconds after which a batch makes a checkpoint all the same")
        ] = 60.0,
    ) -> None:
        self._url = parse_url(as_secret(url).get_secret_value())
        self._table = audit_table(table)
        self._head = head_table(self._table)
        self._where = f"audit log {shown(self._url)}, table {self._table.fullname}"
        self._chaining: Chaining = chain
        self._key = None if checkpoint_key is None else as_secret(checkpoint_key)
        self._key_file = None if checkpoint_key_file is None else Path(checkpoint_key_file)
        self._anchoring = AnchorOptions(
            path=None if checkpoints is None else Path(checkpoints),
            events=checkpoint_events,
            every=checkpoint_every,
            seconds=checkpoint_seconds,
        )
        self._check_anchoring()
        self._anchors: Anchors | None = None
        self._create_table = create_table
        self._max_record_bytes = max_record_bytes
        self._max_packet: int | None = None
        self._begun: set[str] = set()
        self._ready = False
        self._engine: sa.Engine | None = None

    def __enter__(self) -> Self:
        if self._anchoring.path is not None or self._anchoring.events:
            if not (key := self.key()).signs:
                msg = f"{self._where}: the checkpoints' key is a public one, which signs nothing; name the private one"
                raise SinkStartError(msg)
            self._anchors = Anchors(self._table.fullname, key, self._anchoring)
        self._engine = make_engine(self._url)
        return self

    def __exit__(self, *_: object) -> None:
        anchors, self._anchors = self._anchors, None
        if anchors is not None:
            anchors.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()
        self._ready = False

    def send_batch(self, events: Sequence[AuditEvent]) -> None:
        """Insert the events in one transaction, or around those that the database refuses.

        Raises:
            PartialError: some records are refused for good, by themselves; the rest is stored.
            TransientError: the database cannot be reached, is busy, or lacks the table.
        """
        records, sizes, failures = self._records(events)
        try:
            with self._translated():
                self._prepare()
                failures |= self._too_large(sizes)
                failures |= self._insert([record for id_, record in records.items() if id_ not in failures])
        except TransientError as error:
            if not failures:
                raise
            failures |= {id_: error for id_ in records if id_ not in failures}
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
                for table in (self._table, self._head):
                    self._check_columns(inspector, table)
        if self._anchors is not None and self._anchors.trouble:
            msg = f"{self._where}: no checkpoint could be written: {self._anchors.trouble}"
            raise TransientError(msg)

    @property
    def table(self) -> sa.Table:
        """The table of the records."""
        return self._table

    @property
    def engine(self) -> sa.Engine:
        """The way into the database, while the sink is open."""
        return self._table_engine

    @property
    def dialect(self) -> sa.Dialect:
        """Of the database, which is not asked."""
        return self._url.get_dialect()()

    @contextmanager
    def reading(self) -> Iterator[Self]:
        """Open for reading alone: no key is needed, no checkpoint is written, and no file made.

        Raises:
            SinkStartError: there is no such SQLite file.
        """
        if self._url.get_backend_name() == "sqlite" and not Path(str(self._url.database)).exists():
            msg = f"{self._where}: there is no such file"
            raise SinkStartError(msg)
        self._engine = make_engine(self._url)
        try:
            yield self
        finally:
            self._engine.dispose()
            self._engine = None

    @property
    def checkpoints(self) -> Path | None:
        """The file of the checkpoints, where there is one."""
        return self._anchoring.path

    @property
    def anchors(self) -> Anchors | None:
        """What writes the checkpoints, while the sink is open and has a key."""
        return self._anchors

    def key(self) -> Key:
        """The key of the checkpoints.

        Raises:
            SinkStartError: there is none, or it cannot be read; the message does not quote it.
        """
        try:
            if self._key_file is not None:
                return key_of(self._key_file.read_text(encoding="utf-8"))
            if self._key is not None:
                return key_of(self._key.get_secret_value())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            msg = f"{self._where}: checkpoint_key{'_file' if self._key_file else ''}: {reason}"
            raise SinkStartError(msg) from None
        msg = f"{self._where}: has no key; set checkpoint_key or checkpoint_key_file"
        raise SinkStartError(msg)

    def _check_anchoring(self) -> None:
        anchored = self._anchoring.path is not None or self._anchoring.events
        if self._key is not None and self._key_file is not None:
            msg = "checkpoint_key and checkpoint_key_file both name the key; give one of them"
            raise ValueError(msg)
        if anchored and self._key is None and self._key_file is None:
            msg = "checkpoints are signed: set checkpoint_key or checkpoint_key_file"
            raise ValueError(msg)
        if anchored and self._chaining == "off":
            msg = "checkpoints are of a chain: leave out chain = off"
            raise ValueError(msg)

    def _check_columns(self, inspector: sa.Inspector, table: sa.Table) -> None:
        where = f"audit log {shown(self._url)}, table {table.fullname}"
        if not inspector.has_table(table.name, schema=table.schema):
            msg = f"{where}: there is no such table; create it, or set create_table = true"
            raise TransientError(msg)
        found = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
        if missing := [column.name for column in table.columns if column.name not in found]:
            msg = f"{where}: the table lacks the column(s) {', '.join(missing)}; add them"
            raise TransientError(msg)

    def _records(self, events: Sequence[AuditEvent]) -> tuple[Records, dict[UUID, int], dict[UUID, Exception]]:
        records: Records = {}
        sizes: dict[UUID, int] = {}
        failures: dict[UUID, Exception] = {}
        for event in events:
            try:
                record, size = record_of(event)
            except PermanentError as error:
                failures[event.id] = error
                continue
            if size > self._max_record_bytes:
                msg = f"the record has {size:,} bytes, more than max_record_bytes = {self._max_record_bytes:,}"
                failures[event.id] = PermanentError(msg)
                continue
            record["chain"] = None if self._chaining == "off" else chain_of(record, self._chaining)
            records.setdefault(event.id, record)
            sizes.setdefault(event.id, size)
        return records, sizes, {id_: error for id_, error in failures.items() if id_ not in records}

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

    def _insert(self, records: Sequence[Record]) -> dict[UUID, Exception]:
        """Insert the records; where one is refused, each half by itself, down to the culprits. Order is kept."""
        if not records:
            return {}
        try:
            self._begin_chains(records)
            with self._transaction(writing=True) as connection:
                moved, added = self._add(connection, records)
        except (exc.SQLAlchemyError, UnicodeError) as error:
            if not is_refusal(error):
                raise
            if len(records) == 1:
                self._check_head(records[0])
                id_ = UUID(records[0]["id"])
                return {id_: PermanentError(f"{self._where}: refused the record: {code_of(error)}")}
        else:
            if (anchors := self._anchors) is not None:
                anchors.moved(moved, added)
            return {}
        half = len(records) // 2
        return self._insert(records[:half]) | self._insert(records[half:])

    def _check_head(self, record: Record) -> None:
        """Where a record is refused because its place is taken, it is not the record that is wrong."""
        with self._transaction() as connection:
            head = read_heads(connection, self._table).get(record["chain"])
            if head is None or not in_chain(connection, self._table, head.chain, head.seq + 1):
                return
        msg = (
            f"{self._where}: the head of the chain {head.chain!r} stands at record {head.seq:,}, and there are records "
            "behind it: was it set back? See sidefx audit verify"
        )
        raise TransientError(msg)

    def _begin_chains(self, records: Sequence[Record]) -> None:
        """Heads for new chains, in a transaction of their own: MariaDB's writers would wait for each other's gaps."""
        if self._chaining == "off":
            return
        if new := {record["chain"] for record in records} - self._begun:
            with self._transaction(writing=True) as connection:
                begin_chains(connection, self._table, new)
            if len(self._begun) > _CHAINS_REMEMBERED:
                self._begun.clear()
            self._begun |= new

    def _add(self, connection: sa.Connection, records: Sequence[Record]) -> tuple[list[Head], int]:
        """Which chains have grown, and by how many records in all."""
        if self._chaining == "off":
            insert_once(connection, self._table, records)
            return [], 0
        heads = lock_heads(connection, self._table, (record["chain"] for record in records))
        known = known_ids(connection, self._table, records)  # under the lock: what comes again is not chained again
        new = [record for record in records if record["id"] not in known]
        if not new:
            return [], 0
        insert_linked(connection, self._table, linked(new, heads))
        moved = [heads[chain] for chain in sorted({record["chain"] for record in new})]
        move_heads(connection, self._table, moved)
        return moved, len(new)

    def _prepare(self) -> None:
        """Before the first batch, and again after any trouble: the table may be gone."""
        if self._ready:
            return
        self._begun.clear()
        if self._create_table:
            self._create()
        if self._table_engine.dialect.name in {"mysql", "mariadb"}:
            with self._transaction() as connection:
                self._max_packet = connection.scalar(sa.text("SELECT @@max_allowed_packet"))
        self._ready = True

    def _create(self) -> None:
        """Create the tables that are missing; several processes may do so at the same time.

        The heads' table comes last, so whoever sees it finds the other one with its indexes.
        """
        if self._complete():
            return
        try:
            with self._transaction(writing=True) as connection, creating_alone(connection, self._table.fullname):
                for table in (self._table, self._head):
                    table.create(connection, checkfirst=True)
        except exc.DBAPIError:
            if not self._complete():  # else another one was quicker
                raise

    def _complete(self) -> bool:
        with self._transaction() as connection:
            inspector = sa.inspect(connection)
            return all(inspector.has_table(table.name, schema=table.schema) for table in (self._table, self._head))

    @contextmanager
    def _transaction(self, *, writing: bool = False) -> Iterator[sa.Connection]:
        engine = self._table_engine
        pool = engine.pool
        try:
            with engine.execution_options(**{WRITING: writing}).begin() as connection:
                if connection.dialect.name == "postgresql":  # a lock held elsewhere would hold our thread for ever
                    connection.exec_driver_sql("SET LOCAL statement_timeout = '60s'")
                yield connection
        finally:
            if self._engine is not engine:  # closed meanwhile, for the lane had given this call up
                pool.dispose()

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
