"""`Verdict`: how a response has ended, by the same rule under every adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidefx.request import Outcome

_FIRST_ERROR_STATUS = 400


class Verdict(NamedTuple):
    """What effects are told of a response, and whether it was a success."""

    outcome: Outcome
    succeeded: bool
    """What `when` goes by: a status below 400 was sent and the app did not raise; that a client left is no error."""


def verdict(*, status: int | None, raised: bool, left: bool, complete: bool) -> Verdict:
    """Judges by the status that was sent, and by whether the app raised, the client left, the response was whole."""
    outcome: Outcome = "errored" if raised else "disconnected" if left else "complete" if complete else "unknown"
    sent = status is not None and status < _FIRST_ERROR_STATUS
    return Verdict(outcome, succeeded=sent and not raised and (complete or left))


def caused_by(error: BaseException | None, causes: Sequence[BaseException]) -> bool:
    """Whether one of the causes is `error`, in its chain, or in a group of it."""
    if not causes:
        return False
    waiting = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        if any(current is cause for cause in causes):
            return True
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        waiting += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
    return False
