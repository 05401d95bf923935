"""Checkpoints of the audit log: what they are, when they are written, and what `verify` sees by them."""
# ruff: noqa: F811 - fixtures

from __future__ import annotations

import base64
import hmac
import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from sidefx import AuditEvent, SideEffects, SinkStartError, TransientError, audit
from sidefx_sinks.audit_log import AuditCheckpoint, AuditLog
from sidefx_sinks.audit_log.checkpoint import read
from sidefx_sinks.audit_log.keys import Key, key_of
from sidefx_sinks.audit_log.table import head_table
from sidefx_sinks.audit_log.verify import Verdict, verify
from tests.sinks.audit_databases import engine, sink, table, url  # noqa: F401
from tests.sinks.test_audit_verify import delete, edit, rehashed

SECRET = "a-secret-of-more-than-32-bytes-for-hmac"


def pem(key: Ed25519PrivateKey, *, public: bool = False) -> str:
    """The key as `openssl` writes it."""
    if public:
        return key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo).decode()
    return key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()).decode()


@pytest.fixture(params=["ed25519", "hmac"])
def keys(request: pytest.FixtureRequest) -> tuple[str, str]:
    """What signs, and what verifies."""
    if request.param == "hmac":
        return SECRET, SECRET
    key = Ed25519PrivateKey.generate()
    return pem(key), pem(key, public=True)


def lines(path: Path) -> list[dict[str, Any]]:
    """What the file holds."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def verified(engine: sa.Engine, table: sa.Table, path: Path, key: Key) -> Verdict:
    """What `verify` says with the checkpoints of that file."""
    return verify(engine, table, checkpoints=read(path, table.fullname, key).good)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the checkpoints."""
    return tmp_path / "checkpoints.jsonl"


def fill(url: str, table: sa.Table, path: Path, key: str = SECRET, records: int = 12, **settings: Any) -> None:
    """A log of so many records in batches of four, with a checkpoint after each batch."""
    settings = {"checkpoint_every": 4, **settings}
    with AuditLog(url=url, table=table.name, checkpoints=str(path), checkpoint_key=key, **settings) as sink:
        for start in range(0, records, 4):
            sink.send_batch([audit(f"a{n + 1}", actor=n) for n in range(start, start + 4)])


