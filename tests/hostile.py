"""What hostile code does, and stand-ins that do it: errors without text, exits, stray cancellations.

`HOW` names the ways; `misbehave(how)` is each of them. `assert_alive()` is what must hold afterwards.
"""

from __future__ import annotations

import asyncio
from typing import Any

import anyio

from sidefx import Event, RetryOptions, SideEffects, SinkOptions, after

ONCE = SinkOptions(retry=RetryOptions(attempts=1))
QUICK = SinkOptions(timeout=1.0, deadline=5.0, retry=RetryOptions(initial=0.001, max=0.001))
HOW = ["mute", "exit", "cancelled", "notes"]


class Made(Event, kind="test.made"):
    """An event of these tests."""

    n: int = 0
    how: str = ""


class Mute(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def misbehave(how: str) -> None:
    """Raises what no careful code would."""
    raise {
        "mute": Mute(),
        "exit": SystemExit(3),
        "cancelled": asyncio.CancelledError(),
        "notes": _with_broken_notes(),
    }[how]


def _with_broken_notes() -> Exception:
    class Broken(Exception):
        @property
        def __notes__(self) -> list[str]:
            raise RuntimeError

    return Broken()


async def noop() -> None:
    """Does nothing."""


def sync_noop() -> None:
    """Does nothing, in a thread."""


async def accepts(event: Made) -> None:
    """Takes everything."""


async def hang(event: Made) -> None:
    """A sink that never answers."""
    await anyio.sleep_forever()


class Opening:
    """A sink whose `__aenter__` and `__aexit__` do as they are told."""

    def __init__(self, enter: Any = noop, leave: Any = noop) -> None:
        self.enter, self.leave = enter, leave
        self.closed = False

    async def __aenter__(self) -> None:
        await self.enter()

    async def __aexit__(self, *_: object) -> None:
        await self.leave()
        self.closed = True

    async def send(self, event: Made) -> None: ...


async def assert_alive(fx: SideEffects) -> None:
    """Effects and events are still carried."""
    ran: list[int] = []
    after(ran.append, 1)
    await fx.flush(5)
    assert ran == [1]
