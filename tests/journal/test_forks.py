"""Forked children: the journal is their parent's, and they can have one of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sidefx.journal.forks import inside
from tests.asgi.probe import eventually
from tests.journal.remains import Counted, Sink, journaled, left_behind, names, rows_in, segments, sound
from tests.waiting import until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
ROOT = Path(__file__).parents[2]

PARENT = """
import multiprocessing, os, sys, threading, time
from pathlib import Path
from sidefx import after
from sidefx.journal.segment import Segment
from tests.journal.remains import Counted, Sink, journaled, left_behind

folder = Path(sys.argv[1])
sink = Sink(held=True)
fx = journaled(folder, s=sink)

def say(*what):
    os.write(1, (" ".join(map(str, what)) + "\\n").encode())

def keep(n):
    with fx.scope():
        after(Counted(n=n))

"""


def run(program: str, folder: Path) -> subprocess.Popen[str]:
    """Starts it, in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PARENT + program, folder],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Kills whatever is left of it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


CHILD_THAT_STAYS = """
def stay():
    sys.stdin.read()  # until the test ends it

with fx:
    keep(1)
    child = FORK
    say("forked")
    time.sleep(60)
"""
OS_FORK = "os.fork() or (stay(), os._exit(0))"
MULTIPROCESSING = "multiprocessing.get_context('fork').Process(target=stay).start()"


@pytest.mark.anyio
@pytest.mark.contract("J05", "S14")
@pytest.mark.parametrize("fork", [OS_FORK, MULTIPROCESSING], ids=["fork", "multiprocessing"])
async def test_a_child_that_outlives_its_parent_keeps_nothing_from_others(fork: str, tmp_path: Path) -> None:
    """It holds no lock: whoever lives takes over what its parent had, while the child is there."""
    process = run(CHILD_THAT_STAYS.replace("FORK", fork), tmp_path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        process.kill()
        process.wait()
        sink = Sink()
        async with journaled(tmp_path, s=sink) as fx:
            await fx.flush(10)
            assert sink.given == [1]
            os.killpg(process.pid, 0)  # the child is there
    finally:
        finish(process)


@pytest.mark.anyio
@pytest.mark.contract("J05", "S14")
async def test_a_child_of_a_parent_that_was_just_adopting_keeps_nothing_either(tmp_path: Path) -> None:
    """The fork waits until the lock is known of."""
    left_behind(tmp_path, Counted(n=2))
    process = run(
        """
from sidefx.journal import segment
connected, reached = segment._connected, threading.Event()

def slowly(path, options):
    if threading.current_thread() is not threading.main_thread():
        reached.set()
        time.sleep(0.3)
    return connected(path, options)

segment._connected = slowly

def stay():
    sys.stdin.read()

threading.Thread(target=fx.start_blocking).start()
reached.wait()
child = os.fork() or (stay(), os._exit(0))
say("forked")
time.sleep(60)
""",
        tmp_path,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        process.kill()
        process.wait()
        sink = Sink()
        async with journaled(tmp_path, s=sink) as fx:
            await until(lambda: sink.given == [2])
            await until(lambda: len(segments(tmp_path)) == 1, within=8)
            assert fx.health().status == "ok"
            os.killpg(process.pid, 0)
    finally:
        finish(process)


@pytest.mark.contract("S14", "J03")
@pytest.mark.parametrize(
    "child",
    [
        "child = os.fork()\n    if not child: sys.exit(0)\n    os.waitpid(child, 0)",
        "child = multiprocessing.get_context('fork').Process(target=sys.exit)\n    child.start(); child.join()",
    ],
    ids=["fork", "multiprocessing"],
)
def test_the_end_of_a_child_does_not_touch_its_parents_file(child: str, tmp_path: Path) -> None:
    """Its finalisation included: the log stays, the parent goes on, and the file is sound."""
    process = run(
        f"""
with fx:
    keep(1)
    own = fx.engine.journal._writer.own
    log = own.path.with_name(own.path.name + "-wal")
    before = log.stat()
    {child}
    after_ = log.stat()
    say(before.st_ino == after_.st_ino, before.st_size <= after_.st_size, before.st_size > 0)
    for n in range(2, 50):
        keep(n)
    say(fx.stats().journal.committed, fx.stats().journal.state)
    os.kill(os.getpid(), 9)
""",
        tmp_path,
    )
    said, _ = process.communicate(timeout=60)
    assert said.splitlines() == ["True True True", "49 ok"]
    (path,) = segments(tmp_path)
    assert [event["n"] for *_, event in rows_in(path)] == list(range(1, 50))
    assert sound(path)


@pytest.mark.contract("S14", "J05")
def test_the_same_runtime_can_be_started_in_a_child(tmp_path: Path) -> None:
    """With a segment of its own, while its parent goes on with its own; each delivers what was given to it."""
    process = run(
        """
with fx:
    keep(1)
    parents = set(folder.glob("*.sqlite"))
    child = os.fork()
    if not child:
        sink.held = False
        assert fx.stats().sinks["s"].accepted == 0
        with fx:
            assert len(set(folder.glob("*.sqlite")) - parents) == 1
            keep(2)
            fx.flush_blocking(10)
        say("child", sink.given)
        os._exit(0)
    os.waitpid(child, 0)
    assert set(folder.glob("*.sqlite")) == parents
    keep(3)
    sink.held = False
    fx.flush_blocking(10)
    say("parent", sink.given)
""",
        tmp_path,
    )
    said, _ = process.communicate(timeout=60)
    assert said.splitlines() == ["child [2]", "parent [1, 3]"]
    assert names(tmp_path) == {"dead.sqlite"}


def test_a_fork_waits_until_nobody_is_inside_sqlite() -> None:
    """And nobody goes in meanwhile: what a thread has locked there would stay locked in the child."""
    entered, leave, left = threading.Event(), threading.Event(), list[str]()

    def works() -> None:
        with inside, inside:
            entered.set()
            leave.wait(10)
            left.append("left")

    def forks() -> None:
        if not (child := os.fork()):
            os._exit(0 if left == ["left"] else 1)
        left.append(f"forked {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")

    threads = [threading.Thread(target=each) for each in (works, forks)]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    eventually(lambda: inside._forking)
    leave.set()
    for thread in threads:
        thread.join()
    assert left == ["left", "forked 0"]
    with inside:
        assert inside._threads == 1


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs must not keep a program from forking; nor does a fork from inside wait for itself."""
    monkeypatch.setattr("sidefx.journal.forks._PATIENCE", 0.05)
    entered, leave = threading.Event(), threading.Event()

    def works() -> None:
        with inside:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=works)
    thread.start()
    assert entered.wait(10)
    with inside:
        if not (child := os.fork()):
            os._exit(inside._threads)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    leave.set()
    thread.join()


def test_a_scope_that_a_forked_child_leaves_waits_for_no_disk(tmp_path: Path) -> None:
    """What is scheduled in it is the parent's to keep; the child ends as any other."""
    process = run(
        """
fx.start_blocking()
with fx.scope():
    after(Counted(n=1))
    if not (child := os.fork()):
        sys.exit(7)
    say("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sink.held = False
fx.flush_blocking(10)
say("given", *sink.given)
fx.stop_blocking()
""",
        tmp_path,
    )
    try:
        told, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert told.splitlines() == ["child 7", "given 1"]
    assert names(tmp_path) == {"dead.sqlite"}
