"""What the tests of the audit log share: a table of their own on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from sidefx_sinks.audit_log import AuditLog, audit_table


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'audit.db'}"
    fixture = {"postgresql": "postgres_url", "mariadb": "mariadb_url"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """The test's own way into the database."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def table(engine: sa.Engine) -> Iterator[sa.Table]:
    """A table that no other test uses; it does not exist yet, and is gone afterwards."""
    table = audit_table(f"audit_{uuid4().hex[:12]}")
    yield table
    table.metadata.drop_all(engine)
    if engine.dialect.name == "postgresql":  # of the triggers, which go with their tables
        with engine.begin() as connection:
            for name in (table.name, f"{table.name}_head"):
                connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {name}_append_only()")


@pytest.fixture
def sink(url: str, table: sa.Table) -> Iterator[AuditLog]:
    """The audit log into that table, open."""
    with AuditLog(url=url, table=table.name) as sink:
        yield sink


def stored(engine: sa.Engine, table: sa.Table) -> Sequence[Any]:
    """Every row, in the order of the log."""
    with engine.connect() as connection:
        return connection.execute(table.select().order_by(table.c.seq)).all()
