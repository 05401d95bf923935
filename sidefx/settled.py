"""`Settled`: how one event left one lane, or how one callable ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from sidefx.events import Event

CALLABLES = "callables"
"""What stands for a sink where a function or an awaitable was called."""

Result: TypeAlias = Literal["delivered", "rejected", "expired", "dropped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The one record with which an event leaves a lane."""

    sink: str
    """The sink's name in the configuration; `callables` for functions and awaitables."""
    result: Result
    """`rejected`: a permanent error. `expired`: attempts or deadline used up."""
    name: str
    """The event's kind, the function's name, or the `name` given to `after()`."""
    reason: str
    """One line; empty where it was delivered. Of what was dropped: full, filtered, sampled, shutdown."""
    attempts: int
    event: Event | None = None
    """None for a callable. What the sink must not see is redacted here as well."""
    error: BaseException | None = None
    call_site: str | None = None
    """`file:line` of the `after()` call."""
    request_id: str | None = None


Observer: TypeAlias = Callable[[Settled], object]
"""Called on the event loop with each record; it must not block. What it raises is logged, and stops there."""
