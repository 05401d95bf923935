"""Dead letters: what the lanes gave up on, kept to be seen and replayed."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from uuid import UUID

    from sidefx.events import Event

_log = logging.getLogger("sidefx.dead_letters")
_LOGGED_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeadLetter:
    """An event that one sink will not get by itself any more."""

    sink: str
    event: Event | None = field(repr=False)
    """As the sink saw it: redacted fields are redacted here as well. None where this process cannot read `text`."""
    result: Literal["rejected", "expired"]
    reason: str
    error: str
    """The error's type and message."""
    attempts: int
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    call_site: str | None = None
    request_id: str | None = None
    kind: str = ""
    """The event's kind."""
    event_id: UUID = None  # type: ignore[assignment]  # filled in from the event
    text: str | None = field(default=None, repr=False)
    """The event as JSON, where it comes from the journal."""

    def __post_init__(self) -> None:
        if self.event is not None:
            object.__setattr__(self, "kind", self.event.kind)
            object.__setattr__(self, "event_id", self.event.id)


class DeadLetters(Protocol):
    """Where the lanes' dead letters are kept: in memory, or in the journal."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[DeadLetter]: ...

    def matching(
        self, *, sink: str | None = None, kind: str | None = None, ids: Collection[UUID] | None = None
    ) -> list[DeadLetter]:
        """Those that match all that is given, the oldest first."""
        ...

    def add(self, letter: DeadLetter, then: Callable[[], object] | None = None) -> None:
        """Keeps it, and calls `then` once it is safe; raises nothing."""
        ...

    def counts(self, since: datetime | None = None) -> Mapping[str, int]:
        """How many there are for each sink, from that time on."""
        ...


class LettersInMemory(DeadLetters):
    """A bounded store in memory; what no longer fits is written to the log, as JSON."""

    def __init__(self, *, per_sink: int) -> None:
        self._per_sink = per_sink
        self._letters: dict[str, deque[DeadLetter]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._letters.values()))

    def __iter__(self) -> Iterator[DeadLetter]:
        for letters in tuple(self._letters.values()):
            yield from tuple(letters)  # at one go: other threads may look while a lane adds one

    def matching(
        self, *, sink: str | None = None, kind: str | None = None, ids: Collection[UUID] | None = None
    ) -> list[DeadLetter]:
        """Those that match all that is given, the oldest first."""
        return sorted((letter for letter in self if matches(letter, sink, kind, ids)), key=lambda letter: letter.at)

    def counts(self, since: datetime | None = None) -> Mapping[str, int]:
        """How many there are for each sink, from that time on."""
        return Counter(letter.sink for letter in self if since is None or letter.at > since)

    def add(self, letter: DeadLetter, then: Callable[[], object] | None = None) -> None:
        """Keeps it; the oldest of the same sink leaves for the log where there are too many."""
        letters = self._letters.setdefault(letter.sink, deque())
        letters.append(letter)
        if then is not None:
            then()
        if len(letters) > self._per_sink:
            log_what_leaves(letters.popleft(), self._per_sink)

    def take(
        self, *, sink: str | None = None, kind: str | None = None, ids: Collection[UUID] | None = None
    ) -> list[DeadLetter]:
        """Removes and returns those that match all that is given, the oldest first."""
        taken = self.matching(sink=sink, kind=kind, ids=ids)
        for letter in taken:
            self._letters[letter.sink].remove(letter)
        return taken


def matches(letter: DeadLetter, sink: str | None, kind: str | None, ids: Collection[UUID] | None) -> bool:
    """Whether it is of that sink, of that kind, and one of those events; None stands for any."""
    return sink in {None, letter.sink} and kind in {None, letter.kind} and (ids is None or letter.event_id in ids)


def log_what_leaves(letter: DeadLetter, kept: int) -> None:
    """Writes it to the log: memory, which keeps so many, has no room for it."""
    _log.error(
        "sinks.%s: dead letter %s leaves memory, which keeps %d a sink: %s",
        letter.sink,
        letter.event_id,
        kept,
        "" if letter.event is None else as_json(letter.event) or _unwritable(letter.event),
    )


def as_json(event: Event, limit: int | None = _LOGGED_BYTES) -> str | None:
    """The event's JSON, cut to so many characters; None where it has none: it may be dead for just that reason."""
    try:
        return event.model_dump_json()[:limit]
    except Exception:  # noqa: BLE001 - a serializer is a user's code
        return None


def _unwritable(event: Event) -> str:
    return f"(event of kind {event.kind} that cannot be written as JSON)"
