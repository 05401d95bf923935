"""`Keeping`: a runtime's journal, opened and closed with it, and what is found in it on its way to the lanes."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import anyio

from sidefx.event_loop import soon_in_this_loop
from sidefx.journal import Journal
from sidefx.lanes.redact import Redactor
from sidefx.options import JournalOptions, SinkOptions
from sidefx.threads import DaemonThreads

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Collection, Iterable, Mapping
    from uuid import UUID

Found: TypeAlias = "tuple[object, str, array[int]]"
"""A segment, a sink, and the ids of the events that are in the one for the other."""


class Keeping:
    """Does in a thread what may take long, and brings what that finds to the event loop."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._threads = DaemonThreads()
        self._found: deque[Found] = deque()

    async def open(self, take: Callable[[], object]) -> None:
        """Opens the journal; has `take` called in this event loop whenever there is something for `found`.

        Raises:
            JournalError: its directory cannot be used.
        """
        self._found.clear()
        soon = soon_in_this_loop()

        def offer(segment: object, sink: str, ids: array[int]) -> None:
            self._found.append((segment, sink, ids))
            with suppress(RuntimeError):  # the loop has just ended: whoever comes next finds them
                soon(take)

        await self._threads.run(self.journal.open, offer)

    async def close(self) -> None:
        """Writes what there is, and gives the journal's files to whoever comes next."""
        with anyio.CancelScope(shield=True):
            await self._threads.run(self.journal.close)

    def found(self) -> Found | None:
        """The next that nobody has taken yet."""
        return self._found.popleft() if self._found else None

    async def replay(self, *, sink: str | None, kind: str | None, ids: Collection[UUID] | None, to: str | None) -> int:
        """As `SideEffects.replay`."""
        moved: int = await self._threads.run(partial(self.journal.replay, sink=sink, kind=kind, ids=ids, to=to))
        return moved


def keeping_for(
    name: str, sinks: Iterable[str], sink_options: Mapping[str, SinkOptions], options: JournalOptions | None
) -> Keeping | None:
    """What a runtime with these sinks needs; None where neither a sink's delivery nor the options ask for a journal."""
    durable = {sink for sink, each in sink_options.items() if each.delivery == "journal"}
    if options is None and not durable:
        return None
    readers = {sink: _readers(sink, sink_options, durable) for sink in sinks}
    maskers = {sink: [_masker(sink_options, reader) for reader in names] for sink, names in readers.items()}
    return Keeping(Journal(options or JournalOptions(), name, maskers))


def _readers(sink: str, sink_options: Mapping[str, SinkOptions], durable: Collection[str]) -> list[str]:
    """Who reads what is stored for a sink: the sink, its fallback where that is journaled as well, and so on."""
    readers = [sink]
    while readers[0] in durable:
        fallback = sink_options.get(readers[-1], SinkOptions()).fallback
        if fallback is None or fallback not in durable:
            break
        readers.append(fallback)
    return readers


def _masker(sink_options: Mapping[str, SinkOptions], sink: str) -> Redactor | None:
    redacted = sink_options.get(sink, SinkOptions()).redact
    return Redactor(redacted) if redacted else None
