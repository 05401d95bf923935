"""What the journal stores of an event: the JSON that `event_from_json` reads, less what none of its sinks may see."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import from_json, to_json

from sidefx.effect import Effect
from sidefx.events import event_from_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidefx.events import Event
    from sidefx.journal.segment import EventRow, NewEvent


class Masker(Protocol):
    """What a sink's redaction does to an event, and to the JSON of one."""

    def __call__(self, event: Event) -> Event:
        """A copy with values masked; the event itself where there is nothing to mask."""
        ...

    def text(self, text: bytes) -> bytes | None:
        """The same of JSON; None where it is none."""
        ...


def stored(effect: Effect, maskers: Sequence[Masker]) -> NewEvent:
    """The effect's event as a row; `maskers` are what its sinks' redaction does, none where one sees everything.

    Raises:
        Exception: the event cannot be written as JSON, or not be masked: a serializer is a user's code.
    """
    event = effect.event
    assert event is not None  # noqa: S101 - only events are stored
    return (
        event.id.int.to_bytes(16, "big"),
        event.kind,
        _masked_json(event, maskers) if maskers else _json(event),
        time.time(),
        writable(effect.name),
        None if effect.timeout is None else float(effect.timeout),
        writable(effect.call_site),
        int(effect.replayed),
    )


def writable(text: str | None) -> str | None:
    """The text as SQLite takes it: half a character, as `json.loads` and the names of files may have, is escaped."""
    if text is None or (type(text) is str and text.isascii()):
        return text
    return str(text).encode("utf-8", "backslashreplace").decode()


def restored(row: EventRow, attempts: int) -> Effect:
    """The effect that the row was made of.

    Raises:
        UnknownKindError: no class of that kind has been imported here.
        ValueError: it is no event of that kind.
    """
    if not (isinstance(row.name, str | None) and isinstance(row.site, str | None)):
        msg = "the name or the call site is no text"
        raise ValueError(msg)  # noqa: TRY004 - a damaged row, not a mistake of the caller's
    event = event_from_json(row.kind, row.json)
    effect = Effect(event, name=row.name, timeout=row.timeout)
    effect.site = row.site
    effect.request = event.request
    effect.attempts = attempts
    effect.replayed = bool(row.replayed)
    return effect


def _json(event: Event) -> bytes:
    return type(event).__pydantic_serializer__.to_json(event, warnings=False)


def _masked_json(event: Event, maskers: Sequence[Masker]) -> bytes:
    copies = [_json(mask(event)) for mask in maskers]
    if len(set(copies)) == 1:
        return copies[0]
    return to_json(_masked_by_all(from_json(_json(event)), [from_json(copy) for copy in copies]))


def _masked_by_all(value: Any, copies: list[Any]) -> Any:
    """The value with only that masked which is masked in every copy."""
    if any(copy == value for copy in copies):
        return value
    partly = [copy for copy in copies if type(copy) is type(value) and isinstance(value, (dict, list))]
    if not partly:
        return copies[0]
    if isinstance(value, dict):
        return {key: _masked_by_all(each, [copy.get(key) for copy in partly]) for key, each in value.items()}
    if any(len(copy) != len(value) for copy in partly):
        return partly[0]
    return [_masked_by_all(each, [copy[index] for copy in partly]) for index, each in enumerate(value)]
