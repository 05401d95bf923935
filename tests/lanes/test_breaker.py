"""A sink that keeps failing is left alone for a while."""

from __future__ import annotations

import logging

import anyio
import pytest

from sidefx import BreakerOptions, PermanentError, RateLimit, RetryOptions, SideEffects, SinkOptions, after
from tests.lanes.sinks import Numbered, One

pytestmark = pytest.mark.anyio


def options(failures: int, reset: float, attempts: int = 99, concurrency: int = 1) -> SinkOptions:
    """A lane with such a breaker, which tries again at once."""
    return SinkOptions(
        retry=RetryOptions(attempts=attempts, initial=0.001, max=0.001),
        breaker=BreakerOptions(failures=failures, reset=reset),
        deadline=10_000.0,
        concurrency=concurrency,
    )


@pytest.mark.contract("L07")
async def test_it_opens_probes_and_closes_and_sheds_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """After `failures` in a row no call is made for `reset` seconds; then one is, and a success closes it."""
    sink = One(*[RuntimeError("down")] * 4)
    async with SideEffects({"s": sink}, {"s": options(failures=3, reset=30.0)}) as fx:
        for n in range(5):
            await fx.emit(Numbered(n=n))
        with anyio.move_on_after(1.0), caplog.at_level(logging.WARNING):
            await anyio.sleep_forever()
        assert fx.stats().sinks["s"].breaker == "open"
        assert fx.health().status == "degraded"
        assert "breaker open" in caplog.text
        await fx.flush()
        stats = fx.stats().sinks["s"]
        assert fx.health().status == "ok"
    assert (stats.breaker, stats.delivered, stats.dropped, stats.expired) == ("closed", 5, {}, 0)
    gaps = [later - earlier for earlier, later in zip(sink.times, sink.times[1:], strict=False)]
    assert max(gaps[:2]) < 1.0
    assert min(gaps[2:4]) >= 30.0 - 1e-6  # the probe, which fails, and the next one, which does not
    assert max(gaps[4:]) < 1.0


@pytest.mark.contract("L07")
async def test_only_failures_in_a_row_count() -> None:
    """A success in between starts the count anew."""
    sink = One(RuntimeError(), RuntimeError(), None, RuntimeError(), RuntimeError(), None)
    async with SideEffects({"s": sink}, {"s": options(failures=3, reset=1_000.0)}) as fx:
        for n in range(2):
            await fx.emit(Numbered(n=n))
        await fx.flush(timeout=10.0)
    assert sink.delivered == [0, 1]


async def test_a_refusal_is_an_answer() -> None:
    """A sink that rejects events works: permanent errors do not open the breaker."""
    sink = One(*[PermanentError("no")] * 10)
    async with SideEffects({"s": sink}, {"s": options(failures=2, reset=1_000.0)}) as fx:
        for n in range(11):
            await fx.emit(Numbered(n=n))
        await fx.flush(timeout=10.0)
    assert sink.delivered == [10]


async def test_one_probe_at_a_time() -> None:
    """With several calls allowed, only one is made to see whether the sink works again."""
    sink = One(*[RuntimeError("down")] * 4, delay=1.0)
    async with SideEffects({"s": sink}, {"s": options(failures=3, reset=30.0, concurrency=3)}) as fx:
        for n in range(6):
            await fx.emit(Numbered(n=n))
        await fx.flush()
    rounds = sorted({round(when, 1) for when in sink.times})
    calls_in = [sum(1 for when in sink.times if round(when, 1) == moment) for moment in rounds]
    assert calls_in[:3] == [3, 1, 1]
    assert sorted(sink.delivered) == list(range(6))


async def test_waiting_for_the_breaker_uses_no_attempt() -> None:
    """An open breaker costs an event time, not attempts."""
    sink = One(*[RuntimeError("down")] * 5)
    async with SideEffects({"s": sink}, {"s": options(failures=1, reset=50.0, attempts=6)}) as fx:
        await fx.emit(Numbered(n=1))
        await fx.flush()
        assert fx.stats().sinks["s"].delivered == 1
    assert len(sink.calls) == 6
    assert sink.times[-1] - sink.times[0] >= 5 * 50.0


@pytest.mark.contract("L07")
async def test_no_call_passes_an_open_breaker_after_waiting_for_its_place() -> None:
    """Who waited for the rate limit looks at the breaker again."""
    sink = One(RuntimeError("down"))
    options = SinkOptions(
        rate_limit=RateLimit(calls=1, period=5.0),
        breaker=BreakerOptions(failures=1, reset=60.0),
        retry=RetryOptions(attempts=9, initial=0.001, max=0.001),
        deadline=10_000.0,
        concurrency=3,
    )
    async with SideEffects({"s": sink}, {"s": options}) as fx:
        for n in range(3):
            after(Numbered(n=n))
        await fx.flush()
    assert sink.times[1] - sink.times[0] >= 60.0 - 1e-6


@pytest.mark.contract("L07", "L02")
async def test_a_probe_that_gives_up_waiting_lets_another_probe() -> None:
    """A deadline that passes between the breaker and the rate limit leaves the breaker usable."""
    sink = One(RuntimeError("down"))
    options = SinkOptions(
        rate_limit=RateLimit(calls=1, period=50.0),
        breaker=BreakerOptions(failures=1, reset=10.0),
        retry=RetryOptions(attempts=9, initial=0.001, max=0.001),
        timeout=1.0,
        deadline=20.0,
    )
    async with SideEffects({"s": sink}, {"s": options}) as fx:
        after(Numbered(n=1))
        after(Numbered(n=2))
        with anyio.fail_after(1_000):
            await fx.flush()
        stats = fx.stats().sinks["s"]
    assert (stats.expired, stats.delivered, stats.breaker) == (1, 1, "closed")
