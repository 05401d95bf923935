"""When a lane tries again, and when it gives up."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import anyio
import pytest

from sidefx import (
    BreakerOptions,
    PartialError,
    PermanentError,
    RetryOptions,
    Settled,
    SideEffects,
    SinkOptions,
    TransientError,
    after,
)
from sidefx.lanes.retry import pause_after
from tests.hostile import QUICK, Made
from tests.lanes.sinks import Batches, Numbered, One

pytestmark = pytest.mark.anyio

NEVER_OPENS = BreakerOptions(failures=1_000)


@pytest.mark.contract("L03")
async def test_a_failed_event_is_tried_again_until_it_is_delivered() -> None:
    """Anything a sink raises that is not permanent is tried again."""
    sink = One(RuntimeError("no"), TransientError("not yet"))
    async with SideEffects({"s": sink}) as fx:
        await fx.emit(Numbered(n=1))
        await fx.flush()
        assert sink.delivered == [1]
        stats = fx.stats().sinks["s"]
    assert (stats.delivered, stats.retried, len(sink.calls)) == (1, 2, 3)


@pytest.mark.contract("L03")
async def test_a_permanent_error_is_not_retried() -> None:
    """It is rejected after one attempt, and stands in the dead letters with its reason."""
    sink = One(PermanentError("unknown customer"))
    async with SideEffects({"s": sink}) as fx:
        await fx.emit(Numbered(n=1))
        await fx.flush()
        [letter] = fx.dead_letters
        assert fx.stats().sinks["s"].rejected == 1
    assert len(sink.calls) == 1
    assert (letter.result, letter.reason, letter.attempts) == ("rejected", "unknown customer", 1)


@pytest.mark.contract("L03")
async def test_attempts_are_bounded() -> None:
    """After `attempts` calls the event expires, with the last error."""
    sink = One(*[RuntimeError(f"no {n}") for n in range(10)])
    options = SinkOptions(retry=RetryOptions(attempts=3), breaker=NEVER_OPENS)
    async with SideEffects({"s": sink}, {"s": options}) as fx:
        await fx.emit(Numbered(n=1))
        await fx.flush()
        [letter] = fx.dead_letters
        assert fx.stats().sinks["s"].expired == 1
    assert len(sink.calls) == 3
    assert letter.result == "expired"
    assert "no 2" in letter.reason
    assert letter.attempts == 3


@pytest.mark.contract("L03")
async def test_retry_after_is_honoured() -> None:
    """The pause is at least what the receiver asked for."""
    sink = One(TransientError("busy", retry_after=17.0))
    async with SideEffects({"s": sink}) as fx:
        await fx.emit(Numbered(n=1))
        await fx.flush()
    first, second = sink.times
    assert second - first >= 17.0


async def test_retry_after_beyond_the_deadline_expires_at_once() -> None:
    """Nobody waits for an attempt that the deadline forbids."""
    sink = One(TransientError("busy", retry_after=86_400.0))
    async with SideEffects({"s": sink}, {"s": SinkOptions(deadline=60.0)}) as fx:
        await fx.emit(Numbered(n=1))
        await fx.flush(timeout=1.0)
        assert fx.stats().sinks["s"].expired == 1


@pytest.mark.contract("L03")
def test_pauses_have_full_jitter_under_a_doubling_bounded_ceiling() -> None:
    """Each lies between zero and min(max, initial × 2^n), and they are not all alike."""
    options = RetryOptions(initial=0.5, max=8.0)
    for attempt, ceiling in ((1, 0.5), (2, 1.0), (5, 8.0), (5_000, 8.0)):
        pauses = [pause_after(attempt, [RuntimeError()], options) for _ in range(200)]
        assert all(0.0 <= pause <= ceiling for pause in pauses)
        assert max(pauses) > ceiling / 2 > min(pauses)


@pytest.mark.contract("L04")
async def test_a_partial_error_retries_only_what_failed() -> None:
    """The rest of the batch was delivered and is not sent again; a permanent one of them is rejected."""
    events = [Numbered(n=n) for n in range(4)]
    sink = Batches(PartialError({events[1].id: TransientError("later"), events[2].id: PermanentError("never")}))
    settled: list[Settled] = []
    async with SideEffects({"s": sink}, observers=[settled.append]) as fx:
        for event in events:
            await fx.emit(event)
        await fx.flush()
        stats = fx.stats().sinks["s"]
    assert sink.batches == [[0, 1, 2, 3], [1]]
    assert (stats.delivered, stats.rejected) == (3, 1)
    assert sorted((record.event.n, record.result) for record in settled if isinstance(record.event, Numbered)) == [
        (0, "delivered"),
        (1, "delivered"),
        (2, "rejected"),
        (3, "delivered"),
    ]


async def test_a_partial_error_about_strangers_delivers_again() -> None:
    """Where a sink names only events of another batch nobody knows what arrived: twice is better than not."""
    sink = Batches(PartialError({Numbered(n=9).id: TransientError("?")}))
    async with SideEffects({"s": sink}) as fx:
        await fx.emit(Numbered(n=1))
        await fx.flush()
    assert sink.batches == [[1], [1]]


@pytest.mark.contract("L06")
async def test_order_is_kept_through_retries() -> None:
    """With one call at a time, what comes later waits for the retries of what came before."""
    sink = One(None, RuntimeError("no"), RuntimeError("no"), None, RuntimeError("no"))
    async with SideEffects({"s": sink}) as fx:
        for n in range(5):
            await fx.emit(Numbered(n=n))
        await fx.flush()
    assert sink.delivered == [0, 1, 2, 3, 4]


@pytest.mark.contract("L02")
async def test_timeout_bounds_one_attempt_and_cancels_it() -> None:
    """A call that takes longer is cancelled and counts as a failed attempt."""
    sink = One(delay=5.0)
    options = SinkOptions(timeout=2.0, retry=RetryOptions(attempts=2), breaker=NEVER_OPENS)
    async with SideEffects({"s": sink}, {"s": options}) as fx:
        await fx.emit(Numbered(n=1))
        await fx.flush()
        [letter] = fx.dead_letters
    assert sink.cancelled == len(sink.calls) == 2
    assert "no answer within 2 s" in letter.reason


@pytest.mark.contract("L02")
async def test_deadline_bounds_all_attempts_and_cancels_the_last() -> None:
    """The last attempt is cut where the deadline falls into it."""
    sink = One(delay=100.0)
    options = SinkOptions(timeout=10.0, deadline=25.0, retry=RetryOptions(attempts=99, initial=0.001, max=0.001))
    options = options.model_copy(update={"breaker": NEVER_OPENS})
    async with SideEffects({"s": sink}, {"s": options}) as fx:
        await fx.emit(Numbered(n=1))
        await fx.flush(timeout=26.0)
        assert fx.stats().sinks["s"].expired == 1
    assert sink.cancelled == 3
    assert sink.times[-1] - sink.times[0] == pytest.approx(20.0, abs=0.1)


async def test_an_events_own_timeout_shortens_its_deadline() -> None:
    """`after(event, timeout=...)` bounds its attempts where that is less than the sink's deadline."""
    sink = One(*[RuntimeError("no")] * 99)
    options = SinkOptions(retry=RetryOptions(attempts=99, initial=1.0, max=1.0), breaker=NEVER_OPENS)
    async with SideEffects({"s": sink}, {"s": options}) as fx:
        after(Numbered(n=1), timeout=10.0)
        await fx.flush(timeout=11.0)
        assert fx.stats().sinks["s"].expired == 1


