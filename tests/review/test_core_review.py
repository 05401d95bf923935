"""The core against hostile code: what a sink, an effect, a predicate or an observer may do, and must not break."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from unittest.mock import Mock

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field

from sidefx import (
    AuditEvent,
    BreakerOptions,
    BufferOptions,
    CallableOptions,
    Event,
    NotRunningError,
    PartialError,
    PermanentError,
    RequestInfo,
    RetryOptions,
    RuntimeOptions,
    Settled,
    SideEffects,
    SidefxError,
    SinkOptions,
    SinkStartError,
    TransientError,
    after,
    audit,
    event_from_json,
)
from sidefx.lanes.redact import MASK, Redactor
from sidefx.request import Client
from sidefx.threads import DaemonThreads

pytestmark = pytest.mark.anyio

ONCE = SinkOptions(retry=RetryOptions(attempts=1))
QUICK = SinkOptions(timeout=1.0, deadline=5.0, retry=RetryOptions(initial=0.001, max=0.001))


class Made(Event, kind="review.made"):
    """An event of these tests."""

    n: int = 0
    how: str = ""


class Mute(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


async def noop() -> None:
    """Does nothing."""


def sync_noop() -> None:
    """Does nothing, in a thread."""


async def sink(event: Made) -> None:
    """Takes everything."""


def misbehave(how: str) -> None:
    """Raises what no careful code would."""
    raise {
        "mute": Mute(),
        "exit": SystemExit(3),
        "cancelled": asyncio.CancelledError(),
        "notes": _with_broken_notes(),
    }[how]


def _with_broken_notes() -> Exception:
    class Broken(Exception):
        @property
        def __notes__(self) -> list[str]:
            raise RuntimeError

    return Broken()


HOW = ["mute", "exit", "cancelled", "notes"]


async def assert_alive(fx: SideEffects) -> None:
    """Effects and events are still carried."""
    ran: list[int] = []
    after(ran.append, 1)
    await fx.flush(5)
    assert ran == [1]


# --- what users write -------------------------------------------------------------------------------


@pytest.mark.contract("S07", "L01")
@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_a_sink_ends_its_lane(how: str) -> None:
    """An error without text, an exit, a cancellation that nobody asked for: each costs its event only."""

    async def bad(event: Made) -> None:
        if event.how:
            misbehave(event.how)

    async with SideEffects({"s": bad}, {"s": ONCE}) as fx:
        after(Made(how=how))
        after(Made())
        await fx.flush(5)
        stats = fx.stats().sinks["s"]
        assert (stats.expired, stats.delivered) == (1, 1)


@pytest.mark.contract("S07")
@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_an_effect_ends_the_runtime(how: str) -> None:
    """Sync and async alike: it is rejected, and the next one runs."""

    async def bad() -> None:
        misbehave(how)

    async with SideEffects() as fx:
        after(bad)
        after(misbehave, how)
        await fx.flush(5)
        assert fx.stats().callables.rejected == 2
        await assert_alive(fx)


@pytest.mark.contract("L01")
@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_a_predicate_ends_the_runtime(how: str) -> None:
    """The event is rejected and settles once."""

    def predicate(event: Made) -> None:
        misbehave(event.how)

    async with SideEffects({"s": sink}, {"s": SinkOptions(filter=predicate)}) as fx:
        after(Made(how=how))
        await fx.flush(5)
        assert fx.stats().sinks["s"].rejected == 1
        await assert_alive(fx)


@pytest.mark.contract("S08")
@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_an_observer_ends_the_runtime(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged by the observer's name, never by its repr, and the others hear of everything."""

    class Nosy:
        def __repr__(self) -> str:
            raise RuntimeError

        def __call__(self, record: Settled) -> None:
            misbehave(how)

    heard: list[Settled] = []
    async with SideEffects({"s": sink}, observers=[Nosy(), heard.append]) as fx:
        after(Made())
        after(noop)
        await fx.flush(5)
        await assert_alive(fx)
    assert len(heard) == 3
    assert "observer" in caplog.text


async def test_an_asynchronous_observer_is_refused() -> None:
    """It would never run: nobody awaits what an observer returns."""

    async def observer(record: Settled) -> None: ...

    with pytest.raises(TypeError, match="asynchronous"):
        SideEffects(observers=[observer])


class Fans(Event, kind="review.fans"):
    """An event whose `effects()` misbehaves."""

    how: str = ""

    def effects(self) -> Iterator[Event]:
        yield Made()
        misbehave(self.how)


@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_a_fan_out_ends_the_runtime(how: str) -> None:
    """What it had yielded is delivered."""
    async with SideEffects({"s": sink}) as fx:
        after(Fans(how=how))
        await fx.flush(5)
        assert fx.stats().sinks["s"].delivered == 1
        await assert_alive(fx)


