"""`sidefx audit`, as a person calls it: on a log in the folder, named by the configuration or by its URL."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import exc

from sidefx import AuditEvent, audit
from sidefx.request import Client, RequestInfo
from sidefx_sinks.audit_log import AuditLog
from tests.asgi.probe import eventually
from tests.cli.conftest import Terminal, command

Run = Callable[..., Result]

TOML = """
[sinks.audit]
type = "audit_log"
url = "sqlite:///audit.db"
"""
ANCHORED = TOML + 'checkpoints = "checkpoints.jsonl"\ncheckpoint_key_file = "key.pem"\ncheckpoint_every = 1\n'
NOW = datetime(2026, 3, 29, 12, tzinfo=UTC)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """An Ed25519 key, private and public."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    public = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    (tmp_path / "key.pem").write_bytes(private)
    return tmp_path / "key.pem"


@pytest.fixture
def events() -> list[AuditEvent]:
    """Eight records, an hour each."""
    request = RequestInfo(
        request_id="req-1",
        client=Client("10.0.0.7", 1),
        user_agent="curl/8",
        traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01",
    )
    return [
        AuditEvent(
            action="order.create" if number % 2 else "user.delete",
            actor="ada" if number < 4 else "bob",
            actor_label="Ada L." if number < 4 else None,
            target=f"order:{number}",
            target_label="=cmd()",
            outcome="denied" if number == 3 else "success",
            reason="no right" if number == 3 else None,
            tenant="acme" if number < 6 else "globex",
            at=NOW + timedelta(hours=number),
            changes={"total": [None, number]},
            metadata={"a.b": {}, "n": None},
            request=request,
        )
        for number in range(8)
    ]


@pytest.fixture
def log(tmp_path: Path, events: list[AuditEvent]) -> Path:
    """The file of the log."""
    with AuditLog(url=f"sqlite:///{tmp_path / 'audit.db'}") as sink:
        sink.send_batch(events)
    return tmp_path / "audit.db"


def anchored(folder: Path, events: list[AuditEvent]) -> None:
    """Store them in two batches, each with a checkpoint."""
    url = f"sqlite:///{folder / 'audit.db'}"
    settings: dict[str, Any] = {"checkpoints": str(folder / "checkpoints.jsonl"), "checkpoint_every": 1}
    with AuditLog(url=url, checkpoint_key_file=str(folder / "key.pem"), **settings) as sink:
        sink.send_batch(events[:4])
        sink.send_batch(events[4:])


