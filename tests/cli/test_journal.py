"""`sidefx journal status`: beside an app that runs, beside what one has left, and beside what it cannot read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from sidefx import JournalOptions
from sidefx.cli import journal
from sidefx.journal import survey
from sidefx.journal.dead import DeadStore
from sidefx.journal.directory import Directory
from sidefx.journal.lock import FileLock
from sidefx.journal.segment import Segment
from sidefx.journal.status import SegmentStatus, SinkRows, Status
from tests.asgi.probe import eventually
from tests.cli.conftest import Open, Ran, Shop, sidefx
from tests.cli.letters import letter

Run = Callable[..., Result]


def status(folder: Path) -> dict[str, Any]:
    """What `sidefx journal status --json` says: its exit code, and its records by their kind."""
    return told(sidefx(folder, "journal", "status", "--json"))


def told(ran: Ran | Result) -> dict[str, Any]:
    """The same of a command that has run."""
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    found: dict[str, Any] = {
        kind: [each for each in records if each["record"] == kind] for kind in ("segment", "sink", "journal")
    }
    return {**found, "code": ran.exit_code, "problems": found["journal"][0]["problems"]}


@contextmanager
def process(
    folder: Path, *, state: Any = "ok", reason: str = "", pid: int = 4711, runtime: str = "shop"
) -> Iterator[Path]:
    """Stands for a process that has a segment, and says how it stands."""
    path = Directory(folder / "journal").new_segment()
    lock = FileLock.acquire(path.with_suffix(".lock"))
    assert lock is not None
    path.touch()
    segments = [
        SegmentStatus(
            name=path.stem, bytes=5_000, oldest=time.time() - 200, sinks={"audit": SinkRows(pending=3, leased=1)}
        )
    ]
    Status(pid=pid, runtime=runtime, at=time.time(), state=state, reason=reason, segments=segments).write(
        path.with_suffix(".json")
    )
    yield path
    lock.release()


def left_behind(folder: Path, count: int) -> Path:
    """A segment with so many events that nobody owns."""
    path = Directory(folder / "journal").new_segment()
    segment = Segment.create(path, JournalOptions(path=folder / "journal"))
    with segment.transaction(synchronous="FULL"):
        for i in range(1, count + 1):
            event = (os.urandom(16), "k", b'{"secret": "hunter2"}', time.time() - 7_300, None, None, None, 0)
            segment.insert(i, [(event, ("audit",))])
    segment.close()
    return path


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a process that has not said who it is."""
    monkeypatch.setattr(journal, "_PATIENCE", 0.0)


# --- beside an app that runs ----------------------------------------------------------------------------------


def test_a_running_process_is_told_of(shop: Shop, tmp_path: Path) -> None:
    """Who owns the segment, how it stands, what waits in it and for whom; and it goes on as if nobody had looked."""
    shop.hold()
    shop.order(5)
    taken = {"warehouse": {"pending": 4, "leased": 1}}
    eventually(lambda: [each["sinks"] for each in status(tmp_path)["segment"]] == [taken])
    said = status(tmp_path)
    (segment,) = said["segment"]
    assert (segment["pid"], segment["runtime"], segment["state"], segment["reason"]) == (shop.pid, "shop", "ok", "")
    assert segment["bytes"] > 0
    assert said["sink"] == [{"record": "sink", "name": "warehouse", "pending": 4, "leased": 1, "dead": 0}]
    assert (said["code"], said["problems"], said["journal"][0]["pids"]) == (0, [], [shop.pid])
    printed = sidefx(tmp_path, "journal", "status")
    assert printed.exit_code == 0
    assert "the journal is well: 1 process running, 5 deliveries waiting (the oldest since " in printed.stdout
    assert f"pid {shop.pid} (shop)" in printed.stdout
    assert "warehouse 5 (1 in flight)" in printed.stdout
    assert "hunter2" not in printed.stdout + json.dumps(said)
    shop.hold(all_=False)
    eventually(lambda: len(shop.delivered) == 5)
    shop.order(1)
    eventually(lambda: len(shop.delivered) == 6)
    eventually(lambda: status(tmp_path)["journal"][0]["waiting"] == 0)


