"""The sink contract: what is a sink, and what is said of what is none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sidefx import (
    AuditEvent,
    BufferOptions,
    Event,
    SideEffects,
    SinkContractError,
    SinkOptions,
    SinkStartError,
    TrackEvent,
    TransientError,
    after,
    audit,
    track,
)
from sidefx.sink import inspect_sink
from tests.hostile import Made, accepts
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Base(Event, kind="test.base"):
    """A base of events."""


class Derived(Base, kind="test.derived"):
    """One of them."""


class Single:
    """The plainest sink."""

    async def send(self, event: AuditEvent) -> None: ...


class Batch:
    """A sink of batches."""

    async def send_batch(self, events: Sequence[AuditEvent | TrackEvent]) -> None: ...


@dataclass
class Declared:
    """A dataclass is a sink like another."""

    url: str = "x"

    def send(self, event: Event) -> None: ...


async def function(event: Base) -> None:
    """A function is a sink too."""


class Callable:
    """And so is what can be called."""

    async def __call__(self, event: Base) -> None: ...


@pytest.mark.parametrize(
    ("sink", "batch", "synchronous", "types"),
    [
        (Single(), False, False, (AuditEvent,)),
        (Batch(), True, False, (AuditEvent, TrackEvent)),
        (Declared(), False, True, (Event,)),
        (function, False, False, (Base,)),
        (Callable(), False, False, (Base,)),
    ],
    ids=["class", "batch", "dataclass", "function", "callable object"],
)
def test_the_annotation_says_what_a_sink_takes(
    sink: Any, batch: bool, synchronous: bool, types: tuple[type, ...]
) -> None:
    """Classes, dataclasses and functions; one event or a batch; a class, a union or a base."""
    spec = inspect_sink(sink)
    assert (spec.batch, spec.synchronous, spec.event_types) == (batch, synchronous, types)


def test_a_base_class_takes_its_subclasses() -> None:
    """And nothing else."""
    spec = inspect_sink(function)
    assert spec.accepts(Derived)
    assert not spec.accepts(AuditEvent)


class NoSend:
    """Not a sink."""


class Unannotated:
    """Forgot the annotation."""

    async def send(self, event) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


class NotAnEvent:
    """Annotated with something else."""

    async def send(self, event: int) -> None: ...


class NotABatch:
    """Forgot that a batch is a sequence."""

    async def send_batch(self, events: AuditEvent) -> None: ...


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        (NoSend(), "no sink"),
        (Single, "give an instance"),
        (Unannotated(), "annotate its parameter"),
        (NotAnEvent(), "not an event type"),
        (NotABatch(), "Sequence"),
        (3, "no sink"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_sink_is_refused_with_a_remedy(sink: Any, said: str) -> None:
    """At construction, naming the object."""
    with pytest.raises(SinkContractError, match=said):
        SideEffects({"s": sink})


async def test_sinks_are_opened_and_closed_by_the_runtime() -> None:
    """Asynchronously or synchronously, in order, each once."""
    log: list[str] = []

    class Asynchronous(Single):
        async def __aenter__(self) -> Any:
            log.append("async open")
            return self

        async def __aexit__(self, *_: object) -> None:
            log.append("async close")

    class Synchronous(Declared):
        def __enter__(self) -> Any:
            log.append(f"sync open {threading.current_thread() is threading.main_thread()}")
            return self

        def __exit__(self, *_: object) -> None:
            log.append("sync close")

    async with SideEffects({"a": Asynchronous(), "s": Synchronous()}):
        assert sorted(log) == ["async open", "sync open False"]
    assert sorted(log[2:]) == ["async close", "sync close"]


async def test_a_sink_that_cannot_be_opened_stops_the_start_and_closes_the_others() -> None:
    """The error names the sink; nothing keeps running."""
    closed: list[str] = []

    class Opens(Single):
        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *_: object) -> None:
            closed.append("first")

    class Breaks(Single):
        async def __aenter__(self) -> Any:
            message = "no such host"
            raise OSError(message)

        async def __aexit__(self, *_: object) -> None:
            closed.append("never")

    fx = SideEffects({"first": Opens(), "second": Breaks()})
    with pytest.raises(SinkStartError, match=r"sinks\.second: .*Breaks could not be opened: OSError: no such host"):
        async with fx:
            pass
    assert closed == ["first"]
    assert not fx.running


async def test_all_sinks_that_cannot_be_opened_are_told_at_once() -> None:
    """Each with its reason, in the order of the configuration; one that is slow keeps no other waiting."""
    opening = anyio.Event()

    class Waits(Single):
        async def __aenter__(self) -> Any:
            await opening.wait()
            raise OSError("no such host")

        async def __aexit__(self, *_: object) -> None: ...

    class Breaks(Single):
        async def __aenter__(self) -> Any:
            opening.set()
            raise TransientError("not yet")

        async def __aexit__(self, *_: object) -> None: ...

    with pytest.raises(SinkStartError) as caught:
        async with SideEffects({"first": Waits(), "works": Single(), "second": Breaks()}):
            pass
    first, second = (kind.__qualname__ for kind in (Waits, Breaks))
    assert str(caught.value).splitlines() == [
        "2 sinks could not be opened",
        f"  sinks.first: {first} could not be opened: OSError: no such host",
        f"  sinks.second: {second} could not be opened: not yet",
    ]


async def test_a_synchronous_sink_runs_in_a_thread() -> None:
    """A blocking library does not block the event loop."""
    threads: list[bool] = []
    gate = threading.Event()

    class Blocking:
        def send(self, event: AuditEvent) -> None:
            threads.append(threading.current_thread() is threading.main_thread())
            assert gate.wait(10)

    async with SideEffects({"s": Blocking()}) as fx:
        after(audit("x"))
        await until(lambda: threads)
        gate.set()
        await fx.flush(5)
    assert threads == [False]


async def test_a_sink_that_never_yields_does_not_stop_the_others() -> None:
    """Between two calls the lane lets the event loop run."""
    seen: list[int] = []

    class Busy:
        async def send(self, event: AuditEvent) -> None:
            seen.append(1)

    async with SideEffects({"s": Busy()}) as fx:
        for _ in range(1_000):
            after(audit("x"))
        ticks = 0
        while len(seen) < 1_000:
            await anyio.lowlevel.checkpoint()
            ticks += 1
        assert ticks > 100
        await fx.flush(5)


async def test_an_asyncio_sink_works_on_both_backends() -> None:
    """Opened, called, cancelled and closed on an asyncio loop, whatever the app runs on."""
    log: list[str] = []

    class OnlyAsyncio:
        backend = "asyncio"

        async def __aenter__(self) -> Any:
            self.loop = asyncio.get_running_loop()
            return self

        async def __aexit__(self, *_: object) -> None:
            assert asyncio.get_running_loop() is self.loop
            log.append("closed")

        async def send(self, event: TrackEvent) -> None:
            assert asyncio.get_running_loop() is self.loop
            if event.event == "hang":
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    log.append("cancelled")
                    raise
            log.append(event.event)

    async with SideEffects({"s": OnlyAsyncio()}) as fx:
        after(track("one", user_id=1))
        after(track("hang", user_id=1), timeout=0.2)
        after(track("two", user_id=1))
        await fx.flush(10)
        assert fx.stats().sinks["s"].expired == 1
    assert sorted(log[:-1]) == ["cancelled", "one", "two"]
    assert log[-1] == "closed"


async def test_a_plain_send_that_returns_a_coroutine_is_awaited() -> None:
    """A decorator that is not `async` hides a coroutine function; its events are delivered all the same."""
    got: list[Made] = []

    class Wrapped:
        def send(self, event: Made) -> Any:
            return self._send(event)

        async def _send(self, event: Made) -> None:
            got.append(event)

    async with SideEffects({"s": Wrapped()}) as fx:
        after(Made())
        await fx.flush(5)
    assert len(got) == 1


async def test_a_sink_that_never_waits_starves_nobody() -> None:
    """A backlog of 20,000 events leaves the event loop a turn for each call of the sink."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    options = SinkOptions(buffer=BufferOptions(max_events=20_000), max_event_bytes=None)
    async with SideEffects({"s": accepts}, {"s": options}) as fx, anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        with fx.scope():
            event = Made()
            for _ in range(20_000):
                after(event)
        await fx.flush(60)
        tasks.cancel_scope.cancel()
        assert fx.stats().sinks["s"].delivered == 20_000
    assert turns > 10_000