def sql(path: Path, statement: str) -> None:
    """Go behind the log's back."""
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def records(result: Result) -> list[dict[str, Any]]:
    """What has been printed as JSON Lines."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- verify ---------------------------------------------------------------------------------------------


def test_verify_says_that_a_log_is_whole(run: Run, log: Path) -> None:
    """And that without checkpoints a cut tail could not be seen."""
    result = run("audit", "verify", text=TOML)
    assert result.exit_code == 0
    assert result.stdout.startswith("audit_log is whole: 8 records in 1 chain (")
    assert "without checkpoints, neither a cut-off tail nor" in result.stderr


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE audit_log SET actor = 'x' WHERE seq = 3", "BROKEN, edited: record 3 of the log's chain (row 3, id "),
        ("DELETE FROM audit_log WHERE seq = 3", "BROKEN, deleted: record 3 of the log's chain (row 4, id "),
        ("DELETE FROM audit_log WHERE seq > 6", "BROKEN, truncated: record 7 of the log's chain: records 7 to 8 are"),
    ],
)
def test_verify_names_the_first_break(run: Run, log: Path, statement: str, said: str) -> None:
    """Exit code 1; the same as JSON for a machine."""
    sql(log, statement)
    result = run("audit", "verify", text=TOML)
    assert result.exit_code == 1
    assert result.stdout.startswith(said)

    result = run("audit", "verify", "--json", text=TOML)
    assert result.exit_code == 1
    [found] = [json.loads(line) for line in result.stdout.splitlines()]
    assert (found["record"], found["whole"]) == ("verify", False)
    assert said.startswith(f"BROKEN, {found['broken']['kind']}: record {found['broken']['chain_seq']} ")


def test_verify_with_checkpoints(run: Run, tmp_path: Path, key: Path, events: list[AuditEvent]) -> None:
    """Those of the configuration; an auditor who has the file and the public key needs no configuration."""
    anchored(tmp_path, events)
    result = run("audit", "verify", text=ANCHORED)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "8 records in 1 chain, vouched for up to record 8 (" in result.stdout

    sql(tmp_path / "audit.db", "DELETE FROM audit_log WHERE seq > 6")
    last = "(SELECT hash FROM audit_log WHERE seq = 6)"
    sql(tmp_path / "audit.db", f"UPDATE audit_log_head SET seq = 6, hash = {last}")  # noqa: S608 - written above
    assert run("audit", "verify", "--url", "sqlite:///audit.db").exit_code == 0  # which sees nothing
    key.unlink()
    auditor = ("--url", "sqlite:///audit.db", "--checkpoints", "checkpoints.jsonl", "--key", "public.pem")
    result = run("audit", "verify", *auditor)
    assert result.exit_code == 1
    assert (
        "BROKEN, truncated: record 7 of the log's chain: records 7 to 8 are missing: the checkpoint of" in result.stdout
    )


def test_a_forged_checkpoint_is_a_problem(run: Run, tmp_path: Path, key: Path, events: list[AuditEvent]) -> None:
    """Even where the chain is whole."""
    anchored(tmp_path, events)
    file = tmp_path / "checkpoints.jsonl"
    file.write_text(file.read_text().replace('"seq":4', '"seq":5'))
    result = run("audit", "verify", text=ANCHORED)
    assert result.exit_code == 1
    assert "PROBLEM: checkpoints whose signatures are wrong or of an unknown key, in line 1" in result.stdout


def test_a_checkpoint_of_an_unknown_key_is_a_problem(
    run: Run, tmp_path: Path, key: Path, events: list[AuditEvent]
) -> None:
    """It has the log's name: whoever wrote it meant this log."""
    anchored(tmp_path, events)
    file = tmp_path / "checkpoints.jsonl"
    first, second = file.read_text().splitlines()
    file.write_text(json.dumps(json.loads(first) | {"key": "ed25519:0000000000000000"}) + f"\n{second}\n")
    result = run("audit", "verify", text=ANCHORED)
    assert result.exit_code == 1
    assert "PROBLEM: checkpoints whose signatures are wrong or of an unknown key, in line 1" in result.stdout

    file.write_text(json.dumps(json.loads(first) | {"log": "other"}) + f"\n{second}\n")
    result = run("audit", "verify", text=ANCHORED)
    assert result.exit_code == 0
    assert "note: checkpoints of another log are passed over, in line 1" in result.stderr


def test_verify_says_of_several_chains_which_are_vouched_for(run: Run, tmp_path: Path, key: Path) -> None:
    """How many have a checkpoint."""
    settings: dict[str, Any] = {"checkpoints": str(tmp_path / "checkpoints.jsonl"), "chain": "tenant"}
    with AuditLog(url=f"sqlite:///{tmp_path / 'audit.db'}", checkpoint_key_file=str(key), **settings) as sink:
        sink.send_batch([audit("a", tenant=tenant) for tenant in "abc"])
    file = tmp_path / "checkpoints.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    result = run("audit", "verify", text=ANCHORED)
    assert "audit_log is whole: 3 records in 3 chains, 2 of them vouched for up to a checkpoint (" in result.stdout


def test_verify_prints_what_is_hostile(run: Run, log: Path) -> None:
    """Bytes that are no text, as they can be shown."""
    sql(log, "UPDATE audit_log SET chain = x'ff', actor = CAST(x'ff1b' AS TEXT) WHERE seq = 3")
    for arguments in (("verify",), ("verify", "--json")):
        result = run("audit", *arguments, text=TOML)
        assert result.exit_code == 1
        assert "it has no place in a chain" in result.stdout
    for arguments in (("list",), ("tail",), ("export",), ("export", "--format", "csv")):
        assert run("audit", *arguments, "--actor", "bob", text=TOML).exit_code == 0


def test_checkpoints_that_are_gone_are_a_problem(run: Run, tmp_path: Path, key: Path, events: list[AuditEvent]) -> None:
    """A file that the configuration names and nobody finds was perhaps deleted."""
    anchored(tmp_path, events)
    (tmp_path / "checkpoints.jsonl").unlink()
    result = run("audit", "verify", text=ANCHORED)
    assert result.exit_code == 1
    assert "there is no file checkpoints.jsonl, where the sink's checkpoints should be" in result.stderr


