"""Replay: dead letters become pending rows of a segment, which a living process adopts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sidefx.journal.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from uuid import UUID

    from sidefx.journal.dead import DeadStore
    from sidefx.journal.directory import Directory
    from sidefx.options import JournalOptions


class Replay:
    """Moves dead letters into a segment of its own; wherever that is broken off, each is in one of the two."""

    def __init__(self, directory: Directory, store: DeadStore, options: JournalOptions) -> None:
        self._store = store
        unbounded = options.model_copy(update={"max_bytes": None})  # it takes what the dead letters give up
        self.segment = Segment.create(directory.new_segment(), unbounded)
        """The segment; whoever replays adopts it, or closes it for somebody else."""
        self.moved = 0
        self._there: set[tuple[bytes, str]] = set()
        """What has been redirected into it: pairs of an event's UUID and a sink."""

    def move(
        self,
        *,
        sink: str | None = None,
        kind: str | None = None,
        ids: Collection[UUID] | None = None,
        to: str | None = None,
    ) -> Iterator[int]:
        """Moves those that match, 500 at a time, and says after each step how many that were.

        No more than there are when it begins: where new ones keep coming, it has an end all the same.
        """
        name = self.segment.path.name
        total, without_json = self._store.count(sink=sink, kind=kind, ids=ids)
        left = total - without_json
        while left > 0 and self._store.claim(name, sink=sink, kind=kind, ids=ids, to=to, limit=left):
            claimed = self._store.claimed(name)
            self._insert({(uuid, target): (kind_, text) for uuid, kind_, text, target in claimed})
            if to is not None:  # else each is a letter of its own
                self._there.update((uuid, target) for uuid, _, _, target in claimed)
            self._store.settle_claims(name, {(uuid, target) for uuid, _, _, target in claimed})
            self.moved += len(claimed)
            left -= len(claimed)
            yield len(claimed)

    def _insert(self, claimed: dict[tuple[bytes, str], tuple[str, bytes]]) -> None:
        """Keeps them, each once: an event that two sinks have given up may be replayed to a third."""
        new = {delivery: stored for delivery, stored in claimed.items() if delivery not in self._there}
        first, now = self.segment.taken(len(new)), time.time()
        with self.segment.transaction(synchronous="FULL"):
            self.segment.insert(
                first,
                (((uuid, kind, text, now, None, None, None, 1), (sink,)) for (uuid, sink), (kind, text) in new.items()),
            )
