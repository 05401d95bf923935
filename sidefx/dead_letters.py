"""Dead letters: what the lanes gave up on, kept to be seen and replayed."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from uuid import UUID

    from sidefx.events import Event

_log = logging.getLogger("sidefx.dead_letters")
_LOGGED_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeadLetter:
    """An event that one sink will not get by itself any more."""

    sink: str
    event: Event = field(repr=False)
    """As the sink saw it: redacted fields are redacted here as well."""
    result: Literal["rejected", "expired"]
    reason: str
    error: str
    """The error's type and message."""
    attempts: int
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    call_site: str | None = None
    request_id: str | None = None


class DeadLetters:
    """A bounded store in memory; what no longer fits is written to the log, as JSON."""

    def __init__(self, *, per_sink: int) -> None:
        self._per_sink = per_sink
        self._letters: dict[str, deque[DeadLetter]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._letters.values()))

    def __iter__(self) -> Iterator[DeadLetter]:
        for letters in tuple(self._letters.values()):
            yield from tuple(letters)  # at one go: other threads may look while a lane adds one

    def matching(self, *, sink: str | None = None, kind: str | None = None) -> list[DeadLetter]:
        """Those of that sink and kind, the oldest first."""
        found = (letter for letter in self if sink in {None, letter.sink} and kind in {None, letter.event.kind})
        return sorted(found, key=lambda letter: letter.at)

    def add(self, letter: DeadLetter) -> None:
        """Keeps it; the oldest of the same sink leaves for the log where there are too many."""
        letters = self._letters.setdefault(letter.sink, deque())
        letters.append(letter)
        if len(letters) > self._per_sink:
            oldest = letters.popleft()
            _log.error(
                "sinks.%s: dead letter %s leaves memory, which keeps %d a sink: %s",
                oldest.sink,
                oldest.event.id,
                self._per_sink,
                _as_json(oldest.event),
            )

    def take(
        self, *, sink: str | None = None, kind: str | None = None, ids: Collection[UUID] | None = None
    ) -> list[DeadLetter]:
        """Removes and returns those that match all that is given, the oldest first."""
        taken = [letter for letter in self.matching(sink=sink, kind=kind) if ids is None or letter.event.id in ids]
        for letter in taken:
            self._letters[letter.sink].remove(letter)
        return taken


def _as_json(event: Event) -> str:
    try:
        return event.model_dump_json()[:_LOGGED_BYTES]
    except Exception as error:  # noqa: BLE001 - it may be dead for just that reason
        return f"(event of kind {event.kind} that cannot be written as JSON: {type(error).__name__})"
