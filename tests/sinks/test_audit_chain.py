"""The chain of the audit log, on SQLite, PostgreSQL and MariaDB: what is hashed, by whom, and in which order."""
# ruff: noqa: F811 - fixtures

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from sidefx import AuditEvent, PartialError, TransientError, audit
from sidefx.request import Client, RequestInfo
from sidefx.testing import check_sink
from sidefx_sinks.audit_log import AuditLog
from sidefx_sinks.audit_log.record import COLUMNS, canonical
from sidefx_sinks.audit_log.table import head_table
from sidefx_sinks.audit_log.verify import verify
from tests.sinks.audit_databases import engine, sink, stored, table, url  # noqa: F401

SECRET = "a-secret-of-more-than-32-bytes-for-hmac"
NASTY = "Zoë 😀 \ue000 \\ / ' \" \x7f \x01\n\t\b\f\r \u2028 %s :x"


def nasty_event(number: int = 0) -> AuditEvent:
    """Every field, with every kind of character."""
    return AuditEvent(
        at=datetime(2026, 3, 29, 3, 30, 0, number, tzinfo=UTC),
        action=NASTY,
        actor=NASTY,
        actor_label=NASTY,
        target=NASTY,
        target_label=NASTY,
        outcome="denied",
        reason=NASTY,
        changes={NASTY: [1.0, 1e21, -0.0, 2**60], "z": [None, "12.50"], "a": ["x", {"b": 1, "a": [1, 2]}]},
        tenant=NASTY,
        metadata={"z": 1, "a": NASTY},
        request=RequestInfo(
            request_id="req-1",
            client=Client("2001:db8::1", 4711),
            user_agent=NASTY,
            traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01",
        ),
    )


def send(sink: AuditLog, events: list[AuditEvent]) -> None:
    """As a lane does: again after a transient error."""
    for attempt in range(50):
        try:
            return sink.send_batch(events)
        except TransientError:
            if attempt == 49:
                raise
    return None


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), min_size=19, max_size=19))
def test_the_canonical_form_is_that_of_rfc_8785(texts: list[str | None]) -> None:
    """Whatever the columns hold, the bytes are those that an independent library makes of the same object."""
    values = [17 if name == "chain_seq" else text for name, text in zip(COLUMNS, texts, strict=True)]
    record = {name: value for name, value in zip(COLUMNS, values, strict=True) if value is not None}
    assert canonical(tuple(values)).encode() == rfc8785.dumps(record)


@pytest.mark.parametrize("event", [nasty_event(), audit("ping")], ids=["full", "bare"])
def test_an_auditor_recomputes_the_hash_without_sidefx(
    sink: AuditLog, engine: sa.Engine, table: sa.Table, event: AuditEvent
) -> None:
    """From what plain SQL reads: every column but `seq` and `hash`, NULL left out, times and ids as the page says."""
    sink.send_batch([audit("first")])
    sink.send_batch([event])
    columns = [column.name for column in table.columns if column.name not in {"seq", "hash", "at", "id"}]
    with engine.connect() as connection:
        plain = sa.select(
            *(sa.type_coerce(table.c[name], sa.Text) for name in columns), table.c.at, table.c.id, table.c.hash
        )
        row = connection.execute(plain.where(table.c.chain_seq == 2)).one()
    record: dict[str, Any] = {name: value for name, value in zip(columns, row, strict=False) if value is not None}
    record["chain_seq"] = int(record["chain_seq"])
    record["at"] = row.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    record["id"] = str(row.id)
    assert hashlib.sha256(rfc8785.dumps(record)).hexdigest() == row.hash


