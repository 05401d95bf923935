"""Append-only tables on SQLite, PostgreSQL and MariaDB: what the printed triggers refuse, and what they let pass."""
# ruff: noqa: F811 - fixtures

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from sidefx import audit
from sidefx_sinks.audit_log import AuditLog, audit_table, trigger_statements
from sidefx_sinks.audit_log.append_only import table_statements
from sidefx_sinks.audit_log.table import head_table
from sidefx_sinks.audit_log.verify import verify
from tests.sinks.audit_databases import engine, sink, stored, table, url  # noqa: F401


def run(engine: sa.Engine, statements: list[str]) -> None:
    """As an administrator would, with a client of the database."""
    with engine.begin() as connection:
        cursor = connection.connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()


@pytest.fixture
def guarded(engine: sa.Engine, table: sa.Table, sink: AuditLog) -> AuditLog:
    """A log of four records in tables that were made by the printed statements."""
    run(engine, table_statements(table, engine.dialect) + trigger_statements(table, engine.dialect))
    sink.send_batch([audit(f"a{n}") for n in range(4)])
    return sink


def test_records_are_added_as_before(guarded: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """Neither a new record, nor one that comes again, nor the moving head is in the triggers' way."""
    again = audit("again")
    guarded.send_batch([again])
    guarded.send_batch([again, audit("last")])
    guarded.check()

    assert [row.action for row in stored(engine, table)] == ["a0", "a1", "a2", "a3", "again", "last"]
    assert verify(engine, table).found is None


def test_without_a_chain_too(url: str, guarded: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """What comes again is no UPDATE, which an upsert would be."""
    again = audit("again")
    with AuditLog(url=url, table=table.name, chain="off") as sink:
        sink.send_batch([again])
        sink.send_batch([again, audit("last")])
    assert [row.action for row in stored(engine, table)][4:] == ["again", "last"]


@pytest.mark.parametrize(
    "statement",
    [
        lambda table: table.update().values(actor="mallory"),
        lambda table: table.update().where(table.c.chain_seq == 2).values(hash="f" * 64),
        lambda table: table.delete(),
        lambda table: table.delete().where(table.c.chain_seq == 4),
        lambda table: head_table(table).delete(),
    ],
    ids=["update", "update one", "delete", "delete one", "delete the head"],
)
def test_a_change_is_refused(
    guarded: AuditLog, engine: sa.Engine, table: sa.Table, statement: Callable[[sa.Table], sa.Executable]
) -> None:
    """UPDATE and DELETE fail with a message that says why, and change nothing."""
    before = stored(engine, table)
    with (
        pytest.raises(exc.DBAPIError, match=r"is append-only: (UPDATE|DELETE) is refused"),
        engine.begin() as writer,
    ):
        writer.execute(statement(table))

    assert stored(engine, table) == before
    assert verify(engine, table).found is None


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("same", ["seq", "id", "chain_seq"])
def test_sqlite_replaces_nothing(guarded: AuditLog, engine: sa.Engine, table: sa.Table, same: str) -> None:
    """INSERT OR REPLACE, which asks no trigger on DELETE, leaves records and heads as they are."""
    before = stored(engine, table)
    new = {**before[1]._mapping, "action": "forged"}
    if same != "seq":
        new["seq"] = 99
    if same != "id":
        new["id"] = uuid4()
    if same != "chain_seq":
        new["chain_seq"] = 99
    replace = table.insert().prefix_with("OR REPLACE").values(new)
    refused = pytest.raises(exc.DBAPIError, match="append-only: REPLACE is refused")
    with nullcontext() if same == "id" else refused, engine.begin() as writer:
        writer.execute(replace)
    head = {"chain": "", "seq": 0, "hash": "x", "base_seq": 0, "base_hash": "x"}
    with engine.begin() as writer:
        writer.execute(head_table(table).insert().prefix_with("OR REPLACE").values(head))

    assert stored(engine, table) == before
    assert verify(engine, table).found is None


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_postgresql_refuses_truncate(guarded: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """Of the records and of the heads, and in a session that passes over ordinary triggers."""
    for name in (table.name, f"{table.name}_head"):
        for session in ("SET LOCAL session_replication_role = origin", "SET LOCAL session_replication_role = replica"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="TRUNCATE is refused"):
                run(engine, [session, f"TRUNCATE {name}"])
    assert len(stored(engine, table)) == 4


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
def test_a_schema_is_named_in_each_statement(dialect: str) -> None:
    """The triggers stand beside their table."""
    made = sa.make_url({"postgresql": "postgresql+psycopg://", "mysql": "mysql+pymysql://"}.get(dialect, "sqlite://"))
    for statement in trigger_statements(audit_table("books.log"), made.get_dialect()()):
        assert "books." in statement


def test_a_database_without_known_triggers_says_so() -> None:
    """Rather than print what would not run."""
    with pytest.raises(ValueError, match="no triggers are known for oracle"):
        trigger_statements(audit_table(), type("Dialect", (), {"name": "oracle"})())  # type: ignore[arg-type]