@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_the_apps_log_ends_the_runtime(how: str) -> None:
    """A logging filter that raises costs a line, not a lane."""

    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise Mute

    log, broken = logging.getLogger("sidefx"), Broken()
    log.addFilter(broken)
    try:
        async with SideEffects({"s": lane_failure}, {"s": QUICK.model_copy(update={"retry": ONCE.retry})}) as fx:
            for _ in range(3):
                after(Made(how=how))
            await fx.flush(5)
            stats = fx.stats().sinks["s"]
            assert stats.settled == stats.accepted == 3
            await assert_alive(fx)
    finally:
        log.removeFilter(broken)


async def lane_failure(event: Made) -> None:
    """A sink that raises what the event says."""
    misbehave(event.how)


@pytest.mark.contract("L03")
@pytest.mark.parametrize("asked", ["0.01", "Wed, 21 Oct 2026 07:28:00 GMT", float("nan"), -1.0, object()])
async def test_a_retry_after_that_is_no_number_is_no_fault_of_the_lane(asked: Any) -> None:
    """A header passed on as it came: what can be read as seconds counts, anything else does not."""
    failures: list[Exception] = [TransientError("busy", retry_after=asked)]

    async def busy(event: Made) -> None:
        if failures:
            raise failures.pop()

    async with SideEffects({"s": busy}, {"s": QUICK}) as fx:
        after(Made())
        await fx.flush(8)
        assert fx.stats().sinks["s"].delivered == 1


@pytest.mark.contract("L03", "L04")
async def test_errors_whose_constructors_were_not_called_are_errors_all_the_same() -> None:
    """A subclass that forgets `super().__init__()` has neither `retry_after` nor `failures`."""

    class Busy(TransientError):
        def __init__(self) -> None: ...

    class Some(PartialError):
        def __init__(self) -> None: ...

    failures: list[Exception] = [Busy(), Some()]

    async def busy(event: Made) -> None:
        if failures:
            raise failures.pop()

    async with SideEffects({"s": busy}, {"s": QUICK}) as fx:
        after(Made())
        await fx.flush(5)
        assert fx.stats().sinks["s"].delivered == 1


@pytest.mark.contract("L03")
async def test_an_error_alone_in_a_group_is_that_error() -> None:
    """A sink with a task group of its own raises groups; a refusal in one is a refusal."""

    async def grouped(event: Made) -> None:
        raise ExceptionGroup("of a task group", [ExceptionGroup("of another", [PermanentError("no")])])

    async with SideEffects({"s": grouped}, {"s": QUICK}) as fx:
        after(Made())
        await fx.flush(5)
        assert fx.stats().sinks["s"].rejected == 1


