"""Fan-out: the further events that one event stands for, asked for once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sidefx.cancellation import must_go_on
from sidefx.errors import SidefxError
from sidefx.events import Event
from sidefx.report import indented_traceback, summary_of

if TYPE_CHECKING:
    from sidefx.effect import Effect

_log = logging.getLogger("sidefx")

_DEPTH = 16
_EVENTS = 1_000


class FanOutError(SidefxError):
    """`Event.effects()` failed, or yields more than anybody can have meant."""


def fans_out(event_type: type[Event]) -> bool:
    """Whether events of that class may stand for others."""
    return event_type.effects is not Event.effects


def further(effect: Effect) -> list[Effect]:
    """What the effect's event stands for, each with what that stands for in turn; the same ones at every call."""
    if effect.further is None:
        _ask(effect, depth=0, budget=[_EVENTS])
    return effect.further or []


def _ask(effect: Effect, *, depth: int, budget: list[int]) -> None:
    found = effect.further = []
    event = effect.event
    assert event is not None  # noqa: S101 - only events stand for others
    if not fans_out(type(event)):
        return
    try:
        for each in event.effects():
            budget[0] -= 1
            _check(each, event, depth=depth, left=budget[0])
            with_request = each if each.request is not None else each._with(request=event.request)  # noqa: SLF001 - ours
            child = effect.with_event(with_request)
            found.append(child)
            _ask(child, depth=depth + 1, budget=budget)
    except BaseException as error:
        if must_go_on(error):
            raise
        _log.error(  # a user's method: contained, and shown
            "%s: effects() failed, what it yielded before goes on: %s [event %s, request %s, after() at %s]%s",
            event.kind,
            summary_of(error),
            event.id,
            effect.request_id or "-",
            effect.call_site or "-",
            indented_traceback(error),
        )


def _check(further: object, event: Event, *, depth: int, left: int) -> None:
    if not isinstance(further, Event):
        msg = f"{event.kind}: effects() yields events, not {type(further).__qualname__}"
        raise FanOutError(msg)
    if depth >= _DEPTH or left < 0:
        msg = f"{event.kind}: effects() goes on without end: more than {_DEPTH} levels deep or {_EVENTS} events"
        raise FanOutError(msg)
