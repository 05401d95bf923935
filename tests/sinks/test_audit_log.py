"""The audit log on SQLite, PostgreSQL and MariaDB.

Long, because it is one suite for the three: each promise stands here once, and holds on every database.
"""

# ruff: noqa: F811 - fixtures

from __future__ import annotations

import re
import socket
import stat
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import exc

from sidefx import AuditEvent, PartialError, PermanentError, TransientError, audit
from sidefx.request import Client, RequestInfo
from sidefx_sinks.audit_log import AuditLog, audit_table, metadata
from sidefx_sinks.audit_log.insert import insert_unless_known
from sidefx_sinks.audit_log.table import head_table
from tests.sinks.audit_databases import engine, sink, stored, table, url  # noqa: F401

PASSWORD = "s3cret-w0rd"
WRITES = 20
"""Attempts that a test grants itself where a lane would retry."""


def checked(table: sa.Table, engine: sa.Engine) -> None:
    """Make the table as a user might, with a rule of their own: no record may be called `poison`."""
    table.append_constraint(sa.CheckConstraint("action <> 'poison'", name=f"ck_{table.name}"))
    table.metadata.create_all(engine)


def persistently(sink: AuditLog, events: Sequence[AuditEvent]) -> None:
    """Send as a lane does: again after a transient error."""
    for attempt in range(WRITES):
        try:
            return sink.send_batch(events)
        except TransientError:
            if attempt == WRITES - 1:
                raise
    return None


def everything_said_by(error: BaseException) -> str:
    """What any log could show of the error, its causes included."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error)


def test_every_field_comes_back_as_it_was_sent(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """A record is read back with the values it was made of, its request included."""
    at = datetime(2026, 3, 29, 3, 30, 0, 123457, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    order = uuid4()
    event = AuditEvent(
        at=at,
        action="order.create",
        actor="Zoë 😀 \\ ' \" % %s :x",
        target="order:17",
        outcome="denied",
        reason="two\nlines",
        changes={"total": [None, Decimal("12.50")], "when": [at, None], "😀": ["é", order]},
        tenant="acme",
        metadata={"nested": {"list": [1, 2.5, True, None]}},
        request=RequestInfo(
            request_id="req-1",
            client=Client("2001:db8::1", 4711),
            user_agent="curl/8",
            traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01",
        ),
    )

    sink.send_batch([event])

    [row] = stored(engine, table)
    assert row.seq == 1
    assert row.id == event.id
    assert isinstance(row.id, UUID)
    assert row.at == at
    assert row.at.utcoffset() == timedelta(0)
    assert row.at.microsecond == 123457
    assert (row.action, row.actor, row.target) == ("order.create", "Zoë 😀 \\ ' \" % %s :x", "order:17")
    assert (row.outcome, row.reason, row.tenant) == ("denied", "two\nlines", "acme")
    assert row.changes == {
        "total": [None, "12.50"],
        "when": [at.isoformat(), None],
        "😀": ["é", str(order)],
    }
    assert row.metadata == {"nested": {"list": [1, 2.5, True, None]}}
    assert (row.request_id, row.trace_id, row.ip, row.user_agent) == ("req-1", "ab" * 16, "2001:db8::1", "curl/8")


def test_what_an_event_leaves_out_is_null(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """Absent values are NULL in SQL, for `changes` as well, where JSON has a null of its own."""
    sink.send_batch([audit("ping")])

    with engine.connect() as connection:
        absent = ("actor", "target", "reason", "changes", "tenant", "request_id", "trace_id", "ip", "user_agent")
        where = sa.and_(*(table.c[name].is_(sa.null()) for name in absent))
        [row] = connection.execute(table.select().where(where)).all()
    assert (row.outcome, row.metadata) == ("success", {})


def test_text_of_any_length_is_stored_whole(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """No column cuts a value short, and no index refuses one: 90,000 incompressible bytes in each."""
    long = "".join(chr(0x4E00 + (n * 7919) % 20000) for n in range(30_000))
    sink.send_batch([audit(long, actor=long, target=long, tenant=long, reason=long, metadata={"x": long})])

    [row] = stored(engine, table)
    assert {row.action, row.actor, row.target, row.tenant, row.reason, row.metadata["x"]} == {long}


def test_what_looks_like_sql_is_data(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """Quotes, comments and statements in a value are stored as they are, and do nothing."""
    nasty = f"'); DROP TABLE {table.name}; --"
    keys = {nasty: nasty, "$.a": '"]', "%(x)s": "\\'", ":name": "?"}

    sink.send_batch([audit(nasty, actor=nasty, metadata=keys), audit("after")])

    first, second = stored(engine, table)
    assert (first.action, first.actor, first.metadata) == (nasty, nasty, keys)
    assert second.action == "after"


def test_characters_that_a_database_refuses_are_replaced(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """NUL and lone surrogates become U+FFFD, in text and in JSON, keys included; numbers without JSON form null."""
    event = audit("a\0b", metadata={"k\0": ["\0", "x\ud800y", "\\u0000"], "nan": float("nan")})

    sink.send_batch([event])

    [row] = stored(engine, table)
    assert row.action == "a\ufffdb"
    assert row.metadata == {"k\ufffd": ["\ufffd", "x\ufffdy", "\\u0000"], "nan": None}


def test_a_batch_that_comes_twice_is_stored_once(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """The id decides: a repeated batch, an overlapping one and a repetition inside one add nothing."""
    events = [audit(f"a{n}") for n in range(10)]

    sink.send_batch(events[:6])
    sink.send_batch(events[:6])
    sink.send_batch([*events[3:], *events[3:]])

    assert [row.action for row in stored(engine, table)] == [f"a{n}" for n in range(10)]


def test_an_id_that_is_known_keeps_its_record(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """A second event of the same id changes nothing of the first's record."""
    event = audit("first", actor="alice")
    sink.send_batch([event])
    sink.send_batch([AuditEvent(id=event.id, action="forged", actor="mallory")])

    [row] = stored(engine, table)
    assert (row.action, row.actor) == ("first", "alice")


