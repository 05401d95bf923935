"""Forked children: they are outside of what runs in their parent, and can run a runtime of their own."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from sidefx import NotRunningError, SideEffects, after
from tests.orders import Stocked

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_forked_child(play: Callable[[], object]) -> None:
    """Forks, calls it in the child, and fails where that fails."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            play()
            code = 0
        except BaseException:  # noqa: BLE001 - the parent reads it
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said


class Slow:
    """A sink that keeps what it is given, once the test has let it go on."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.given: list[str] = []
        self.reading, self.writing = os.pipe()

    def __enter__(self) -> None:
        self.opened.append(os.getpid())

    def __exit__(self, *_: object) -> None: ...

    def send(self, event: Stocked) -> None:
        os.read(self.reading, 1)
        self.given.append(event.sku)


@pytest.mark.contract("S14", "S11", "S12")
def test_a_forked_child_sends_nothing_of_its_parents_queue() -> None:
    """What the parent has queued it delivers, once; the child that runs the same sinks begins with an empty queue."""
    sink = Slow()
    with SideEffects({"slow": sink}) as fx:
        for sku in "abc":
            after(Stocked(sku=sku))

        def child() -> None:
            assert not fx.running
            with pytest.raises(NotRunningError):
                fx.flush_blocking(10)
            assert fx.stats().sinks["slow"].accepted == 0
            sink.reading, sink.writing = os.pipe()
            with fx:
                after(Stocked(sku="child"))
                os.write(sink.writing, b"x")
                fx.flush_blocking(10)
                assert fx.stats().sinks["slow"].delivered == 1
            assert sink.given == ["child"]
            assert sink.opened[-1] == os.getpid()

        in_forked_child(child)
        os.write(sink.writing, b"xxx")
        fx.flush_blocking(10)
    assert sink.given == ["a", "b", "c"]


@pytest.mark.contract("S14", "S11")
def test_after_in_a_forked_child_without_a_runtime_raises() -> None:
    """The parent's runtime is not the child's: there `after()` says so, in a scope of the parent's too."""
    with SideEffects() as fx:

        def child() -> None:
            with pytest.raises(NotRunningError, match="a forked process has none of its parent's"):
                after(print)

        in_forked_child(child)
        with fx.scope("job"):
            after(print, name="of the parent")
            in_forked_child(child)
        fx.flush_blocking(10)
        assert fx.stats().callables.delivered == 1


@pytest.mark.contract("S14", "S02")
def test_a_scope_that_is_left_in_a_child_releases_nothing_there() -> None:
    """What was scheduled in it before the fork runs in the parent alone, also where the child runs a runtime."""
    ran: list[int] = []

    def note() -> None:
        ran.append(os.getpid())

    with SideEffects() as fx:
        scope = fx.scope("job")
        scope.__enter__()
        after(note)

        def child() -> None:
            with SideEffects() as own:
                scope.__exit__(None, None, None)
                own.flush_blocking(10)
            assert ran == []

        in_forked_child(child)
        scope.__exit__(None, None, None)
        fx.flush_blocking(10)
    assert ran == [os.getpid()]


@pytest.mark.anyio
@pytest.mark.contract("S14", "S11", "S12")
async def test_a_child_that_is_forked_in_an_event_loop() -> None:
    """It has the loop's objects and not the loop: what was queued stays the parent's, and it runs its own."""
    ran: list[int] = []
    async with SideEffects() as fx:
        after(ran.append, 1)

        def child() -> None:
            with pytest.raises(NotRunningError):
                after(ran.append, 2)
            with fx:
                after(ran.append, 3)
                fx.flush_blocking(10)
            assert ran == [3]

        in_forked_child(child)
        await fx.flush(10)
    assert ran == [1]


@pytest.mark.contract("S14", "S11")
def test_a_child_of_multiprocessing_can_schedule_with_a_runtime_of_its_own() -> None:
    """As `multiprocessing` forks it: it ends by itself, and nothing of the parent hangs in it."""
    results: Any = multiprocessing.get_context("fork").SimpleQueue()

    def work() -> None:
        with SideEffects() as own:
            after(results.put, "done by the child")
            own.flush_blocking(10)

    with SideEffects() as fx:
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        assert results.get() == "done by the child"
        process.join(10)
        assert process.exitcode == 0
        after(results.put, "done by the parent")
        fx.flush_blocking(10)
        assert results.get() == "done by the parent"


_LEAVES_IN_A_CHILD = """
import os, sys, time
from sidefx import SideEffects, after

class Sink:
    def __enter__(self): pass
    def __exit__(self, *_): print("closed in", os.getpid() == parent, flush=True)
    async def send(self, event: "sidefx.Event"): ...

import sidefx
parent = os.getpid()
fx = SideEffects({"sink": Sink()})
fx.start_blocking()
after(time.sleep, 0.01)
if not os.fork():
    sys.exit(0)
os.wait()
"""


def test_a_child_that_exits_as_a_program_does_ends_nothing_of_its_parent(tmp_path: Any) -> None:
    """Its interpreter exits at once and quietly; the parent's, which never stopped the runtime, drains it."""
    import subprocess

    done = subprocess.run(
        # since Python 3.12 a fork beside threads is warned of; here it is meant
        [sys.executable, "-X", "dev", "-W", "ignore:This process:DeprecationWarning", "-c", _LEAVES_IN_A_CHILD],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed in True\n", "")
