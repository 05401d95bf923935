"""Verifying the audit log, on SQLite, PostgreSQL and MariaDB: each kind of tampering is found, and named."""
# ruff: noqa: F811 - fixtures

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from operator import itemgetter
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from sidefx import audit
from sidefx_sinks.audit_log import AuditLog
from sidefx_sinks.audit_log.chain import GENESIS, hash_of
from sidefx_sinks.audit_log.query import Filters, following
from sidefx_sinks.audit_log.record import COLUMNS
from sidefx_sinks.audit_log.stored import expected_count, page_query
from sidefx_sinks.audit_log.table import head_table
from sidefx_sinks.audit_log.verify import verify
from tests.sinks.audit_databases import engine, sink, table, url  # noqa: F401

Tamper = Callable[[sa.Connection, sa.Table], object]
RECORDS = 12


def rehashed(connection: sa.Connection, table: sa.Table, first: int) -> None:
    """What a forger does who knows how it works: new hashes from that record on, and the head's."""
    rows = connection.execute(page_query(table, connection.dialect.name)).all()
    prev, number = GENESIS, 0
    for row in rows:
        values = list(row[: len(COLUMNS)])
        number += 1
        if number >= first:
            values[COLUMNS.index("prev_hash")], values[COLUMNS.index("chain_seq")] = prev, number
            place = {"prev_hash": prev, "chain_seq": number, "hash": hash_of(tuple(values))}
            connection.execute(table.update().where(table.c.seq == row.seq).values(place))
            prev = place["hash"]
        else:
            prev = row.hash
    connection.execute(head_table(table).update().values(seq=number, hash=prev))


def edit(**values: Any) -> Tamper:
    """Changes columns of record 5."""
    return lambda connection, table: connection.execute(table.update().where(table.c.chain_seq == 5).values(values))


def edit_time(connection: sa.Connection, table: sa.Table) -> None:
    """By one microsecond."""
    [at] = connection.scalars(sa.select(table.c.at).where(table.c.chain_seq == 5))
    connection.execute(table.update().where(table.c.chain_seq == 5).values(at=at + timedelta(microseconds=1)))


def edit_with_its_hash(connection: sa.Connection, table: sa.Table) -> None:
    """So that the record by itself is right."""
    connection.execute(table.update().where(table.c.chain_seq == 5).values(actor="mallory"))
    rows = connection.execute(page_query(table, connection.dialect.name)).all()
    [row] = [row for row in rows if row.chain_seq == 5]
    digest = hash_of(tuple(row[: len(COLUMNS)]))
    connection.execute(table.update().where(table.c.chain_seq == 5).values(hash=digest))


def delete(*numbers: int) -> Tamper:
    """Takes these records out."""
    return lambda connection, table: connection.execute(table.delete().where(table.c.chain_seq.in_(numbers)))


def move(connection: sa.Connection, table: sa.Table) -> None:
    """Two rows change places in the table; nothing that is hashed changes."""
    for old, new in ((5, 1_000), (6, 5), (1_000, 6)):
        connection.execute(table.update().where(table.c.seq == old).values(seq=new))


def swap_contents(connection: sa.Connection, table: sa.Table) -> None:
    """Each of two records says what the other one did."""
    for old, new in ((5, "6"), (6, "5")):
        connection.execute(table.update().where(table.c.seq == old).values(action=f"a{new}"))


def insert_plain(connection: sa.Connection, table: sa.Table) -> None:
    """By hand, with no hash."""
    row = {"id": uuid4(), "at": sa.func.now(), "action": "forged", "outcome": "success", "metadata": {}}
    connection.execute(table.insert().values(row))


def insert_chained(connection: sa.Connection, table: sa.Table) -> None:
    """With a right hash, after the last record; the head is left as it is."""
    *_, last = connection.execute(page_query(table, connection.dialect.name)).all()
    values = dict(zip(COLUMNS, last, strict=False)) | {"action": "forged", "chain_seq": RECORDS + 1}
    values |= {"id": str(uuid4()), "prev_hash": last.hash}
    digest = hash_of(itemgetter(*COLUMNS)(values))
    at = sa.select(table.c.at).where(table.c.seq == last.seq).scalar_subquery()
    typed = values | {"id": UUID(values["id"]), "at": at, "hash": digest}
    connection.execute(table.insert().values(typed))


