"""Retention of the audit log, on SQLite, PostgreSQL and MariaDB: a prefix goes to a file, the rest stays verifiable."""
# ruff: noqa: F811 - fixtures

from __future__ import annotations

import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from sidefx import AuditEvent, NotRunningError
from sidefx_sinks.audit_log import AuditLog, trigger_statements
from sidefx_sinks.audit_log.append_only import AppendOnlyError
from sidefx_sinks.audit_log.archive import BrokenChainError, archive
from sidefx_sinks.audit_log.checkpoint import read
from sidefx_sinks.audit_log.keys import key_of
from sidefx_sinks.audit_log.table import head_table
from sidefx_sinks.audit_log.verify import UnreadableArchiveError, verify
from tests.sinks.audit_databases import engine, sink, stored, table, url  # noqa: F401
from tests.sinks.test_audit_append_only import run
from tests.sinks.test_audit_verify import delete, edit

SECRET = "a-secret-of-more-than-32-bytes-for-hmac"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: int) -> datetime:
    """So many days on."""
    return BEGIN + timedelta(days=number)


def record(number: int, tenant: str | None = None) -> AuditEvent:
    """Of that day."""
    return AuditEvent(action=f"a{number}", at=day(number), tenant=tenant, metadata={"n": number}, reason="é\u2028\n")


@pytest.fixture
def log(url: str, table: sa.Table, tmp_path: Path) -> Any:
    """A log with checkpoints: ten records, a day each."""
    checkpoints = str(tmp_path / "checkpoints.jsonl")
    with AuditLog(
        url=url, table=table.name, checkpoints=checkpoints, checkpoint_key=SECRET, checkpoint_every=1
    ) as sink:
        for number in range(10):
            sink.send_batch([record(number)])
        yield sink


def known(log: AuditLog) -> Any:
    """Its checkpoints."""
    assert log.checkpoints is not None
    return read(log.checkpoints, log.table.fullname, key_of(SECRET)).good


def numbers(engine: sa.Engine, table: sa.Table) -> list[int]:
    """Of the records that the table has."""
    return [row.chain_seq for row in stored(engine, table)]


def test_the_oldest_go_to_a_file_and_the_rest_is_whole(log: AuditLog, table: sa.Table, tmp_path: Path) -> None:
    """The file is for its owner alone, and has each record as it was hashed; the chain goes on behind it."""
    before = stored(log.engine, table)
    path = tmp_path / "archive.jsonl"

    done = archive(log.engine, table, day(4), path, anchors=log.anchors)

    assert (done.records, done.chains) == (4, 1)
    assert numbers(log.engine, table) == [5, 6, 7, 8, 9, 10]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert [(line["chain_seq"], line["id"], line["hash"]) for line in lines] == [
        (row.chain_seq, str(row.id), row.hash) for row in before[:4]
    ]
    assert [json.loads(line["metadata"]) for line in lines] == [row.metadata for row in before[:4]]
    log.send_batch([record(10)])
    verdict = verify(log.engine, table, checkpoints=known(log))
    assert (verdict.found, verdict.records, verdict.notes) == (None, 7, ())


def test_archives_and_table_are_verified_together(log: AuditLog, table: sa.Table, tmp_path: Path) -> None:
    """One walk through two archives and the table, each record once, each compared with its checkpoint."""
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    archive(log.engine, table, day(3), first, anchors=log.anchors)
    archive(log.engine, table, day(7), second, anchors=log.anchors)

    verdict = verify(log.engine, table, checkpoints=known(log), archives=[first, second])
    assert (verdict.found, verdict.records, verdict.anchored, verdict.notes) == (None, 10, 10, ())
    later = verify(log.engine, table, checkpoints=known(log), archives=[second])
    assert (later.found, later.records) == (None, 7)
    assert later.notes == (f"{second} begins with record 4 of the log's chain, not with its first",)
    wrong = verify(log.engine, table, archives=[first]).found
    assert wrong is not None
    assert (wrong.kind, wrong.chain_seq) == ("replaced", 7)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [('"action":"a1"', '"action":"b1"', "edited"), ('"chain_seq":2', '"chain_seq":3', "edited"), (None, "", "deleted")],
)
def test_an_archive_that_was_touched_is_found(
    log: AuditLog, table: sa.Table, tmp_path: Path, old: str | None, new: str, kind: str
) -> None:
    """An edited record, and one that is missing."""
    path = tmp_path / "archive.jsonl"
    archive(log.engine, table, day(5), path, anchors=log.anchors)
    text = path.read_text()
    lines = text.split("\n")
    path.write_text("\n".join([lines[0], *lines[2:]]) if old is None else text.replace(old, new))

    found = verify(log.engine, table, archives=[path]).found
    assert found is not None
    assert found.kind == kind


