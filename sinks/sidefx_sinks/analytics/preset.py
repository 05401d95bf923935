"""`Preset`: how one vendor wants its events, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal, NamedTuple, Self, TypeAlias
from uuid import UUID

from sidefx import PermanentError, TrackEvent
from sidefx_sinks._http import Answer
from sidefx_sinks.analytics.chunk import Frame

VERSION = version("sidefx")

Auth: TypeAlias = Literal["none", "basic", "bearer", "body", "query"]


class RefusedError(PermanentError):
    """An event that will never be accepted, and under which reason the discard report counts it."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


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


class Verdict(NamedTuple):
    """What an answer of 2xx says of the events it answers."""

    failures: Mapping[UUID, Exception] = {}
    unknown: int = 0
    """How many more were refused, where it does not say which."""


ACCEPTED = Verdict()


def _nothing_shared(_event: TrackEvent, _visit: Visit) -> Mapping[str, Any]:
    return {}


def _no_headers() -> Mapping[str, str]:
    return {}


def _taken(_answer: Answer, _ids: Sequence[UUID]) -> Verdict:
    return ACCEPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One vendor's address, format and caps. Sizes are in bytes of JSON, before gzip; None: no cap."""

    name: str
    path: str
    """Appended to the base address; empty where the URL is used as given."""
    url: str | None
    """The vendor's base address; None where only the user knows it."""
    item: Callable[[TrackEvent, Visit], Mapping[str, Any]]
    """One event, and what may be told of its request, as the vendor wants it.

    Raises ValueError where JSON has no form for it, RefusedError where the vendor would not take it.
    """
    frame: Callable[[Mapping[str, Any], str, datetime], Frame]
    """What stands around the events, of what they share, the key and the time of sending."""
    shared: Callable[[TrackEvent, Visit], Mapping[str, Any]] = _nothing_shared
    """What a request says once, so that only events that agree on it travel together."""
    auth: Auth = "none"
    """How the key goes out: as the user of HTTP Basic, a Bearer token, in the body's frame, or in the query."""
    query: Mapping[str, str] | None = None
    """Of the address; the key is added under `key_parameter`."""
    key_parameter: str = ""
    headers: Callable[[], Mapping[str, str]] = _no_headers
    """Of each request."""
    verdict: Callable[[Answer, Sequence[UUID]], Verdict] = _taken
    later: frozenset[int] | None = None
    """The statuses after which the vendor wants a request again; None: the usual ones."""
    validation_path: str | None = None
    """Where the vendor looks at a request without taking it."""
    findings: Callable[[Answer], str | None] = lambda _: None
    """What it finds wrong with it there; None: nothing."""
    probe: tuple[str, bytes] | None = None
    """A path, and a body for it that creates nothing: what `check()` posts. None: it asks for a sign of life."""
    max_event_bytes: int | None = None
    max_batch_bytes: int | None = None
    max_batch_events: int | None = None
    parallel: int = 1
    """Requests of one batch under way at a time."""


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, the form that every vendor shows in its documentation."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def without_none(**fields: Any) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