def insert_copy(connection: sa.Connection, table: sa.Table) -> None:
    """A record once more, in a table that lets it."""
    row = dict(connection.execute(table.select().where(table.c.chain_seq == 5)).mappings().one())
    connection.execute(table.insert().values(row | {"seq": 900, "chain": "other", "id": uuid4()}))


TAMPERING: dict[str, tuple[Tamper, str, int | None]] = {
    "an edited actor": (edit(actor="mallory"), "edited", 5),
    "an edited action": (edit(action="b"), "edited", 5),
    "an actor removed": (edit(actor=None), "edited", 5),
    "an edited outcome": (edit(outcome="denied"), "edited", 5),
    "edited JSON": (edit(metadata={"n": 6}), "edited", 5),
    "JSON written otherwise": (edit(metadata='{"n": 4}'), "edited", 5),
    "an edited time": (edit_time, "edited", 5),
    "an edited id": (edit(id=uuid4()), "edited", 5),
    "an edited hash": (edit(hash="f" * 64), "edited", 5),
    "a hash removed": (edit(hash=None), "inserted", 5),
    "an edited number": (edit(chain_seq=77), "edited", 77),
    "an edited chain": (edit(chain="other"), "edited", 5),
    "edited with its hash": (edit_with_its_hash, "replaced", 6),
    "the first deleted": (delete(1), "deleted", 1),
    "one deleted": (delete(5), "deleted", 5),
    "several deleted": (delete(5, 6, 7), "deleted", 5),
    "moved in the table": (move, "reordered", 6),
    "contents swapped": (swap_contents, "edited", 5),
    "inserted without a chain": (insert_plain, "inserted", None),
    "inserted with a hash": (insert_chained, "inserted", 13),
    "inserted as a copy": (insert_copy, "edited", 5),
    "the last deleted": (delete(12), "truncated", 12),
    "the tail deleted": (delete(10, 11, 12), "truncated", 10),
    "all deleted": (delete(*range(1, 13)), "truncated", 1),
    "the head set back": (
        lambda connection, table: connection.execute(head_table(table).update().values(seq=3)),
        "inserted",
        4,
    ),
    "another hash at the head": (
        lambda connection, table: connection.execute(head_table(table).update().values(hash="f" * 64)),
        "replaced",
        12,
    ),
    "the head deleted": (lambda connection, table: connection.execute(head_table(table).delete()), "deleted", 12),
}


@pytest.fixture
def log(sink: AuditLog) -> AuditLog:
    """A log of twelve records."""
    for start in range(0, RECORDS, 4):
        sink.send_batch([audit(f"a{n + 1}", actor=n, metadata={"n": n}) for n in range(start, start + 4)])
    return sink


def test_a_log_that_nobody_touched_is_whole(log: AuditLog, table: sa.Table) -> None:
    """All records are counted; that a cut tail could not be seen without checkpoints is said."""
    verdict = verify(log.engine, table)

    assert (verdict.found, verdict.records, verdict.chains) == (None, RECORDS, 1)
    assert verdict.notes == (
        "without checkpoints, neither a cut-off tail nor a table that was written anew can be seen",
    )


def test_an_empty_log_is_whole(sink: AuditLog, table: sa.Table) -> None:
    """Before the first record there is nothing to be broken."""
    sink.check()
    assert verify(sink.engine, table).found is None


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_found_and_named(log: AuditLog, engine: sa.Engine, table: sa.Table, what: str) -> None:
    """The first break is named, with the record at which it is."""
    tamper, kind, number = TAMPERING[what]
    with engine.begin() as connection:
        tamper(connection, table)

    found = verify(log.engine, table).found

    assert found is not None
    assert (found.kind, found.chain_seq) == (kind, number)
    assert found.reason


