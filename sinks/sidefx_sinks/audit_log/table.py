"""The table of the audit log, the same on every database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

metadata = sa.MetaData()
"""Holds the table under its default name, for migration tools such as Alembic."""


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


# TEXT ends at 64 KiB on MariaDB. UUID is a type of its own there, but under `mariadb://` URLs only: as characters
# the same table serves both spellings of the URL.
_Text = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_Id = sa.Uuid().with_variant(sa.Uuid(native_uuid=False), "mysql", "mariadb")
_Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up INTEGER alone


def audit_table(name: str = "audit_log", metadata: sa.MetaData | None = None) -> sa.Table:
    """The table called `name`, or `schema.name`, in `metadata` or in one of its own."""
    schema, _, name = name.rpartition(".")
    return sa.Table(
        name,
        sa.MetaData() if metadata is None else metadata,
        sa.Column("seq", _Number, primary_key=True, autoincrement=True),  # in order, with gaps
        sa.Column("id", _Id, nullable=False, unique=True),
        sa.Column("at", UtcDateTime, nullable=False, index=True),
        sa.Column("action", _Text, nullable=False),
        sa.Column("actor", _Text),
        sa.Column("target", _Text),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", _Text),
        sa.Column("changes", _Json),
        sa.Column("tenant", _Text),
        sa.Column("metadata", _Json, nullable=False),
        sa.Column("request_id", _Text),
        sa.Column("trace_id", _Text),
        sa.Column("ip", _Text),
        sa.Column("user_agent", _Text),
        *(_index(column) for column in ("action", "actor", "target", "tenant")),
        schema=schema or None,
        sqlite_autoincrement=True,  # a number is never given twice, even after its row was deleted
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",  # compared exactly, as elsewhere
        mariadb_charset="utf8mb4",
        mariadb_collate="utf8mb4_bin",
    )


def _index(column: str) -> sa.Index:
    """An index that refuses no text for its length.

    MariaDB indexes the first 255 characters. PostgreSQL's btree refuses keys beyond 2,704 bytes; SP-GiST takes any, and
    answers `=` and prefix searches (https://www.postgresql.org/docs/current/spgist.html).
    """
    return sa.Index(None, column, mysql_length=255, mariadb_length=255, postgresql_using="spgist")


audit_table(metadata=metadata)
