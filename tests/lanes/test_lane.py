"""A lane stands alone, and its numbers add up."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidefx import (
    BatchOptions,
    BreakerOptions,
    BufferOptions,
    PartialError,
    PermanentError,
    RetryOptions,
    RuntimeOptions,
    Settled,
    SideEffects,
    SinkOptions,
    after,
)
from tests.hostile import HOW, ONCE, QUICK, Made, misbehave
from tests.lanes.sinks import Batches, Hung, Numbered, One
from tests.virtual_time import virtual_backend
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.mark.contract("L01")
async def test_a_lane_that_hangs_fails_or_floods_is_not_felt_by_another() -> None:
    """The healthy sink has all its events before any time has passed, and the counts of each are its own."""

    class Failing(One):
        async def send(self, event: Numbered) -> None:
            raise RuntimeError

    healthy = One()
    sinks = {"hung": Hung(), "failing": Failing(), "full": Hung(), "healthy": healthy}
    options = {"full": SinkOptions(buffer=BufferOptions(max_events=1))}
    async with SideEffects(sinks, options, runtime=RuntimeOptions(drain_timeout=0.1)) as fx:
        start = anyio.current_time()
        for n in range(100):
            after(Numbered(n=n))
        await until(lambda: len(healthy.delivered) == 100)
        assert anyio.current_time() - start < 0.1
        stats = fx.stats().sinks
        assert stats["healthy"].delivered == 100
        assert stats["hung"].in_flight == 1
        assert stats["hung"].queued == 99
        assert stats["full"].dropped == {"full": 99}
    assert healthy.delivered == list(range(100))


@pytest.mark.contract("L01", "D03")
async def test_a_hung_sink_delays_the_drain_of_the_others_by_nothing() -> None:
    """What the others hold is delivered in the drain; what the hung one held is dropped and counted."""
    hung, slow = Hung(), One(delay=0.5)
    async with SideEffects({"hung": hung, "slow": slow}, runtime=RuntimeOptions(drain_timeout=3.0)) as fx:
        for n in range(4):
            after(Numbered(n=n))
        start = anyio.current_time()
    assert anyio.current_time() - start == pytest.approx(3.0, abs=0.1)
    assert slow.delivered == [0, 1, 2, 3]
    assert fx.stats().sinks["hung"].dropped == {"shutdown": 4}


async def test_concurrency_is_what_it_says() -> None:
    """So many calls at a time, and no more."""
    running = most = 0

    async def sink(event: Numbered) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1.0)
        running -= 1

    async with SideEffects({"s": sink}, {"s": SinkOptions(concurrency=4)}) as fx:
        for n in range(12):
            after(Numbered(n=n))
        start = anyio.current_time()
        await fx.flush()
        assert anyio.current_time() - start == pytest.approx(3.0, abs=0.1)
    assert most == 4


@pytest.mark.contract("L06")
async def test_order_is_the_order_of_acceptance() -> None:
    """One call at a time, first in, first out, in batches too."""
    sink = Batches()
    async with SideEffects({"s": sink}, {"s": SinkOptions(batch=BatchOptions(max_events=7))}) as fx:
        for n in range(100):
            after(Numbered(n=n))
        await fx.flush()
    assert [n for batch in sink.batches for n in batch] == list(range(100))


async def test_a_sink_is_never_called_without_events() -> None:
    """Nothing scheduled, nothing called."""
    sink = Batches()
    async with SideEffects({"s": sink}) as fx:
        await fx.flush()
    assert sink.batches == []


outcomes = st.sampled_from(["ok", "transient", "permanent", "partial", "slow", "hang", "stray"])
steps = st.lists(st.tuples(st.integers(1, 6), st.floats(0.0, 3.0)), min_size=1, max_size=6)


@pytest.mark.contract("L09")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=st.lists(outcomes, max_size=30),
    bursts=steps,
    when_full=st.sampled_from(["drop_newest", "drop_oldest", "block"]),
    size=st.integers(1, 8),
    batch=st.integers(1, 4),
    concurrency=st.integers(1, 3),
    sample=st.sampled_from([1.0, 0.5]),
    drain=st.floats(0.01, 20.0),
)
def test_the_numbers_add_up_under_any_schedule(
    backend: str,
    script: list[str],
    bursts: list[tuple[int, float]],
    when_full: str,
    size: int,
    batch: int,
    concurrency: int,
    sample: float,
    drain: float,
) -> None:
    """What was accepted is settled, queued or in flight, whenever anybody looks; each event settles exactly once."""
    name, backend_options = virtual_backend(backend)
    anyio.run(
        _run_schedule,
        list(script),
        bursts,
        SinkOptions(
            buffer=BufferOptions(max_events=size, when_full=when_full),  # type: ignore[arg-type]
            batch=BatchOptions(max_events=batch, linger=0.05),
            concurrency=concurrency,
            timeout=1.0,
            deadline=20.0,
            sample=sample,
            retry=RetryOptions(attempts=3, initial=0.1, max=1.0),
            breaker=BreakerOptions(failures=3, reset=2.0),
        ),
        drain,
        backend=name,
        backend_options=backend_options,
    )


async def _run_schedule(script: list[str], bursts: list[tuple[int, float]], options: SinkOptions, drain: float) -> None:
    class Scripted:
        async def send_batch(self, events: list[Numbered]) -> None:
            check()
            step = script.pop(0) if script else "ok"
            if step == "transient":
                raise RuntimeError
            if step == "permanent":
                raise PermanentError
            if step == "partial":
                raise PartialError({events[0].id: RuntimeError(), events[-1].id: PermanentError()})
            if step == "stray" and anyio.get_cancelled_exc_class().__module__.startswith("asyncio"):
                raise anyio.get_cancelled_exc_class()
            await anyio.sleep({"slow": 0.5, "hang": 100.0}.get(step, 0.0))
            check()

    def check() -> None:
        for sink in fx.stats().sinks.values():
            assert sink.accepted == sink.settled + sink.queued + sink.in_flight, sink
            assert min(sink.queued, sink.in_flight) >= 0

    settled: list[Settled] = []

    def observe(record: Settled) -> None:
        settled.append(record)
        check()

    emitted: list[Numbered] = []
    fx = SideEffects(
        {"s": Scripted(), "f": One()},
        {"s": options.model_copy(update={"fallback": "f"}), "f": SinkOptions(events=())},
        runtime=RuntimeOptions(drain_timeout=drain),
        observers=[observe],
    )
    async with fx:
        for count, pause in bursts:
            for _ in range(count):
                emitted.append(Numbered(n=len(emitted)))
                after(emitted[-1])
            await anyio.sleep(pause)
            check()
    check()
    stats = fx.stats().sinks
    assert stats["s"].accepted == len(emitted)
    assert stats["s"].queued == stats["s"].in_flight == 0
    of_sink = [record.event.id for record in settled if record.sink == "s" and record.event is not None]
    assert sorted(of_sink) == sorted(event.id for event in emitted)
    given_up = [record.event for record in settled if record.sink == "s" and record.result in {"rejected", "expired"}]
    assert stats["f"].accepted == len(given_up)


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