def test_records_are_chained_within_and_across_batches(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """Numbers without gaps from 1; each record names the hash of the one before it, the first one zeros."""
    for start in range(0, 9, 3):
        sink.send_batch([audit(f"a{n}") for n in range(start, start + 3)])

    rows = stored(engine, table)
    assert [row.chain_seq for row in rows] == list(range(1, 10))
    assert [row.prev_hash for row in rows] == ["0" * 64, *(row.hash for row in rows[:-1])]
    assert {row.chain for row in rows} == {""}
    with engine.connect() as connection:
        head = connection.execute(head_table(table).select()).one()
    assert (head.chain, head.seq, head.hash, head.base_seq) == ("", 9, rows[-1].hash, 0)


def test_a_record_reads_back_as_it_was_hashed(sink: AuditLog, table: sa.Table) -> None:
    """Microseconds, JSON and every odd character come back the same on each database."""
    sink.send_batch([nasty_event(number) for number in (0, 1, 123_457, 999_999)])

    assert verify(sink.engine, table).found is None
    assert verify(sink.engine, table).records == 4


def test_what_comes_again_is_not_chained_again(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """A repeated batch, an overlapping one and a repetition inside one leave the chain whole and without gaps."""
    events = [audit(f"a{n}") for n in range(10)]
    for batch in (events[:6], events[:6], [*events[3:], *events[3:]], events):
        sink.send_batch(batch)

    assert [row.chain_seq for row in stored(engine, table)] == list(range(1, 11))
    assert verify(sink.engine, table).found is None


def test_several_writers_make_one_chain(url: str, engine: sa.Engine, table: sa.Table) -> None:
    """Sinks that write at the same time, some of it twice, take turns: one chain, each record once."""
    events = [audit(f"a{n}") for n in range(160)]
    together = threading.Barrier(4)

    def deliver(worker: int) -> None:
        with AuditLog(url=url, table=table.name) as sink:
            together.wait(30)
            mine = events[worker * 40 : worker * 40 + 60]  # the last 20 are the next worker's too
            for start in range(0, len(mine), 10):
                send(sink, mine[start : start + 10])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(deliver, range(4)))

    rows = stored(engine, table)
    assert [row.chain_seq for row in rows] == list(range(1, 161))
    assert {row.id for row in rows} == {event.id for event in events}
    verdict = verify(engine, table)
    assert (verdict.found, verdict.records) == (None, 160)


def test_each_tenant_may_have_a_chain_of_its_own(url: str, engine: sa.Engine, table: sa.Table) -> None:
    """With `chain = "tenant"` several writers of several tenants make one whole chain for each."""
    long = "x" * 90_000
    tenants = ["acme", "globex", None, "Zoë", long]
    together = threading.Barrier(3)

    def deliver(worker: int) -> None:
        with AuditLog(url=url, table=table.name, chain="tenant") as sink:
            together.wait(30)
            for number in range(4):
                order = tenants[:: 1 if worker % 2 else -1]
                send(sink, [audit(f"a{number}", tenant=tenant) for tenant in order])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(deliver, range(3)))

    rows = stored(engine, table)
    assert Counter(row.chain_seq for row in rows) == dict.fromkeys(range(1, 13), 5)
    chains = {row.tenant: row.chain for row in rows}
    assert chains == {
        "acme": "acme",
        "globex": "globex",
        "Zoë": "Zoë",
        None: "",
        long: f"sha256:{hashlib.sha256(long.encode()).hexdigest()}",
    }
    verdict = verify(engine, table)
    assert (verdict.found, verdict.records, verdict.chains) == (None, 60, 5)


def test_tenants_that_differ_in_a_space_at_the_end_have_chains_of_their_own(
    url: str, engine: sa.Engine, table: sa.Table
) -> None:
    """MariaDB takes them for equal, in its indexes as well."""
    with AuditLog(url=url, table=table.name, chain="tenant") as sink:
        for _ in range(2):
            sink.send_batch([audit("a", tenant=tenant) for tenant in ("acme ", "acme", " ", "other")])

    rows = stored(engine, table)
    assert [row.tenant for row in rows] == ["acme ", "acme", " ", "other"] * 2
    assert [row.chain_seq for row in rows] == [1] * 4 + [2] * 4
    assert rows[0].chain == f"sha256:{hashlib.sha256(b'acme ').hexdigest()}"
    verdict = verify(engine, table)
    assert (verdict.found, verdict.records, verdict.chains) == (None, 8, 4)


def test_without_a_chain_nothing_is_hashed(url: str, engine: sa.Engine, table: sa.Table) -> None:
    """`chain = "off"` stores each record once, and no hash."""
    events = [audit(f"a{n}") for n in range(4)]
    with AuditLog(url=url, table=table.name, chain="off") as sink:
        sink.send_batch(events[:3])
        sink.send_batch(events)

    rows = stored(engine, table)
    assert [row.action for row in rows] == ["a0", "a1", "a2", "a3"]
    assert {(row.chain, row.chain_seq, row.prev_hash, row.hash) for row in rows} == {(None, None, None, None)}


