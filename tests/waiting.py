"""Waiting for something to be so, with a bound: never for a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable


async def until(condition: Callable[[], object], within: float = 5.0) -> None:
    """Returns once the condition holds; fails after so many seconds without it."""
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - anybody's condition: there is no event to wait for
            await anyio.sleep(0.001)