@pytest.mark.parametrize("first", ["good", "large"])
def test_of_two_with_one_id_the_good_one_is_kept(tmp_path: Path, first: str) -> None:
    """One that is too large does not take the other with it."""
    good = audit("good")
    large = audit("x" * 5_000).model_copy(update={"id": good.id})
    with AuditLog(url=f"sqlite:///{tmp_path / 'a.db'}", max_record_bytes=2_000) as sink:
        sink.send_batch([good, large] if first == "good" else [large, good])
        assert [row.action for row in stored(sink.engine, sink.table)] == ["good"]


def test_concurrent_senders_store_each_record_once(url: str, engine: sa.Engine, table: sa.Table) -> None:
    """Processes that deliver the same events, in different orders, at the same time, store each once."""
    events = [audit(f"a{n}") for n in range(60)]
    together = threading.Barrier(4)

    def deliver(worker: int) -> None:
        mine = events if worker % 2 else events[::-1]
        with AuditLog(url=SecretStr(url), table=table.name) as sink:
            together.wait(30)
            for start in range(0, len(mine), 15):
                persistently(sink, mine[start : start + 15])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(deliver, range(4)))

    assert sorted(row.id for row in stored(engine, table)) == sorted(event.id for event in events)


def test_one_sink_may_be_called_from_several_threads(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """A lane with concurrency above 1 calls it from as many threads."""
    batches = [[audit(f"a{n}") for _ in range(5)] for n in range(12)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda batch: persistently(sink, batch), batches))

    assert len(stored(engine, table)) == 60