async def test_a_fault_of_our_own_costs_a_batch_and_not_the_lane(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is settled, logged, and the lane goes on."""

    def broken(*_: object) -> float:
        raise RuntimeError("a bug")

    async def fails(event: Made) -> None:
        if event.how:
            raise ValueError

    async with SideEffects({"s": fails}, {"s": QUICK}) as fx:
        with monkeypatch.context() as patch:
            patch.setattr("sidefx.lanes.lane.pause_after", broken)
            after(Made(how="fails"))
            await fx.flush(5)
        after(Made())
        await fx.flush(5)
        stats = fx.stats().sinks["s"]
    assert (stats.rejected, stats.delivered) == (1, 1)
    assert "a bug" in caplog.text


async def test_a_runtime_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing helps, the log has it, what was left is counted, and `after()` raises."""

    async def broken(*_: object) -> None:
        raise RuntimeError("a worse bug")

    monkeypatch.setattr("sidefx.lanes.batch.Batcher.next", broken)
    fx = SideEffects({"s": sink})
    await fx.start()
    await anyio.wait_all_tasks_blocked()
    assert "a worse bug" in caplog.text
    with pytest.raises(NotRunningError):
        after(noop)
    await fx.stop()


async def test_a_mock_is_an_effect() -> None:
    """An object that has every attribute is no endless chain of partials."""
    mock = Mock()
    async with SideEffects() as fx:
        after(mock, 1)
        await fx.flush(5)
    mock.assert_called_once_with(1)


async def test_an_object_with_a_func_is_no_partial() -> None:
    """Its own `__call__` decides whether it is called in a thread."""
    called_in: list[int] = []

    class Job:
        async def func(self) -> None: ...

        def __call__(self) -> None:
            called_in.append(threading.get_ident())

    async with SideEffects() as fx:
        after(Job())
        await fx.flush(5)
    assert called_in
    assert called_in != [threading.get_ident()]


async def test_a_callable_whose_name_cannot_be_asked_for_is_reported() -> None:
    """A proxy outside of its context raises at every attribute."""

    class Proxy:
        unbound = False

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError if Proxy.unbound else AttributeError(name)

        def __call__(self) -> None: ...

    async with SideEffects() as fx:
        after(Proxy())
        Proxy.unbound = True
        await fx.flush(5)
        assert fx.stats().callables.settled == 1
        await assert_alive(fx)


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


@pytest.mark.contract("L01")
async def test_a_synchronous_sink_that_hangs_uses_up_no_threads_of_another() -> None:
    """Abandoned threads are bounded for each sink by itself."""
    gate = threading.Event()
    got: list[Made] = []

    class Hung:
        def send(self, event: Made) -> None:
            gate.wait(30)

    class Healthy:
        def send(self, event: Made) -> None:
            got.append(event)

    hung = SinkOptions(
        timeout=0.05, concurrency=80, retry=RetryOptions(attempts=1), breaker=BreakerOptions(failures=1_000)
    )
    try:
        async with SideEffects({"hung": Hung(), "ok": Healthy()}, {"hung": hung, "ok": ONCE}) as fx:
            for n in range(80):
                after(Made(n=n))
            await fx.flush(10)
            assert fx.stats().abandoned_threads >= 64
            after(Made(n=-1))
            after(sync_noop)
            await fx.flush(10)
            assert len(got) == 81
            assert fx.stats().callables.delivered == 1
    finally:
        gate.set()


# --- redaction --------------------------------------------------------------------------------------


class Card(Event, kind="review.card"):
    """An event with a value made of a secret one."""

    number: str

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def shown(self) -> str:
        return f"card {self.number}"


class Extended(Event, kind="review.extended"):
    """An event with fields that its class does not declare."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class Account:
    """Not a pydantic model."""

    iban: str


class Pair(NamedTuple):
    """A tuple with names."""

    key: str
    value: str


class Loose(Event, kind="review.loose"):
    """An event that holds all sorts."""

    account: Account
    pair: Pair
    words: frozenset[str]
    anything: dict[str, Any] = Field(default_factory=dict)


@pytest.mark.contract("L11")
def test_redaction_reaches_whatever_holds_a_value() -> None:
    """Cached properties, extra fields, dataclasses, named tuples and sets."""
    card = Card(number="4111")
    assert card.shown == "card 4111"
    assert "4111" not in Redactor(["number"])(card).model_dump_json()
    assert "4111" not in Redactor(["token"])(Extended(token="4111")).model_dump_json()  # type: ignore[call-arg]
    loose = Loose(
        account=Account("4111"),
        pair=Pair("k", "4111"),
        words=frozenset({"4111"}),
        anything={"deep": Account("4111"), "pairs": [Pair("k", "4111")]},
    )
    paths = ["account.iban", "pair.value", "words.*", "anything.deep.iban", "anything.pairs.*.value"]
    masked = Redactor(paths)(loose)
    assert "4111" not in masked.model_dump_json()
    assert masked.pair == Pair("k", MASK)
    assert loose.model_dump_json().count("4111") == 5


@pytest.mark.contract("L11")
def test_redaction_of_the_request_changes_no_other_sinks_request() -> None:
    """The request is one object for all its effects; a sink that must not see a part gets a copy."""
    request = RequestInfo(request_id="r", user_agent="agent", client=Client("192.0.2.1", 80))
    event = audit("x")._with(request=request)
    masked = Redactor(["request.user_agent", "request.client.host"])(event)
    assert masked.request is not None
    assert (masked.request.user_agent, masked.request.client) == (MASK, (MASK, 80))
    assert (request.user_agent, request.client) == ("agent", ("192.0.2.1", 80))


def test_redaction_of_everything_keeps_events_apart() -> None:
    """`*` leaves the id and the time, and gives each event a mask of its own."""
    one, two = (Redactor(["*"])(audit("x", metadata={"a": 1})) for _ in range(2))
    assert one.id != two.id
    assert one.metadata == {}
    assert one.metadata is not two.metadata


@pytest.mark.contract("L11")
async def test_a_dropped_event_is_shown_to_observers_as_the_sink_would_have_seen_it() -> None:
    """Filtered and sampled ones too."""
    records: list[Settled] = []

    async def audits(event: AuditEvent) -> None: ...

    options = SinkOptions(sample=0.0, redact=("metadata.password",))
    async with SideEffects({"s": audits}, {"s": options}, observers=[records.append]) as fx:
        after(audit("x", metadata={"password": "hunter2"}))
        await fx.flush(5)
    assert records[0].reason == "sampled"
    assert "hunter2" not in repr(records)


@pytest.mark.contract("L11")
async def test_a_predicate_that_quotes_the_event_tells_the_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It sees the whole event; where something is redacted, its error's text is withheld. The event is kept, masked."""

    async def audits(event: AuditEvent) -> None: ...

    def predicate(event: AuditEvent) -> bool:
        message = f"cannot judge {event!r}"
        raise ValueError(message)

    options = SinkOptions(filter=predicate, redact=("metadata.password",))
    async with SideEffects({"s": audits}, {"s": options}) as fx:
        after(audit("x", metadata={"password": "hunter2"}))
        await fx.flush(5)
        [letter] = fx.dead_letters
    assert "ValueError" in letter.reason
    assert letter.event.model_dump()["metadata"] == {"password": MASK}
    assert "hunter2" not in caplog.text + letter.reason + letter.error


# --- counting and waiting ---------------------------------------------------------------------------


@pytest.mark.contract("D04", "S05")
async def test_a_flush_after_one_that_timed_out_waits_for_nested_effects_too() -> None:
    """What an effect of the first flush's time schedules belongs to the second flush as well."""
    order: list[str] = []
    start_child, end_child = anyio.Event(), anyio.Event()

    async def child() -> None:
        await end_child.wait()
        order.append("child")

    async def parent() -> None:
        await start_child.wait()
        after(child)

    async with SideEffects() as fx:

        async def flushing() -> None:
            await fx.flush(5)
            order.append("flushed")

        after(parent)
        with pytest.raises(TimeoutError):
            await fx.flush(0.01)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flushing)
            await anyio.wait_all_tasks_blocked()
            start_child.set()
            await anyio.wait_all_tasks_blocked()
            end_child.set()
    assert order == ["child", "flushed"]