def test_a_file_that_is_no_archive_is_named(log: AuditLog, table: sa.Table, tmp_path: Path) -> None:
    """With its line."""
    path = tmp_path / "archive.jsonl"
    path.write_text('{"hash": "x", "unknown": 1}\n')
    with pytest.raises(UnreadableArchiveError, match=r"archive\.jsonl, line 1: is no record"):
        verify(log.engine, table, archives=[path])


def test_a_prefix_that_was_deleted_is_no_archive(log: AuditLog, engine: sa.Engine, table: sa.Table) -> None:
    """Whoever deletes records and moves the base with them cannot sign that they were archived."""
    with engine.begin() as connection:
        base = stored(engine, table)[3]
        delete(1, 2, 3, 4)(connection, table)
        connection.execute(head_table(table).update().values(base_seq=4, base_hash=base.hash))

    assert verify(engine, table).notes[0].startswith("the table begins after archived records; neither")
    found = verify(engine, table, checkpoints=known(log)).found
    assert found is not None
    assert (found.kind, found.chain_seq) == ("unvouched", 4)


def test_nothing_is_archived_from_a_broken_chain(
    log: AuditLog, engine: sa.Engine, table: sa.Table, tmp_path: Path
) -> None:
    """Neither a file is left behind, nor is a record gone."""
    with engine.begin() as connection:
        edit(action="forged")(connection, table)
    path = tmp_path / "archive.jsonl"

    with pytest.raises(BrokenChainError, match="its hash is not that of its columns"):
        archive(log.engine, table, day(9), path, anchors=log.anchors)
    assert not path.exists()
    assert numbers(engine, table) == list(range(1, 11))

    archive(log.engine, table, day(3), path, anchors=log.anchors)  # what lies before the break
    assert numbers(engine, table) == list(range(4, 11))
    with engine.begin() as connection:
        connection.execute(table.delete())
    with pytest.raises(BrokenChainError, match="record 4 is missing"):
        archive(log.engine, table, day(9), tmp_path / "2.jsonl", anchors=log.anchors)


def test_only_a_prefix_goes(sink: AuditLog, engine: sa.Engine, table: sa.Table, tmp_path: Path) -> None:
    """A record that came late holds back those behind it; where nothing is so old, there is no file."""
    path = tmp_path / "archive.jsonl"
    sink.send_batch([record(number) for number in (1, 2, 9, 3, 4)])

    assert archive(engine, table, day(1), path).records == 0
    assert not path.exists()
    assert archive(engine, table, day(5), path).records == 2
    assert numbers(engine, table) == [3, 4, 5]
    assert verify(engine, table, archives=[path]).found is None
    everything = tmp_path / "2.jsonl"
    assert archive(engine, table, day(99), everything).records == 3
    assert verify(engine, table, archives=[path, everything]).records == 5
    sink.send_batch([record(10)])
    assert verify(engine, table, archives=[path, everything]).found is None
    assert numbers(engine, table) == [6]


def test_each_tenants_chain_is_archived(url: str, engine: sa.Engine, table: sa.Table, tmp_path: Path) -> None:
    """Each as far as its own records are old."""
    path = tmp_path / "archive.jsonl"
    with AuditLog(url=url, table=table.name, chain="tenant") as sink:
        for number in range(6):
            sink.send_batch([record(number, "a"), record(number + 3, "b"), record(number + 99, "c")])

    done = archive(engine, table, day(4), path)

    assert (done.records, done.chains) == (5, 2)
    verdict = verify(engine, table, archives=[path])
    assert (verdict.found, verdict.records, verdict.chains) == (None, 18, 3)


def test_a_file_that_is_there_is_not_written_over(log: AuditLog, table: sa.Table, tmp_path: Path) -> None:
    """An archive is not lost to the next one."""
    path = tmp_path / "archive.jsonl"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        archive(log.engine, table, day(4), path, anchors=log.anchors)
    assert path.read_text() == "mine"
    assert len(stored(log.engine, table)) == 10