def test_no_segment_that_somebody_owns_is_opened(
    store: DeadStore, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second connection could corrupt it; only those that nobody owns are opened, under their lock."""
    opened = []
    adopt = Segment.adopt

    def adopted(path: Path, options: JournalOptions) -> Segment | None:
        opened.append(path)
        return adopt(path, options)

    monkeypatch.setattr(survey.Segment, "adopt", adopted)
    orphan = left_behind(tmp_path, 1)
    with process(tmp_path):
        assert run("journal", "status").exit_code == 0
        assert set(opened) == {orphan}


def test_what_a_dead_process_has_said_is_not_believed(open_shop: Open, tmp_path: Path) -> None:
    """Whose segment it is, its lock says: an adopted one is its new owner's, and the dead one is told of no more."""
    first = open_shop()
    first.hold()
    first.order(3)
    eventually(lambda: status(tmp_path)["journal"][0]["waiting"] == 3)
    first.kill()
    second = open_shop()
    eventually(lambda: len(status(tmp_path)["segment"]) == 2 and status(tmp_path)["segment"][0]["pid"] == second.pid)
    said = status(tmp_path)
    assert [(each["pid"], each["state"]) for each in said["segment"]] == [(second.pid, "ok")] * 2
    assert said["journal"][0]["pids"] == [second.pid]
    assert [each["sinks"].get("warehouse") for each in said["segment"]] == [{"pending": 2, "leased": 1}, None]


@pytest.mark.usefixtures("store")
def test_the_latest_word_on_a_segment_counts(run: Run, tmp_path: Path) -> None:
    """What a dead process has left beside a segment that another one has taken over is not its owner's."""
    with process(tmp_path, pid=1) as old, process(tmp_path, pid=2) as new:
        word = Status.read(new.with_suffix(".json"))
        before = Status.read(old.with_suffix(".json"))
        assert word is not None
        assert before is not None
        both = [*word.segments, *before.segments]
        word.model_copy(update={"segments": both}).write(new.with_suffix(".json"))
        said = told(run("journal", "status", "--json"))
    assert said["journal"][0]["pids"] == [2]
    assert [each["pid"] for each in said["segment"]] == [2, 2]


def test_a_process_that_hangs_is_told_of(shop: Shop, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is stopped says nothing any more; an idle one says each second that it is there."""
    monkeypatch.setattr(journal, "_SILENT", 3.0)
    eventually(lambda: told(run("journal", "status", "--json"))["journal"][0]["pids"] == [shop.pid])
    (file,) = (tmp_path / "journal").glob("*.json")
    before = file.stat().st_mtime
    eventually(lambda: file.stat().st_mtime > before + 1.5)
    eventually(lambda: run("journal", "status").exit_code == 0)
    shop.popen.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: run("journal", "status").exit_code == 1)
        said = told(run("journal", "status", "--json"))
    finally:
        shop.popen.send_signal(signal.SIGCONT)
    assert said["segment"][0]["state"] == "silent"
    (problem,) = said["problems"]
    assert problem.startswith(f"pid {shop.pid} (shop) has said nothing for ")
    eventually(lambda: run("journal", "status").exit_code == 0)


# --- what is wrong --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_events_that_nobody_takes_are_a_problem(run: Run, tmp_path: Path) -> None:
    """Where no process runs: exit code 1, how many wait, since when; looking leaves them as they are."""
    path = left_behind(tmp_path, 3)
    for _ in "ab":
        result = run("journal", "status")
        assert result.exit_code == 1
        assert (
            f"PROBLEM: 3 deliveries in {path.stem}, and no process runs here: they go on when one starts"
            in result.stdout
        )
        assert "no process running, 3 deliveries waiting (the oldest since 2 h), 0 dead letters" in result.stdout
    said = told(run("journal", "status", "--json"))
    assert (said["segment"][0]["state"], said["segment"][0]["pid"]) == ("orphaned", None)
    assert said["segment"][0]["sinks"] == {"audit": {"pending": 3, "leased": 0}}
    assert said["code"] == 1


def test_events_of_a_killed_process_wait_for_the_next(open_shop: Open, tmp_path: Path) -> None:
    """They are counted where they lie, and delivered by the next process, also after somebody has looked."""
    shop = open_shop()
    shop.hold()
    shop.order(4)
    eventually(lambda: status(tmp_path)["journal"][0]["waiting"] == 4)
    shop.kill()
    said = status(tmp_path)
    assert (said["code"], said["segment"][0]["state"], said["journal"][0]["waiting"]) == (1, "orphaned", 4)
    shop.hold(all_=False)
    again = open_shop()
    eventually(lambda: len(again.delivered) == 4)
    eventually(lambda: status(tmp_path)["code"] == 0)


@pytest.mark.usefixtures("store")
def test_a_segment_without_events_waits_for_nobody(run: Run, tmp_path: Path) -> None:
    """A killed process whose events had all been delivered leaves no problem; where others run, nor do its events."""
    left_behind(tmp_path, 0)
    said = told(run("journal", "status", "--json"))
    assert (said["code"], said["segment"][0]["state"]) == (0, "empty")
    left_behind(tmp_path, 2)
    assert told(run("journal", "status", "--json"))["code"] == 1
    with process(tmp_path):
        said = told(run("journal", "status", "--json"))
    assert (said["code"], [each["state"] for each in said["segment"]]) == (0, ["empty", "changing hands", "ok"])


@pytest.mark.usefixtures("store")
def test_a_process_whose_disk_fails(run: Run, tmp_path: Path) -> None:
    """Exit code 1 and its reason; what it says steers no terminal."""
    with process(tmp_path, state="failing", reason="database or disk is full", runtime="\x1b[31mshop\n"):
        result = run("journal", "status")
        said = told(run("journal", "status", "--json"))
    assert result.exit_code == 1
    assert "PROBLEM: pid 4711 (\\x1b[31mshop\\n) cannot keep new events: database or disk is full" in result.stdout
    assert "\x1b" not in result.stdout
    assert (said["code"], said["segment"][0]["state"], said["segment"][0]["runtime"]) == (
        1,
        "failing",
        "\x1b[31mshop\n",
    )
    assert said["sink"] == [{"record": "sink", "name": "audit", "pending": 3, "leased": 1, "dead": 0}]


@pytest.mark.usefixtures("store")
def test_what_cannot_be_read_is_left_where_it_is(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged, or another user's: exit code 1, with the reason and the file's name; the others are told of."""
    broken = tmp_path / "journal" / "0000.sqlite"
    broken.write_bytes(b"no database" * 1_000)
    left_behind(tmp_path, 0)
    said = told(run("journal", "status", "--json"))
    assert [each["state"] for each in said["segment"]] == ["unreadable", "empty"]
    assert said["problems"] == ["0000 cannot be looked into, and is left where it is: file is not a database"]
    assert said["code"] == 1
    assert broken.read_bytes() == b"no database" * 1_000
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    before = sorted(path.name for path in broken.parent.iterdir())
    said = told(run("journal", "status", "--json"))
    assert all("it belongs to another user" in each for each in said["problems"])
    assert len(said["problems"]) == 2
    assert sorted(path.name for path in broken.parent.iterdir()) == before


def test_letters_that_cannot_be_read(store: DeadStore, run: Run) -> None:
    """A problem, and no reason to be silent about the rest."""
    store.add([letter(), letter()])
    said = told(run("journal", "status", "--json"))
    assert (said["code"], said["journal"][0]["dead"], said["sink"][0]["dead"]) == (0, 2, 2)
    store.path.write_bytes(b"no database" * 1_000)
    said = told(run("journal", "status", "--json"))
    assert (said["code"], said["problems"]) == (1, ["the dead letters cannot be read: file is not a database"])


@pytest.mark.usefixtures("store")
def test_a_full_disk_is_a_problem_whatever_processes_say(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fills up may not even be able to say so."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4_000))
    said = told(run("journal", "status", "--json"))
    assert (said["code"], said["problems"]) == (1, ["its disk is full: 4.0 kB are free"])


# --- what is in between ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store", "patient")
def test_a_segment_whose_owner_has_not_said_anything(run: Run, tmp_path: Path) -> None:
    """A replay that is under way, or a process that has just started, is no problem; neither is a torn word."""
    with process(tmp_path) as path:
        path.with_suffix(".json").write_text('{"pid": 4711, "runt')
        result = run("journal", "status")
    assert result.exit_code == 0
    assert "a process that has not said who it is" in result.stdout
    assert "busy" in result.stdout


@pytest.mark.usefixtures("store")
def test_a_process_is_given_a_moment_to_say_who_it_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has taken a segment over, or has started, and is about to say so."""
    with process(tmp_path) as path:
        word = path.with_suffix(".json").read_bytes()
        path.with_suffix(".json").unlink()
        monkeypatch.setattr(journal.time, "sleep", lambda _: path.with_suffix(".json").write_bytes(word))
        said = told(run("journal", "status", "--json"))
    assert (said["segment"][0]["state"], said["segment"][0]["pid"]) == ("ok", 4711)


@pytest.mark.usefixtures("store")
def test_nothing_at_all(run: Run) -> None:
    """A journal that was left in order: nobody runs, nothing waits, exit code 0."""
    result = run("journal", "status")
    assert result.exit_code == 0
    assert "the journal is well: no process running, 0 deliveries waiting, 0 dead letters" in result.stdout


@pytest.mark.parametrize("arguments", [(), ("journal",), ("dead",)])
def test_help_is_in_the_order_of_use(run: Run, arguments: tuple[str, ...]) -> None:
    """What is looked at first stands first, what deletes stands last."""
    lines = run(*arguments, "--help").output.partition("Commands:\n")[2].splitlines()
    order = {
        (): ["check", "journal", "dead", "schema", "audit"],
        ("journal",): ["status"],
        ("dead",): ["list", "show", "replay", "purge"],
    }
    assert [line.split()[0] for line in lines] == order[arguments]
