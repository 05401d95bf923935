"""Who of an event's recipients has the mail already: what a retry must know."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID


@dataclass(slots=True, repr=False)
class Progress:
    """How far the mail of one event has come."""

    delivered: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    """Address to SMTP code, of those refused for good."""

    def still_open(self, recipients: tuple[str, ...]) -> list[str]:
        """Those to try now."""
        return [one for one in recipients if one not in self.delivered and one not in self.refused]


class Ledger:
    """The progress of the events whose mail is not out yet; the least recently tried are forgotten."""

    def __init__(self, max_events: int = 10_000) -> None:
        self._max_events = max_events
        self._progress: OrderedDict[UUID, Progress] = OrderedDict()

    def __getitem__(self, event_id: UUID) -> Progress:
        progress = self._progress.setdefault(event_id, Progress())
        self._progress.move_to_end(event_id)
        while len(self._progress) > self._max_events:
            self._progress.popitem(last=False)
        return progress

    def give_up(self, event_id: UUID) -> None:
        """Keep who has the mail, for a replay of the event; it asks again for those who were refused."""
        if (progress := self._progress.get(event_id)) is None:
            return
        progress.refused.clear()
        if not progress.delivered:
            self.forget(event_id)

    def forget(self, event_id: UUID) -> None:
        """Everybody has the mail."""
        self._progress.pop(event_id, None)

    def __len__(self) -> int:
        return len(self._progress)
