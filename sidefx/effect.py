"""`Effect`: one thing that `after()` was asked to do, from the call to its end."""

from __future__ import annotations

import functools
import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Context
    from types import CodeType

    from sidefx.cohort import Cohort
    from sidefx.entry import Entry
    from sidefx.events import Event
    from sidefx.request import RequestInfo
    from sidefx.tracing import Origin

When: TypeAlias = Literal["always", "success", "error"]


class Effect:
    """One event to deliver; or a callable to call, or an awaitable to await: `CallEffect`."""

    __slots__ = (
        "attempts",
        "cohort",
        "entry",
        "event",
        "further",
        "held",
        "name",
        "offset",
        "origin",
        "replayed",
        "request",
        "row",
        "screened",
        "site",
        "size",
        "timeout",
        "unstorable",
        "when",
    )

    call: Callable[..., Any] | None = None
    awaitable: Awaitable[Any] | None = None
    args: tuple[Any, ...] = ()

    def __init__(
        self, event: Event | None, when: When = "always", name: str | None = None, timeout: float | None = None
    ) -> None:
        self.event = event
        self.when: When = when
        self.name = name
        self.timeout = timeout
        self.site: CodeType | str | None = None
        """Where `after()` was called: in this code, at the offset; or, read back from a journal, `file:line`."""
        self.offset = 0
        self.request: RequestInfo | None = None
        self.cohort: Cohort | None = None
        self.entry: Entry | None = None
        """Where it is in the journal, if it is kept there."""
        self.row = 0
        """Its number there."""
        self.further: list[Effect] | None = None
        """What its event stands for, where that has been asked for already."""
        self.attempts = 0
        """How often its sink had been called before the process that called it ended."""
        self.screened: dict[str, str | None] | None = None
        """What lanes' filters have said already, by sink: why it is dropped, or None."""
        self.size: int | None = None
        """Bytes of the event's JSON, where it has been written."""
        self.unstorable: tuple[str, ...] | None = None
        """The sinks for which it was found that it cannot be stored."""
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
        site = self.site
        return site if site is None or isinstance(site, str) else line_of(site, self.offset)

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
        name = self.name if self.event is not None and event.kind == self.event.kind else None
        other = Effect(event, self.when, name, self.timeout)
        other.site, other.offset = self.site, self.offset
        other.request = self.request
        other.cohort = self.cohort
        if event is self.event or event.id == self.event.id:  # type: ignore[union-attr]  # of an event
            other.entry, other.row = self.entry, self.row
            other.attempts = self.attempts
        if event is self.event:
            other.size, other.unstorable = self.size, self.unstorable
        other.origin = self.origin
        other.held = self.held
        other.replayed = self.replayed
        return other

    def discard(self) -> None:
        """Closes a coroutine that will never be started, so that nothing warns of it."""
        if self.awaitable is not None and inspect.iscoroutine(self.awaitable):
            with suppress(Exception):  # one that had been started by hand runs its `finally` now
                self.awaitable.close()


class CallEffect(Effect):
    """A callable to call with `args`, or an awaitable to await."""

    __slots__ = ("args", "awaitable", "call", "context")

    def __init__(
        self,
        *,
        call: Callable[..., Any] | None = None,
        awaitable: Awaitable[Any] | None = None,
        args: tuple[Any, ...] = (),
        context: Context,
        when: When = "always",
        name: str | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(None, when, name, timeout)
        self.call = call
        self.awaitable = awaitable
        self.args = args
        self.context: Context | None = context
        """The one in which `after()` was called, until it starts."""


def describe(value: object) -> str:
    """A short name of any object, for an error message."""
    return f"{_name_of(value)} (of type {type(value).__qualname__})"


def line_of(code: CodeType, offset: int) -> str:
    """`file:line` of an instruction: found where it is shown or stored, for in a long function that takes a while."""
    known = _lines.get((id(code), offset))
    if known is not None:
        return known[1]
    line = next((line for start, end, line in code.co_lines() if start <= offset < end), None)
    text = f"{code.co_filename}:{code.co_firstlineno if line is None else line}"
    if len(_lines) >= _LINES_KEPT:
        _lines.clear()
    _lines[id(code), offset] = code, text  # with the code itself, so that no other one gets its id
    return text


_LINES_KEPT = 4_096
_lines: dict[tuple[int, int], tuple[CodeType, str]] = {}


def _name_of(value: object) -> str:
    try:
        while isinstance(value, functools.partial):
            value = value.func
        return str(getattr(value, "__qualname__", None) or type(value).__qualname__)
    except Exception:  # noqa: BLE001 - a proxy outside of its context has not even a class
        return type(value).__qualname__