@pytest.mark.contract("L04")
@pytest.mark.parametrize("culprits", [{0}, {6}, {3, 4}, set(range(7))])
def test_a_record_that_the_database_refuses_is_rejected_by_itself(
    sink: AuditLog, engine: sa.Engine, table: sa.Table, culprits: set[int]
) -> None:
    """The culprits are named with a permanent error; the rest of the batch is stored, in its order."""
    checked(table, engine)
    events = [audit("poison" if n in culprits else f"a{n}", actor="the-secret-actor") for n in range(7)]

    with pytest.raises(PartialError) as caught:
        sink.send_batch(events)

    assert set(caught.value.failures) == {events[n].id for n in culprits}
    assert all(isinstance(error, PermanentError) for error in caught.value.failures.values())
    assert [row.action for row in stored(engine, table)] == [f"a{n}" for n in range(7) if n not in culprits]


def test_a_refusal_names_the_rule_and_not_the_record(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """Databases quote the refused row in their message; ours has the code alone."""
    checked(table, engine)
    event = audit("poison", actor="the-secret-actor")

    with pytest.raises(PartialError) as caught:
        sink.send_batch([event])

    said = everything_said_by(caught.value) + everything_said_by(caught.value.failures[event.id])
    assert table.name in said
    assert re.search(r"SQLSTATE 23514|SQLITE_CONSTRAINT_CHECK|error 4025", said)
    assert "secret-actor" not in said


def test_an_unwritable_record_is_rejected_by_itself(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """Values that pydantic cannot write as JSON, or nested without end, reject their own event alone."""
    endless: dict[str, Any] = {}
    endless["self"] = endless
    bad = [audit("x", metadata={"v": value}) for value in (object(), b"\xff", endless)]
    good = audit("good")

    with pytest.raises(PartialError) as caught:
        sink.send_batch([bad[0], good, *bad[1:]])

    assert set(caught.value.failures) == {event.id for event in bad}
    assert all(type(error) is PermanentError for error in caught.value.failures.values())
    assert [row.id for row in stored(engine, table)] == [good.id]


def test_a_record_of_20_mb_is_rejected_by_itself(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """Beyond `max_record_bytes` an event is rejected; its batch mates are stored."""
    large, good = audit("large", metadata={"x": "x" * 20_000_000}), audit("good")

    with pytest.raises(PartialError) as caught:
        sink.send_batch([large, good])

    assert set(caught.value.failures) == {large.id}
    assert isinstance(caught.value.failures[large.id], PermanentError)
    assert "max_record_bytes = 1,000,000" in str(caught.value.failures[large.id])
    assert [row.id for row in stored(engine, table)] == [good.id]


def test_a_record_beyond_the_servers_packet_is_rejected_by_itself(url: str, engine: sa.Engine, table: sa.Table) -> None:
    """MariaDB cuts the connection at its `max_allowed_packet`; the record is found before, the others take it."""
    with engine.connect() as connection:
        on_mariadb = engine.dialect.name in {"mysql", "mariadb"}
        size = connection.scalar(sa.text("SELECT @@max_allowed_packet")) if on_mariadb else 20_000_000
    large, good = audit("large", reason="x" * size), audit("good")

    with AuditLog(url=SecretStr(url), table=table.name, max_record_bytes=2 * size) as sink:
        if on_mariadb:
            with pytest.raises(PartialError) as caught:
                sink.send_batch([large, good])
            assert set(caught.value.failures) == {large.id}
            assert "max_allowed_packet" in str(caught.value.failures[large.id])
        else:
            sink.send_batch([large, good])

    assert [row.id for row in stored(engine, table)] == ([good.id] if on_mariadb else [large.id, good.id])


def test_a_table_that_several_create_at_once_is_created(url: str, engine: sa.Engine, table: sa.Table) -> None:
    """Worker processes that start together neither fail nor lose their first record."""
    together = threading.Barrier(6)

    def first_record(_: int) -> None:
        with AuditLog(url=SecretStr(url), table=table.name) as sink:
            together.wait(30)
            sink.send_batch([audit("first")])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(first_record, range(6)))

    assert len(stored(engine, table)) == 6
    indexed = {tuple(index["column_names"]) for index in sa.inspect(engine).get_indexes(table.name)}
    assert {("at",), ("actor",), ("target",), ("action",), ("tenant",)} <= indexed


def test_a_table_that_was_dropped_comes_back(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """The attempt that finds the table gone is transient, and the next one makes it anew."""
    sink.send_batch([audit("before")])
    table.drop(engine)

    with pytest.raises(TransientError, match=table.name):
        sink.send_batch([audit("lost?")])
    sink.send_batch([audit("after")])

    assert [row.action for row in stored(engine, table)] == ["after"]


def test_a_missing_table_is_transient_where_we_may_not_create_it(url: str, engine: sa.Engine, table: sa.Table) -> None:
    """With `create_table = false` nothing is created, and the events wait for whoever does."""
    event = audit("waits")
    with AuditLog(url=SecretStr(url), table=table.name, create_table=False) as sink:
        with pytest.raises(TransientError, match=table.name):
            sink.send_batch([event])
        assert not sa.inspect(engine).has_table(table.name)
        table.metadata.create_all(engine)
        sink.send_batch([event])

    assert [row.id for row in stored(engine, table)] == [event.id]


def test_check_says_what_is_wrong_with_the_table(url: str, engine: sa.Engine, table: sa.Table) -> None:
    """A missing table and missing columns are one line each; the table in order is silence."""
    with AuditLog(url=SecretStr(url), table=table.name, create_table=False) as sink:
        with pytest.raises(TransientError, match="there is no such table; create it, or set create_table = true"):
            sink.check()
        bare = sa.Table(table.name, sa.MetaData(), *(sa.Column(c.name, sa.Integer) for c in list(table.columns)[:-2]))
        bare.create(engine)
        with pytest.raises(TransientError, match=r"lacks the column\(s\) prev_hash, hash; add them$"):
            sink.check()
        bare.drop(engine)
        table.create(engine)
        with pytest.raises(TransientError, match=f"table {table.name}_head: there is no such table"):
            sink.check()
        head_table(table).create(engine)
        sink.check()


def test_check_creates_the_table_where_it_may(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """That the table can be created is shown by creating it."""
    sink.check()

    assert stored(engine, table) == []


@pytest.mark.parametrize("call", [AuditLog.check, lambda sink: sink.send_batch([audit("x")])])
@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "mysql", "mariadb", "mysql+pymysql"])
@pytest.mark.contract("F03")
def test_an_unreachable_database_is_transient_and_keeps_its_password(
    scheme: str, call: Callable[[AuditLog], None]
) -> None:
    """It opens without the database; each call fails with one line that names the URL and no password."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and not listening: refused
        port = nobody.getsockname()[1]
        query = f"?password={PASSWORD}" if scheme.startswith("postgresql") else ""
        with AuditLog(url=SecretStr(f"{scheme}://app:{PASSWORD}@127.0.0.1:{port}/db{query}")) as sink:
            with pytest.raises(TransientError) as caught:
                call(sink)
            said = everything_said_by(caught.value) + repr(sink) + repr(vars(sink))
    assert f"//app:***@127.0.0.1:{port}/db" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("scheme", "limit"), [("postgresql", "connect_timeout=2"), ("mysql", "connect_timeout=1&read_timeout=1")]
)
def test_a_database_that_never_answers_is_transient(scheme: str, limit: str) -> None:
    """A server that accepts and stays silent costs the connection's time limit, not a thread for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with (
            AuditLog(url=SecretStr(f"{scheme}://app@127.0.0.1:{port}/db?{limit}")) as sink,
            pytest.raises(TransientError),
        ):
            sink.send_batch([audit("x")])


@pytest.mark.contract("F03")
def test_a_refused_login_is_transient_and_keeps_its_password(mariadb_url: str) -> None:
    """Credentials are mended by an operator while the events wait."""
    url = sa.make_url(mariadb_url).set(username=f"nobody_{uuid4().hex[:8]}", password=PASSWORD)
    with (
        AuditLog(url=SecretStr(url.render_as_string(hide_password=False))) as sink,
        pytest.raises(TransientError, match="Access denied") as caught,
    ):
        sink.send_batch([audit("x")])
    assert PASSWORD not in everything_said_by(caught.value)


def test_an_oversize_event_is_rejected_at_once_during_an_outage() -> None:
    """What is wrong with an event does not wait for the database; the others are to be tried again."""
    large, good = audit("large", reason="x" * 2000), audit("good")
    with (
        AuditLog(url=SecretStr("sqlite:////nowhere/audit.db"), max_record_bytes=1000) as sink,
        pytest.raises(PartialError) as caught,
    ):
        sink.send_batch([large, good])
    assert {id_: type(error) for id_, error in caught.value.failures.items()} == {
        large.id: PermanentError,
        good.id: TransientError,
    }


def test_a_restarted_database_is_not_noticed(sink: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """Connections that the server has closed meanwhile are replaced before they are used."""
    sink.send_batch([audit("before")])
    ends = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}
    own = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
    if (dialect := engine.dialect.name) in ends:  # an SQLite file has no server to restart
        assert sink._engine is not None
        with sink._engine.connect() as pooled:
            number = pooled.scalar(sa.text(own[dialect]))
        with engine.connect() as connection:
            connection.execute(sa.text(ends[dialect].format(number)))

    sink.send_batch([audit("after")])

    assert [row.action for row in stored(engine, table)] == ["before", "after"]


def test_mariadb_and_mysql_urls_share_a_table(mariadb_url: str) -> None:
    """The spelling of the URL changes nothing in what is stored, so either finds the other's records."""
    table = audit_table(f"audit_{uuid4().hex[:12]}")
    spelled = [mariadb_url.replace("mysql+pymysql", scheme) for scheme in ("mysql", "mariadb+pymysql")]
    engine = sa.create_engine(mariadb_url, poolclass=sa.NullPool)
    event = audit("x")
    try:
        for url in [*spelled, *spelled]:
            with AuditLog(url=SecretStr(url), table=table.name) as sink:
                sink.send_batch([event])
        assert [row.id for row in stored(engine, table)] == [event.id]
    finally:
        table.metadata.drop_all(engine)


def test_a_table_may_stand_in_a_schema(postgres_url: str) -> None:
    """`schema.name` is that table of that schema."""
    name = f"audit_{uuid4().hex[:12]}"
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(name))
    try:
        with AuditLog(url=SecretStr(postgres_url), table=f"{name}.log") as sink:
            sink.send_batch([audit("x")])
            sink.check()
        assert len(stored(engine, audit_table(f"{name}.log"))) == 1
    finally:
        with engine.begin() as connection:
            connection.execute(sa.schema.DropSchema(name, cascade=True))


