"""Purges that are held back, so that equal ones go once, and those that are made twice."""

from __future__ import annotations

import logging
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import anyio
import pytest
from anyio.lowlevel import checkpoint

from sidefx import PermanentError, SideEffects, SinkOptions, TransientError, invalidate
from sidefx.testing import check_sink
from sidefx_sinks.cache import Cache, MemoryCache, again, window
from sidefx_sinks.cache.again import SecondDelete
from sidefx_sinks.cache.store import Target
from sidefx_sinks.cache.window import Window
from tests.sinks.nodes import running
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

pytestmark = pytest.mark.anyio

A, B = Target("tags", "a"), Target("tags", "b")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.sleepers = 0
        self._passed = anyio.Event()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        due = self.now + seconds
        self.sleepers += 1
        try:
            while self.now < due:
                await self._passed.wait()
        finally:
            self.sleepers -= 1

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        passed, self._passed = self._passed, anyio.Event()
        passed.set()


class Purges:
    """Writes down what is cleared and for whom; fails what it is told to."""

    def __init__(self) -> None:
        self.made: list[tuple[Target, set[UUID]]] = []
        self.failing: dict[Target, Exception] = {}
        self.gate: anyio.Event | None = None

    async def __call__(self, wanted: Mapping[Target, Collection[UUID]]) -> Mapping[Target, Exception]:
        self.made += [(target, set(askers)) for target, askers in wanted.items()]
        if self.gate is not None:
            await self.gate.wait()
        return {target: self.failing[target] for target in wanted if target in self.failing}

    def targets(self) -> list[Target]:
        """What was cleared so far, in order."""
        return [target for target, _ in self.made]


@pytest.fixture
def clock() -> Clock:
    """Stands still."""
    return Clock()


@pytest.fixture
def purges() -> Purges:
    """Nothing yet."""
    return Purges()


@pytest.fixture
def held(clock: Clock, purges: Purges) -> Window:
    """A window of ten seconds."""
    return Window(10.0, purges, clock=clock, sleep=clock.sleep)


# ---- the window


async def test_the_first_goes_at_once_and_what_follows_waits_together(
    held: Window, purges: Purges, clock: Clock
) -> None:
    """Three equal purges within the window are one, at its end, on behalf of all who asked."""
    ids = [uuid4() for _ in range(4)]
    await held.clear({A: [ids[0]]})
    assert purges.made == [(A, {ids[0]})]
    async with anyio.create_task_group() as group:
        for each in ids[1:]:
            group.start_soon(held.clear, {A: [each]})
        await until(lambda: clock.sleepers == 3)
        clock.pass_by(9.9)
        await checkpoint()
        assert len(purges.made) == 1
        clock.pass_by(0.1)
    assert purges.made[1:] == [(A, set(ids[1:]))]


async def test_none_is_answered_by_a_purge_that_began_before_it_came(
    held: Window, purges: Purges, clock: Clock
) -> None:
    """While a purge is under way the cache may be filled again: whoever comes then has one of his own."""
    waits, late = uuid4(), uuid4()
    await held.clear({A: []})
    clock.pass_by(5)
    await held.clear({B: []})
    async with anyio.create_task_group() as group:
        group.start_soon(held.clear, {A: [waits], B: [waits]})
        await until(lambda: clock.sleepers == 1)
        clock.pass_by(7)
        await held.clear({A: []})  # its window was over; the one that waits for B's is to clear it once more
        purges.gate = anyio.Event()
        clock.pass_by(3)
        await until(lambda: purges.made[3:] == [(A, {waits}), (B, {waits})])  # begun, and not ended
        group.start_soon(held.clear, {A: [late]})
        await until(lambda: clock.sleepers == 1)
        purges.gate.set()
        await until(lambda: len(held._held) == 1)
        clock.pass_by(10)
    assert purges.made[5:] == [(A, {late})]