@pytest.mark.contract("D04")
async def test_a_cancelled_flush_leaves_nothing_behind() -> None:
    """Flushes bounded from outside do not add up."""
    gate = anyio.Event()
    async with SideEffects() as fx:
        after(gate.wait)
        for _ in range(5):
            with anyio.move_on_after(0.001):
                await fx.flush()
        assert len(fx._dispatcher._cohorts) <= 2
        gate.set()
        await fx.flush(5)
        assert len(fx._dispatcher._cohorts) == 1


@pytest.mark.contract("S05")
async def test_an_effect_of_one_runtime_may_use_another() -> None:
    """It may start, flush and end it; what it schedules there is waited for there."""
    ran: list[str] = []

    async def outer() -> None:
        async with SideEffects(name="inner") as inner:
            after(ran.append, "flushed")
            await inner.flush(5)
            ran.append("between")
            after(ran.append, "drained")

    async with SideEffects(name="outer") as fx:
        after(outer)
        await fx.flush(5)
        assert fx.stats().callables.delivered == 1
    assert ran == ["flushed", "between", "drained"]


async def test_what_a_sink_schedules_is_for_its_own_runtime() -> None:
    """Also where another one was started around it."""

    async def schedules(event: Made) -> None:
        after(noop)

    async with SideEffects(name="one") as one, SideEffects({"s": schedules}, name="two") as two:
        await two.emit(Made())
        await two.flush(5)
        await two.flush(5)
        assert one.stats().callables.accepted == 0
        assert two.stats().callables.delivered == 1


async def test_an_effect_cannot_stop_its_own_runtime() -> None:
    """It would wait for itself for ever."""
    errors: list[Exception] = []
    async with SideEffects(runtime=RuntimeOptions(drain_timeout=0.1)) as fx:

        async def stopping() -> None:
            try:
                await fx.stop()
            except SidefxError as error:
                errors.append(error)

        after(stopping)
        await fx.flush(5)
    assert "wait for itself" in str(errors[0])


async def test_another_threads_loop_is_told_where_the_runtime_runs() -> None:
    """Waiting there would never end; it raises instead."""
    errors: list[Exception] = []
    async with SideEffects() as fx:

        async def elsewhere() -> None:
            for call in (fx.flush(1), fx.emit(Made())):
                try:
                    await call
                except SidefxError as error:
                    errors.append(error)

        await anyio.to_thread.run_sync(anyio.run, elsewhere)
    assert len(errors) == 2


@pytest.mark.contract("S04")
async def test_a_chain_of_effects_keeps_no_ancestors() -> None:
    """An effect that schedules its successor, for ever, holds no more memory as time goes on."""
    payloads: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Payload:
        """Something to hold on to."""

    async def again(payload: Payload) -> None:
        if len(payloads) < 500:
            following = Payload()
            payloads.append(weakref.ref(following))
            after(again, following)
        else:
            gc.collect()
            alive.append(sum(payload() is not None for payload in payloads))

    async with SideEffects() as fx:
        after(again, Payload())
        await fx.flush(20)
    assert alive[0] < 250  # asyncio keeps up to a hundred cancelled timers, each with its context


