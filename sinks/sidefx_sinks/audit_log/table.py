"""The tables of the audit log, the same on every database: the records, and the heads of their chains."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from sidefx_sinks.audit_log.record import to_json

metadata = sa.MetaData()
"""Holds both tables under their default names, for migration tools such as Alembic."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime with its microseconds, also where the database knows no time zone or rounds to seconds."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """MariaDB and MySQL keep whole seconds unless told otherwise."""
        if dialect.name in {"mysql", "mariadb"}:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """In UTC; naive for all but PostgreSQL, which has a type for it."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """Aware again."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonText(sa.types.TypeDecorator[Any]):
    """JSON as the text that was written: it is hashed, and a database's own type would write it anew."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """TEXT ends at 64 KiB on MariaDB and MySQL."""
        return dialect.type_descriptor(mysql.LONGTEXT() if dialect.name in {"mysql", "mariadb"} else sa.Text())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """Text is JSON already."""
        return value if value is None or isinstance(value, str) else to_json(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:  # noqa: ARG002
        """The value that it is of."""
        return None if value is None else json.loads(value)


# TEXT ends at 64 KiB on MariaDB. UUID is a type of its own there, but under `mariadb://` URLs only: as characters
# the same table serves both spellings of the URL.
_Text = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_Id = sa.Uuid().with_variant(sa.Uuid(native_uuid=False), "mysql", "mariadb")
_Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up INTEGER alone


_OPTIONS: dict[str, Any] = {
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",  # compared exactly, as elsewhere
    "mysql_engine": "InnoDB",  # the chain stands on its locks
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
}


def audit_table(name: str = "audit_log", metadata: sa.MetaData | None = None) -> sa.Table:
    """The table of records called `name`, or `schema.name`, in `metadata` or in one of its own; with it its heads."""
    schema, _, name = name.rpartition(".")
    metadata = sa.MetaData() if metadata is None else metadata
    _head_table(name, schema or None, metadata)
    return sa.Table(
        name,
        metadata,
        sa.Column("seq", _Number, primary_key=True, autoincrement=True),  # in order, with gaps
        sa.Column("id", _Id, nullable=False, unique=True),
        sa.Column("at", UtcDateTime, nullable=False, index=True),
        sa.Column("action", _Text, nullable=False),
        sa.Column("actor", _Text),
        sa.Column("actor_label", _Text),
        sa.Column("target", _Text),
        sa.Column("target_label", _Text),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", _Text),
        sa.Column("changes", JsonText),
        sa.Column("tenant", _Text),
        sa.Column("metadata", JsonText, nullable=False),
        sa.Column("request_id", _Text),
        sa.Column("trace_id", _Text),
        sa.Column("ip", _Text),
        sa.Column("user_agent", _Text),
        # NULL where the chain was off. Names of chains are short: see `chain.py`.
        sa.Column("chain", sa.String(128)),
        sa.Column("chain_seq", sa.BigInteger()),  # 1, 2, 3 … within its chain, without gaps
        sa.Column("prev_hash", sa.String(64)),
        sa.Column("hash", sa.String(64)),
        sa.UniqueConstraint("chain", "chain_seq"),
        *(_index(column) for column in ("action", "actor", "target", "tenant")),
        schema=schema or None,
        sqlite_autoincrement=True,  # a number is never given twice, even after its row was deleted
        **_OPTIONS,
    )


def _head_table(name: str, schema: str | None, metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        f"{name}_head",
        metadata,
        sa.Column("chain", sa.String(128), primary_key=True),
        sa.Column("seq", sa.BigInteger(), nullable=False),  # `chain_seq` and `hash` of the chain's newest record
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("base_seq", sa.BigInteger(), nullable=False),  # the same of the last record that was archived
        sa.Column("base_hash", sa.String(64), nullable=False),
        schema=schema,
        **_OPTIONS,
    )


def head_table(table: sa.Table) -> sa.Table:
    """The heads of the chains of that table's records."""
    name = f"{table.name}_head"
    return table.metadata.tables[f"{table.schema}.{name}" if table.schema else name]


def _index(column: str) -> sa.Index:
    """An index that refuses no text for its length.

    MariaDB indexes the first 255 characters. PostgreSQL's btree refuses keys beyond 2,704 bytes; SP-GiST takes any, and
    answers `=` and prefix searches (https://www.postgresql.org/docs/current/spgist.html).
    """
    return sa.Index(None, column, mysql_length=255, mariadb_length=255, postgresql_using="spgist")


audit_table(metadata=metadata)
