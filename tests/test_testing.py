"""`capture()`: what a test sees of what was scheduled, and runs of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import anyio.lowlevel
import pytest

from sidefx import AuditEvent, Event, NotRunningError, SideEffects, after
from sidefx.testing import Capture, capture
from tests.hostile import noop
from tests.orders import Ordered, Stocked

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")


def labels(captured: Sequence[Any]) -> list[str]:
    """What each effect is called."""
    return [effect.label for effect in captured]


async def test_capture_takes_what_would_have_been_released() -> None:
    """No runtime is needed; conditions are applied, nothing runs, and coroutines are closed."""
    ran: list[int] = []
    with capture() as captured:
        after(ran.append, 1, name="append")
        after(Stocked(sku="z"))
        after(noop())
        assert [effect.label for effect in captured] == ["append", "test.stocked", "noop"]
        assert [event.sku for event in captured.events(Stocked)] == ["z"]
        assert captured.calls(ran.append) == [(1,)]
        assert ran == []
    with pytest.raises(NotRunningError):
        after(noop)


async def test_captured_effects_run_when_asked_once_and_in_order() -> None:
    """Nested ones too; the first error reaches the test as it is."""
    ran: list[Any] = []

    def nested() -> None:
        ran.append("nested")
        after(ran.append, "deeper")

    async def sink(event: Stocked) -> None:
        ran.append(event.sku)

    def fail() -> None:
        raise LookupError

    with capture() as captured:
        after(nested)
        after(Stocked(sku="s"))
        await captured.run({"sink": sink})
        await captured.run({"sink": sink})
        assert ran == ["nested", "s", "deeper"]
        after(fail)
        with pytest.raises(LookupError):
            await captured.run()


async def test_a_captured_event_reaches_the_sinks_of_what_it_stands_for() -> None:
    """As it would under a runtime."""
    skus: list[str] = []

    async def sink(event: Stocked) -> None:
        skus.append(event.sku)

    with capture() as captured:
        after(Ordered())
        await captured.run({"sink": sink})
    assert skus == ["b"]


async def test_the_fixture_captures(sidefx_capture: Any) -> None:
    """`sidefx_capture` comes with the installation."""
    after(Stocked())
    assert len(sidefx_capture.events(Stocked)) == 1


async def test_a_capture_is_a_sequence(sidefx_capture: Capture) -> None:
    """With an index, slices and a length; its repr says what is in it."""
    assert repr(sidefx_capture) == "<Capture of nothing>"
    after(noop, name="one")
    after(Stocked(sku="two"), timeout=2.0, when="success")
    after(Ordered(), name="three")
    assert labels(sidefx_capture) == ["one", "test.stocked", "three"]
    assert labels(sidefx_capture[1:]) == ["test.stocked", "three"]
    assert (sidefx_capture[1].timeout, sidefx_capture[1].when, sidefx_capture[1].request) == (2.0, "success", None)
    assert [type(event) for event in sidefx_capture.events()] == [Stocked, Ordered]
    assert sidefx_capture.events(AuditEvent) == []
    assert len(sidefx_capture) == 3
    assert repr(sidefx_capture) == "<Capture of one, test.stocked, three>"


async def test_captures_within_one_another() -> None:
    """The innermost takes what is scheduled meanwhile, and no other; afterwards the one around it does again."""
    with capture() as outer:
        after(noop, name="before")
        with capture() as inner:
            after(noop, name="within")
        after(noop, name="behind")
    assert labels(outer) == ["before", "behind"]
    assert labels(inner) == ["within"]


async def test_a_capture_while_a_runtime_runs() -> None:
    """It is given nothing by `after()`; `emit`, which is no effect of a response, goes its way."""
    delivered: list[str] = []

    async def sink(event: Stocked) -> None:
        delivered.append(event.sku)

    async with SideEffects({"sink": sink}) as fx:
        with capture() as captured:
            after(Stocked(sku="captured"))
            async with fx.scope():
                after(Stocked(sku="captured in a scope"))
            await fx.emit(Stocked(sku="emitted"))
            await fx.flush()
            assert [event.sku for event in captured.events(Stocked)] == ["captured", "captured in a scope"]
        after(Stocked(sku="behind"))
    assert delivered == ["emitted", "behind"]


@pytest.mark.contract("S13")
async def test_a_capture_of_a_unit_of_work() -> None:
    """Its outcome decides, and it needs no runtime that runs."""
    fx = SideEffects()

    async def work() -> None:
        async with fx.scope():
            after(noop, name="always")
            after(noop(), name="success", when="success")
            after(noop, name="error", when="error")
            assert len(captured) == 0
            raise LookupError

    with capture() as captured, pytest.raises(LookupError):
        await work()
    assert labels(captured) == ["always", "error"]


@pytest.mark.contract("S12")
def test_effects_of_other_threads_are_captured(sidefx_capture: Capture) -> None:
    """Also of those that have no context of the test's."""
    threads = [threading.Thread(target=after, args=(noop,), kwargs={"name": str(number)}) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(labels(sidefx_capture)) == [str(number) for number in range(8)]


@pytest.mark.contract("X01")
async def test_captured_effects_run_in_the_context_of_their_call(sidefx_capture: Capture) -> None:
    """Asynchronous ones, those in threads, and coroutines."""
    seen: list[str] = []

    async def asynchronous() -> None:
        seen.append(variable.get())
        variable.set("of an effect")

    def synchronous() -> None:
        seen.append(variable.get())

    variable.set("at the call")
    after(asynchronous)
    after(synchronous)
    after(asynchronous())
    variable.set("too late")
    await sidefx_capture.run()
    assert seen == ["at the call"] * 3
    assert variable.get() == "too late"


async def test_after_an_error_the_next_run_goes_on(sidefx_capture: Capture) -> None:
    """With what comes after the effect that failed; that one has had its turn."""
    ran: list[int] = []

    async def fail() -> None:
        raise LookupError

    after(ran.append, 1)
    after(fail)
    after(ran.append, 2)
    with pytest.raises(LookupError):
        await sidefx_capture.run()
    assert ran == [1]
    await sidefx_capture.run()
    await sidefx_capture.run()
    assert ran == [1, 2]


async def test_captured_events_go_to_the_sinks_that_take_them(sidefx_capture: Capture) -> None:
    """Every kind of sink; an event that none takes is passed over."""
    taken: list[Any] = []

    class Batches:
        async def send_batch(self, events: Sequence[Stocked]) -> None:
            taken.append([event.sku for event in events])

    class Synchronous:
        def send(self, event: Event) -> None:
            taken.append((event.kind, threading.current_thread() is threading.main_thread()))

    after(Stocked(sku="s"))
    after(AuditEvent(action="a", target="t"))
    await sidefx_capture.run({"batches": Batches(), "synchronous": Synchronous()})
    assert taken == [["s"], ("test.stocked", False), ("audit", False)]


def test_a_synchronous_test_runs_what_was_captured(sidefx_capture: Capture) -> None:
    """Once, and nested effects with it."""
    ran: list[str] = []

    async def effect() -> None:
        await anyio.lowlevel.checkpoint()
        ran.append("effect")
        after(ran.append, "nested")

    after(effect)
    sidefx_capture.run_blocking()
    sidefx_capture.run_blocking()
    assert ran == ["effect", "nested"]


async def test_what_was_captured_can_be_read_after_the_block() -> None:
    """Coroutines that nobody has run are closed by then."""
    coroutine = noop()
    with capture() as captured:
        after(Stocked(sku="s"))
        after(coroutine)
    assert [event.sku for event in captured.events(Stocked)] == ["s"]
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await coroutine
