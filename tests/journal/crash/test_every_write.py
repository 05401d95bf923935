"""Killed before each single call that changes the journal on disk, or syncs it, in turn: so after each one, too."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import reduce
from itertools import count
from operator import and_, or_
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.journal.crash.story import REFUSED
from tests.journal.crash.watch import Point
from tests.journal.crash.zygote import Life, UnwatchableError, Zygote
from tests.journal.figures import figure

LONG = os.environ.get("SIDEFX_LONG_TESTS") == "1"
SIDE_BY_SIDE = 2
WHOLE_LIVES = 4
"""Lived to their end first, for the calls that all of them make."""
SINKS = ("one", "batches")


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """What starts the processes to be killed; where it cannot, the test skips, or fails with `CI=true`."""
    with Zygote() as zygote:
        try:
            zygote.live("recover", tmp_path_factory.mktemp("first"))
        except UnwatchableError as error:
            missing = f"this needs seccomp's user notification: {error}"
            if os.environ.get("CI") == "true":
                pytest.fail(missing)
            pytest.skip(missing)
        yield zygote


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory, where it is large enough: a kill tells nothing of what a sync is for, so nobody need wait for one."""
    memory = Path("/dev/shm")  # noqa: S108 - the directory in it has a name that nobody knows
    if memory.is_dir() and shutil.disk_usage(memory).free > 500_000_000:
        with TemporaryDirectory(dir=memory) as name:
            yield Path(name).resolve()
    else:
        yield tmp_path


@pytest.mark.contract("J03")
@pytest.mark.timeout(600)
def test_a_life_that_is_killed_at_any_write(zygote: Zygote, folder: Path) -> None:
    """Whatever was acknowledged is delivered after a restart, at most twice; and no file is damaged."""
    lives = _killed_everywhere(zygote, "live", folder)

    files = sum(map(_intact_files, lives))
    _mend(zygote, lives)
    assert _faults(lives, crashes=1) == []
    figure(f"killed before each of {_kills(lives)} writes and syncs: nothing lost, all of {files} files intact")


@pytest.mark.contract("J03")
@pytest.mark.timeout(7_200 if LONG else 600)
def test_a_restart_that_is_killed_at_any_write(zygote: Zygote, folder: Path) -> None:
    """The same where the restart is killed as well, whatever the first kill has left to it."""
    whole = zygote.live("live", _new(folder / "whole"))
    kills = files = 0
    starts = range(1, len(whole.calls) + 1, 1 if LONG else len(whole.calls) // 3)
    for n in starts:
        left = _new(folder / f"{n}")
        kind = whole.calls[n - 1]
        zygote.live("live", left, kill_at=Point(kind, whole.calls[:n].count(kind)))
        lives = _killed_everywhere(zygote, "recover", folder / f"after-{n}", start=left)
        kills += _kills(lives)
        files += sum(map(_intact_files, lives))
        _mend(zygote, lives)
        assert _faults(lives, crashes=2) == []
        shutil.rmtree(folder / f"after-{n}")
    figure(f"killed at {len(starts)} of these, and restarts before each of {kills}: nothing lost, {files} files intact")


def _killed_everywhere(zygote: Zygote, what: str, folder: Path, start: Path | None = None) -> list[Life]:
    """Killed before the first call of a kind, the second, and so on to the last; and so for each kind of call.

    Each life is lived in a copy of `start`. What is committed together is a matter of chance, so that a life may have a
    call less than another: then it is lived again, until it comes to that point. What only some lives come to is tried
    once.
    """
    numbers = count()

    def live(point: Point | None) -> Life:
        where = folder / f"{next(numbers)}"
        _new(where) if start is None else shutil.copytree(start, where)
        life = zygote.live(what, where, kill_at=point)
        assert life.killed or life.said == "done", life.said
        return life

    def live_to(point: Point) -> list[Life]:
        lives = [live(point)]
        while not lives[-1].killed and len(lives) < 20:
            lives.append(live(point))
        return lives

    wholes = [live(None) for _ in range(WHOLE_LIVES)]
    calls = reduce(and_, (Counter(whole.calls) for whole in wholes))
    most = reduce(or_, (Counter(whole.calls) for whole in wholes))
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        points = [Point(call, n) for call, times in calls.items() for n in range(1, times + 1)]
        lives = [life for lives in pool.map(live_to, points) for life in lives]
        beyond = [Point(call, n) for call, times in most.items() for n in range(calls[call] + 1, times + 2)]
        more = list(pool.map(live, beyond))
    assert Counter(life.calls[-1] for life in lives if life.killed) == calls
    return [*wholes, *lives, *more]


def _intact_files(life: Life) -> int:
    """How many files the kill has left, all of them whole; a copy is looked at, so that nothing is mended here."""
    if not (life.folder / "journal").exists():
        return 0
    copies = shutil.copytree(life.folder / "journal", life.folder / "copies")
    files = list(copies.glob("*.sqlite"))
    for path in files:
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], f"{path.name}: {life}"
    return len(files)


def _mend(zygote: Zygote, lives: Sequence[Life]) -> None:
    """Starts again in every folder, and lets each finish; some at a time, in one process."""
    for start in range(0, len(lives), 50):
        assert zygote.finish("mend", *(life.folder for life in lives[start : start + 50])) == "done"


def _faults(lives: Sequence[Life], crashes: int) -> list[str]:
    """All that should not be: each acknowledged event is delivered to each sink or a dead letter; nothing is left."""
    return [f"{fault}: {life}" for life in lives for fault in _faults_of(life, crashes)]


def _faults_of(life: Life, crashes: int) -> Iterator[str]:
    seen = [(number, id_) for number, id_ in _lines(life.folder / "seen")]
    delivered = Counter((sink, number, id_) for sink, number, id_ in _lines(life.folder / "delivered"))
    dead = [(sink, number, id_) for sink, number, id_ in json.loads((life.folder / "dead").read_text())]
    for event in ((sink, *event) for sink in SINKS for event in seen):
        if event not in delivered and event not in dead:
            yield f"{event} is lost"
    for event in dead:
        if event in delivered:
            yield f"{event} is a dead letter, although it was delivered"
    for event, times in delivered.items():
        if times > 1 + crashes:
            yield f"{event} was delivered {times} times"
    if [(sink, number) for sink, number, _ in dead] not in ([], [("one", f"{REFUSED}")]):
        yield f"{dead} are dead letters"
    shared = {"dead.sqlite", "dead.sqlite-journal"}  # the latter until the next dead letter
    if left := {path.name for path in (life.folder / "journal").iterdir()} - shared:
        yield f"{left} are left behind"


def _lines(path: Path) -> Iterator[list[str]]:
    return (line.split() for line in (path.read_text().splitlines() if path.exists() else ()))


def _kills(lives: Sequence[Life]) -> int:
    return sum(life.killed for life in lives)


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
