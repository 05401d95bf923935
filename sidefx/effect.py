"""`Effect`: one thing that `after()` was asked to do, from the call to its end."""

from __future__ import annotations

import functools
import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Context
    from types import FrameType

    from sidefx.cohort import Cohort
    from sidefx.entry import Entry
    from sidefx.events import Event
    from sidefx.request import RequestInfo
    from sidefx.tracing import Origin

When: TypeAlias = Literal["always", "success", "error"]


class Effect:
    """An event to deliver, a callable to call, or an awaitable to await; exactly one of the three."""

    __slots__ = (
        "args",
        "attempts",
        "awaitable",
        "call",
        "cohort",
        "context",
        "entry",
        "event",
        "further",
        "held",
        "name",
        "origin",
        "replayed",
        "request",
        "screened",
        "site",
        "size",
        "timeout",
        "when",
    )

    def __init__(
        self,
        *,
        event: Event | None = None,
        call: Callable[..., Any] | None = None,
        awaitable: Awaitable[Any] | None = None,
        args: tuple[Any, ...] = (),
        context: Context | None = None,
        when: When = "always",
        name: str | None = None,
        timeout: float | None = None,
        site: tuple[str, int] | None = None,
        request: RequestInfo | None = None,
    ) -> None:
        self.event = event
        self.call = call
        self.awaitable = awaitable
        self.args = args
        self.context = context
        self.when: When = when
        self.name = name
        self.timeout = timeout
        self.site = site
        self.request = request
        self.cohort: Cohort | None = None
        self.entry: Entry | None = None
        """Its place in the journal, where it is kept there."""
        self.further: list[Effect] | None = None
        """What its event stands for, where that has been asked for already."""
        self.attempts = 0
        """How often its sink had been called before the process that called it ended."""
        self.screened: dict[str, str | None] | None = None
        """What lanes' filters have said already, by sink: why it is dropped, or None."""
        self.size: int | None = None
        """Bytes of the event's JSON, where it has been written."""
        self.origin: Origin = None
        """The span in which it was scheduled, where the app traces."""
        self.replayed = False
        """Whether it was a dead letter: what falls back has fallen back before."""
        self.held = False
        """Whether a finished request waits for room in the lanes that it goes to."""

    @property
    def label(self) -> str:
        """The given name, else the event's kind or the function's qualified name."""
        if self.name is not None:
            return self.name
        if self.event is not None:
            return self.event.kind
        return _name_of(self.call if self.call is not None else self.awaitable)

    @property
    def call_site(self) -> str | None:
        """`file:line` of the `after()` call."""
        return None if self.site is None else f"{self.site[0]}:{self.site[1]}"

    @property
    def request_id(self) -> str | None:
        """The id of the request under which it was scheduled."""
        return None if self.request is None else self.request.request_id

    def bind(self, request: RequestInfo | None) -> None:
        """It belongs to that request; so does its event, where it says nothing else."""
        self.request = request
        if request is not None and self.event is not None and self.event.request is None:
            self.event = self.event._with(request=request)  # noqa: SLF001 - ours, and not for users

    def with_event(self, event: Event) -> Effect:
        """The same, of another event: a redacted copy, or one that it stands for."""
        other = Effect(
            event=event,
            when=self.when,
            name=self.name if self.event is not None and event.kind == self.event.kind else None,
            timeout=self.timeout,
            site=self.site,
            request=self.request,
        )
        other.cohort = self.cohort
        if event is self.event or event.id == self.event.id:  # type: ignore[union-attr]  # of an event
            other.entry = self.entry
            other.attempts = self.attempts
        if event is self.event:
            other.size = self.size
        other.origin = self.origin
        other.held = self.held
        other.replayed = self.replayed
        return other

    def discard(self) -> None:
        """Closes a coroutine that will never be started, so that nothing warns of it."""
        if inspect.iscoroutine(self.awaitable):
            with suppress(Exception):  # one that had been started by hand runs its `finally` now
                self.awaitable.close()


def describe(value: object) -> str:
    """A short name of any object, for an error message."""
    return f"{_name_of(value)} (of type {type(value).__qualname__})"


def site_of(frame: FrameType) -> tuple[str, int]:
    """Where the code of that frame stands."""
    return frame.f_code.co_filename, frame.f_lineno


def _name_of(value: object) -> str:
    try:
        while isinstance(value, functools.partial):
            value = value.func
        return str(getattr(value, "__qualname__", None) or type(value).__qualname__)
    except Exception:  # noqa: BLE001 - a proxy outside of its context has not even a class
        return type(value).__qualname__
