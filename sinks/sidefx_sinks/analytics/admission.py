"""`Admission`: which events may be sent at all, and in which form."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Collection
from typing import Literal, TypeAlias

from sidefx import TrackEvent
from sidefx_sinks.analytics.preset import RefusedError

BeforeSend: TypeAlias = Callable[[TrackEvent], TrackEvent | None]
Reason: TypeAlias = Literal["no consent", "consent not known", "sampled", "before_send"]

_SHARES = 1 << 64


class Admission:
    """Consent, then the sample of users, then `before_send`; each may keep an event from being sent."""

    def __init__(
        self, *, require_consent: Collection[str], sample_users: float, before_send: BeforeSend | None
    ) -> None:
        if isinstance(require_consent, str):
            msg = "require_consent: must be a list of categories"
            raise ValueError(msg)  # noqa: TRY004 - a mistake in a file is a ValueError
        if not 0 <= sample_users <= 1:
            msg = "sample_users: must be a share from 0.0 to 1.0"
            raise ValueError(msg)
        if before_send is not None and (not callable(before_send) or _is_async(before_send)):
            msg = "before_send: must be a plain function of the event; an async one cannot be used"
            raise ValueError(msg)
        self._required = tuple(require_consent)
        self._sampled = int(sample_users * _SHARES)
        self._before_send = before_send

    def admit(self, event: TrackEvent) -> TrackEvent | Reason:
        """The event to send, with the id that it had; or why there is none.

        Raises:
            RefusedError: `before_send` failed, and nobody knows what it would have kept back.
        """
        if self._required and event.consent is None:
            return "consent not known"
        if not all((event.consent or {}).get(category, False) for category in self._required):
            return "no consent"
        if self._sampled < _SHARES and _place_of(event.user_id or event.anonymous_id or "") >= self._sampled:
            return "sampled"
        if self._before_send is None:
            return event
        try:
            # A copy, for what it changes in place is also another sink's, and comes back unchanged at a retry.
            changed = self._before_send(event.model_copy(deep=True))
        except Exception as error:
            msg = f"before_send raised {type(error).__name__}; the event is not sent"
            raise RefusedError(msg, reason="before_send failed") from error
        if changed is None:
            return "before_send"
        if not isinstance(changed, TrackEvent):
            msg = (
                f"before_send returned {type(changed).__name__}; it is to return the TrackEvent, a changed one, or None"
            )
            raise RefusedError(msg, reason="before_send failed")
        if not (changed.event and (changed.user_id or changed.anonymous_id)):  # `model_copy` checks nothing
            msg = "before_send took away the event's name, or both its ids; return None to drop an event"
            raise RefusedError(msg, reason="before_send failed")
        return changed if changed.id == event.id else changed.model_copy(update={"id": event.id})


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _place_of(user: str) -> int:
    """Where the user stands between 0 and 2^64: the same in every process, so that all their events have one answer."""
    return int.from_bytes(hashlib.blake2b(user.encode(errors="surrogatepass"), digest_size=8).digest())