async def test_what_is_over_is_cleared_at_once_again(held: Window, purges: Purges, clock: Clock) -> None:
    """After the window nothing is held, and nothing of it is remembered."""
    await held.clear({A: [], B: []})
    clock.pass_by(10)
    await held.clear({A: []})
    assert purges.targets() == [A, B, A]
    assert len(held._began) == 1


async def test_only_what_was_cleared_lately_is_held(held: Window, purges: Purges, clock: Clock) -> None:
    """The rest of the batch goes at once."""
    await held.clear({A: []})
    async with anyio.create_task_group() as group:
        group.start_soon(held.clear, {A: [], B: []})
        await until(lambda: purges.targets() == [A, B])
        clock.pass_by(10)
    assert purges.targets() == [A, B, A]


async def test_what_failed_is_not_held(held: Window, purges: Purges) -> None:
    """Its retry goes at once: the cache still has the old value."""
    purges.failing[A] = TransientError("away")
    assert await held.clear({A: []}) == purges.failing
    purges.failing.clear()
    assert await held.clear({A: []}) == {}
    assert purges.targets() == [A, A]


async def test_who_waited_for_one_that_failed_tries_himself(held: Window, purges: Purges, clock: Clock) -> None:
    """Each of those who waited has a result that is his own."""
    await held.clear({A: []})
    purges.failing[A] = TransientError("away")
    results: list[Any] = []

    async def one() -> None:
        results.append(await held.clear({A: [uuid4()]}))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
        await until(lambda: clock.sleepers == 2)
        clock.pass_by(10)
    assert results == [purges.failing, purges.failing]
    assert purges.targets() == [A, A, A]


async def test_who_is_cancelled_leaves_the_others_theirs(held: Window, purges: Purges, clock: Clock) -> None:
    """The lane's timeout cuts one off while it waits, and another while it clears for all."""
    await held.clear({A: []})
    stays = uuid4()
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as waiting:
            async with anyio.create_task_group() as inner:
                inner.start_soon(held.clear, {A: [uuid4()]})
                await until(lambda: clock.sleepers == 1)
                waiting.cancel()
        assert held._held == []
        clock.pass_by(5)
        await held.clear({B: []})
        purges.gate = anyio.Event()
        with anyio.CancelScope() as clearing:
            async with anyio.create_task_group() as inner:
                inner.start_soon(held.clear, {A: [uuid4()]})
                await until(lambda: clock.sleepers == 1)
                group.start_soon(held.clear, {A: [stays], B: [stays]})
                await until(lambda: clock.sleepers == 2)
                clock.pass_by(5)  # the end of A's window, and not of B's
                await until(lambda: purges.targets() == [A, B, A])
                clearing.cancel()
        purges.gate.set()
        clock.pass_by(5)
    assert stays in purges.made[2][1]
    assert purges.made[3:] == [(A, {stays}), (B, {stays})]
    assert held._held == []


async def test_who_was_cut_off_while_waiting_does_not_wait_again(held: Window, purges: Purges, clock: Clock) -> None:
    """A timeout below the window would expire the event otherwise: its retry goes at once, another event waits."""
    late = uuid4()
    await held.clear({A: []})
    async with anyio.create_task_group() as group:
        group.start_soon(held.clear, {A: [late]})
        await until(lambda: clock.sleepers == 1)
        group.cancel_scope.cancel()
    assert purges.targets() == [A]
    with anyio.fail_after(5):
        await held.clear({A: [late]})
    assert purges.made[1:] == [(A, {late})]
    async with anyio.create_task_group() as group:
        group.start_soon(held.clear, {A: [uuid4()]})
        await until(lambda: clock.sleepers == 1)
        assert len(purges.made) == 2
        clock.pass_by(10)


