"""Append-only tables: triggers that refuse what is no INSERT, as statements to be reviewed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

from sidefx_sinks.audit_log.table import head_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_REMARKS = {
    "mysql": "-- No trigger sees TRUNCATE or DROP TABLE here: let the app's user have no DROP privilege.",
    "sqlite": "-- Whoever may write the file may drop the triggers: they refuse mistakes, and verify finds the rest.",
    "postgresql": "-- A table's owner may disable its triggers: let the app's user be another one.",
}


class AppendOnlyError(RuntimeError):
    """The triggers are in the way of what was asked for, and cannot be stepped around here."""


def table_statements(table: sa.Table, dialect: sa.Dialect) -> list[str]:
    """What creates both tables and their indexes."""
    found = []
    for each in (table, head_table(table)):
        found.append(str(sa.schema.CreateTable(each).compile(dialect=dialect)).strip())
        indexes = sorted(each.indexes, key=lambda index: str(index.name))
        found += [str(sa.schema.CreateIndex(index).compile(dialect=dialect)).strip() for index in indexes]
    return found


def trigger_statements(table: sa.Table, dialect: sa.Dialect) -> list[str]:
    """What makes the table refuse UPDATE and DELETE, and TRUNCATE on PostgreSQL; the heads all but UPDATE.

    Raises:
        ValueError: we know no such triggers on that database.
    """
    match dialect.name:
        case "postgresql":
            return _postgresql(table, dialect)
        case "sqlite" | "mysql" | "mariadb":
            head = head_table(table)
            refused = [(table, "UPDATE"), (table, "DELETE"), (head, "DELETE")]
            found = [_trigger(each, operation, dialect) for each, operation in refused]
            return [*found, *_no_replace(table, dialect)] if dialect.name == "sqlite" else found
    msg = f"no triggers are known for {dialect.name}; they are for sqlite, postgresql and mariadb"
    raise ValueError(msg)


def remark(dialect: sa.Dialect) -> str:
    """What the triggers cannot do there."""
    return _REMARKS["mysql" if dialect.name == "mariadb" else dialect.name]


@contextmanager
def deleting_allowed(connection: sa.Connection, table: sa.Table) -> Iterator[None]:
    """Within the transaction, records may be deleted; it ends with the triggers as they were.

    Raises:
        AppendOnlyError: there are triggers, and this database has no way around them inside a transaction.
    """
    present = _present(connection, table)
    if not present:
        yield
        return
    quote = connection.dialect.identifier_preparer
    name = quote.format_table(table)
    match connection.dialect.name:
        case "postgresql":  # the owner's privilege; others are refused by the database
            for trigger in present:
                connection.exec_driver_sql(f"ALTER TABLE {name} DISABLE TRIGGER {quote.quote(trigger)}")
            yield
            for trigger in present:
                connection.exec_driver_sql(f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {quote.quote(trigger)}")
        case "sqlite":
            for trigger in present:
                connection.exec_driver_sql(f"DROP TRIGGER {quote.quote(trigger)}")
            yield
            for statement in present.values():
                connection.exec_driver_sql(statement)
        case _:
            drops = " ".join(f"DROP TRIGGER {quote.quote(trigger)};" for trigger in present)
            msg = (
                "the table's triggers refuse DELETE, and this database cannot lift them inside a transaction; "
                f"while no app writes, run: {drops} then archive, then create them again (sidefx audit ddl --triggers)"
            )
            raise AppendOnlyError(msg)


def _postgresql(table: sa.Table, dialect: sa.Dialect) -> list[str]:
    quote = dialect.identifier_preparer
    statements = []
    for each, operations in ((table, "UPDATE OR DELETE OR TRUNCATE"), (head_table(table), "DELETE OR TRUNCATE")):
        name, trigger = quote.format_table(each), quote.quote(_trigger_name(each, "append_only"))
        prefix = f"{quote.quote_schema(each.schema)}." if each.schema else ""
        function = f"{prefix}{trigger}"
        refusal = f"'{each.name} is append-only: % is refused', TG_OP USING ERRCODE = '42501'"
        body = f"BEGIN\n  RAISE EXCEPTION {refusal};\nEND"
        statements += [
            f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$\n{body}\n$$",
            f"CREATE TRIGGER {trigger} BEFORE {operations} ON {name} FOR EACH STATEMENT EXECUTE FUNCTION {function}()",
            f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {trigger}",  # for sessions of a replica, too
        ]
    return statements


def _no_replace(table: sa.Table, dialect: sa.Dialect) -> list[str]:
    """SQLite's INSERT OR REPLACE deletes a row and asks no trigger on DELETE. What comes again is passed over."""
    quote = dialect.identifier_preparer
    place = "(NEW.seq > 0 AND seq = NEW.seq) OR (chain = NEW.chain AND chain_seq = NEW.chain_seq)"
    refused = f"RAISE(ABORT, '{table.name} is append-only: REPLACE is refused')"
    rules = (
        (table, "no_second", "id = NEW.id", "RAISE(IGNORE)"),
        (table, "no_replace", f"id <> NEW.id AND ({place})", refused),
        (head_table(table), "no_replace", "chain = NEW.chain", "RAISE(IGNORE)"),
    )
    statements = []
    for each, suffix, where, then in rules:
        name, trigger = quote.format_table(each), quote.quote(_trigger_name(each, suffix))
        known = f"EXISTS (SELECT 1 FROM {name} WHERE {where})"  # noqa: S608 - the dialect has quoted it
        begin = f"CREATE TRIGGER {trigger} BEFORE INSERT ON {name} FOR EACH ROW"
        statements.append(f"{begin} WHEN {known} BEGIN\n  SELECT {then};\nEND")
    return statements


def _trigger(table: sa.Table, operation: str, dialect: sa.Dialect) -> str:
    quote = dialect.identifier_preparer
    name = quote.format_table(table)
    trigger = quote.quote(_trigger_name(table, f"no_{operation.lower()}"))
    message = f"{table.name} is append-only: {operation} is refused"
    if dialect.name == "sqlite":
        body = f"BEGIN\n  SELECT RAISE(ABORT, '{message}');\nEND"
    else:
        body = f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{message[:128]}'"
    prefix = f"{quote.quote_schema(table.schema)}." if table.schema else ""
    return f"CREATE TRIGGER {prefix}{trigger} BEFORE {operation} ON {name} FOR EACH ROW {body}"


def _trigger_name(table: sa.Table, suffix: str) -> str:
    return f"{table.name[:48]}_{suffix}"  # names end at 63 bytes on PostgreSQL


def _present(connection: sa.Connection, table: sa.Table) -> dict[str, str]:
    """The triggers of ours on the table of records, with the statement of each where the database keeps it."""
    names = [_trigger_name(table, suffix) for suffix in ("append_only", "no_update", "no_delete")]
    match connection.dialect.name:
        case "postgresql":
            query = "SELECT tgname, '' FROM pg_trigger WHERE tgrelid = CAST(:table AS regclass) AND NOT tgisinternal"
        case "sqlite":
            query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table"
        case "mysql" | "mariadb":
            query = (
                "SELECT trigger_name, '' FROM information_schema.triggers "
                "WHERE event_object_table = :table AND event_object_schema = COALESCE(:schema, DATABASE())"
            )
        case _:
            return {}
    values: dict[str, Sequence[str] | str | None] = {"table": table.name}
    if connection.dialect.name == "postgresql":
        values["table"] = connection.dialect.identifier_preparer.format_table(table)
    elif connection.dialect.name != "sqlite":
        values["schema"] = table.schema
    return {name: sql for name, sql in connection.execute(sa.text(query), values) if name in names}