def test_without_its_checkpoint_nothing_is_deleted(
    log: AuditLog, table: sa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full when the checkpoint is due leaves the table as it was."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sidefx_sinks.audit_log.anchors.append", full)
    path = tmp_path / "archive.jsonl"
    with pytest.raises(OSError, match="No space left"):
        archive(log.engine, table, day(4), path, anchors=log.anchors)
    assert not path.exists()
    assert len(stored(log.engine, table)) == 10
    monkeypatch.undo()


def test_append_only_tables_are_archived_where_the_database_can(
    log: AuditLog, engine: sa.Engine, table: sa.Table, tmp_path: Path
) -> None:
    """Their triggers are lifted inside the transaction, and are there again after it; MariaDB refuses, and says how."""
    run(engine, trigger_statements(table, engine.dialect))
    path = tmp_path / "archive.jsonl"

    if engine.dialect.name == "mysql":
        with pytest.raises(AppendOnlyError, match=f"DROP TRIGGER {table.name}_no_update;"):
            archive(log.engine, table, day(4), path, anchors=log.anchors)
        assert not path.exists()
        assert len(stored(engine, table)) == 10
    else:
        assert archive(log.engine, table, day(4), path, anchors=log.anchors).records == 4
        assert numbers(engine, table) == list(range(5, 11))
    for statement in (table.delete(), table.update().values(actor="mallory")):
        with pytest.raises(exc.DBAPIError, match="is append-only"), engine.begin() as connection:
            connection.execute(statement)
    assert verify(engine, table, checkpoints=known(log)).found is None


def test_writers_wait_for_the_archive_and_lose_nothing(
    url: str, engine: sa.Engine, table: sa.Table, tmp_path: Path
) -> None:
    """Records that come meanwhile are chained behind it."""
    with AuditLog(url=url, table=table.name) as sink:
        sink.send_batch([record(0) for _ in range(50)])
    together = threading.Barrier(3)

    def write(worker: int) -> None:
        with AuditLog(url=url, table=table.name) as sink:
            together.wait(30)
            for number in range(10):
                sink.send_batch([record(100 + number)])

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, worker) for worker in range(2)]
        with AuditLog(url=url, table=table.name) as sink:
            together.wait(30)
            done = archive(sink.engine, table, day(50), tmp_path / "archive.jsonl")
        for writer in writers:
            writer.result()

    assert done.records == 50
    verdict = verify(engine, table, archives=[tmp_path / "archive.jsonl"])
    assert (verdict.found, verdict.records) == (None, 70)


def test_a_checkpoint_that_nobody_takes_deletes_nothing(tmp_path: Path) -> None:
    """With events alone there is no file, and outside of a running app no sink: the archive is refused."""
    settings: dict[str, Any] = {"checkpoint_events": True, "checkpoint_key": SECRET, "checkpoint_every": 1_000}
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with AuditLog(url=url) as sink:
        sink.send_batch([record(number) for number in range(4)])
    with AuditLog(url=url, **settings) as sink:
        with pytest.raises(NotRunningError):
            archive(sink.engine, sink.table, day(2), tmp_path / "archive.jsonl", anchors=sink.anchors)
        assert numbers(sink.engine, sink.table) == [1, 2, 3, 4]
        assert not (tmp_path / "archive.jsonl").exists()
    with AuditLog(url=url, checkpoints=str(tmp_path / "c.jsonl"), **settings) as sink:
        assert archive(sink.engine, sink.table, day(2), tmp_path / "archive.jsonl", anchors=sink.anchors).records == 2
        assert verify(sink.engine, sink.table, checkpoints=known(sink)).found is None


