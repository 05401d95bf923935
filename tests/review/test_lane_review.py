"""Lanes under hostile timing, on virtual time and both backends."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from sidefx import BreakerOptions, RateLimit, RetryOptions, SideEffects, SinkOptions, after
from tests.lanes.sinks import Numbered, One
from tests.virtual_time import virtual_backend

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both backends, with a clock that jumps."""
    return virtual_backend(request.param)


@pytest.mark.contract("L07")
@pytest.mark.parametrize("concurrency", [1, 5])
async def test_no_burst_follows_an_open_breaker(concurrency: int) -> None:
    """The rate limit holds over any period, also for those who waited while the breaker was open."""
    sink = One(*[RuntimeError("down")] * concurrency)
    options = SinkOptions(
        rate_limit=RateLimit(calls=1, period=1.0),
        breaker=BreakerOptions(failures=1, reset=30.0),
        retry=RetryOptions(attempts=99, initial=0.001, max=0.001),
        deadline=10_000.0,
        concurrency=concurrency,
    )
    async with SideEffects({"s": sink}, {"s": options}) as fx:
        for n in range(10):
            after(Numbered(n=n))
        await fx.flush()
    assert sorted(sink.delivered) == list(range(10))
    gaps = [later - earlier for earlier, later in zip(sink.times, sink.times[1:], strict=False)]
    assert min(gaps) >= 1.0 - 1e-6


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