@pytest.mark.contract("L08")
async def test_block_holds_for_what_an_event_stands_for() -> None:
    """Events from `effects()` are held as their event is, not dropped."""

    class Many(Event, kind="review.many"):
        def effects(self) -> Iterator[Event]:
            yield from (Made(n=n) for n in range(10))

    options = SinkOptions(buffer=BufferOptions(max_events=2, when_full="block"))
    async with SideEffects({"s": sink}, {"s": options}) as fx:
        await fx.emit(Many())
        assert fx.stats().sinks["s"].queued <= 2
        await fx.flush(5)
        assert fx.stats().sinks["s"].delivered == 10


@pytest.mark.contract("S12", "S13")
async def test_outside_of_any_scope_nothing_fails() -> None:
    """`when="error"` has nothing to wait for, in a thread without a context as in the runtime's block."""
    ran: list[str] = []

    def in_thread() -> None:
        for when in ("always", "success", "error"):
            after(ran.append, when, when=when)  # type: ignore[arg-type]

    async with SideEffects() as fx:
        thread = threading.Thread(target=in_thread)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        after(ran.append, "block", when="error")
        await fx.flush(5)
    assert sorted(ran) == ["always", "success"]


async def test_stats_may_be_looked_at_from_any_thread() -> None:
    """While dead letters come and go."""
    errors: list[Exception] = []
    done = threading.Event()

    async def refuses(event: Made) -> None:
        raise PermanentError("no")

    def look() -> None:
        try:
            while not done.is_set():
                str(fx.stats())
                fx.health()
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    async with SideEffects({"s": refuses}, runtime=RuntimeOptions(dead_letters=50)) as fx:
        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        for n in range(500):
            await fx.emit(Made(n=n))
        await fx.flush(20)
        done.set()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
    assert errors == []


async def test_a_sink_that_never_waits_starves_nobody() -> None:
    """A backlog of 20,000 events leaves the event loop a turn for each call of the sink."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    options = SinkOptions(buffer=BufferOptions(max_events=20_000), max_event_bytes=None)
    async with SideEffects({"s": sink}, {"s": options}) as fx, anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        with fx.scope():
            event = Made()
            for _ in range(20_000):
                after(event)
        await fx.flush(60)
        tasks.cancel_scope.cancel()
        assert fx.stats().sinks["s"].delivered == 20_000
    assert turns > 10_000


async def test_an_effect_that_fails_over_its_cancellation_has_timed_out() -> None:
    """What it raises in the end does not hide why."""

    async def clumsy() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("while cleaning up")

    records: list[Settled] = []
    async with SideEffects(observers=[records.append]) as fx:
        after(clumsy, timeout=0.01)
        await fx.flush(5)
    assert records[0].result == "expired"
    assert records[0].reason == "timeout: not done within 0.01 s, then LookupError: while cleaning up"


async def test_a_replay_drops_nothing_for_lack_of_room() -> None:
    """What does not fit into the lane stays with the dead letters."""
    gate = anyio.Event()
    refused: set[int] = set()

    async def choosy(event: Made) -> None:
        if event.n not in refused:
            refused.add(event.n)
            raise PermanentError("not yet")
        await gate.wait()

    options = SinkOptions(buffer=BufferOptions(max_events=3))
    async with SideEffects({"s": choosy}, {"s": options}) as fx:
        for n in range(5):
            await fx.emit(Made(n=n))
            await fx.flush(5)
        assert len(fx.dead_letters) == 5
        assert await fx.replay() == 3
        assert len(fx.dead_letters) == 2
        gate.set()
        await fx.flush(5)
        assert await fx.replay() == 2
        await fx.flush(5)
        stats = fx.stats().sinks["s"]
    assert (stats.delivered, stats.dropped) == (5, {})


# --- starting and ending ----------------------------------------------------------------------------


class Opening:
    """A sink whose `__aenter__` and `__aexit__` do as they are told."""

    def __init__(self, enter: Any = noop, leave: Any = noop) -> None:
        self.enter, self.leave = enter, leave
        self.closed = False

    async def __aenter__(self) -> None:
        await self.enter()

    async def __aexit__(self, *_: object) -> None:
        await self.leave()
        self.closed = True

    async def send(self, event: Made) -> None: ...


@pytest.mark.contract("S10")
async def test_a_start_that_hangs_can_be_cancelled() -> None:
    """Those that were open are closed again, and it can be started later."""
    first, second = Opening(), Opening(enter=anyio.sleep_forever)
    fx = SideEffects({"first": first, "second": second})
    with anyio.move_on_after(0.02) as bounds:
        await fx.start()
    assert bounds.cancelled_caught
    assert not fx.running
    assert first.closed
    second.enter = noop
    async with fx:
        await assert_alive(fx)


@pytest.mark.parametrize("how", HOW)
async def test_a_start_that_fails_says_so_whatever_was_raised(how: str) -> None:
    """One kind of error, with the sink's name; those that were open are closed again."""

    async def enter() -> None:
        misbehave(how)

    first = Opening()
    fx = SideEffects({"first": first, "second": Opening(enter=enter)})
    with pytest.raises(SinkStartError, match=r"sinks\.second"):
        await fx.start()
    assert not fx.running
    assert first.closed
    with pytest.raises(NotRunningError):
        after(noop)