def test_a_statement_on_postgresql_has_a_time_limit(postgres_url: str) -> None:
    """A table locked by a migration does not hold the thread for ever; the limit ends with the transaction."""
    with AuditLog(url=SecretStr(postgres_url)) as sink:
        with sink._transaction() as connection:
            assert connection.scalar(sa.text("SHOW statement_timeout")) == "1min"
        assert sink._engine is not None
        with sink._engine.connect() as connection:
            assert connection.scalar(sa.text("SHOW statement_timeout")) == "0"


def test_a_lock_held_elsewhere_is_transient(tmp_path: Path) -> None:
    """A writer who keeps an SQLite file locked costs the time limit; the record is stored once they are gone."""
    path = tmp_path / "audit.db"
    with AuditLog(url=SecretStr(f"sqlite:///{path}?timeout=0.05")) as sink:
        sink.send_batch([audit("before")])
        engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
        with engine.connect() as writer:
            writer.exec_driver_sql("BEGIN IMMEDIATE")
            with pytest.raises(TransientError, match="locked"):
                sink.send_batch([audit("after")])
        sink.send_batch([audit("after")])
        assert [row.action for row in stored(engine, audit_table())] == ["before", "after"]


def test_a_file_that_we_create_is_for_its_owner(tmp_path: Path) -> None:
    """A new SQLite file has mode 0600; one that exists keeps its own."""
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    theirs.touch()
    theirs.chmod(0o640)

    for path in (ours, theirs):
        with AuditLog(url=SecretStr(f"sqlite:///{path}")) as sink:
            assert path.exists() == (path is theirs)  # opening the sink makes nothing
            sink.send_batch([audit("x")])

    assert stat.S_IMODE(ours.stat().st_mode) == 0o600
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o640