async def test_who_was_cut_off_is_remembered_within_bounds(
    held: Window, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is forgotten, and waits again."""
    monkeypatch.setattr(window, "_MAX_REMEMBERED", 1)
    ids = [uuid4(), uuid4()]
    await held.clear({A: []})
    for each in ids:
        async with anyio.create_task_group() as group:
            group.start_soon(held.clear, {A: [each]})
            await until(lambda: clock.sleepers == 1)
            group.cancel_scope.cancel()
    assert list(held._cut_off) == ids[1:]


async def test_what_is_remembered_is_bounded(held: Window, purges: Purges, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest goes at once, as without a window."""
    monkeypatch.setattr(window, "_MAX_REMEMBERED", 1)
    await held.clear({A: [], B: []})
    await held.clear({A: []})
    assert purges.targets() == [A, B, A]
    assert len(held._began) == 1


async def test_in_a_lane_a_hot_tag_is_purged_once_a_window_and_never_too_early() -> None:
    """A hundred events are delivered by few purges, the last of which began after the last event."""
    with running() as node:
        sink = Cache(store="http", nodes=[node.url], window=0.5)
        async with SideEffects({"cdn": sink}, {"cdn": SinkOptions(concurrency=4)}) as fx:
            for _ in range(100):
                await fx.emit(invalidate(tags="hot"))
                await checkpoint()
            before = len(node.seen)
            await fx.emit(invalidate(tags="hot"))
            await fx.flush(30)
            assert fx.stats().sinks["cdn"].delivered == 101
    assert before < len(node.seen) < 50


async def test_a_purge_held_for_one_node_reaches_all_for_the_others() -> None:
    """Who waits together with a retry that needs one node alone has every node purged for himself."""
    with running() as good, running() as bad:
        bad.statuses["/"] = 503
        retried, new = invalidate(tags="t"), invalidate(tags="t")
        clock = Clock()
        async with Cache(store="http", nodes=[good.url, bad.url], window=10.0) as sink:
            sink._window = Window(10.0, sink._clear_at_once, clock=clock, sleep=clock.sleep)
            with pytest.raises(TransientError):
                await sink.send_batch([retried])
            bad.statuses.clear()
            await sink.send_batch([invalidate(tags="t")])
            async with anyio.create_task_group() as group:
                group.start_soon(sink.send_batch, [retried])
                await until(lambda: clock.sleepers == 1)
                group.start_soon(sink.send_batch, [new])
                await until(lambda: clock.sleepers == 2)
                clock.pass_by(10)
    assert (len(good.seen), len(bad.seen)) == (3, 3)


# ---- the second delete


@pytest.fixture
def cache() -> MemoryCache:
    """A cache of the test's own, by the name of its own."""
    return MemoryCache.register(f"test-{uuid4()}", MemoryCache())


def named(cache: MemoryCache) -> str:
    """Its name."""
    return next(name for name, known in MemoryCache._named.items() if known is cache)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_was_filled_with_the_old_value_is_cleared_again(cache: MemoryCache) -> None:
    """A reader that missed before the delete writes after it: the second delete clears that."""
    async with Cache(store="memory", name=named(cache), second_delete=0.02) as sink:
        cache.set("k", "old")
        await sink.send_batch([invalidate(keys="k")])
        assert "k" not in cache
        cache.set("k", "old")
        await until(lambda: "k" not in cache)
        cache.set("k", "new")
    assert cache.get("k") == "new"


async def test_under_trio_and_asyncio_the_runtime_makes_it(cache: MemoryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hosted where its task can live, and leaving the runtime waits for it."""
    cleared: list[Any] = []
    monkeypatch.setattr(cache, "invalidate", lambda **names: cleared.append(names["keys"]))
    sink = Cache(store="memory", name=named(cache), second_delete=0.05)
    async with SideEffects({"cache": sink}) as fx:
        await fx.emit(invalidate(keys="k"))
        await fx.flush(10)
    assert cleared == [["k"], ["k"]]


async def test_it_keeps_the_contract(cache: MemoryCache) -> None:
    """The suite of every sink, with window and second delete."""
    await check_sink(
        lambda: Cache(store="memory", name=named(cache), window=0.01, second_delete=0.01),
        [invalidate(keys="a"), invalidate(tags=["t"], prefixes="p")],
    )


@asynccontextmanager
async def second(purges: Purges, seconds: float) -> AsyncIterator[SecondDelete]:
    """A second delete that is stopped afterwards."""
    deletes = SecondDelete(seconds, purges)
    deletes.start()
    try:
        yield deletes
    finally:
        await deletes.stop()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_that_is_cleared_again_meanwhile_waits_anew(purges: Purges) -> None:
    """Its second first delete was the second delete of the one before."""
    deletes = SecondDelete(60.0, purges)
    deletes.later([A, B])
    due = deletes._due[A]
    await anyio.sleep(0.001)  # any time at all, so that the clock has moved
    deletes.later([A])
    assert deletes._due[A] > due
    assert list(deletes._due) == [B, A]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_that_fails_is_logged_and_the_next_is_made(purges: Purges, caplog: pytest.LogCaptureFixture) -> None:
    """It is no delivery: nothing is tried again, and an odd error ends nothing."""
    purges.failing = {A: PermanentError("no"), B: TransientError("later")}
    async with second(purges, 0.001) as deletes:
        deletes.later([A, B])
        await until(lambda: "2 second deletes failed: PermanentError: no" in caplog.text)
        purges.gate = "odd"  # type: ignore[assignment]
        deletes.later([A])
        await until(lambda: "1 second deletes failed: AttributeError" in caplog.text)
        purges.gate = None
        purges.failing.clear()
        deletes.later([B])
    assert purges.targets() == [A, B, A, B]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_closing_that_is_cut_off_leaves_them_out_and_says_so(
    purges: Purges, caplog: pytest.LogCaptureFixture
) -> None:
    """A shutdown that has no time left is not held up."""
    with caplog.at_level(logging.WARNING, "sidefx"), anyio.move_on_after(0.01) as bounds:
        async with second(purges, 60.0) as deletes:
            deletes.later([A, B])
    assert bounds.cancelled_caught
    assert "2 second deletes were left out" in caplog.text
    assert purges.made == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_that_is_cut_off_under_way_is_counted(purges: Purges, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows whether it was made."""
    purges.gate = anyio.Event()
    with caplog.at_level(logging.WARNING, "sidefx"), anyio.CancelScope() as bounds:
        async with second(purges, 0.001) as deletes:
            deletes.later([A, B])
            await until(lambda: purges.targets() == [A, B])
            bounds.cancel()
    assert "2 second deletes were left out" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_pending_is_bounded(
    purges: Purges, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond it the oldest is left out, and counted."""
    monkeypatch.setattr(again, "_MAX_PENDING", 1)
    async with second(purges, 0.001) as deletes:
        deletes.later([A, B])
    assert purges.targets() == [B]
    assert "1 second deletes were left out" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_could_not_be_cleared_has_no_second_delete(cache: MemoryCache) -> None:
    """Its retry has one."""
    async with Cache(store="memory", name=named(cache), second_delete=30.0) as sink:
        assert sink._again is not None
        with pytest.raises(PermanentError):
            await sink.send_batch([invalidate(everything=True)])
        assert not sink._again._due
        await sink.send_batch([invalidate(keys="k")])
        assert list(sink._again._due) == [Target("keys", "k")]
        sink._again._due.clear()
        sink._store.clear = Purges()  # type: ignore[method-assign]
        sink._store.clear.failing[Target("keys", "bad")] = TransientError("later")
        with pytest.raises(TransientError):
            await sink.send_batch([invalidate(keys=["good", "bad"])])
        assert list(sink._again._due) == [Target("keys", "good")]
        sink._again._due.clear()


@pytest.mark.parametrize("setting", ["window", "second_delete"])
@pytest.mark.parametrize("value", [0, -1.0, 60.1, float("nan")])
def test_a_time_out_of_bounds_is_refused(setting: str, value: float) -> None:
    """Above 0 and up to a minute: a purge is not to be forgotten."""
    with pytest.raises(ValueError, match=re.escape(f"{setting} is {value}; give seconds above 0 and up to 60")):
        Cache(store="memory", **{setting: value})  # type: ignore[arg-type]
