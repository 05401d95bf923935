"""A commit, and those who wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import anyio

from sidefx.entry import Commit


def test_who_waits_on_one_event_loop_after_another_in_a_thread_is_told() -> None:
    """A loop that has ended with a waiter in it takes nothing from the next one of its thread."""
    commit = Commit()

    async def gives_up() -> None:
        with anyio.move_on_after(0):
            await commit.finished()

    async def waits() -> bool:
        finishing = threading.Timer(0.05, commit.finish)
        finishing.start()
        with anyio.fail_after(10):
            await commit.finished()
        return commit.done

    asyncio.run(gives_up())
    assert asyncio.run(waits())


def test_it_rings_once_as_soon_as_somebody_waits() -> None:
    """Before that nobody is in a hurry, and whoever writes it need not be woken."""
    rung: list[int] = []
    commit = Commit(lambda: rung.append(1))
    assert rung == []
    told: list[int] = []
    for number in range(3):
        commit.then(_at_once, lambda number=number: told.append(number))  # type: ignore[misc]
    assert rung == [1]
    commit.finish()
    commit.hurry()
    assert (rung, told) == ([1], [0, 1, 2])


def test_who_has_given_up_is_not_told() -> None:
    """The others are."""
    commit = Commit()

    async def main() -> list[bool]:
        given_up = asyncio.create_task(commit.finished())
        waits = asyncio.create_task(commit.finished())
        await asyncio.sleep(0)
        given_up.cancel()
        commit.finish()
        await asyncio.wait([given_up, waits])
        return [given_up.cancelled(), waits.cancelled()]

    assert asyncio.run(main()) == [True, False]


def _at_once(function: Callable[..., object], *args: object) -> None:
    function(*args)