def test_a_file_that_was_moved_away_is_not_written_to(tmp_path: Path) -> None:
    """After a rotation the next records go to a new file, the first attempt included or retried."""
    path = tmp_path / "audit.db"
    with AuditLog(url=SecretStr(f"sqlite:///{path}")) as sink:
        sink.send_batch([audit("before")])
        path.rename(tmp_path / "old.db")
        persistently(sink, [audit("after")])

    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    assert [row.action for row in stored(engine, audit_table())] == ["after"]


@pytest.mark.parametrize("call", [AuditLog.check, lambda sink: sink.send_batch([audit("x")])])
def test_a_missing_directory_is_named(tmp_path: Path, call: Callable[[AuditLog], None]) -> None:
    """SQLite's own "unable to open database file" would leave the reader to guess."""
    path = tmp_path / "missing" / "audit.db"
    with (
        AuditLog(url=SecretStr(f"sqlite:///{path}")) as sink,
        pytest.raises(TransientError, match="No such file or directory; create the directory") as caught,
    ):
        call(sink)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"no url with {PASSWORD}", "is not an SQLAlchemy URL"),
        (f"postgresql://app:pw@host:{PASSWORD}/db", "is not an SQLAlchemy URL"),
        (f"postgresql://app:pw@{PASSWORD}@host/db", "percent-encode the password"),
        (f"nosuch://app:{PASSWORD}@host/db", "knows no database 'nosuch'"),
        (f"postgresql+asyncpg://app:{PASSWORD}@host/db", "asynchronous driver"),
        ("sqlite://", "in-memory"),
        ("sqlite:///:memory:", "in-memory"),
    ],
)
@pytest.mark.contract("F03")
def test_a_url_that_cannot_work_is_refused_at_once(url: str, reason: str) -> None:
    """Mistakes in the URL are found before anything runs, and the message does not quote a password."""
    with pytest.raises(ValueError, match=reason) as caught:
        AuditLog(url=SecretStr(url))
    assert PASSWORD not in everything_said_by(caught.value)


