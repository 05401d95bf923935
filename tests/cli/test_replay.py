"""`sidefx dead replay`, beside an app that runs, beside none, and beside others of its kind."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import Result

from sidefx.dead_letters import DeadLetter
from sidefx.events import uuid7
from sidefx.journal.dead import DeadStore
from sidefx.journal.segment import Segment
from tests.asgi.probe import eventually
from tests.cli.conftest import Open, Shop, Terminal, begun, sidefx
from tests.cli.letters import letter

Run = Callable[..., Result]


def orders(count: int, **values: object) -> list[DeadLetter]:
    """Letters that the shop can read."""
    made = []
    for number in range(count):
        id_ = uuid7()
        text = f'{{"id": "{id_}", "at": "2026-01-02T03:04:05Z", "request": null, "number": {number}}}'
        made.append(letter(sink="warehouse", kind="cli_test.ordered", event_id=id_, text=text, **values))
    return made


def ids_of(letters: list[DeadLetter]) -> list[str]:
    """Their events', sorted."""
    return sorted(str(each.event_id) for each in letters)


def segments(folder: Path) -> list[Path]:
    """The files of events that are there."""
    return [path for path in (folder / "journal").glob("*.sqlite") if path.name != "dead.sqlite"]


def died(shop: Shop, count: int) -> list[str]:
    """Has the shop give up so many orders, and take orders again from then on."""
    shop.refuse()
    shop.order(count)
    shop.letters(count)
    shop.refuse(all_=False)
    return ids_of(shop.store.letters())


# --- beside an app that runs ----------------------------------------------------------------------------------


@pytest.mark.contract("J10")
def test_a_running_process_delivers_what_is_replayed_once(shop: Shop, tmp_path: Path) -> None:
    """It takes the letters over within two seconds; the command waits, says who it is and what came of it."""
    ids = died(shop, 3)
    began = time.monotonic()
    ran = sidefx(tmp_path, "dead", "replay", "--sink", "warehouse")
    assert time.monotonic() - began < 10
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        f"3 dead letters handed over; a running process takes them: pid {shop.pid} (shop)",
        "3 delivered",
    ]
    assert sorted(shop.delivered) == ids
    assert shop.store.counts() == {}
    assert len(segments(tmp_path)) == 1  # the shop's own
    again = sidefx(tmp_path, "dead", "replay", "--sink", "warehouse")
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr.startswith("no dead letters for warehouse in ")


def test_what_comes_back_is_told(shop: Shop, tmp_path: Path) -> None:
    """Exit code 1, how many are dead letters again, and how to look at them; as JSON as well."""
    died(shop, 2)
    shop.refuse()
    ran = sidefx(tmp_path, "dead", "replay", "--all")
    assert ran.exit_code == 1
    assert ran.stdout.splitlines()[1] == "0 delivered, 2 dead again (sidefx dead list --sink warehouse)"
    (record,) = sidefx(tmp_path, "dead", "replay", "--all", "--json").records
    assert record == {
        "record": "replay",
        "handed_over": 2,
        "broken_off": "",
        "without_json": 0,
        "unknown": [],
        "processes": [{"pid": shop.pid, "runtime": "shop"}],
        "delivered": 0,
        "dead": 2,
        "remaining": 0,
    }
    assert shop.store.counts() == {"warehouse": 2}


@pytest.mark.contract("J10")
def test_some_letters_and_another_sink(shop: Shop, tmp_path: Path) -> None:
    """By id, and with --to; the others stay. An id that has no letter makes the exit code 1, and the rest goes."""
    first, second, third = died(shop, 3)
    missing = str(uuid7())
    ran = sidefx(tmp_path, "dead", "replay", first, missing, "--to", "branch")
    assert ran.exit_code == 1
    assert ran.stderr == f"no dead letter of event {missing} is here; it may have been replayed, or purged\n"
    assert shop.taken_by("branch") == [first]
    assert ids_of(shop.store.letters()) == [second, third]
    assert sidefx(tmp_path, "dead", "replay", second, "--kind", "cli_test.returned").exit_code == 1
    assert sidefx(tmp_path, "dead", "replay", second, "--kind", "cli_test.ordered").exit_code == 0
    assert shop.taken_by("warehouse") == [second]


def test_a_sink_that_does_not_exist(shop: Shop, run: Run, tmp_path: Path) -> None:
    """The configuration is asked, with the nearest name; where there is none, the letters come back with the reason."""
    died(shop, 1)
    text = '[journal]\npath = "journal"\n[sinks.warehouse]\ntype = "log"\n[sinks.branch]\ntype = "log"\n'
    typo = run("dead", "replay", "--all", "--to", "brnch", text=text)
    assert (typo.exit_code, typo.stderr) == (2, "--to: there is no sink named 'brnch'; did you mean 'branch'?\n")
    assert shop.store.counts() == {"warehouse": 1}
    ran = sidefx(tmp_path, "dead", "replay", "--all", "--to", "atlantis")
    assert (ran.exit_code, "1 dead again" in ran.stdout) == (1, True)
    (returned,) = shop.store.letters()
    assert (returned.sink, returned.reason) == ("atlantis", "no sink named 'atlantis'")