def test_a_checkpoint_is_signed_and_says_where_the_chain_stands(
    url: str, engine: sa.Engine, table: sa.Table, path: Path, keys: tuple[str, str]
) -> None:
    """A line of JSON for each, in a file for its owner alone, with a signature that other software can check."""
    fill(url, table, path, keys[0])

    found = lines(path)
    with engine.connect() as connection:
        hashes = connection.execute(sa.select(table.c.chain_seq, table.c.hash).order_by(table.c.seq)).all()
    assert [(line["chain"], line["seq"], line["hash"]) for line in found] == [("", *hashes[n]) for n in (3, 7, 11)]
    assert {(line["kind"], line["log"]) for line in found} == {("head", table.name)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for line in found:
        signature = base64.b64decode(line.pop("signature"))
        if keys[1] == SECRET:
            assert signature == hmac.digest(SECRET.encode(), rfc8785.dumps(line), "sha256")
        else:
            forms.load_pem_public_key(keys[1].encode()).verify(signature, rfc8785.dumps(line))  # type: ignore[call-arg,union-attr]
    assert SECRET not in path.read_text()


def test_a_whole_log_is_vouched_for(
    url: str, engine: sa.Engine, table: sa.Table, path: Path, keys: tuple[str, str]
) -> None:
    """Those who verify need the public key only; nothing is left unseen."""
    fill(url, table, path, keys[0])

    verdict = verified(engine, table, path, key_of(keys[1]))
    assert (verdict.found, verdict.anchored, verdict.notes) == (None, 3, ())


def test_a_cut_tail_is_seen(url: str, engine: sa.Engine, table: sa.Table, path: Path) -> None:
    """Also where the head was set back to what is left."""
    fill(url, table, path)
    with engine.begin() as connection:
        delete(11, 12)(connection, table)
        rehashed(connection, table, 99)
    assert verify(engine, table).found is None  # the control: nothing but the checkpoints sees it

    found = verified(engine, table, path, key_of(SECRET)).found
    assert found is not None
    assert (found.kind, found.chain_seq) == ("truncated", 11)
    assert "the checkpoint of 20" in found.reason


def test_an_emptied_table_is_seen(url: str, engine: sa.Engine, table: sa.Table, path: Path) -> None:
    """Nothing is left, not even the head."""
    fill(url, table, path)
    table.metadata.drop_all(engine)
    table.metadata.create_all(engine)

    found = verified(engine, table, path, key_of(SECRET)).found
    assert found is not None
    assert (found.kind, found.chain_seq) == ("truncated", 1)


def test_a_table_that_was_written_anew_is_seen(url: str, engine: sa.Engine, table: sa.Table, path: Path) -> None:
    """At the first checkpoint after the first record that is another one."""
    fill(url, table, path)
    with engine.begin() as connection:
        edit(actor="mallory")(connection, table)
        rehashed(connection, table, 5)
    assert verify(engine, table).found is None

    found = verified(engine, table, path, key_of(SECRET)).found
    assert found is not None
    assert (found.kind, found.chain_seq) == ("rewritten", 8)


def test_the_earlier_of_two_checkpoints_of_a_number_counts(
    url: str, engine: sa.Engine, table: sa.Table, path: Path
) -> None:
    """After a tail was cut off, the next batch takes its numbers, and is signed like any other."""
    fill(url, table, path)
    with engine.begin() as connection:
        delete(12)(connection, table)
        rehashed(connection, table, 99)
    with AuditLog(url=url, table=table.name, checkpoints=str(path), checkpoint_key=SECRET, checkpoint_every=1) as sink:
        sink.send_batch([audit("innocent")])
    assert [line["seq"] for line in lines(path)] == [4, 8, 12, 12]
    assert verify(engine, table).found is None

    good = read(path, table.fullname, key_of(SECRET)).good
    for order in (good, good[::-1]):
        found = verify(engine, table, checkpoints=order).found
        assert found is not None
        assert (found.kind, found.chain_seq) == ("rewritten", 12)


def test_a_forged_checkpoint_counts_for_nothing(url: str, table: sa.Table, path: Path, keys: tuple[str, str]) -> None:
    """One that was changed, one that another key signed, one of another log, and a line that is none."""
    fill(url, table, path, keys[0])
    first, second, third = lines(path)
    other = key_of(pem(Ed25519PrivateKey.generate()))
    forged = [first | {"hash": "f" * 64}, second | {"key": other.id}, third | {"log": "other"}, first]
    path.write_text("".join(json.dumps(line) + "\n" for line in forged) + "no checkpoint\n" + '{"kind": "he')

    found = read(path, table.fullname, key_of(keys[1]))
    assert (found.bad, found.foreign, found.unreadable) == ((1, 2), (3,), (5, 6))
    assert [each.line() for each in found.good] == [json.dumps(first, separators=(",", ":")) + "\n"]


def test_a_line_that_a_crash_has_cut_spoils_no_other(url: str, table: sa.Table, path: Path) -> None:
    """What comes after it begins a line of its own."""
    path.write_text('{"kind": "he')
    fill(url, table, path)

    found = read(path, table.fullname, key_of(SECRET))
    assert (len(found.good), found.unreadable, found.bad) == (3, (1,), ())


def test_how_often(tmp_path: Path, table: sa.Table) -> None:
    """Every N records, or with the first batch after T seconds, and at the end; not for what comes again."""
    path = tmp_path / "checkpoints.jsonl"
    settings: dict[str, Any] = {"url": f"sqlite:///{tmp_path / 'a.db'}", "checkpoint_key": SECRET}

    def written() -> list[int]:
        return [line["seq"] for line in lines(path)] if path.exists() else []

    events = [audit(f"a{n}") for n in range(9)]
    with AuditLog(**settings, checkpoints=str(path), checkpoint_every=5, checkpoint_seconds=3_600) as sink:
        sink.send_batch(events[:4])
        assert written() == []
        sink.send_batch(events[:4])
        assert written() == []
        sink.send_batch(events[4:6])
        assert written() == [6]
        sink.send_batch(events[6:7])
        assert written() == [6]
    assert written() == [6, 7]
    with AuditLog(**settings, checkpoints=str(path), checkpoint_every=1_000, checkpoint_seconds=0) as sink:
        sink.send_batch(events[7:8])
        assert written() == [6, 7, 8]
    assert written() == [6, 7, 8]


def test_each_chain_has_checkpoints_of_its_own(url: str, engine: sa.Engine, table: sa.Table, path: Path) -> None:
    """With a chain for each tenant, those that have moved."""
    with AuditLog(url=url, table=table.name, chain="tenant", checkpoints=str(path), checkpoint_key=SECRET) as sink:
        sink.send_batch([audit("x", tenant=tenant) for tenant in ("a", "b", "b")])
    assert [(line["chain"], line["seq"]) for line in lines(path)] == [("a", 1), ("b", 2)]

    with engine.begin() as connection:
        connection.execute(table.delete().where(table.c.tenant == "a"))
        connection.execute(head_table(table).delete().where(head_table(table).c.chain == "a"))
    assert verify(engine, table).found is None
    found = verified(engine, table, path, key_of(SECRET)).found
    assert found is not None
    assert (found.kind, found.chain, found.chain_seq) == ("truncated", "a", 1)


def test_a_file_that_cannot_be_written_loses_no_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The records are stored, the log says it once, `check` fails; what was missed is written when it can be."""
    path = tmp_path / "missing" / "checkpoints.jsonl"
    url = f"sqlite:///{tmp_path / 'a.db'}"
    settings: dict[str, Any] = {"checkpoints": str(path), "checkpoint_key": SECRET, "checkpoint_every": 1}
    with AuditLog(url=url, **settings) as sink:
        sink.send_batch([audit("a")])
        sink.send_batch([audit("b")])
        with pytest.raises(TransientError, match="no checkpoint could be written: No such file or directory"):
            sink.check()
        path.parent.mkdir()
        sink.send_batch([audit("c")])
        sink.check()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert [line["seq"] for line in lines(path)] == [3]


@pytest.mark.anyio
async def test_checkpoints_go_to_another_sink_as_events(tmp_path: Path) -> None:
    """With `checkpoint_events`, whatever takes `audit.checkpoint` keeps them elsewhere."""
    taken: list[AuditCheckpoint] = []

    async def elsewhere(event: AuditCheckpoint) -> None:
        taken.append(event)

    log = AuditLog(
        url=f"sqlite:///{tmp_path / 'a.db'}", checkpoint_events=True, checkpoint_key=SECRET, checkpoint_every=1
    )
    async with SideEffects({"audit": log, "elsewhere": elsewhere}) as fx:
        await fx.emit(audit("a"))
        await fx.flush(10)
        await fx.flush(10)
    [event] = taken
    assert (event.entry, event.log, event.chain, event.seq, event.kind) == (
        "head",
        "audit_log",
        "",
        1,
        "audit.checkpoint",
    )
    assert isinstance(event.signature, str)


@pytest.mark.anyio
async def test_the_last_checkpoint_is_in_the_file_where_events_have_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After the drain nothing is emitted any more; with a file that is no trouble, without one it is said."""

    async def elsewhere(event: AuditCheckpoint) -> None:
        raise AssertionError(event)

    cases: dict[str, dict[str, Any]] = {"both": {"checkpoints": str(tmp_path / "c")}, "events": {}}
    for name, settings in cases.items():
        caplog.clear()
        url = f"sqlite:///{tmp_path / name}.db"
        log = AuditLog(url=url, checkpoint_events=True, checkpoint_key=SECRET, **settings)
        async with SideEffects({"audit": log, "elsewhere": elsewhere}) as fx:
            await fx.emit(audit("a"))
        said = [record for record in caplog.records if "no checkpoint could be written" in record.message]
        assert len(said) == (0 if settings else 1)
    assert [line["seq"] for line in lines(tmp_path / "c")] == [1]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"checkpoints": "c.jsonl"}, "set checkpoint_key or checkpoint_key_file"),
        ({"checkpoint_events": True}, "set checkpoint_key or checkpoint_key_file"),
        ({"checkpoint_key": SECRET, "checkpoint_key_file": "k.pem"}, "both name the key"),
        ({"checkpoints": "c.jsonl", "checkpoint_key": SECRET, "chain": "off"}, "leave out chain = off"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], reason: str) -> None:
    """When the file is read, not when the first checkpoint is due."""
    with pytest.raises(ValueError, match=reason):
        AuditLog(url="sqlite:///a.db", **settings)