def test_a_sink_that_is_not_open_says_so(tmp_path: Path) -> None:
    """Sending before `with` is a mistake of the program, and named as one."""
    with pytest.raises(RuntimeError, match="inside `with`"):
        AuditLog(url=SecretStr(f"sqlite:///{tmp_path / 'a.db'}")).send_batch([audit("x")])


def test_plain_sql_inserts_each_record_once(engine: sa.Engine, table: sa.Table) -> None:
    """On a database without an upsert of its own, known ids are looked up; other conflicts stay errors."""
    checked(table, engine)
    rows = [
        {"id": uuid4(), "at": datetime.now(UTC), "action": f"a{n}", "outcome": "success", "metadata": {}}
        for n in range(6)
    ]

    for batch in (rows[:3], rows[1:], rows):
        with engine.begin() as connection:
            insert_unless_known(connection, table, batch)
    with pytest.raises(exc.DBAPIError), engine.begin() as connection:
        insert_unless_known(connection, table, [{**rows[0], "id": uuid4(), "action": "poison"}])

    assert [row.action for row in stored(engine, table)] == [f"a{n}" for n in range(6)]


def test_the_exported_metadata_has_the_default_table() -> None:
    """Migration tools find the table under the name that the sink uses by default."""
    assert sorted(metadata.tables) == ["audit_log", "audit_log_head"]
    assert metadata.tables["audit_log"].columns.keys() == audit_table("other").columns.keys()