def test_letters_without_json_stay(shop: Shop, tmp_path: Path) -> None:
    """They cannot be replayed; how many were left, and why, is said, and the exit code is 1."""
    ids = died(shop, 1)
    shop.store.add([letter(text=None), letter(text=None)])
    ran = sidefx(tmp_path, "dead", "replay", "--all")
    assert ran.exit_code == 1
    assert ran.stderr == "2 dead letters cannot be replayed: the event could not be written as JSON\n"
    assert shop.delivered == ids
    only = sidefx(tmp_path, "dead", "replay", "--sink", "audit")
    assert (only.exit_code, only.stdout) == (1, "")
    assert shop.store.counts() == {"audit": 2}


def test_the_wait_has_an_end(shop: Shop, tmp_path: Path) -> None:
    """What is still under way then is safe in the journal: exit code 1, and it is delivered once the sink takes it."""
    ids = died(shop, 2)
    shop.hold()
    ran = sidefx(tmp_path, "dead", "replay", "--all", "--wait", "3")
    assert ran.exit_code == 1
    assert ran.stdout.splitlines()[1] == "2 still to be delivered after 3 s"
    assert "safe in the journal" in ran.stderr
    shop.hold(all_=False)
    eventually(lambda: sorted(shop.delivered) == ids)


def test_ctrl_c_while_waiting_is_safe(shop: Shop, tmp_path: Path) -> None:
    """The events are in the journal and are delivered all the same, and that is said."""
    ids = died(shop, 2)
    shop.hold()
    with begun(tmp_path, "dead", "replay", "--all") as popen:
        assert popen.stdout is not None
        assert "handed over" in popen.stdout.readline()
        time.sleep(0.3)  # into the waiting; any moment will do
        popen.send_signal(signal.SIGINT)
        out, err = popen.communicate(timeout=15)
    assert (popen.returncode, out) == (1, "2 still to be delivered\n")
    assert "stopped waiting; they are safe in the journal, and delivered all the same" in err
    assert "Traceback" not in err
    shop.hold(all_=False)
    eventually(lambda: sorted(shop.delivered) == ids)


def test_a_terminal_sees_it_move(shop: Shop, terminal: Callable[..., Terminal]) -> None:
    """A bar, which is gone at the end; a pipe and --json see none."""
    died(shop, 3)
    shop.hold()
    called = terminal("dead", "replay", "--all", columns=120)
    called.wait_for("delivering")
    called.wait_for("0/3")
    shop.hold(all_=False)
    assert called.end() == 0
    assert called.shown.endswith("3 delivered\n")


# --- beside none ----------------------------------------------------------------------------------------------


@pytest.mark.contract("J10")
def test_where_no_process_runs_the_next_one_delivers(store: DeadStore, open_shop: Open, tmp_path: Path) -> None:
    """The command says so, does not wait, and ends well; what it has handed over is delivered once."""
    letters = orders(3)
    store.add(letters)
    ran = sidefx(tmp_path, "dead", "replay", "--all")
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert ran.stdout == "3 dead letters handed over; no process runs here: they are delivered when one starts\n"
    assert store.counts() == {}
    shop = open_shop()
    eventually(lambda: sorted(shop.delivered) == ids_of(letters))
    eventually(lambda: len(segments(tmp_path)) == 1)


def test_it_waits_for_a_process_where_it_is_told_to(store: DeadStore, open_shop: Open, tmp_path: Path) -> None:
    """--wait holds without a process as well: until one has started and delivered, or the time is over."""
    letters = orders(2)
    store.add(letters)
    with begun(tmp_path, "dead", "replay", "--all", "--wait", "60") as popen:
        assert popen.stdout is not None
        assert "no process runs here" in popen.stdout.readline()
        shop = open_shop()
        out, _ = popen.communicate(timeout=30)
    assert (popen.returncode, out) == (0, "2 delivered\n")
    assert sorted(shop.delivered) == ids_of(letters)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--to", "branch"),
        ("--all", "--sink", "x"),
        ("--all", "--wait", "1", "--no-wait"),
        ("x",),
        ("--wait=-1", "--all"),
    ],
)
def test_nothing_is_replayed_by_mistake(run: Run, store: DeadStore, arguments: tuple[str, ...]) -> None:
    """Without a word on which, or with words that contradict each other: exit code 2, and nothing happens."""
    store.add(orders(1))
    assert run("dead", "replay", *arguments).exit_code == 2
    assert len(store.letters()) == 1
    if not arguments:
        assert "--all" in run("dead", "replay").stderr


# --- whatever happens meanwhile -------------------------------------------------------------------------------