def test_verify_shows_on_a_terminal_how_far_it_is(log: Path) -> None:
    """A bar on the way, and the result."""
    terminal = Terminal("audit", "verify", "--url", f"sqlite:///{log}", columns=100)
    assert terminal.end() == 0
    assert "verifying" in terminal.shown
    assert "0/8" in terminal.shown
    assert "audit_log is whole: 8 records" in terminal.shown


def test_verify_makes_nothing(run: Run, tmp_path: Path) -> None:
    """A file that is not there is said to be so, and is not made."""
    result = run("audit", "verify", text=TOML)
    assert result.exit_code == 2
    assert "there is no such file" in result.stderr
    assert not (tmp_path / "audit.db").exists()


# --- list, show, tail, export ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ((), [7, 6, 5, 4, 3, 2, 1, 0]),
        (("--limit", "2"), [7, 6]),
        (("--actor", "ada"), [3, 2, 1, 0]),
        (("--actor", "ADA"), []),
        (("--action", "order.create", "--tenant", "acme"), [5, 3, 1]),
        (("--action", "order.*"), [7, 5, 3, 1]),
        (("--action", "ORDER.*"), []),
        (("--action", "%*"), []),
        (("--target", "order:6"), [6]),
        (("--outcome", "denied"), [3]),
        (("--since", "2026-03-29T14:00"), [7, 6, 5, 4, 3, 2]),
        (("--since", "2026-03-29T16:00+02:00", "--until", "2026-03-29T15:00Z"), [2]),
        (("--since", "90s"), []),
        (("--until", "2026-03-30", "--tenant", "globex"), [7, 6]),
    ],
)
def test_filters(run: Run, log: Path, options: tuple[str, ...], numbers: list[int]) -> None:
    """Each by itself and together, the newest first."""
    found = records(run("audit", "list", "--json", *options, text=TOML))
    assert [record["target"] for record in found] == [f"order:{number}" for number in numbers]


def test_list_shows_a_table(run: Run, log: Path, events: list[AuditEvent]) -> None:
    """With labels, and the ids that `show` takes."""
    result = run("audit", "list", text=TOML)
    heading, first, *_ = result.stdout.splitlines()
    assert heading.split() == ["at", "action", "actor", "target", "outcome", "tenant", "id"]
    cells = ["2026-03-29T19:00:00Z", "order.create", "bob", "order:7 (=cmd())", "success", "globex", str(events[7].id)]
    assert [cell.strip() for cell in first.split("  ") if cell.strip()] == cells
    assert "no such records in audit_log" in run("audit", "list", "--actor", "nobody", text=TOML).stderr


def test_what_a_record_holds_steers_no_terminal(run: Run, log: Path) -> None:
    """Control characters are shown as what they are."""
    with AuditLog(url=f"sqlite:///{log}") as sink:
        sink.send_batch([event := audit("x\x1b[31m\n\u202e", actor="[bold]y", reason="\x9b")])
    for arguments in (["list"], ["tail"], ["show", str(event.id)], ["list", "--json"]):
        result = run("audit", *arguments, text=TOML)
        assert result.exit_code == 0
        assert not {"\x1b", "\x9b", "\u202e"} & set(result.stdout)
    assert "x\\x1b[31m\\n\\u202e" in run("audit", "list", text=TOML).stdout
    assert "[bold]y" in run("audit", "list", text=TOML).stdout


def test_show(run: Run, log: Path, events: list[AuditEvent]) -> None:
    """All columns; an id without a record is exit code 1, and the others are shown."""
    other = "01890000-0000-7000-8000-000000000000"
    result = run("audit", "show", str(events[3].id), other, text=TOML)
    assert result.exit_code == 1
    assert f"no record of event {other}" in result.stderr
    shown = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line)
    assert shown["at"] == "2026-03-29T15:00:00.000000Z"
    assert (shown["actor_label"], shown["reason"], shown["ip"]) == ("Ada L.", "no right", "10.0.0.7")
    assert json.loads(shown["changes"]) == {"total": [None, 3]}
    assert run("audit", "show", "nonsense", text=TOML).exit_code == 2


