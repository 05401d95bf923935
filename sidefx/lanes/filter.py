"""The first stage: which of the events that reach a lane go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidefx.events import Event

_SAMPLES = 1 << 32


class Filter:
    """A predicate and a sample; both are optional."""

    def __init__(self, *, predicate: Callable[[Event], object] | None, sample: float) -> None:
        self._predicate = predicate
        self._sampled = int(sample * _SAMPLES)

    @property
    def passes_all(self) -> bool:
        """Whether there is nothing to ask."""
        return self._predicate is None and self._sampled == _SAMPLES

    def reason_to_drop(self, event: Event) -> str | None:
        """`filtered`, `sampled`, or None where the event goes on. Raises what the predicate raises.

        The sample is taken of the event's id, so that one event has one answer however often it is asked.
        """
        if self._predicate is not None and not self._predicate(event):
            return "filtered"
        if event.id.int % _SAMPLES >= self._sampled:
            return "sampled"
        return None