def test_several_replays_at_once_share_the_letters(shop: Shop, tmp_path: Path) -> None:
    """Each letter is handed over by one of them, and delivered once."""
    letters = orders(1_200)
    shop.store.add(letters)
    ran: list[int] = []

    def replay() -> None:
        (record,) = sidefx(tmp_path, "dead", "replay", "--all", "--no-wait", "--json").records
        ran.append(record["handed_over"])

    threads = [threading.Thread(target=replay) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(ran) == 1_200
    eventually(lambda: len(shop.delivered) >= 1_200)
    assert sorted(shop.delivered) == ids_of(letters)
    assert shop.store.counts() == {}


def test_letters_that_come_meanwhile_lose_nothing(shop: Shop, tmp_path: Path) -> None:
    """A sink goes on refusing while what it refused is replayed: the replay ends, and all is delivered once."""
    shop.refuse()
    ordered = 0
    over = threading.Event()

    def keep_ordering() -> None:
        nonlocal ordered
        while not over.wait(0.01):  # not faster than it refuses them
            shop.order(3)
            ordered += 3

    thread = threading.Thread(target=keep_ordering)
    thread.start()
    try:
        eventually(lambda: sum(shop.store.counts().values()) > 200)
        for _ in range(3):
            (record,) = sidefx(tmp_path, "dead", "replay", "--all", "--no-wait", "--json").records
            assert record["handed_over"] > 0
    finally:
        over.set()
        thread.join()
    shop.refuse(all_=False)

    def all_is_delivered() -> bool:
        sidefx(tmp_path, "dead", "replay", "--all", "--no-wait")
        return len(set(shop.delivered)) == ordered

    eventually(all_is_delivered)
    assert len(shop.delivered) == ordered
    assert shop.store.counts() == {}


@pytest.mark.contract("J10")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_replay_that_is_broken_off_loses_nothing(
    store: DeadStore, open_shop: Open, tmp_path: Path, stop: signal.Signals
) -> None:
    """Killed, or stopped with Ctrl-C: each letter is handed over or a letter as before, and delivered once."""
    letters = orders(2_600)
    store.add(letters)
    with begun(tmp_path, "dead", "replay", "--all") as popen:
        eventually(lambda: sum(store.counts().values()) <= 1_600)  # the second step: the first is there
        with store._open():  # in the middle: it waits to write to the letters
            popen.send_signal(stop)
            assert popen.poll() in {None, -stop}
        out, err = popen.communicate(timeout=30)
    if stop is signal.SIGINT:
        assert popen.returncode == 1
        assert "broken off: stopped; what was not handed over is a dead letter as before" in err
        assert (handed := re.match(r"([\d,]+) dead letters handed over", out)) is not None
        assert int(handed[1].replace(",", "")) + sum(store.counts().values()) == 2_600
    shop = open_shop()
    eventually(lambda: len(segments(tmp_path)) == 1)  # what was handed over is delivered
    assert len(shop.delivered) + sum(store.counts().values()) == 2_600
    assert 500 <= len(shop.delivered) < 2_600
    assert sidefx(tmp_path, "dead", "replay", "--all").exit_code == 0
    assert sorted(shop.delivered) == ids_of(letters)


def test_a_disk_that_fails_loses_nothing(store: DeadStore, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could be handed over is, the rest are letters as before; exit code 1 with the reason, as JSON as well."""
    store.add(orders(1_200))
    works, steps = Segment.transaction, []

    @contextmanager
    def full_after_a_step(segment: Segment, *, synchronous: str) -> Iterator[None]:
        steps.append(synchronous)
        if len(steps) == 2:
            raise sqlite3.OperationalError("database or disk is full")
        with works(segment, synchronous=synchronous):
            yield

    monkeypatch.setattr(Segment, "transaction", full_after_a_step)
    result = run("dead", "replay", "--all")
    assert result.exit_code == 1
    assert result.stdout.startswith("500 dead letters handed over; no process runs here")
    assert result.stderr.startswith("broken off: database or disk is full; what was not handed over is a dead letter")
    assert store.counts() == {"warehouse": 700}
    steps.clear()
    (record,) = map(json.loads, run("dead", "replay", "--all", "--json").stdout.splitlines())
    assert (record["handed_over"], record["broken_off"]) == (500, "database or disk is full")
    assert set(steps) == {"FULL"}  # a letter is on disk in the one place before it leaves the other


def test_a_disk_that_takes_nothing_at_all(
    store: DeadStore, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is handed over, nothing is lost, and no file is left behind."""
    store.add(orders(2))

    @contextmanager
    def full(segment: Segment, *, synchronous: str) -> Iterator[None]:
        raise sqlite3.OperationalError("database or disk is full")
        yield

    monkeypatch.setattr(Segment, "transaction", full)
    result = run("dead", "replay", "--all")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "broken off: database or disk is full" in result.stderr
    assert store.counts() == {"warehouse": 2}
    assert segments(tmp_path) == []
    monkeypatch.setattr(Segment, "create", Mock(side_effect=OSError(28, "No space left on device")))
    refused = run("dead", "replay", "--all")
    assert (refused.exit_code, refused.stderr) == (1, "journal: [Errno 28] No space left on device\n")