async def test_a_sink_that_raises_a_stray_cancellation_has_failed() -> None:
    """A cancellation that nobody asked for is an error like another, and the lane goes on."""

    class Stray(One):
        async def send(self, event: Numbered) -> None:
            if not self.calls:
                self.calls.append((0.0, event.n))
                raise asyncio.CancelledError
            await super().send(event)

    sink = Stray()
    async with SideEffects({"s": sink}) as fx:
        await fx.emit(Numbered(n=1))
        await fx.emit(Numbered(n=2))
        await fx.flush()
        assert sink.delivered == [1, 2]
        assert fx.stats().sinks["s"].retried == 1


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


@pytest.mark.contract("L02")
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # real time: an event loop that is held up
async def test_no_attempt_is_made_past_the_deadline_where_the_pause_ended_late() -> None:
    """A busy event loop wakes the lane when its time is over: the event expires without another call."""
    failed = anyio.Event()
    calls = 0

    async def fails(event: Made) -> None:
        nonlocal calls
        calls += 1
        failed.set()
        raise TransientError(retry_after=0.01)

    async def hold_up() -> None:
        await failed.wait()
        time.sleep(0.2)  # noqa: ASYNC251 - what is shown

    async with SideEffects({"s": fails}, {"s": SinkOptions(deadline=0.1, timeout=0.1)}) as fx:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold_up)
            await fx.emit(Made())
            await fx.flush(5)
        assert fx.stats().sinks["s"].expired == 1
    assert calls == 1


async def test_an_outage_after_a_refusal_is_logged_from_its_first_attempt(caplog: pytest.LogCaptureFixture) -> None:
    """A rejected event says nothing against the sink: it hides no failure that follows, and nothing recovers."""
    caplog.set_level(logging.INFO)
    sink = One(PermanentError("refused"), None, PermanentError("refused"), RuntimeError("down"), None)
    async with SideEffects({"s": sink}) as fx:
        for n in range(2):
            await fx.emit(Numbered(n=n))
        await fx.flush()
        assert "works again" not in caplog.text
        for n in range(2, 4):
            await fx.emit(Numbered(n=n))
        await fx.flush()
    assert "attempt 1 of 5 failed, will retry: RuntimeError: down" in caplog.text
    assert caplog.text.count("works again") == 1
