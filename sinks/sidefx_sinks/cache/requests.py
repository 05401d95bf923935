"""`Purge`: one request that clears targets, and how several of them are sent in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from sidefx import PermanentError, TransientError
from sidefx_sinks.cache.store import Target

Halves: TypeAlias = "Callable[[], Sequence[Purge]]"


class UnfitError(PermanentError):
    """A request was refused for what stands in it, perhaps for one of its targets alone."""


@dataclass(frozen=True, slots=True)
class Purge:
    """One request to a cache or its API."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    targets: tuple[Target, ...] = ()
    halves: Halves | None = None
    """Two requests that together do the same; None where it cannot be divided."""


async def in_turn(
    purges: Iterable[Purge], send: Callable[[Purge], Awaitable[object]], *, forgiven: int = 0
) -> dict[Target, Exception]:
    """Send one after the other; answers the targets that failed.

    A refusal fails its own targets, and one for what stands in the request those alone that cannot be sent without it:
    it is divided until they are found. Where the receiver is away or asks for a pause, the rest is left for later;
    it is away when more than `forgiven` requests in a row have failed, for one may fail by its own fault.
    """
    failures: dict[Target, Exception] = {}
    to_send = deque(purges)
    missed = 0  # in a row
    while to_send:
        purge = to_send.popleft()
        try:
            await send(purge)
        except PermanentError as error:
            if isinstance(error, UnfitError) and purge.halves is not None:
                to_send.extendleft(reversed(purge.halves()))
            else:
                failures |= dict.fromkeys(purge.targets, error)
        except TransientError as error:
            failures |= dict.fromkeys(purge.targets, error)
            missed += 1
            if missed <= forgiven and error.retry_after is None:
                continue
            for later in to_send:
                failures |= dict.fromkeys(later.targets, error)
            break
        else:
            missed = 0
    return failures
