"""The event loop that runs this code: which one it is, what it has called for other threads, and its clock."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable


def asyncio_loop() -> AbstractEventLoop | None:
    """The running event loop where it is asyncio's, and runs a task; else None."""
    asyncio = sys.modules.get("asyncio")
    try:
        return None if asyncio is None or asyncio.current_task() is None else asyncio.get_running_loop()
    except RuntimeError:
        return None


def runs_on_asyncio() -> bool:
    """Whether the running event loop is asyncio's."""
    return asyncio_loop() is not None


def in_event_loop() -> bool:
    """Whether this thread runs an event loop, which nothing here may stop."""
    try:
        anyio.lowlevel.current_token()
    except RuntimeError:
        return False
    return True


def soon_in_this_loop() -> Callable[..., object]:
    """A function that other threads may call to have something called in the running event loop."""
    if (loop := asyncio_loop()) is not None:
        return loop.call_soon_threadsafe
    token: Any = anyio.lowlevel.current_token().native_token
    # asyncio's token is the loop, trio's a TrioToken: asking it, not importing either
    return getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon  # type: ignore[no-any-return]


def clock_here() -> Callable[[], float]:
    """What tells the time of the running event loop, in seconds, as `anyio.current_time()` does with more ado."""
    if not in_event_loop():
        return anyio.current_time
    token: Any = anyio.lowlevel.current_token().native_token
    return getattr(token, "time", anyio.current_time)  # asyncio's token is the loop
