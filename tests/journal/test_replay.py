"""Dead letters on their way back into the journal."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sidefx import JournalOptions
from sidefx.dead_letters import DeadLetter
from sidefx.events import uuid7
from sidefx.journal.dead import DeadStore
from sidefx.journal.directory import Directory
from sidefx.journal.replay import Replay


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """A journal without processes."""
    directory = Directory(tmp_path / "journal")
    directory.prepare()
    return directory


@pytest.fixture
def store(directory: Directory) -> DeadStore:
    """Its dead letters."""
    store = DeadStore(directory.dead)
    store.prepare()
    return store


def letters(count: int, text: str = "{}") -> list[DeadLetter]:
    """So many, for one sink."""
    about = {"sink": "a", "result": "expired", "reason": "", "error": "", "attempts": 1, "kind": "k"}
    return [DeadLetter(event=None, event_id=uuid7(), text=text, **about) for _ in range(count)]


def test_a_replay_has_an_end_where_letters_keep_coming(directory: Directory, store: DeadStore) -> None:
    """It moves as many as there were when it began, the oldest, in steps of 500."""
    store.add(letters(1_100))
    replay = Replay(directory, store, JournalOptions())
    steps = []
    for step in replay.move():
        steps.append(step)
        store.add(letters(700))
        assert len(steps) < 10
    assert steps == [500, 500, 100]
    assert (replay.moved, store.counts()) == (1_100, {"a": 2_100})
    replay.segment.close()


def test_an_event_that_goes_to_one_sink_from_two_goes_there_once(directory: Directory, store: DeadStore) -> None:
    """Both letters are gone, and the event is there once, in whichever steps they were moved."""
    many = letters(600)
    others = [
        DeadLetter(
            event=None,
            event_id=each.event_id,
            text="{}",
            sink="b",
            kind="k",
            result="expired",
            reason="",
            error="",
            attempts=1,
        )
        for each in many
    ]
    store.add(many + others)
    replay = Replay(directory, store, JournalOptions())
    assert sum(replay.move(to="c")) == 1_200
    assert store.counts() == {}
    assert {sink: len(ids) for sink, ids in replay.segment.pending().items()} == {"c": 600}
    replay.segment.close()


def test_letters_that_are_larger_than_a_segment_may_be_are_moved(directory: Directory, store: DeadStore) -> None:
    """`max_bytes` bounds what comes in, and a replay takes as much room as it gives back."""
    store.add(letters(200, text='"' + "x" * 10_000 + '"'))
    replay = Replay(directory, store, JournalOptions(max_bytes=1_000_000))
    assert sum(replay.move()) == 200
    replay.segment.close()


def test_a_purge_makes_room_and_lets_others_in(directory: Directory, store: DeadStore) -> None:
    """500 letters at a time; the file is smaller afterwards."""
    store.add(letters(1_200, text='"' + "x" * 5_000 + '"'))
    before = store.path.stat().st_size
    steps = []
    with closing(sqlite3.connect(store.path)) as other:
        opened = store._open

        def counted(**how: object) -> object:
            steps.append(other.execute("SELECT count(*) FROM letter").fetchone()[0])
            return opened(**how)  # type: ignore[arg-type]

        store._open = counted  # type: ignore[method-assign,assignment]
        assert store.purge(before=datetime.now(UTC) + timedelta(seconds=1)) == 1_200
    assert steps == [1_200, 700, 200]
    assert store.path.stat().st_size < before / 10
