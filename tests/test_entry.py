"""A commit, and those who wait for it."""

from __future__ import annotations

import asyncio
import threading

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