def test_tail(run: Run, log: Path) -> None:
    """The newest in the order of the log, a line for each."""
    result = run("audit", "tail", "-n", "2", "--action", "order.*", text=TOML)
    assert [line.split()[0][:13] for line in result.stdout.splitlines()] == ["2026-03-29T17", "2026-03-29T19"]
    assert records(run("audit", "tail", "-n", "0", "--json", text=TOML)) == []


def test_tail_follows(tmp_path: Path, log: Path) -> None:
    """What is stored while it runs is printed, until it is interrupted."""
    (tmp_path / "sidefx.toml").write_text(TOML)
    line = command("audit", "tail", "--follow", "-n", "1", "--json", "--tenant", "acme")
    with (tmp_path / "out").open("wb") as out:
        popen = subprocess.Popen(line, cwd=tmp_path, stdout=out, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        eventually(lambda: (tmp_path / "out").read_text().count("\n") == 1, "the newest record")
        with AuditLog(url=f"sqlite:///{log}") as sink:
            sink.send_batch([audit("other", tenant="globex"), audit("new", tenant="acme")])
        eventually(lambda: (tmp_path / "out").read_text().count("\n") == 2, "the new record")
        popen.send_signal(signal.SIGINT)
        assert popen.wait(20) == 0
    finally:
        popen.kill()
        popen.wait()
    assert json.loads((tmp_path / "out").read_text().splitlines()[1])["action"] == "new"


def test_tail_looks_at_late_rows_again(tmp_path: Path, log: Path) -> None:
    """A row may be committed after one with a higher number; none is printed twice, and none from before."""
    insert = (
        "INSERT INTO audit_log (seq, id, at, action, tenant, outcome, metadata) "
        "SELECT {0}, '{0}', at, 'a{0}', 'acme', outcome, metadata FROM audit_log WHERE seq = 1"
    )
    sql(log, insert.format(1_000))
    sql(log, insert.format(1_500))
    sql(log, insert.format(2_600))
    sql(log, "UPDATE audit_log SET tenant = 'globex' WHERE seq = 2600")
    (tmp_path / "sidefx.toml").write_text(TOML)
    line = command("audit", "tail", "--follow", "-n", "1", "--json", "--tenant", "acme")
    with (tmp_path / "out").open("wb") as out:
        popen = subprocess.Popen(line, cwd=tmp_path, stdout=out, env={**os.environ, "PYTHONUNBUFFERED": "1"})

    def printed() -> list[int]:
        return [json.loads(each)["seq"] for each in (tmp_path / "out").read_text().splitlines()]

    try:
        for number, shown in ((None, [1_500]), (3_000, [1_500, 3_000]), (2_900, [1_500, 3_000, 2_900])):
            if number is not None:
                sql(log, insert.format(number))
            eventually(lambda: printed() == shown, f"{shown}")  # noqa: B023 - awaited here
        sql(log, insert.format(3_001))
        eventually(lambda: len(printed()) == 4, "the last")
    finally:
        popen.kill()
        popen.wait()
    assert printed() == [1_500, 3_000, 2_900, 3_001]


def test_export(run: Run, tmp_path: Path, log: Path) -> None:
    """JSON Lines in the order of the log; into a file for its owner alone, which is not written over."""
    found = records(run("audit", "export", text=TOML))
    assert [record["chain_seq"] for record in found] == list(range(1, 9))
    assert found[3]["changes"] == {"total": [None, 3]}
    result = run("audit", "export", "--output", "all.jsonl", text=TOML)
    assert "8 records written to all.jsonl" in result.stderr
    assert [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()] == found
    assert stat.S_IMODE((tmp_path / "all.jsonl").stat().st_mode) == 0o600
    assert run("audit", "export", "--output", "all.jsonl", text=TOML).exit_code == 2


@pytest.mark.parametrize("arguments", [("export", "--format", "csv"), ("list", "--csv")])
def test_csv(run: Run, log: Path, arguments: tuple[str, ...]) -> None:
    """With a heading; what a spreadsheet would take for a formula is text."""
    rows = list(csv.DictReader(io.StringIO(run("audit", *arguments, "--outcome", "denied", text=TOML).stdout)))
    assert [(row["target"], row["target_label"], row["reason"]) for row in rows] == [("order:3", "'=cmd()", "no right")]
    assert json.loads(rows[0]["changes"]) == {"total": [None, 3]}


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_cell_of_csv_is_a_formula(run: Run, tmp_path: Path, begin: str) -> None:
    """Whatever a spreadsheet takes for the beginning of one, full width included."""
    with AuditLog(url=f"sqlite:///{tmp_path / 'audit.db'}") as sink:
        sink.send_batch([audit("a", reason=f"{begin}1")])
    [row] = csv.DictReader(io.StringIO(run("audit", "export", "--format", "csv", text=TOML).stdout, newline=""))
    assert row["reason"] == f"'{begin}1"


def test_ocsf(run: Run, log: Path, events: list[AuditEvent]) -> None:
    """API Activity, with its required attributes and without empty ones."""
    found = records(run("audit", "export", "--format", "ocsf", text=TOML))
    assert [event["type_uid"] for event in found] == [600304, 600301] * 4
    event = found[3]
    assert (event["class_uid"], event["category_uid"], event["activity_id"], event["severity_id"]) == (6003, 6, 1, 1)
    assert event["time"] == round(events[3].at.timestamp() * 1000)
    assert (event["status_id"], event["status_detail"]) == (2, "no right")
    assert event["actor"] == {"user": {"uid": "ada", "name": "Ada L."}}
    assert event["api"] == {"operation": "order.create", "request": {"uid": "req-1"}}
    assert event["resources"] == [{"uid": "order:3", "name": "=cmd()"}]
    assert (event["src_endpoint"], event["http_request"]) == ({"ip": "10.0.0.7"}, {"user_agent": "curl/8"})
    assert (event["metadata"]["uid"], event["metadata"]["tenant_uid"]) == (str(events[3].id), "acme")
    assert event["metadata"]["correlation_uid"] == "ab" * 16
    assert event["unmapped"]["changes"] == {"total": [None, 3]}
    assert event["unmapped"]["metadata"] == {"a.b": {}, "n": None}
    assert (found[0]["status_id"], "status_detail" in found[0]) == (1, False)


def test_ecs(run: Run, log: Path, events: list[AuditEvent]) -> None:
    """The fields of the Elastic Common Schema; the rest under a name of our own."""
    found = records(run("audit", "export", "--format", "ecs", text=TOML))
    event = found[3]
    assert event["@timestamp"] == "2026-03-29T15:00:00.000000Z"
    assert (event["event"]["kind"], event["event"]["category"]) == ("event", ["configuration"])
    assert (event["event"]["type"], event["event"]["outcome"]) == (["creation", "denied"], "failure")
    assert (event["event"]["action"], event["event"]["id"]) == ("order.create", str(events[3].id))
    assert (event["user"], event["source"]) == ({"id": "ada", "full_name": "Ada L."}, {"ip": "10.0.0.7"})
    assert (event["trace"], event["organization"]) == ({"id": "ab" * 16}, {"id": "acme"})
    assert event["sidefx"]["target"] == {"id": "order:3", "label": "=cmd()"}
    assert event["sidefx"]["changes"] == {"total": [None, 3]}
    assert (found[0]["event"]["category"], found[0]["event"]["type"]) == (["iam"], ["deletion"])


# --- archive, ddl, and which log is meant ---------------------------------------------------------------


def test_archive(run: Run, tmp_path: Path, key: Path, events: list[AuditEvent]) -> None:
    """What is old goes to the file; the rest is whole, with the file and without."""
    anchored(tmp_path, events)
    result = run("audit", "archive", "--older-than", "2026-03-29T15:00", "--to", "old.jsonl", text=ANCHORED)
    assert (result.exit_code, result.stdout) == (0, "3 records of 1 chain moved to old.jsonl\n")
    result = run("audit", "verify", text=ANCHORED)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "5 records in 1 chain" in result.stdout
    result = run("audit", "verify", "--archive", "old.jsonl", text=ANCHORED)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "8 records in 1 chain" in result.stdout
    again = ("audit", "archive", "--older-than", "2026-03-29T15:00", "--to")
    assert run(*again, "old.jsonl", text=ANCHORED).exit_code == 2
    assert run(*again, "new.jsonl", text=ANCHORED).stdout == "nothing is so old\n"


def test_archive_of_a_broken_chain_is_refused(run: Run, tmp_path: Path, log: Path) -> None:
    """Exit code 1, and no file."""
    sql(log, "UPDATE audit_log SET actor = 'x' WHERE seq = 2")
    result = run("audit", "archive", "--older-than", "2100-01-01", "--to", "old.jsonl", text=TOML)
    assert result.exit_code == 1
    assert "a chain is broken, so nothing is archived" in result.stderr
    assert not (tmp_path / "old.jsonl").exists()


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mariadb"])
def test_ddl_prints_and_executes_nothing(run: Run, tmp_path: Path, dialect: str) -> None:
    """The tables and the triggers of that database; of the sink's where none is named."""
    result = run("audit", "ddl", "--dialect", dialect, "--table", "books.log")
    assert result.exit_code == 0
    assert result.stdout.count("CREATE TABLE books.") == 2
    assert result.stdout.count("CREATE TRIGGER") == {"sqlite": 6, "postgresql": 2, "mariadb": 3}[dialect]
    assert "CREATE TABLE" not in run("audit", "ddl", "--dialect", dialect, "--triggers").stdout
    assert "RAISE(ABORT" in run("audit", "ddl", text=TOML).stdout
    assert not (tmp_path / "audit.db").exists()


def test_the_printed_sqlite_ddl_runs(run: Run, tmp_path: Path) -> None:
    """As a script; the sink finds its tables in order, and they refuse a change."""
    with sqlite3.connect(tmp_path / "audit.db") as connection:
        connection.executescript(run("audit", "ddl", text=TOML).stdout)
    connection.close()
    with AuditLog(url=f"sqlite:///{tmp_path / 'audit.db'}", create_table=False) as sink:
        sink.check()
        sink.send_batch([audit("a")])
    with pytest.raises(exc.DBAPIError, match="append-only"):
        sql(tmp_path / "audit.db", "UPDATE audit_log SET actor = 'x'")


@pytest.mark.parametrize(
    ("arguments", "text", "said"),
    [
        (("verify",), "", "there is no sink of type 'audit_log'"),
        (("verify",), TOML + TOML.replace("sinks.audit", "sinks.other"), "say which one with --sink: audit, other"),
        (("verify", "--sink", "adit"), TOML, "there is no sink named 'adit'; did you mean 'audit'?"),
        (("verify", "--sink", "log"), '[sinks.log]\ntype = "log"\n', "the sink 'log' is no audit_log"),
        (("verify",), TOML.replace("sqlite:///audit.db", "${NOWHERE_SET}"), "variable NOWHERE_SET is not set"),
        (("verify",), TOML + "tabel = 1\n", "sinks.audit.tabel: unknown key"),
        (("verify", "--url", "nonsense"), "", "url is not an SQLAlchemy URL"),
        (("verify", "--url", "sqlite:///a.db", "--sink", "audit"), TOML, "both say which log is meant"),
        (("verify", "--table", "x"), TOML, "--table goes with --url"),
        (("verify", "--checkpoints", "sidefx.toml"), TOML, "has no key; set checkpoint_key"),
        (("list", "--url", "sqlite:///missing.db"), "", "there is no such file"),
        (("verify", "--key", "sidefx.toml"), TOML, "name their file with --checkpoints"),
        (("list", "--since", "tomorrow"), TOML, "is no time"),
        (("list", "--csv", "--json"), TOML, "contradict each other"),
    ],
)
def test_wrong_usage(run: Run, arguments: tuple[str, ...], text: str, said: str) -> None:
    """Exit code 2, with what to do about it."""
    result = run("audit", *arguments, text=text)
    assert result.exit_code == 2
    assert said in result.stderr


def test_other_sinks_are_not_looked_at(run: Run, log: Path) -> None:
    """The log can be read where another sink's password or library is missing."""
    text = TOML + '[sinks.mail]\ntype = "nosuch"\nurl = "${NOWHERE_SET}"\n'
    assert run("audit", "verify", text=text).exit_code == 0


@pytest.mark.contract("F03")
def test_a_database_that_does_not_answer_keeps_its_password(run: Run) -> None:
    """Exit code 1, one line, no secret."""
    text = '[sinks.audit]\ntype = "audit_log"\nurl = "postgresql://bob:s3cret-w0rd@127.0.0.1:1/x"\n'
    for arguments in (("verify",), ("list",), ("archive", "--older-than", "1d", "--to", "x")):
        result = run("audit", *arguments, text=text)
        assert result.exit_code == 1, result.output
        assert "s3cret-w0rd" not in result.output
        assert len(result.stderr.splitlines()) == 1