@pytest.mark.parametrize("how", HOW)
async def test_a_sink_that_cannot_be_closed_keeps_no_other_open(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the runtime ends."""

    async def leave() -> None:
        misbehave(how)

    good = Opening()
    async with SideEffects({"bad": Opening(leave=leave), "good": good}):
        pass
    assert good.closed
    assert "sinks.bad could not be closed" in caplog.text


async def test_a_sink_that_does_not_close_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """After `drain_timeout`, by name; the others have closed."""
    good = Opening()
    sinks = {"bad": Opening(leave=anyio.sleep_forever), "good": good}
    async with SideEffects(sinks, runtime=RuntimeOptions(drain_timeout=0.05)):
        pass
    assert good.closed
    assert "sinks.bad: closing took longer" in caplog.text


def test_a_synchronous_program_hears_of_a_start_that_fails() -> None:
    """Its thread has ended, and nothing is running."""

    async def enter() -> None:
        raise RuntimeError("nothing there")

    with pytest.raises(SinkStartError, match="nothing there"), SideEffects({"s": Opening(enter=enter)}):
        pass
    assert "sidefx" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(NotRunningError):
        after(noop)


@pytest.mark.parametrize("first", ["asyncio", "trio"])
@pytest.mark.parametrize("second", ["asyncio", "trio"])
def test_an_event_loop_that_ends_without_a_stop_loses_nothing_unseen(first: str, second: str) -> None:
    """Sinks are closed, what was left is counted, nothing is announced any more, and it starts on another loop."""

    async def leave() -> None:
        await anyio.sleep(0.001)  # closing a client takes a turn or two

    held = Opening(leave=leave)
    held.send = hang  # type: ignore[method-assign]
    fx = SideEffects({"s": held})

    async def forgetful() -> None:
        await fx.start()
        for n in range(3):
            await fx.emit(Made(n=n))
        after(anyio.sleep_forever)
        with pytest.raises(TimeoutError):
            await fx.flush(0.01)
        after(noop)

    async def again() -> None:
        async with fx:
            await assert_alive(fx)

    anyio.run(forgetful, backend=first)
    stats = fx.stats()
    assert held.closed
    assert stats.sinks["s"].dropped == {"shutdown": 3}
    assert stats.callables.accepted == stats.callables.settled == 2
    assert stats.sinks["s"].in_flight == stats.callables.in_flight == 0
    with pytest.raises(NotRunningError):
        after(noop)
    held.send = sink  # type: ignore[method-assign]
    anyio.run(again, backend=second)


async def hang(event: Made) -> None:
    """A sink that never answers."""
    await anyio.sleep_forever()


@pytest.mark.contract("S06", "D02")
async def test_what_is_released_while_the_sinks_close_is_counted() -> None:
    """A request that ends between the drain and the last sink's closing loses nothing unseen."""
    closing, close = anyio.Event(), anyio.Event()

    async def leave() -> None:
        closing.set()
        await close.wait()

    fx = SideEffects({"s": Opening(leave=leave)})
    await fx.start()
    request = fx.scope()
    request.__enter__()
    after(Made())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fx.stop)
        await closing.wait()
        request.__exit__(None, None, None)
        close.set()
    stats = fx.stats().sinks["s"]
    assert (stats.accepted, stats.dropped) == (1, {"shutdown": 1})


