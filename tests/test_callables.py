"""Effects that misbehave, and callables that are not what they seem."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any
from unittest.mock import Mock

import anyio
import pytest

from sidefx import Settled, SideEffects, after
from tests.hostile import HOW, assert_alive, misbehave

pytestmark = pytest.mark.anyio


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
