"""`after()`, scopes and callables: what is scheduled, when it starts, and how it ends."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sidefx import (
    AuditEvent,
    CallableOptions,
    Event,
    NotRunningError,
    RuntimeOptions,
    Settled,
    SideEffects,
    SidefxError,
    after,
    audit,
    request,
)
from sidefx.testing import capture
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Stocked(Event, kind="test.stocked"):
    """An event of the tests."""

    sku: str = "a"


async def noop() -> None:
    """Does nothing."""


@pytest.mark.contract("S03")
async def test_everything_callable_or_awaitable_is_accepted() -> None:
    """Functions, partials, bound methods, objects with `__call__` and coroutines, with arguments as they are."""
    got: list[Any] = []

    class Bound:
        def method(self, value: str) -> None:
            got.append(value)

        async def coroutine_method(self, value: str) -> None:
            got.append(value)

    class Callable:
        async def __call__(self, value: str) -> None:
            got.append(value)

    async def coroutine(value: str) -> None:
        got.append(value)

    async with SideEffects() as fx, fx.scope():
        after(got.append, "sync")
        after(functools.partial(got.append, "partial"))
        after(functools.partial(coroutine, "async partial"))
        after(Bound().method, "bound")
        after(Bound().coroutine_method, "async bound")
        after(Callable(), "object")
        after(lambda: coroutine("a lambda that gives a coroutine"))
        after(coroutine("coroutine object"))
        assert got == []
    assert sorted(got) == sorted(
        [
            "sync",
            "partial",
            "async partial",
            "bound",
            "async bound",
            "object",
            "a lambda that gives a coroutine",
            "coroutine object",
        ]
    )


@pytest.mark.contract("S03")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_tasks_and_futures_are_awaited() -> None:
    """What asyncio hands out is accepted as it is; a cancelled one is a failure of its own."""
    settled: list[Settled] = []
    async with SideEffects(observers=[settled.append]) as fx:
        future = asyncio.get_running_loop().create_future()
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        task = asyncio.create_task(noop())
        after(task, name="task")
        after(future, name="future")
        after(cancelled, name="cancelled")
        future.set_result(None)
        await fx.flush(5.0)
    assert {record.name: record.result for record in settled} == {
        "task": "delivered",
        "future": "delivered",
        "cancelled": "rejected",
    }


@pytest.mark.contract("S03")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [(3, "int"), (None, "called by mistake"), ("text", "str"), (Stocked, "not the class"), ([noop], "list")],
)
async def test_anything_else_is_a_type_error_at_the_call(wrong: Any, said: str) -> None:
    """The message names what was given."""
    async with SideEffects():
        with pytest.raises(TypeError, match=said):
            after(wrong)


async def test_arguments_are_for_callables() -> None:
    """An event or a coroutine with arguments is a mistake, and the coroutine is closed."""
    async with SideEffects():
        with pytest.raises(TypeError, match="takes none"):
            after(Stocked(), 1)
        with pytest.raises(TypeError, match="takes none"):
            after(noop(), 1)


@pytest.mark.parametrize("wrong", [{"when": "sometimes"}, {"timeout": 0}, {"timeout": -1.0}, {"timeout": float("nan")}])
async def test_wrong_options_are_value_errors(wrong: dict[str, Any]) -> None:
    """`when` and `timeout` are checked at the call."""
    async with SideEffects():
        with pytest.raises(ValueError, match="after"):
            after(noop(), **wrong)


@pytest.mark.contract("S03")
async def test_a_coroutine_that_never_starts_is_closed() -> None:
    """Voided, dropped for lack of room, or refused: nothing warns that it was never awaited."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime = RuntimeOptions(callables=CallableOptions(concurrency=1, max_queued=1), drain_timeout=0.05)
        async with SideEffects(runtime=runtime) as fx:
            async with fx.scope():
                after(noop(), when="error")
            after(anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            after(noop())
            after(noop())
            await anyio.wait_all_tasks_blocked()
            assert fx.stats().callables.dropped == {"full": 1}
        assert fx.stats().callables.dropped == {"full": 1, "shutdown": 2}
        with pytest.raises(NotRunningError):
            after(noop())
        gc.collect()


@pytest.mark.contract("S04")
async def test_starts_are_first_in_first_out() -> None:
    """In the order of their `after()` calls, whatever each then waits for."""
    started: list[int] = []

    async def effect(n: int) -> None:
        started.append(n)
        await anyio.sleep(0.001 * (n % 3))

    async with SideEffects(runtime=RuntimeOptions(callables=CallableOptions(concurrency=5))) as fx, fx.scope():
        for n in range(50):
            after(effect, n)
    assert started == list(range(50))


@pytest.mark.contract("S04")
async def test_how_many_run_at_once_is_bounded() -> None:
    """Sync and async together, no more than `callables.concurrency`."""
    lock = threading.Lock()
    running = most = 0
    gate = threading.Event()

    def step(change: int) -> None:
        nonlocal running, most
        with lock:
            running += change
            most = max(most, running)
            if running == 3:
                gate.set()

    def sync_effect() -> None:
        step(+1)
        assert gate.wait(10)
        step(-1)

    async def async_effect() -> None:
        step(+1)
        await anyio.to_thread.run_sync(gate.wait, 10)
        step(-1)

    async with SideEffects(runtime=RuntimeOptions(callables=CallableOptions(concurrency=3))) as fx:
        for _ in range(5):
            after(sync_effect)
            after(async_effect)
        await fx.flush(20)
    assert most == 3


@pytest.mark.contract("S05")
async def test_nested_effects_run_and_are_waited_for() -> None:
    """At any depth, from async and sync effects alike, by flush and by the drain."""
    deepest: list[int] = []

    def sync_level(depth: int) -> None:
        after(level, depth + 1)

    async def level(depth: int) -> None:
        if depth >= 20:
            deepest.append(depth)
        else:
            after(sync_level, depth)

    async with SideEffects() as fx:
        after(level, 0)
        await fx.flush(10)
        assert deepest == [20]
        after(level, 0)
    assert deepest == [20, 20]


@pytest.mark.contract("S06")
async def test_an_effect_of_a_task_that_outlives_its_scope_runs() -> None:
    """It is released when it is scheduled, never inline, and tracked."""
    ran: list[str] = []
    scope_over = anyio.Event()
    inline: list[bool] = []

    async def straggler() -> None:
        await scope_over.wait()
        after(ran.append, "late")
        inline.append(bool(ran))

    async with SideEffects() as fx, anyio.create_task_group() as tasks:
        async with fx.scope():
            tasks.start_soon(straggler)
            await anyio.wait_all_tasks_blocked()
        scope_over.set()
        await anyio.wait_all_tasks_blocked()
        await fx.flush(5)
        assert inline == [False]
        assert ran == ["late"]


@pytest.mark.contract("S07", "S08")
async def test_one_effect_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Not even `SystemExit` does; each failure is logged with name, call site and error."""
    ran: list[str] = []

    def sync_failure() -> None:
        message = "sync\nFAKE LOG LINE"
        raise RuntimeError(message)

    async def async_failure() -> None:
        raise SystemExit(3)

    async with SideEffects() as fx:
        async with fx.scope():
            after(sync_failure)
            after(async_failure, name="the exit")
            after(ran.append, "sibling")
        await fx.flush(5)
        after(ran.append, "later")
        await fx.flush(5)
        assert fx.stats().callables.rejected == 2
    assert ran == ["sibling", "later"]
    assert "sync_failure rejected" in caplog.text
    assert "the exit rejected" in caplog.text
    assert f"after() at {__file__}" in caplog.text
    assert "\nFAKE" not in caplog.text


@pytest.mark.contract("S08")
async def test_every_end_is_one_record_and_a_broken_observer_is_contained(caplog: pytest.LogCaptureFixture) -> None:
    """Observers get the name, the call site, the reason and the exception; one that raises hurts nobody."""

    def broken(_: Settled) -> None:
        raise ZeroDivisionError

    settled: list[Settled] = []
    error = ValueError("boom")

    def fail() -> None:
        raise error

    async with SideEffects(observers=[broken, settled.append]) as fx:
        after(fail)
        after(noop)
        await fx.flush(5)
    failed, delivered = sorted(settled, key=lambda record: record.result, reverse=True)
    assert (failed.sink, failed.result, failed.error) == ("callables", "rejected", error)
    assert failed.reason == "ValueError: boom"
    assert failed.call_site is not None
    assert failed.call_site.startswith(__file__)
    assert delivered.result == "delivered"
    assert "observer" in caplog.text


@pytest.mark.contract("S09")
async def test_an_effect_past_its_deadline_is_cancelled_and_reported_as_a_timeout() -> None:
    """Apart from failures: it expires. The default is the runtime's, `timeout=` goes before it."""
    cancelled = anyio.Event()
    settled: list[Settled] = []

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.set()
            raise

    runtime = RuntimeOptions(callables=CallableOptions(timeout=0.01))
    async with SideEffects(runtime=runtime, observers=[settled.append]) as fx:
        after(slow)
        after(slow, timeout=0.02, name="own")
        await fx.flush(5)
        assert fx.stats().callables.expired == 2
    assert cancelled.is_set()
    assert {record.result for record in settled} == {"expired"}
    assert all("timeout" in record.reason for record in settled)


@pytest.mark.contract("S09")
async def test_a_sync_effect_past_its_deadline_is_abandoned_and_counted() -> None:
    """Its place is free at once; when its thread comes back, it is no longer counted."""
    gate = threading.Event()
    back = threading.Event()

    def hang() -> None:
        gate.wait(30)
        back.set()

    async with SideEffects(runtime=RuntimeOptions(callables=CallableOptions(concurrency=1))) as fx:
        after(hang, timeout=0.2)
        ran: list[int] = []
        after(ran.append, 1)
        await fx.flush(5)
        assert ran == [1]
        assert fx.stats().abandoned_threads == 1
        gate.set()
        assert await anyio.to_thread.run_sync(back.wait, 10)
        await until(lambda: fx.stats().abandoned_threads == 0)


@pytest.mark.contract("S10")
async def test_cancelling_the_block_is_not_swallowed() -> None:
    """What was scheduled is drained, and then the cancellation goes on."""
    ran: list[str] = []
    with anyio.CancelScope() as bounds:
        async with SideEffects():
            after(ran.append, "drained")
            bounds.cancel()
            await anyio.sleep_forever()
    assert bounds.cancelled_caught
    assert ran == ["drained"]


@pytest.mark.contract("S10")
async def test_an_effect_that_swallows_its_cancellation_does_not_survive_the_drain() -> None:
    """The drain ends at its deadline, and counts what it had to leave."""

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            swallowed.append(True)

    swallowed: list[bool] = []
    async with SideEffects(runtime=RuntimeOptions(drain_timeout=0.02)) as fx:
        after(stubborn)
        await anyio.wait_all_tasks_blocked()
    assert swallowed == [True]
    assert fx.stats().callables.dropped == {"shutdown": 1}


@pytest.mark.contract("S11")
async def test_outside_a_scope_an_effect_is_released_at_once() -> None:
    """There is no response to wait for; but it never runs inline."""
    ran: list[int] = []
    async with SideEffects() as fx:
        after(ran.append, 1)
        assert ran == []
        await fx.flush(5)
        assert ran == [1]


@pytest.mark.contract("S11")
async def test_with_nothing_running_it_raises_and_says_what_to_do() -> None:
    """Never a silent no-op; a coroutine is closed."""
    with pytest.raises(NotRunningError, match="SideEffectsMiddleware"):
        after(noop)
    with pytest.raises(NotRunningError):
        after(noop())


@pytest.mark.contract("S11")
async def test_after_the_drain_it_raises() -> None:
    """Also under a scope that was open before."""
    async with SideEffects() as fx:
        inside = fx.bind(after)
        block = fx.scope("job")
        async with block:
            in_job = fx.bind(after)
    for call in (inside, in_job):
        with pytest.raises(NotRunningError, match="drain"):
            call(noop)
    with pytest.raises(NotRunningError):
        await fx.emit(Stocked())
    with pytest.raises(NotRunningError):
        await fx.flush()


async def test_with_several_running_the_context_decides() -> None:
    """In a block it is that block's; in a thread without context it raises, and names `bind`."""
    first: list[str] = []
    async with SideEffects(name="one") as one:
        async with SideEffects(name="two") as two:
            after(noop)
            await two.flush(5)
            assert two.stats().callables.accepted == 1
            with ThreadPoolExecutor(1) as pool:
                with pytest.raises(NotRunningError, match=r"fx\.bind"):
                    pool.submit(after, noop).result()
                pool.submit(two.bind(after), noop).result()
            await two.flush(5)
            assert two.stats().callables.accepted == 2
        after(first.append, "one")
        await one.flush(5)
        assert one.stats().callables.accepted == 1


@pytest.mark.contract("S12")
@pytest.mark.parametrize("copied", [True, False])
async def test_threads_may_schedule_with_and_without_a_copied_context(copied: bool) -> None:
    """Nothing is lost between many threads, the scope's closing and the flush."""
    ran: set[tuple[int, int]] = set()

    def schedule(thread: int) -> None:
        for n in range(200):
            after(ran.add, (thread, n))

    async with SideEffects(runtime=RuntimeOptions(callables=CallableOptions(max_queued=100_000))) as fx:
        async with fx.scope():
            threads = []
            for n in range(4):
                run = (
                    functools.partial(contextvars.copy_context().run, schedule, n)
                    if copied
                    else functools.partial(schedule, n)
                )
                threads.append(threading.Thread(target=run))
                threads[-1].start()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
        await fx.flush(20)
        assert len(ran) == 800


@pytest.mark.contract("X01")
async def test_a_callable_sees_the_context_of_its_call() -> None:
    """Not what the variable became afterwards; in threads too."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def look() -> None:
        seen.append(variable.get())

    def look_in_thread() -> None:
        seen.append(variable.get())

    async with SideEffects() as fx, fx.scope():
        variable.set("first")
        after(look)
        after(look_in_thread)
        variable.set("second")
    assert seen == ["first", "first"]


@pytest.mark.contract("S13")
@pytest.mark.parametrize(("fails", "expected"), [(False, ["always", "success"]), (True, ["always", "error"])])
async def test_a_scope_succeeds_where_its_body_does_not_raise(fails: bool, expected: list[str]) -> None:
    """`when` decides accordingly; what is scheduled later goes by the same outcome."""
    ran: list[str] = []
    async with SideEffects() as fx:
        try:
            async with fx.scope("job"):
                for when in ("always", "success", "error"):
                    after(ran.append, when, when=when)  # type: ignore[arg-type]
                late = fx.bind(after)
                if fails:
                    raise LookupError
        except LookupError:
            pass
        late(ran.append, "late", when="success")
        await fx.flush(5)
    assert sorted(ran) == sorted(expected + ([] if fails else ["late"]))  # in threads, side by side


async def test_scopes_nest() -> None:
    """The inner one lets its effects go when it ends, the outer one keeps its own."""
    ran: list[str] = []
    async with SideEffects() as fx:
        async with fx.scope("outer"):
            after(ran.append, "outer")
            with fx.scope("inner"):
                after(ran.append, "inner")
            await fx.flush(5)
            assert ran == ["inner"]
        await fx.flush(5)
    assert ran == ["inner", "outer"]


async def test_there_is_no_request_outside_of_one() -> None:
    """`request()` says so with None."""
    async with SideEffects():
        assert request() is None
    assert request() is None


async def test_an_event_without_a_sink_is_counted_and_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    """It never raises."""
    async with SideEffects() as fx:
        for _ in range(3):
            after(Stocked())
        await fx.flush(5)
        assert fx.stats().unrouted == {"test.stocked": 3}
    assert caplog.text.count("no sink takes events of kind test.stocked") == 1


class Ordered(Event, kind="test.ordered"):
    """One event that stands for others."""

    endless: bool = False
    broken: bool = False

    def effects(self) -> Any:
        yield audit("order", target="1")
        yield Stocked(sku="b")
        if self.endless:
            yield Ordered(endless=True)
        if self.broken:
            yield "no event"


async def test_an_event_fans_out() -> None:
    """Each further event goes to the sinks that take it, as if it had been scheduled itself."""
    actions: list[str] = []
    skus: list[str] = []

    async def audit_sink(event: AuditEvent) -> None:
        actions.append(event.action)

    async def stock_sink(event: Stocked) -> None:
        skus.append(event.sku)

    async with SideEffects({"a": audit_sink, "s": stock_sink}) as fx:
        after(Ordered())
        await fx.flush(5)
        assert (actions, skus) == (["order"], ["b"])
        assert fx.stats().unrouted == {}


@pytest.mark.parametrize("mistake", ["endless", "broken"])
async def test_a_fan_out_that_goes_wrong_is_contained_and_bounded(
    mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What it yielded before is delivered, the error is logged with its call site, and the runtime goes on."""
    skus: list[str] = []

    async def stock_sink(event: Stocked) -> None:
        skus.append(event.sku)

    async with SideEffects({"s": stock_sink}) as fx:
        after(Ordered(**{mistake: True}))
        after(Stocked(sku="other"))
        await fx.flush(5)
    assert "other" in skus
    assert "b" in skus
    assert len(skus) < 50
    assert "effects()" in caplog.text
    assert __file__ in caplog.text


@pytest.mark.contract("D04")
async def test_flush_waits_for_what_was_accepted_before_it_and_no_more() -> None:
    """A steady stream of later effects does not keep it from returning."""
    gate = anyio.Event()
    async with SideEffects() as fx:
        after(noop)
        await fx.flush(5)

        async def flushing() -> None:
            await fx.flush(5)
            gate.set()

        async def held() -> None:
            await gate.wait()

        async with anyio.create_task_group() as tasks:
            after(noop)
            tasks.start_soon(flushing)
            await anyio.wait_all_tasks_blocked()
            after(held)


@pytest.mark.contract("D04")
async def test_flush_raises_where_it_takes_too_long_and_cancels_nothing() -> None:
    """A `TimeoutError` that names what is left."""
    gate = anyio.Event()
    async with SideEffects() as fx:
        after(gate.wait)
        await until(lambda: fx.stats().callables.in_flight)
        with pytest.raises(TimeoutError, match="callables: 1"):
            await fx.flush(0.01)
        gate.set()
        await fx.flush(5)
        assert fx.stats().callables.delivered == 1


async def test_flush_from_inside_an_effect_raises() -> None:
    """It would wait for itself."""
    errors: list[Exception] = []

    async with SideEffects() as fx:

        async def flushing() -> None:
            try:
                await fx.flush()
            except SidefxError as error:
                errors.append(error)

        after(flushing)
        await fx.flush(5)
    assert "wait for itself" in str(errors[0])


@pytest.mark.contract("D02")
async def test_what_is_left_at_the_end_of_the_drain_is_listed_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """Cancelled, counted, and one line that says what and how many."""

    async def stuck(event: Stocked) -> None:
        await anyio.sleep_forever()

    async with SideEffects({"s": stuck}, runtime=RuntimeOptions(drain_timeout=0.02)) as fx:
        after(Stocked())
        after(Stocked())
        after(anyio.sleep_forever, name="napping")
    with caplog.at_level(logging.ERROR):
        [line] = [record.getMessage() for record in caplog.records if "not finished at shutdown" in record.getMessage()]
    assert "sinks.s: test.stocked × 2" in line
    assert "callables: napping × 1" in line
    assert fx.stats().sinks["s"].dropped == {"shutdown": 2}


async def test_a_runtime_can_be_started_again() -> None:
    """A test client or a reload does so; the counts go on."""
    ran: list[int] = []
    fx = SideEffects()
    for n in range(3):
        async with fx:
            after(ran.append, n)
    assert ran == [0, 1, 2]
    assert fx.stats().callables.delivered == 3


async def test_a_runtime_runs_once_at_a_time() -> None:
    """Two would share their lanes."""
    async with SideEffects() as fx:
        with pytest.raises(NotRunningError, match="running already"):
            await fx.start()


def test_a_synchronous_program_runs_it_in_a_thread() -> None:
    """`with SideEffects(...)`: scheduled from any function, drained at the end of the block."""
    ran: list[Any] = []

    async def sink(event: Stocked) -> None:
        ran.append(event.sku)

    with SideEffects({"s": sink}) as fx:
        after(Stocked(sku="x"))
        fx.flush_blocking(5)
        assert ran == ["x"]
        with fx.scope("job"):
            after(ran.append, "y")
            assert ran == ["x"]
        after(noop)
    assert ran == ["x", "y"]
    assert fx.stats().callables.delivered == 2


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


async def test_a_scope_of_a_runtime_that_does_not_run_is_refused() -> None:
    """Before its block begins, and not when it is too late."""
    fx = SideEffects()
    with pytest.raises(NotRunningError, match="not running"):
        async with fx.scope("job"):
            pytest.fail("the block has begun")


async def test_the_fixture_captures(sidefx_capture: Any) -> None:
    """`sidefx_capture` comes with the installation."""
    after(Stocked())
    assert len(sidefx_capture.events(Stocked)) == 1
