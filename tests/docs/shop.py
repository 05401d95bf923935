"""What the code of the migration page imports as `shop`: it notes what it was asked to do."""

from __future__ import annotations

import itertools
from typing import Any, Self

done: list[tuple[Any, ...]] = []
"""All but placing and cancelling, which are no side effects."""

_numbers = itertools.count(1)


def begin() -> None:
    """A new day: orders are numbered from 1, and nothing is done yet."""
    global _numbers  # noqa: PLW0603 - the module is the shop
    _numbers = itertools.count(1)
    done.clear()


def place(sku: str) -> int:
    """Stores an order, and returns its number."""
    return next(_numbers)


def cancel(number: int) -> str:
    """Cancels an order, and returns what it was of."""
    return f"sku of {number}"


def recount(sku: str) -> None:
    """A synchronous function."""
    done.append(("recount", sku))


async def send_receipt(email: str, *, number: int) -> None:
    """An asynchronous function with a keyword argument."""
    done.append(("receipt", email, number))


def log_access(*facts: Any) -> None:
    """Takes whatever is told of a request."""
    done.append(("access", *facts))


class Session:
    """What a dependency with `yield` opens and closes."""

    def __init__(self) -> None:
        self._open = False

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open = False

    async def count(self, sku: str) -> None:
        """Works while it is open."""
        done.append(("count", sku, "open" if self._open else "closed"))
