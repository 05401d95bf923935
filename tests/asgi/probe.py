"""What tests and the apps under test share in one process: notes, gates, and waiting for a condition."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio

import sidefx
from sidefx import Event, after

if TYPE_CHECKING:
    from sidefx import RequestInfo

T = TypeVar("T")

PATIENCE = 15.0
"""Seconds after which a test gives up waiting; nothing ever waits that long where all is well."""


def eventually(condition: Callable[[], T | None], what: str = "the condition") -> T:
    """Waits until the condition holds, and returns what it said.

    Raises:
        AssertionError: it did not, within `PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {PATIENCE:g} s"
        time.sleep(0.002)
    return result


async def until(condition: Callable[[], object]) -> None:
    """The same within an event loop, for what another thread, or another process, brings about; without a deadline."""
    while not condition():  # noqa: ASYNC110 - an event of this loop cannot be set from there on both backends
        await anyio.sleep(0.002)


class Gate:
    """Holds an app or an effect up until the test opens it; leaving the `with` block opens it in any case."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._reached = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether everybody may pass."""
        return self._open.is_set()

    def open(self) -> None:
        """Lets everybody through."""
        self._open.set()

    def reached_by_app(self) -> None:
        """Says that somebody is there, without waiting."""
        self._reached.set()

    def reached(self) -> None:
        """For the test: waits until somebody stands before it."""
        assert self._reached.wait(PATIENCE), "nobody has come to the gate"

    async def passed(self) -> None:
        """For apps and effects: returns once it is open."""
        self.reached_by_app()
        await until(self._open.is_set)

    def passed_blocking(self) -> None:
        """The same for synchronous ones."""
        self.reached_by_app()
        assert self._open.wait(PATIENCE), "the test has not opened the gate"


class Happened(Event, kind="asgi_test.happened"):
    """What the apps under test schedule for the sink."""

    what: str


@dataclass
class Probe:
    """Takes notes, in order, from any thread; by default under the id of the running effect's request."""

    notes: list[tuple[str, Any]] = field(default_factory=list)
    seen: dict[str, RequestInfo] = field(default_factory=dict)
    delivered: list[Happened] = field(default_factory=list)

    def note(self, what: Any, case: str | None = None) -> None:
        """Writes it down; as an effect it is `after(probe.note, "always")`."""
        request = sidefx.request()
        if case is None and request is not None:
            case = request.request_id
            self.seen[case] = request
        self.notes.append((case or "", what))

    def of(self, case: str) -> list[Any]:
        """What was noted of that request, in order."""
        return [what for noted, what in self.notes if noted == case]

    def events_of(self, case: str) -> list[Happened]:
        """What the sink was given of that request, in order."""
        return [event for event in self.delivered if event.request is not None and event.request.request_id == case]

    async def sink(self, event: Happened) -> None:
        """A sink that keeps what it is given."""
        self.delivered.append(event)

    async def note_in_turn(self, what: Any) -> None:
        """The same in the event loop: effects in threads start in their order, and may overtake each other then."""
        self.note(what)

    def schedule(self) -> None:
        """One effect for each `when`, and an event: what a handler under test asks for."""
        after(self.note_in_turn, "always")
        after(self.note_in_turn, "success", when="success")
        after(self.note_in_turn, "error", when="error")
        after(Happened(what="event"))
