"""A stage whose events are journaled: what the tests of the journal's gate schedule, on every server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidefx import Event, JournalOptions, SideEffects, SinkOptions
from tests.asgi.probe import PATIENCE, Gate, Happened, Probe
from tests.asgi.servers import Server, staged, whole
from tests.asgi.silence import overheard


class Kept(Happened, kind="journal_test.kept"):
    """What is journaled; `Happened` is not."""


class Ordered(Event, kind="journal_test.ordered"):
    """No sink takes it; what it stands for is journaled."""

    def effects(self) -> Iterable[Event]:
        return [Kept(what="of an order"), Kept(what="of an order, too")]


@contextmanager
def journaled(kind: str, folder: Path, **journal: Any) -> Iterator[Server]:
    """That server, with a sink whose events are journaled and one whose events are not, both of which take notes."""

    def make(probe: Probe) -> SideEffects:
        options = {
            "sink": SinkOptions(events=(Happened.kind,)),
            "kept": SinkOptions(events=(Kept.kind,), delivery="journal"),
        }
        kept = JournalOptions(path=folder, **{"timeout": 2 * PATIENCE, **journal})
        return SideEffects({"sink": probe.sink, "kept": probe.sink}, options, journal=kept, name="stage")

    with staged(kind, make) as server:
        yield server


def kept_of(server: Server, case: str) -> list[str]:
    """What the journaled sink was given of that request, in order."""
    return [event.what for event in server.probe.events_of(case) if isinstance(event, Kept)]


def others_are_answered(server: Server) -> None:
    """A request without journaled events has its whole response, and its effects, whatever the disk does."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.probe.schedule()
        await whole(scope, receive, send)

    reply, case = server.get(case=server.play(app))
    assert reply.status == 200
    assert server.settled(case) == ["always", "success"]
    assert len(server.probe.events_of(case)) == 1


def silent(server: Server, client: Any, disk: Gate) -> None:
    """While the disk is held, and others are answered, not a byte comes."""
    disk.reached()
    for _ in range(2):
        others_are_answered(server)
        assert overheard(client).strip(b"\r\n") == b"", "sent before the events were on disk"