def test_a_refused_record_leaves_no_gap(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """The records around one that the database refuses are chained to each other."""
    table.append_constraint(sa.CheckConstraint("action <> 'poison'", name=f"ck_{table.name}"))
    table.metadata.create_all(engine)

    with pytest.raises(PartialError):
        sink.send_batch([audit("poison" if n == 2 else f"a{n}") for n in range(5)])

    assert [row.chain_seq for row in stored(engine, table)] == [1, 2, 3, 4]
    assert verify(engine, table).found is None


def test_a_lost_head_is_found_again(url: str, engine: sa.Engine, table: sa.Table) -> None:
    """Where the row of the head is gone, the chain goes on after the last record that there is."""
    for _ in range(2):
        with AuditLog(url=url, table=table.name) as sink:
            sink.send_batch([audit("a"), audit("b")])
        with engine.begin() as connection:
            connection.execute(head_table(table).delete())
    with AuditLog(url=url, table=table.name) as sink:
        sink.send_batch([audit("c")])

    assert [row.chain_seq for row in stored(engine, table)] == [1, 2, 3, 4, 5]
    assert verify(engine, table).found is None


def test_labels_outlive_what_they_name(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """What actor and target are called is stored beside their ids."""
    sink.send_batch(
        [audit("user.delete", actor=1, actor_label="Ada L.", target="user:7", target_label="Bob <b@x.org>")]
    )

    [row] = stored(engine, table)
    assert (row.actor, row.actor_label, row.target, row.target_label) == ("1", "Ada L.", "user:7", "Bob <b@x.org>")


def test_json_is_kept_as_text(tmp_path: Path) -> None:
    """A database that would write JSON anew would break the chain: the column holds the characters that were hashed."""
    with AuditLog(url=f"sqlite:///{tmp_path / 'a.db'}") as sink:
        sink.send_batch([audit("x", metadata={"b": 1.0, "a": "é"})])
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        [(text,)] = connection.execute("SELECT metadata FROM audit_log").fetchall()
    assert text == '{"b":1.0,"a":"é"}'
    assert json.loads(text) == {"a": "é", "b": 1.0}


def test_a_head_that_was_set_back_is_no_fault_of_the_records(
    sink: AuditLog, engine: sa.Engine, table: sa.Table
) -> None:
    """Nothing is rejected for good: the records wait until the head is mended."""
    sink.send_batch([audit("a"), audit("b"), audit("c")])
    head = head_table(table)
    with engine.begin() as connection:
        right = connection.scalar(sa.select(head.c.hash))
        connection.execute(head.update().values(seq=1))
    later = [audit("d"), audit("e")]

    with pytest.raises(TransientError, match="stands at record 1, and there are records behind it"):
        sink.send_batch(later)
    with engine.begin() as connection:
        connection.execute(head.update().values(seq=3, hash=right))
    sink.send_batch(later)

    assert [row.chain_seq for row in stored(engine, table)] == [1, 2, 3, 4, 5]
    assert verify(engine, table).found is None


def test_the_pages_recipe_for_auditors_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, agrees with a log that nobody touched, and not with one that somebody did."""
    page = (Path(__file__).parents[2] / "docs" / "sinks" / "audit_log.md").read_text(encoding="utf-8")
    [recipe] = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "rfc8785" in code]
    recipe += "connection.close()\n"
    monkeypatch.chdir(tmp_path)
    with AuditLog(url="sqlite:///audit.db") as sink:
        sink.send_batch([nasty_event(), audit("b")])
    exec(recipe, {})  # noqa: S102 - the page's own

    with closing(sqlite3.connect("audit.db")) as connection, connection:
        connection.execute("UPDATE audit_log SET actor = 'mallory' WHERE seq = 1")
    names: dict[str, Any] = {}
    with pytest.raises(AssertionError):
        exec(recipe, names)  # noqa: S102
    names["connection"].close()


@pytest.mark.parametrize("chain", ["log", "tenant"])
def test_a_batch_takes_one_lock(url: str, engine: sa.Engine, table: sa.Table, chain: Any) -> None:
    """However many records and chains it has: the heads are locked by one statement, on SQLite by the transaction."""
    said: list[str] = []
    with AuditLog(url=url, table=table.name, chain=chain) as sink:
        batches = [[audit(f"a{n}", tenant=f"t{n % 7}") for n in range(50)] for _ in range(2)]
        sink.send_batch(batches[0])
        event.listen(sink.engine, "before_cursor_execute", lambda *arguments: said.append(arguments[2]))
        sink.send_batch(batches[1])

    lock = "BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else "FOR UPDATE"
    assert len([statement for statement in said if lock in statement]) == 1
    assert len([statement for statement in said if statement.startswith(f"INSERT INTO {table.name}")]) == 1


@pytest.mark.anyio
async def test_the_sink_conforms(url: str, table: sa.Table, tmp_path: Path) -> None:
    """On each database, with a chain for each tenant and checkpoints."""
    settings: dict[str, Any] = {"chain": "tenant", "checkpoints": str(tmp_path / "c.jsonl"), "checkpoint_every": 1}
    await check_sink(
        lambda: AuditLog(url=url, table=table.name, checkpoint_key=SECRET, **settings),
        [audit("a", tenant="a"), audit("b", tenant="b", metadata={"k": "v"})],
        secrets=[SECRET],
    )