@pytest.mark.contract("S06", "S12", "D02")
async def test_scopes_that_end_after_the_runtime_in_many_threads_are_counted() -> None:
    """Each effect settles once, and closing raises nothing."""
    records: list[Settled] = []
    fx = SideEffects({"s": sink}, observers=[records.append])
    scopes = []
    async with fx:
        for n in range(200):
            with_event = fx.scope()
            scopes.append(with_event)
            with_event.__enter__()
            after(Made(n=n))
    errors: list[BaseException] = []

    def close(part: list[Any]) -> None:
        try:
            for block in part:
                block.__exit__(None, None, None)
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=close, args=(scopes[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert errors == []
    assert fx.stats().sinks["s"].dropped == {"shutdown": 200}
    assert len(records) == 200


@pytest.mark.contract("S12", "D02")
async def test_threads_that_schedule_until_the_very_end_lose_nothing_unseen() -> None:
    """Whatever `after()` took without raising is in the counts."""
    taken = [0] * 4
    runtime = RuntimeOptions(drain_timeout=0.05, callables=CallableOptions(max_queued=1_000_000))
    fx = SideEffects(runtime=runtime)
    busy = threading.Event()
    async with fx:
        bound = fx.bind(after)

        def storm(thread: int) -> None:
            while True:
                try:
                    bound(sync_noop)
                except NotRunningError:
                    return
                taken[thread] += 1
                busy.set()

        threads = [threading.Thread(target=storm, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        await anyio.to_thread.run_sync(busy.wait)
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    stats = fx.stats().callables
    assert stats.accepted == stats.settled == sum(taken)


@pytest.mark.contract("D02")
async def test_what_waits_at_the_end_of_the_drain_is_not_started_any_more() -> None:
    """An effect that swallows its cancellation makes no room for the next."""
    started: list[str] = []

    async def stubborn() -> None:
        with suppress(BaseException):
            await anyio.sleep_forever()

    runtime = RuntimeOptions(drain_timeout=0.02, callables=CallableOptions(concurrency=1))
    async with SideEffects(runtime=runtime) as fx:
        after(stubborn)
        after(started.append, "next")
    assert started == []
    assert fx.stats().callables.dropped == {"shutdown": 1}


@pytest.mark.contract("D02")
async def test_the_list_of_what_is_left_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """A name for each effect makes no line of a megabyte."""
    async with SideEffects(runtime=RuntimeOptions(drain_timeout=0.01)):
        for n in range(2_000):
            after(anyio.sleep_forever, name=f"order {n}")
    [line] = [text for record in caplog.records if "not finished" in (text := record.getMessage())]
    assert line.startswith("2000 effect(s)")
    assert len(line) < 2_000


@pytest.mark.contract("L08", "D02")
async def test_whoever_is_held_is_let_go_when_the_runtime_ends() -> None:
    """A request that waits for its events to be routed does not wait for ever."""
    options = SinkOptions(buffer=BufferOptions(max_events=1, when_full="block"))
    fx = SideEffects({"s": hang}, {"s": options}, runtime=RuntimeOptions(drain_timeout=0.01))
    await fx.start()

    begun = anyio.Event()

    async def request() -> None:
        async with fx.scope():
            begun.set()
            for n in range(600):
                after(Made(n=n))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request)
            await begun.wait()
            fx._stopping.set()
            await fx.stop()
    assert fx.stats().sinks["s"].settled == fx.stats().sinks["s"].accepted


@pytest.mark.contract("X04")
async def test_sinks_do_not_see_the_variables_of_whoever_started_the_runtime() -> None:
    """It may have been the first request."""
    user = contextvars.ContextVar("user", default="nobody")
    seen: list[str] = []

    async def looks(event: Made) -> None:
        seen.append(user.get())

    fx = SideEffects({"s": looks})
    user.set("ann")
    await fx.start()
    await fx.emit(Made())
    await fx.stop()
    assert seen == ["nobody"]


CLOSED_LOOP = """
import asyncio, logging, os
from sidefx import NotRunningError, SideEffects, after

logging.basicConfig(format="%(message)s")
fx = SideEffects()
loop = asyncio.new_event_loop()
loop.run_until_complete(fx.start())
with fx.scope():
    after(print, "never")
    loop.close()
for call in (after, fx.bind(after)):
    try:
        call(print, "never")
    except NotRunningError:
        print("raised", flush=True)
os._exit(0)  # without asyncio's complaint of the tasks that were left
"""


@pytest.mark.contract("S11")
def test_a_loop_that_was_closed_under_the_runtime_is_no_place_to_schedule() -> None:
    """On asyncio, with tasks in it: `after()` raises then, and what was waiting is logged as lost."""
    program = subprocess.run(
        [sys.executable, "-c", CLOSED_LOOP], capture_output=True, text=True, check=True, timeout=60
    )
    assert program.stdout == "raised\nraised\n"
    assert "1 effect(s) are lost" in program.stderr


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_sink_that_does_not_close_holds_no_event_loop_that_ends(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody stops the runtime, closing is bounded all the same."""
    fx = SideEffects({"s": Opening(leave=anyio.sleep_forever)}, runtime=RuntimeOptions(drain_timeout=0.05))
    anyio.run(fx.start, backend=backend)
    assert not fx.running


async def test_stopping_twice_at_once_is_stopping_once() -> None:
    """Both wait until it has ended."""
    fx = SideEffects(runtime=RuntimeOptions(drain_timeout=0.02))
    await fx.start()
    after_in_fx = fx.bind(after)
    after_in_fx(anyio.sleep_forever)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fx.stop)
        tasks.start_soon(fx.stop)
    assert not fx.running
    assert fx.stats().callables.dropped == {"shutdown": 1}
    await fx.stop()


# --- sinks on a loop of their own -------------------------------------------------------------------


class Hosted:
    """A sink for asyncio alone."""

    backend = "asyncio"

    def __init__(self, act: Any = None) -> None:
        self.act = act
        self.loops: set[asyncio.AbstractEventLoop] = set()

    async def send(self, event: Made) -> None:
        self.loops.add(asyncio.get_running_loop())
        if self.act is not None:
            await self.act()


def hosts() -> int:
    """How many loops for asyncio sinks there are."""
    return sum(thread.name == "sidefx-asyncio-host" for thread in threading.enumerate())


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_first_calls_at_once_start_one_loop() -> None:
    """Sinks that open nothing have their first call in a lane, several at a time."""
    one, two = Hosted(), Hosted()
    options = SinkOptions(concurrency=4)
    async with SideEffects({"one": one, "two": two}, {"one": options, "two": options}) as fx:
        for n in range(8):
            after(Made(n=n))
        await fx.flush(5)
        assert hosts() == 1
        assert one.loops == two.loops
    assert hosts() == 0


@pytest.mark.contract("L01")
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_hosted_sink_that_blocks_its_loop_blocks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the app's loop nor, in the end, its shutdown."""
    monkeypatch.setattr("sidefx.hosting._STOP_SECONDS", 0.05)
    blocked, gate = threading.Event(), threading.Event()

    async def block() -> None:
        blocked.set()
        gate.wait(30)

    runtime = RuntimeOptions(drain_timeout=0.05)
    async with SideEffects({"blocking": Hosted(block), "other": Hosted()}, runtime=runtime) as fx:
        after(Made())
        await anyio.to_thread.run_sync(blocked.wait)
        after(Made())
        after(noop)
        await anyio.wait_all_tasks_blocked()
        assert fx.stats().callables.delivered == 1
    assert not gate.is_set()
    gate.set()
    with anyio.fail_after(5):
        while hosts():  # noqa: ASYNC110 - a thread ends without telling
            await anyio.sleep(0.001)


@pytest.mark.contract("L01")
@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize("how", HOW)
async def test_no_error_of_a_hosted_sink_ends_its_loop(how: str) -> None:
    """Not even an exit: the other hosted sinks, and its next attempt, find it running."""
    calls = 0

    async def once() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            misbehave(how)

    async with SideEffects({"s": Hosted(once)}, {"s": QUICK}) as fx:
        after(Made())
        await fx.flush(5)
        assert fx.stats().sinks["s"].delivered == 1


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_hosted_sink_is_on_asyncio_in_every_respect() -> None:
    """Libraries that ask where they run are told so; what it schedules is for its own runtime."""
    ran: list[str] = []

    async def look() -> None:
        await anyio.to_thread.run_sync(ran.append, "in a thread")
        await anyio.lowlevel.checkpoint()
        after(ran.append, "scheduled")

    async with SideEffects(name="one"), SideEffects({"s": Hosted(look)}, name="two") as fx:
        after(Made())
        await fx.flush(5)
        await fx.flush(5)
        assert fx.stats().callables.delivered == 1
    assert ran == ["in a thread", "scheduled"]


# --- threads ----------------------------------------------------------------------------------------


async def test_where_no_thread_can_be_started_no_job_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that failed does not run later, in place of another."""
    threads = DaemonThreads()
    ran: list[int] = []

    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            await threads.run(ran.append, 1)
    await threads.run(ran.append, 2)
    assert ran == [2]


# --- events -----------------------------------------------------------------------------------------


def test_a_copy_of_an_event_has_all_that_the_event_has() -> None:
    """Extra fields too; and private attributes of its own."""

    class Private(Event, kind="review.private"):
        _seen: int = 0

    event = Extended(colour="red")  # type: ignore[call-arg]
    assert event._with(request=RequestInfo(request_id="r")).model_dump()["colour"] == "red"
    one = Private()
    two = one._with(request=None)
    two._seen = 5
    assert one._seen == 0


def test_a_kind_is_given_in_one_way() -> None:
    """A field or an attribute of that name would be ignored, or show a user's data as the kind."""
    with pytest.raises(TypeError, match="kind"):

        class Attribute(Event):
            kind = "review.attribute"

    with pytest.raises(TypeError, match="kind"), pytest.warns(UserWarning, match="shadows"):

        class Declared(Event):
            kind: str = "x"  # type: ignore[misc]


def test_computed_fields_go_to_json_and_are_made_anew() -> None:
    """A class that forbids extra fields reads its own JSON."""
    event = Card(number="4111")
    again = event_from_json("review.card", event.model_dump_json())
    assert isinstance(again, Card)
    assert (again.id, again.shown) == (event.id, "card 4111")


def test_fields_with_an_alias_go_to_json_and_back() -> None:
    """By their names."""

    class Aliased(Event, kind="review.aliased"):
        order_id: int = Field(alias="orderId")
        parts: list[BaseModel] = Field(default_factory=list)

    event = Aliased(orderId=5)
    assert event_from_json("review.aliased", event.model_dump_json()) == event
