"""`Batch`: what the events of a batch ask a store to clear, and what becomes of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from sidefx import InvalidateEvent, PartialError, PermanentError, TransientError
from sidefx_sinks.cache.store import EVERYTHING, Kind, Target, Wanted


class Batch:
    """Each target once, in the order of its first mention; a failed one fails the events that named it and no other."""

    def __init__(
        self, events: Sequence[InvalidateEvent], *, store: str, clears: Sequence[Kind], allow_everything: bool
    ) -> None:
        """`store` is its name, for messages."""
        self._store = store
        self._clears = clears
        self._allow_everything = allow_everything
        self._ids = {event.id for event in events}
        self._single = len(events) == 1
        self._targets: dict[UUID, list[Target]] = {}
        self._failures: dict[UUID, Exception] = {}
        for event in events:
            try:
                self._targets.setdefault(event.id, []).extend(self._targets_of(event))
            except PermanentError as error:
                self._failures[event.id] = error
        self.wanted: Wanted = self._askers()

    def settle(self, refused: Mapping[Target, Exception]) -> None:
        """Once all has been tried.

        Raises:
            PermanentError, TransientError: what became of the one event, or of all.
            PartialError: of some.
        """
        failures = self._failures | self._by_event(refused)
        if not failures:
            return
        errors = list(failures.values())
        away = failures.keys() == self._ids and _all_transient(errors)
        if away or self._single:  # an error of the whole, which the lane's breaker counts
            raise errors[0]
        raise PartialError(failures)

    def _askers(self) -> Wanted:
        """What is to be cleared, and who asks for it."""
        askers: dict[Target, list[UUID]] = {}
        for event_id, targets in self._targets.items():
            for target in dict.fromkeys(targets):
                askers.setdefault(target, []).append(event_id)
        return askers

    def _by_event(self, refused: Mapping[Target, Exception]) -> dict[UUID, Exception]:
        """The error of each event that has one; one that may pass with time goes before one that will not."""
        failures: dict[UUID, Exception] = {}
        for event_id, targets in self._targets.items():
            if errors := [refused[target] for target in targets if target in refused]:
                failures[event_id] = next((error for error in errors if _all_transient([error])), errors[0])
        return failures

    def _targets_of(self, event: InvalidateEvent) -> list[Target]:
        """What the store can clear of what the event names; the rest is for other caches.

        Raises:
            PermanentError: the store can clear none of it, or it is everything and that is not allowed.
        """
        asked = [
            *(Target("keys", key) for key in event.keys),
            *(Target("tags", tag) for tag in event.tags),
            *(Target("prefixes", prefix) if prefix else EVERYTHING for prefix in event.prefixes),
            *(Target("urls", url) for url in event.urls),
            *(Target("hosts", host) for host in event.hosts),
            *([EVERYTHING] if event.everything else []),
        ]
        possible = [target for target in asked if target.kind in self._clears]
        if not possible:
            kinds = ", ".join(dict.fromkeys(target.kind for target in asked))
            able = ", ".join(self._clears)
            msg = f"cache: a {self._store} store clears {able}; the event names only {kinds}: route it elsewhere"
            raise PermanentError(msg)
        if EVERYTHING in possible and not self._allow_everything:
            msg = (
                "cache: nothing was cleared: the event asks for everything (or for an empty prefix), "
                "which needs allow_everything = true; or name tags or prefixes"
            )
            raise PermanentError(msg)
        return possible


def _all_transient(errors: Sequence[Exception]) -> bool:
    return all(isinstance(error, TransientError) for error in errors)
