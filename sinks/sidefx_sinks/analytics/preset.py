"""`Preset`: how one vendor wants its events, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from sidefx import TrackEvent


class Visit(NamedTuple):
    """What a vendor may learn of the request that an event belongs to."""

    ip: str | None = None
    user_agent: str | None = None
    path: str | None = None

    @classmethod
    def of(cls, event: TrackEvent) -> Self:
        """The facts of the event's request, as far as it has one and they are known."""
        if (request := event.request) is None:
            return cls()
        return cls(request.client.host if request.client else None, request.user_agent, request.path or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One vendor's address, format and caps. Sizes are in bytes of JSON, before gzip; None: no cap."""

    path: str
    """Appended to the base address; empty where the URL is used as given."""
    url: str | None
    """The vendor's base address; None where only the user knows it."""
    item: Callable[[TrackEvent, Visit], dict[str, Any]]
    """One event, and what may be told of its request, as the vendor wants it."""
    envelope: Callable[[str, datetime], dict[str, Any]]
    """What stands around the batch, of the key and the time of sending."""
    needs_key: bool
    basic_auth: bool = False
    """Whether the key goes out as the user of HTTP Basic."""
    max_event_bytes: int | None = None
    max_batch_bytes: int | None = None
    max_batch_events: int | None = None


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, the form that every vendor shows in its documentation."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def without_none(**fields: Any) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
