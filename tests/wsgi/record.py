"""What the effects of an app in another process have to tell: one line of a file each."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sidefx
from sidefx import Event, after
from tests.asgi.probe import eventually


class Noted(Event, kind="wsgi_test.noted"):
    """What the apps schedule for the sink."""

    what: str


@dataclass(frozen=True)
class Line:
    """What one effect saw when it ran."""

    case: str
    what: str
    process: int
    status: int | None = None
    bytes: int = 0
    outcome: str = ""
    route: str | None = None


class Record:
    """The file, for the app that writes it and for the test that reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # --- for the app ---------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """One effect for each `when`, and an event: what a handler under test asks for."""
        after(self.note, "always")
        after(self.note, "success", when="success")
        after(self.note, "error", when="error")
        after(Noted(what="event"))

    def note(self, what: str) -> None:
        """An effect: writes down what it sees of its request."""
        request = sidefx.request()
        if request is None:
            self._write(case="", what=what)
        else:
            self._write(
                case=request.request_id,
                what=what,
                status=request.status,
                bytes=request.bytes_sent,
                outcome=request.outcome,
                route=request.route,
            )

    def note_for(self, event: Noted, what: str) -> None:
        """In a sink, which belongs to no request: under the event's."""
        self._write(case=event.request.request_id if event.request is not None else "", what=what)

    async def sink(self, event: Noted) -> None:
        """A sink that writes down what it is given."""
        self.note_for(event, event.what)

    def _write(self, **seen: Any) -> None:
        line = json.dumps({**seen, "process": os.getpid()}) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, line.encode())  # at once: several processes append to it
        finally:
            os.close(descriptor)

    # --- for the test --------------------------------------------------------------------------------------------

    def lines(self) -> list[Line]:
        """All there is by now."""
        if not self.path.exists():
            return []
        written, _, _ = self.path.read_text(encoding="utf-8").rpartition("\n")  # the last line may just be coming
        return [Line(**json.loads(line)) for line in written.splitlines()]

    def of(self, case: str) -> dict[str, Line]:
        """What was noted of that request, by what it is."""
        return {line.what: line for line in self.lines() if line.case == case}

    def count(self, case: str) -> Counter[str]:
        """How often each was noted of that request."""
        return Counter(line.what for line in self.lines() if line.case == case)

    def has(self, case: str, *whats: str) -> Line:
        """Waits until all of these have been noted of that request; the first of them."""
        eventually(lambda: set(whats) <= set(self.of(case)), f"{whats} of {case}, after {self.lines()[-5:]},")
        return self.of(case)[whats[0]]
