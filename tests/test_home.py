"""A sink is opened and closed with its runtime, whatever it does then, and schedules for that runtime."""

from __future__ import annotations

import anyio
import pytest

from sidefx import NotRunningError, RuntimeOptions, SideEffects, SinkOptions, SinkStartError, after
from tests.hostile import HOW, Made, Opening, misbehave, noop

pytestmark = pytest.mark.anyio


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


async def test_a_sink_that_hangs_while_it_is_opened_stops_the_start_within_its_timeout() -> None:
    """The app does not hang with it: the error names the sink, and those that were open are closed again."""
    first = Opening()
    fx = SideEffects(
        {"first": first, "second": Opening(enter=anyio.sleep_forever)}, {"second": SinkOptions(timeout=0.05)}
    )
    with anyio.fail_after(5):
        with pytest.raises(SinkStartError, match=r"sinks\.second.*within 0\.05 s, its timeout"):
            await fx.start()
    assert first.closed
    assert not fx.running


async def test_a_sink_that_swallows_its_cancellation_is_named_when_it_keeps_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing can end it; but nobody has to guess what keeps the program alive."""
    cancelled: list[bool] = []

    async def stubborn(event: Made) -> None:
        while "swallows its cancellation: stubborn" not in caplog.text:
            try:
                await anyio.sleep(0.01)
            except anyio.get_cancelled_exc_class():
                cancelled.append(True)

    with anyio.fail_after(20):
        async with SideEffects({"stubborn": stubborn}, runtime=RuntimeOptions(drain_timeout=0.02)):
            after(Made())
            await anyio.wait_all_tasks_blocked()
    assert cancelled
