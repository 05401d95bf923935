"""The lock of a segment: one owner at a time, until it ends in whatever way."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidefx.journal.lock import FileLock
from tests.asgi.probe import eventually

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from sidefx.journal.lock import FileLock

lock = FileLock.acquire(Path(sys.argv[1]))
print(lock is not None, flush=True)
sys.stdin.read()
"""


@contextmanager
def elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the lock is."""
    return tmp_path / "one.lock"


def acquired(path: Path) -> FileLock:
    """The lock, which nobody has."""
    lock = FileLock.acquire(path)
    assert lock is not None
    return lock


def test_two_owners_in_one_process_exclude_each_other(path: Path) -> None:
    """Two runtimes of one process are two owners; whoever gives the lock back, any number of times, gives it to all."""
    lock = acquired(path)
    assert FileLock.acquire(path) is None
    lock.release()
    lock.release()
    again = acquired(path)
    lock.release()
    assert FileLock.acquire(path) is None
    again.release(remove=True)
    assert not path.exists()


def test_a_lock_of_another_process_ends_with_it(path: Path) -> None:
    """Even where that is killed, so that nothing of its own code runs."""
    with elsewhere(path) as process:
        assert FileLock.acquire(path) is None
        process.kill()
        process.wait()
        acquired(path).release()


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    """Nobody else may lock, and so withhold, a segment."""
    before = os.umask(0)
    try:
        lock = acquired(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lock.release()


def test_a_program_that_is_started_meanwhile_does_not_inherit_it(path: Path) -> None:
    """A child that outlives this process would keep the segment from everybody."""
    lock = acquired(path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        acquired(path).release()
        child.kill()


def test_a_file_that_cannot_be_made_is_an_error(path: Path) -> None:
    """Which is not to be taken for a lock that somebody else has."""
    with pytest.raises(OSError, match="No such file"):
        FileLock.acquire(path.parent / "nowhere" / path.name)


@pytest.mark.parametrize("made_anew", [True, False])
def test_a_file_that_is_removed_before_it_is_locked_counts_for_nothing(
    made_anew: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock on a file that nobody can find any more excludes nobody: the one that is there is to be locked."""
    flock, other = fcntl.flock, list[FileLock]()

    def removed_meanwhile(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        path.unlink()
        if made_anew:
            other.append(acquired(path))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    lock = FileLock.acquire(path)
    if made_anew:
        assert lock is None, "two have it"
        other[0].release()
    else:
        assert lock is not None
        assert FileLock.acquire(path) is None
        lock.release()


def compete(path: Path, inside: Path, rounds: int, told: Any) -> None:
    """Takes the lock again and again, removes its file each time, and says how often somebody else was inside, too."""
    broken = had = 0
    while had < rounds:
        lock = FileLock.acquire(path)
        if lock is None:
            continue
        had += 1
        try:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            inside.unlink()
        except OSError:
            broken += 1
        lock.release(remove=True)
    told.put(broken)


@pytest.mark.parametrize("start", [threading.Thread, multiprocessing.get_context("spawn").Process])
def test_it_excludes_while_its_file_comes_and_goes(start: Callable[..., Any], tmp_path: Path) -> None:
    """Three that compete, each of which removes the file that the others are about to lock."""
    told = multiprocessing.get_context("spawn").SimpleQueue()
    rounds = 300
    competing = [start(target=compete, args=(tmp_path / "one.lock", tmp_path / "in", rounds, told)) for _ in range(3)]
    for each in competing:
        each.start()
    assert [told.get() for _ in competing] == [0, 0, 0]
    for each in competing:
        each.join()
    assert eventually(lambda: not list(tmp_path.iterdir()))
