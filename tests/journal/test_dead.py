"""Dead letters on disk: one file, for any number of processes; and what a replay leaves wherever it is broken off."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidefx import JournalError, PermanentError, SinkOptions
from sidefx.dead_letters import DeadLetter
from sidefx.events.ids import uuid7
from sidefx.journal.dead import DeadStore, StoredLetters
from sidefx.journal.directory import Directory
from sidefx.journal.replay import Replay
from sidefx.options import JournalOptions
from tests.journal.remains import Counted, Sink, journaled, left_behind, names, rows_in, segments, sound
from tests.waiting import until

NEVER = PermanentError("never")


@pytest.fixture
def store(tmp_path: Path) -> DeadStore:
    """The file, ready."""
    store = DeadStore(tmp_path / "dead.sqlite")
    store.prepare()
    return store


def letter(n: int = 0, *, sink: str = "s", **about: Any) -> DeadLetter:
    """A dead letter of an event of that number."""
    given = {"event": Counted(n=n), "result": "rejected", "reason": "never", "error": "LookupError: x", "attempts": 1}
    return DeadLetter(sink=sink, **(given | about))


def numbers(store: DeadStore, **which: Any) -> list[int]:
    """The numbers of the events that are dead."""
    return [each.event.n for each in store.letters(**which)]  # type: ignore[union-attr]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process has the file for itself."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


# --- what is in it -----------------------------------------------------------------------------------------


@pytest.mark.contract("J10")
def test_a_letter_is_kept_as_it_was_given(store: DeadStore) -> None:
    """All of it; another one of the same event and sink takes its place."""
    first = letter(1, call_site="shop.py:3", request_id="r1", result="expired", attempts=5)
    store.add([first])
    (kept,) = store.letters()
    for name in ("sink", "event", "result", "reason", "error", "attempts", "at", "call_site", "request_id", "kind"):
        assert getattr(kept, name) == getattr(first, name), name
    assert kept.event_id == first.event_id
    store.add([letter(event=first.event, attempts=9), letter(event=first.event, sink="t")])
    assert [(each.sink, each.attempts) for each in store.letters()] == [("s", 9), ("t", 1)]


@pytest.mark.parametrize(
    "text",
    ["", "\0", "half \ud800", "'; DROP TABLE letter; --", "line\nline\r\x1b[31m", "🦆" * 10, "x" * 3_000_000],
    ids=["empty", "nul", "half", "sql", "control", "wide", "huge"],
)
def test_any_text_is_kept(text: str, store: DeadStore) -> None:
    """Huge and hostile ones; half a character, which no file can hold, is escaped."""
    store.add([letter(1, reason=text, error=text, call_site=text, request_id=text)])
    (kept,) = store.letters()
    expected = text.replace("\ud800", "\\ud800")
    assert {kept.reason, kept.error, kept.call_site, kept.request_id} == {expected}
    assert sound(store.path)


def test_one_whose_event_nobody_can_read_shows_its_json(store: DeadStore) -> None:
    """As it was found: of a kind that is not imported here, or no JSON at all."""
    for text in ('{"n": 1}', "\\xff{"):
        about: dict[str, Any] = {"event": None, "kind": "nobody.knows", "event_id": uuid7(), "text": text}
        store.add([letter(**about)])
    assert [(each.event, each.kind, each.text) for each in store.letters()] == [
        (None, "nobody.knows", '{"n": 1}'),
        (None, "nobody.knows", "\\xff{"),
    ]


@pytest.mark.contract("J10")
def test_they_are_chosen_by_sink_kind_and_id(store: DeadStore) -> None:
    """By all that is given, the oldest first; by any number of ids."""
    began = datetime.now(UTC) - timedelta(days=1)
    letters = [letter(n, sink="st"[n % 2], at=began + timedelta(seconds=n)) for n in range(10)]
    store.add(reversed(letters))
    assert numbers(store) == list(range(10))
    assert numbers(store, limit=3) == [0, 1, 2]
    assert numbers(store, sink="t", kind=Counted.kind) == [1, 3, 5, 7, 9]
    assert numbers(store, kind="other") == []
    ids = [letters[4].event_id, letters[5].event_id, *(uuid7() for _ in range(40_000))]
    assert numbers(store, ids=ids) == [4, 5]
    assert numbers(store, sink="s", ids=ids) == [4]
    assert numbers(store, ids=[]) == []
    assert store.counts() == {"s": 5, "t": 5}
    assert store.counts(began + timedelta(seconds=6.5)) == {"s": 1, "t": 2}


@pytest.mark.contract("J10")
def test_those_of_old_can_be_purged(store: DeadStore) -> None:
    """More than one step of them; the others stay."""
    old, new = datetime.now(UTC) - timedelta(days=30), datetime.now(UTC)
    store.add(letter(n, at=old, sink="st"[n % 2]) for n in range(1_200))
    store.add(letter(n, at=new) for n in range(3))
    assert store.purge(before=new - timedelta(days=1), sink="t") == 600
    assert store.purge(before=new - timedelta(days=1), kind="other") == 0
    assert store.purge(before=new - timedelta(days=1)) == 600
    assert numbers(store) == [0, 1, 2]


def add_many(path: Path, sink: str) -> None:
    """One process of several."""
    store = DeadStore(path)
    store.prepare()
    for n in range(40):
        store.add([letter(n, sink=sink)])


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    """Those that make the file included; nothing is lost, and nothing is damaged."""
    path = tmp_path / "dead.sqlite"
    spawn = multiprocessing.get_context("spawn")
    writing: list[Any] = [spawn.Process(target=add_many, args=(path, f"process {n}")) for n in range(2)]
    writing += [threading.Thread(target=add_many, args=(path, f"thread {n}")) for n in range(2)]
    for each in writing:
        each.start()
    for each in writing:
        each.join()
    assert DeadStore(path).counts() == {f"{kind} {n}": 40 for kind in ("process", "thread") for n in range(2)}
    assert sound(path)


# --- replay, step by step --------------------------------------------------------------------------------------


def replay(folder: Path, store: DeadStore) -> Replay:
    """A replay that is about to begin."""
    return Replay(Directory(folder), store, JournalOptions(path=folder))


@pytest.mark.contract("J10")
def test_a_replay_moves_what_matches(tmp_path: Path, store: DeadStore) -> None:
    """Five hundred at a time, to their own sink or another one; what has no JSON stays."""
    store.add(letter(n) for n in range(1_100))
    store.add([letter(event=None, kind="k", event_id=uuid7(), text=None), letter(1, sink="t")])
    moving = replay(tmp_path, store)
    assert list(moving.move(sink="s", to="u")) == [500, 500, 100]
    assert store.counts() == {"s": 1, "t": 1}
    moving.segment.close()
    assert [(sink, event["n"]) for sink, _, _, event in rows_in(moving.segment.path)] == [
        ("u", n) for n in range(1_100)
    ]


@pytest.mark.contract("J10")
def test_nobody_sees_or_takes_what_is_claimed(tmp_path: Path, store: DeadStore) -> None:
    """Two replays at once share what is there."""
    store.add(letter(n) for n in range(3))
    assert store.claim("one", limit=2) == 2
    assert numbers(store) == [2]
    assert store.claim("other") == 1
    assert store.claim("third") == 0
    assert store.purge(before=datetime.now(UTC) + timedelta(days=1)) == 0
    store.settle_claims("one", set())
    assert numbers(store) == [0, 1]


STEPS = ("before", "claimed", "read", "inserted", "settled", "handed over")


@pytest.mark.anyio
@pytest.mark.contract("J10", "J02")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("to", [None, "other"])
async def test_a_replay_that_is_broken_off_neither_loses_nor_doubles_a_letter(
    step: str, to: str | None, tmp_path: Path, store: DeadStore
) -> None:
    """Killed after each of its steps in turn: what had come to the segment is delivered, the rest is dead as before."""
    store.add(letter(n) for n in range(3))
    moving = replay(tmp_path, store)
    name = moving.segment.path.name
    if step != "before":
        assert store.claim(name, to=to) == 3
    if STEPS.index(step) >= STEPS.index("inserted"):
        moving._insert({(uuid, target): (kind, text) for uuid, kind, text, target in store.claimed(name)})
    if STEPS.index(step) >= STEPS.index("settled"):
        store.settle_claims(name, {(uuid, target) for uuid, _, _, target in store.claimed(name)})
    moving.segment.close()

    sinks = {"s": Sink(), "other": Sink()}
    lanes = {
        "s": SinkOptions(delivery="journal", fallback="other"),
        "other": SinkOptions(delivery="journal", events=()),
    }
    async with journaled(tmp_path, lanes=lanes, **sinks) as fx:
        await fx.flush(5)
        dead = [each.event.n for each in fx.dead_letters]  # type: ignore[union-attr]
    delivered = STEPS.index(step) >= STEPS.index("inserted")
    assert dead == ([] if delivered else [0, 1, 2])
    assert sinks[to or "s"].given == ([0, 1, 2] if delivered else [])
    assert sum(len(sink.given) for sink in sinks.values()) + len(dead) == 3
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.anyio
@pytest.mark.contract("J10")
async def test_a_replay_that_fails_in_a_running_process_leaves_nothing_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises; the letters are dead letters again, or delivered, within seconds."""
    sink = Sink(NEVER, NEVER)
    async with journaled(tmp_path, s=sink) as fx:
        for n in (1, 2):
            await fx.emit(Counted(n=n))
        await fx.flush(5)

        def fails(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patched:
            patched.setattr(Replay, "_insert", fails)
            with pytest.raises(JournalError, match="disk I/O error"):
                await fx.replay()
        await until(lambda: len(fx.dead_letters) == 2, within=8)
        assert await fx.replay() == 2
        await fx.flush(5)
        assert len(fx.dead_letters) == 0
    assert sink.given == [1, 2]


@pytest.mark.anyio
@pytest.mark.contract("J10", "L10")
async def test_a_letter_goes_to_another_sink_that_has_one_of_its_own_of_the_same_event(tmp_path: Path) -> None:
    """A sink and its fallback have failed alike: each letter is replayed by itself."""
    failing, fallback = Sink(NEVER), Sink(NEVER)
    async with journaled(tmp_path, a=failing, b=fallback) as fx:
        await fx.emit(Counted(n=1))
        await fx.flush(5)
        assert await fx.replay(sink="a", to="b") == 1
        await fx.flush(5)
        assert fallback.given == [1]
        assert [each.sink for each in fx.dead_letters] == ["b"]


# --- from a segment to the dead letters ---------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.contract("J02", "J06")
@pytest.mark.parametrize("written", [False, True])
async def test_a_process_that_is_killed_while_it_buries_does_it_once(
    written: bool, tmp_path: Path, store: DeadStore
) -> None:
    """Killed before the letter was written, the event is tried again; after it, the row goes, and nobody is called."""
    event = Counted(n=1)
    left_behind(tmp_path, event, attempts=1)
    if written:
        store.add([letter(event=event)])
    sink = Sink(NEVER)
    async with journaled(tmp_path, s=sink) as fx:
        await fx.flush(5)
        assert len(fx.dead_letters) == 1
    assert sink.called == ([] if written else [1])
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.anyio
async def test_a_clean_stop_soon_after_a_rejection_leaves_the_letter_alone(tmp_path: Path) -> None:
    """And no segment."""
    for _ in range(3):
        async with journaled(tmp_path, s=Sink(NEVER)) as fx:
            await fx.emit(Counted(n=1))
        assert names(tmp_path) == {"dead.sqlite"}
    assert DeadStore(tmp_path / "dead.sqlite").counts() == {"s": 3}


# --- where the file is somebody else's for a while ------------------------------------------------------------------


def test_letters_that_cannot_be_written_wait_in_memory(
    tmp_path: Path, store: DeadStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once; counted all the while; written when the file is free again, and only then `then` is called."""
    monkeypatch.setattr("sidefx.journal.dead._BUSY_SECONDS", 0.05)
    letters, then = StoredLetters(store, lambda: None), list[int]()
    with locked(store.path):
        for n in range(3):
            letters.add(letter(n), lambda n=n: then.append(n))  # type: ignore[misc]
            letters.write()
        assert letters.failure == "database is locked"
        assert letters.counts() == {"s": 3}
        assert then == []
    letters.write()
    assert letters.failure is None
    assert then == [0, 1, 2]
    assert [each.event.n for each in letters] == [0, 1, 2]  # type: ignore[union-attr]
    assert caplog.text.count("dead letters cannot be written, and are kept in memory: database is locked") == 1


def test_those_that_could_never_be_written_are_in_the_log(
    store: DeadStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With their JSON."""
    monkeypatch.setattr("sidefx.journal.dead._BUSY_SECONDS", 0.05)
    letters = StoredLetters(store, lambda: None)
    with locked(store.path):
        letters.add(letter(event=Counted(n=7, text="the only copy")))
        letters.write()
    letters.leave()
    assert "the only copy" in caplog.text
    assert len(letters) == 0


@pytest.mark.anyio
@pytest.mark.contract("J07")
async def test_a_locked_file_stops_nothing_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are delivered, health says what is wrong, in no time; afterwards the letters are there."""
    monkeypatch.setattr("sidefx.journal.dead._BUSY_SECONDS", 0.2)
    sink = Sink(NEVER)
    async with journaled(tmp_path, s=sink) as fx:
        with locked(tmp_path / "dead.sqlite"):
            for n in (1, 2):
                await fx.emit(Counted(n=n))
            await fx.flush(5)
            assert sink.given == [2]
            await until(lambda: any("dead letters cannot be written" in reason for reason in fx.health().reasons))
            assert fx.stats().dead_letters == {"s": 1}
        await until(lambda: not any("cannot be written" in reason for reason in fx.health().reasons))
        assert [each.event.n for each in fx.dead_letters] == [1]  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_what_is_left_behind_waits_for_a_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is dead already can only be told there; it is taken over as soon as that can be."""
    monkeypatch.setattr("sidefx.journal.dead._BUSY_SECONDS", 0.1)
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        with locked(tmp_path / "dead.sqlite"):
            path = left_behind(tmp_path, Counted(n=1), attempts=1)
            await until(lambda: any(path.name in reason for reason in fx.health().reasons), within=8)
            assert sink.given == []
        await until(lambda: sink.given == [1], within=8)
        await until(lambda: fx.health().status == "ok", within=8)


def test_a_letter_of_a_row_that_is_being_replayed_does_not_count_as_buried(tmp_path: Path, store: DeadStore) -> None:
    """`among` asks for those that nobody has claimed."""
    dead, claimed = letter(1), letter(2)
    store.add([dead, claimed])
    store.claim("x", ids=[claimed.event_id])
    asked = [(each.event_id.bytes, "s") for each in (dead, claimed)]
    assert store.among([*asked, (dead.event_id.bytes, "t")]) == {asked[0]}
    assert segments(tmp_path) == []