def test_the_first_break_is_named_where_there_are_several(log: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """What lies behind it is not looked at."""
    with engine.begin() as connection:
        delete(8)(connection, table)
        edit(actor="mallory")(connection, table)

    found = verify(log.engine, table).found
    assert found is not None
    assert (found.kind, found.chain_seq, found.seq) == ("edited", 5, 5)


@pytest.mark.parametrize("size", [1, 4, 5, 12])
def test_breaks_are_found_across_pages(log: AuditLog, engine: sa.Engine, table: sa.Table, size: int) -> None:
    """However many records are read at once, the chain is one."""
    seen: list[int] = []
    assert verify(log.engine, table, progress=seen.append, page=size).found is None
    assert seen[-1] == RECORDS
    assert len(seen) == RECORDS // size + 1

    with engine.begin() as connection:
        delete(5, 12)(connection, table)
    found = verify(log.engine, table, page=size).found
    assert found is not None
    assert (found.kind, found.chain_seq) == ("deleted", 5)


def test_a_chain_that_was_written_anew_is_whole_to_itself(log: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """The control: without checkpoints nobody can see it, which is why `verify` says so."""
    with engine.begin() as connection:
        edit(actor="mallory")(connection, table)
        rehashed(connection, table, 5)

    verdict = verify(log.engine, table)
    assert verdict.found is None
    assert any("checkpoints" in note for note in verdict.notes)


def test_a_record_before_the_first_row_is_seen(log: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """A forged row with a number below 1: by `verify`, and by who reads the log."""
    with engine.begin() as connection:
        row = {"id": uuid4(), "at": sa.func.now(), "action": "forged", "outcome": "success", "metadata": {}}
        connection.execute(table.insert().values(row | {"seq": -1}))

    found = verify(log.engine, table, page=4).found
    assert found is not None
    assert (found.kind, found.seq) == ("inserted", -1)
    assert [record["action"] for record in following(log.engine, table, Filters())][:2] == ["forged", "a1"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("id = id || 'x'", "edited"),
        ("id = id || char(0) || 'x'", "edited"),
        ("id = upper(id)", "edited"),
        (
            "id = substr(id,1,8)||'-'||substr(id,9,4)||'-'||substr(id,13,4)||'-'||substr(id,17,4)||'-'||substr(id,21)",
            "edited",
        ),
        ("at = replace(at, ' ', 'T')", "edited"),
        ("at = replace(at, ' ', 'T') || 'Z'", "edited"),
        ("at = at || 'x'", "edited"),
        ("id = x'ff'", "edited"),
        ("at = 17", "edited"),
        ("actor = x'41'", "edited"),
        ("actor = cast(x'ff' AS TEXT)", "edited"),
        ("actor = 'a' || char(0)", "edited"),
        ("metadata = x'00'", "edited"),
        ("chain = x'41'", "inserted"),
        ("chain = NULL", "inserted"),
        ("chain_seq = 'five'", "inserted"),
        ("chain_seq = 5.5", "inserted"),
        ("chain_seq = x'05'", "inserted"),
        ("prev_hash = x'41'", "edited"),
        ("hash = x'41'", "edited"),
        ("seq = -9223372036854775808", "reordered"),
    ],
)
def test_sqlite_keeps_anything_and_verify_sees_it(
    log: AuditLog, engine: sa.Engine, table: sa.Table, change: str, kind: str
) -> None:
    """A value that differs from what was written in its form or its type alone; nothing crashes, a reader neither."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {table.name} SET {change} WHERE chain_seq = 5")  # noqa: S608 - our own

    found = verify(log.engine, table).found
    assert found is not None
    assert found.kind == kind
    assert json.dumps(asdict(found))
    assert len(list(following(log.engine, table, Filters()))) == RECORDS


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "change",
    ["seq = 'x'", "seq = 1.5", "seq = 9e999", "hash = x'00'", "base_seq = x'00'", "base_hash = 5.5", "chain = x'00'"],
)
def test_a_head_with_other_values_is_named(log: AuditLog, engine: sa.Engine, table: sa.Table, change: str) -> None:
    """Of types that no head has."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {table.name}_head SET {change}")  # noqa: S608 - our own

    found = verify(log.engine, table).found
    assert found is not None
    assert json.dumps(asdict(found))
    with log.engine.connect() as connection:
        assert isinstance(expected_count(connection, table), int)