@pytest.mark.contract("F03")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("short-secret", "at least 32 bytes"),
        ("-----BEGIN PRIVATE KEY-----\nbm8gc2VjcmV0IGtleQ==\n-----END PRIVATE KEY-----\n", "cannot be read"),
        ("rsa", "is not of Ed25519"),
        (None, "No such file"),
    ],
)
def test_a_key_that_is_none_is_named_and_not_shown(tmp_path: Path, text: str | None, reason: str) -> None:
    """The program does not start without the key that it was told to sign with."""
    if text == "rsa":
        key = generate_private_key(public_exponent=65537, key_size=2048)
        text = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()).decode()
    file = tmp_path / "key.pem"
    settings: list[dict[str, Any]] = [{"checkpoint_key_file": str(file)}]
    if text is not None:
        file.write_text(text)
        settings.append({"checkpoint_key": text})
    for each in settings:
        sink = AuditLog(url=f"sqlite:///{tmp_path / 'a.db'}", checkpoints=str(tmp_path / "c"), **each)
        with pytest.raises(SinkStartError, match=reason) as caught, sink:
            pass
        shown = f"{caught.value}{sink!r}{vars(sink)}"
        assert text is None or text not in shown
        assert "bm8gc2VjcmV0" not in shown


def test_a_public_key_signs_nothing(tmp_path: Path) -> None:
    """It is said when the program starts."""
    public = pem(Ed25519PrivateKey.generate(), public=True)
    with (
        pytest.raises(SinkStartError, match="is a public one"),
        AuditLog(url="sqlite:///a.db", checkpoints=str(tmp_path / "c"), checkpoint_key=public),
    ):
        pass


def test_an_event_is_no_secret_keeper() -> None:
    """The event of a checkpoint is not an audit event: the log does not take its own checkpoints."""
    assert not issubclass(AuditCheckpoint, AuditEvent)
