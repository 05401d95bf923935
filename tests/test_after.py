"""`after()` and the callables: what is accepted, when it starts, and how it ends."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
import warnings
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sidefx import CallableOptions, NotRunningError, RuntimeOptions, Settled, SideEffects, after
from sidefx.testing import capture
from tests.orders import Stocked
from tests.waiting import until

pytestmark = pytest.mark.anyio


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
async def test_synchronous_effects_start_in_their_order_too() -> None:
    """Though each runs in a thread, the first step of one comes before that of the next."""
    started: list[int] = []
    async with SideEffects() as fx:
        for _ in range(20):
            started.clear()
            async with fx.scope():
                for n in range(30):
                    after(started.append, n)
            await fx.flush(5)
            assert started == list(range(30))


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


async def test_the_call_site_is_the_line_of_the_call() -> None:
    """In a function of any length, for a callable as for an event, and for code that has been made anew."""
    source = "def run(after, effect):\n" + "    pass\n" * 400 + "    after(effect)\n    after(effect)\n"
    with capture() as captured:
        for name in ("one.py", "two.py"):
            code: dict[str, Any] = {}
            exec(compile(source, name, "exec"), code)  # noqa: S102 - a function of many lines
            code["run"](after, noop)
            del code
            gc.collect()
    sites = [effect.call_site for effect in captured]
    assert sites == ["one.py:402", "one.py:403", "two.py:402", "two.py:403"]
    assert [effect.call_site for effect in captured] == sites


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