def test_where_the_commit_fails_the_file_stays(
    log: AuditLog, engine: sa.Engine, table: sa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has carried it out, and the connection breaks before it can say so: nothing else has the records."""
    path = tmp_path / "archive.jsonl"
    commit = log.engine.dialect.do_commit

    def broken(connection: Any) -> None:
        commit(connection)
        msg = "the connection broke"
        raise OSError(msg)

    monkeypatch.setattr(log.engine.dialect, "do_commit", broken)
    with pytest.raises(OSError, match="the connection broke"):
        archive(log.engine, table, day(4), path, anchors=log.anchors)
    monkeypatch.undo()

    assert numbers(engine, table) == list(range(5, 11))
    assert verify(engine, table, checkpoints=known(log), archives=[path]).records == 10


def test_the_names_of_new_files_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synced after the archive, before a record is deleted, and after the first checkpoint alone."""
    synced: list[str] = []
    real = os.fsync

    def fsync(file: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    settings: dict[str, Any] = {"checkpoints": str(tmp_path / "c"), "checkpoint_key": SECRET, "checkpoint_every": 1}
    with AuditLog(url=f"sqlite:///{tmp_path / 'a.db'}", **settings) as sink:
        sink.send_batch([record(0)])
        sink.send_batch([record(1)])
        assert synced == ["file", "folder", "file"]
        archive(sink.engine, sink.table, day(1), tmp_path / "archive.jsonl", anchors=sink.anchors)
    assert synced[3:] == ["file", "folder", "file"]


def test_an_archive_that_was_cut_at_its_front_is_unvouched(log: AuditLog, table: sa.Table, tmp_path: Path) -> None:
    """Unless a checkpoint says that an archive ended there."""
    path = tmp_path / "archive.jsonl"
    archive(log.engine, table, day(5), path, anchors=log.anchors)
    whole = path.read_text()
    path.write_text("".join(f"{line}\n" for line in whole.split("\n")[2:-1]))

    found = verify(log.engine, table, checkpoints=known(log), archives=[path]).found
    assert found is not None
    assert (found.kind, found.chain_seq) == ("unvouched", 2)
    assert found.reason == f"{path} begins after record 2, and no checkpoint says that those were archived"
    path.write_text(whole)
    assert verify(log.engine, table, checkpoints=known(log), archives=[path]).found is None


@pytest.mark.parametrize("size", [1, 3])
def test_an_archive_made_meanwhile_is_no_deletion(log: AuditLog, table: sa.Table, tmp_path: Path, size: int) -> None:
    """What went from under the reader is said so; where the reader sees one state of the table, nothing is amiss."""
    path = tmp_path / "archive.jsonl"

    def meanwhile(_: int) -> None:
        if not path.exists():
            archive(log.engine, table, day(8), path, anchors=log.anchors)

    found = verify(log.engine, table, progress=meanwhile, page=size).found
    assert len(stored(log.engine, table)) == 2
    if log.engine.dialect.name == "sqlite":
        assert found is not None
        assert (found.kind, found.reason) == ("unvouched", "records were archived meanwhile; verify again")
    else:
        assert found is None


def test_a_forged_record_before_the_first_is_not_archived(
    log: AuditLog, engine: sa.Engine, table: sa.Table, tmp_path: Path
) -> None:
    """One whose row has a number below 1 is seen."""
    with engine.begin() as connection:
        row = connection.execute(table.select().where(table.c.chain_seq == 1)).mappings().one()
        connection.execute(table.insert().values({**row, "seq": -1, "id": uuid4(), "chain_seq": None}))
    with pytest.raises(BrokenChainError, match="it has no place in a chain"):
        archive(log.engine, table, day(4), tmp_path / "archive.jsonl", anchors=log.anchors)
    assert len(stored(engine, table)) == 11


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b'{"chain": [], "chain_seq": 1, "hash": "x", "prev_hash": "x"}',
        b'{"chain": "", "chain_seq": "1", "hash": "x", "prev_hash": "x"}',
        b'{"chain": "", "chain_seq": true, "hash": "x", "prev_hash": "x"}',
        b'{"chain": "", "chain_seq": 1, "hash": "x", "prev_hash": {}}',
        b'{"chain_seq": 1, "hash": "x", "prev_hash": "x"}',
    ],
)
def test_hostile_lines_crash_nothing(tmp_path: Path, line: bytes) -> None:
    """They are no records, and named."""
    path = tmp_path / "archive.jsonl"
    path.write_bytes(line + b"\n")
    with AuditLog(url=f"sqlite:///{tmp_path / 'a.db'}") as sink:
        sink.check()
        with pytest.raises(UnreadableArchiveError, match="line 1: is no record of an archive"):
            verify(sink.engine, sink.table, archives=[path])


def test_a_lost_head_begins_where_the_archive_ended(
    log: AuditLog, engine: sa.Engine, table: sa.Table, tmp_path: Path
) -> None:
    """It is made again from the records that are left."""
    path = tmp_path / "archive.jsonl"
    archive(log.engine, table, day(4), path, anchors=log.anchors)
    with engine.begin() as connection:
        connection.execute(head_table(table).delete())
    with AuditLog(url=log.engine.url.render_as_string(hide_password=False), table=table.name) as sink:
        sink.send_batch([record(10)])

    verdict = verify(engine, table, checkpoints=known(log), archives=[path])
    assert (verdict.found, verdict.records) == (None, 11)
