"""`Journal`: what keeps events on disk from before the response until every sink has had them."""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import TYPE_CHECKING

from sidefx.entry import Commit, Entry
from sidefx.errors import JournalError
from sidefx.journal.dead import DeadStore, StoredLetters
from sidefx.journal.directory import Directory
from sidefx.journal.keeper import Keeper
from sidefx.journal.replay import Replay
from sidefx.journal.segment import Segment
from sidefx.journal.stored import restored, stored
from sidefx.journal.writer import Writer
from sidefx.report import one_line, summary_of
from sidefx.stats import JournalStats

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from uuid import UUID

    from sidefx.effect import Effect
    from sidefx.journal.stored import Masker
    from sidefx.options import JournalOptions

_log = logging.getLogger("sidefx.journal")

_CLOSING_SECONDS = 10.0
_ALARM_EVERY = 10.0
"""Seconds between two log lines about events that are in memory only."""


class Journal:
    """The journal of one runtime.

    `maskers` says, by sink, what its redaction does to an event: what no journaled sink may see is not stored either.
    """

    def __init__(self, options: JournalOptions, name: str, maskers: Mapping[str, Sequence[Masker | None]]) -> None:
        self.options = options
        self._name = name
        self._maskers = maskers
        self._masked: dict[tuple[str, ...], Sequence[Masker]] = {}
        """The maskers for what goes to these sinks; none where one of them sees everything."""
        self._directory = Directory(options.path)
        self.letters = StoredLetters(DeadStore(self._directory.dead), self._wake)
        self._writer: Writer | None = None
        self._keeper: Keeper | None = None
        self.degraded = 0
        """Events that were to be on disk, and were in memory only."""
        self.refused = 0
        """Events of requests that were answered with 503."""
        self._alarmed = -_ALARM_EVERY
        self._unalarmed = 0

    # --- life ---------------------------------------------------------------------------------------

    def open(self, offer: Callable[[Segment, str, array[int]], object]) -> None:
        """Opens a new segment and adopts what others have left; `offer` is called with it, in some thread.

        Raises:
            JournalError: the directory cannot be used; with what to do.
        """
        self._directory.prepare()
        try:
            self.letters.store.prepare()
            own = Segment.create(self._directory.new_segment(), self.options)
        except (sqlite3.Error, OSError) as error:
            msg = f"journal.path: {self._directory.path} cannot be used: {summary_of(error)}"
            raise JournalError(msg) from error
        self._writer = Writer(own, self.options, name=self._name)
        self._writer.start()
        self._keeper = Keeper(
            self._name,
            directory=self._directory,
            writer=self._writer,
            letters=self.letters,
            options=self.options,
            sinks=self._maskers.keys(),
        )
        self._keeper.offer = offer
        self._keeper.adopt()
        self._keeper.start()

    def close(self) -> None:
        """Writes what is there, and gives the segments to whoever comes next. Idempotent; bounded by ten seconds."""
        writer, keeper, self._keeper = self._writer, self._keeper, None
        if writer is None or keeper is None:
            return
        keeper.close(_CLOSING_SECONDS)
        self.letters.write()  # with what it takes from the segments, so the writer is the last to go
        self.letters.leave()
        self._writer = None
        if not writer.close(_CLOSING_SECONDS):
            _log.critical("the journal's disk does not answer: it is left as it is [%s]", writer.own.path)
            return
        for segment in (writer.own, *keeper.left()):
            segment.close(remove=segment.empty)

    def _wake(self) -> None:
        if (keeper := self._keeper) is not None:
            keeper.wake()

    # --- keeping --------------------------------------------------------------------------------------

    def keep(self, effects: Iterable[tuple[Effect, tuple[str, ...]]]) -> Commit | None:
        """Takes events, each for its sinks, and gives each effect its entry; None where there was nothing to take.

        They are written once somebody waits for the commit, or has it hurried. An event that cannot be stored has no
        entry: it goes its way in memory, and the log has it. From any thread.
        """
        writable: list[tuple[Effect, tuple[str, ...]]] = []
        rows = []
        for effect, sinks in effects:
            if effect.unstorable == sinks:  # it has been tried, and told of
                continue
            if (maskers := self._masked.get(sinks)) is None:
                maskers = self._masked[sinks] = self._maskers_of(sinks)
            try:
                row = stored(effect, maskers)
            except Exception as error:  # noqa: BLE001 - a serializer is a user's code
                effect.unstorable = sinks
                self._cannot_store(effect, error)
            else:
                effect.size = len(row[2])
                rows.append((row, sinks))
                writable.append((effect, sinks))
        if not writable:
            return None
        if (writer := self._writer) is None:
            return _CLOSED
        segment, first, commit = writer.insert(rows)
        entries: dict[tuple[str, ...], Entry] = {}
        for row_id, (effect, sinks) in enumerate(writable, first):
            if (entry := entries.get(sinks)) is None:
                entry = entries[sinks] = Entry(segment, sinks, commit)
            effect.row, effect.entry = row_id, entry
        return commit

    def _maskers_of(self, sinks: tuple[str, ...]) -> Sequence[Masker]:
        maskers = [masker for sink in sinks for masker in self._maskers[sink]]
        return () if None in maskers else [masker for masker in maskers if masker is not None]

    def void(self, effects: Iterable[Effect]) -> None:
        """These were kept, and are not to happen."""
        for effect in effects:
            if (entry := effect.entry) is not None:
                effect.entry = None
                for sink in entry.sinks:
                    self._settle(entry.segment, sink, [effect.row])

    def count_degraded(self, count: int, reason: str | None) -> None:
        """So many events are in memory only, although their sinks' delivery is "journal"."""
        self.degraded += count
        self._unalarmed += count
        now = time.monotonic()
        if now - self._alarmed >= _ALARM_EVERY:
            _log.error(
                "%d event(s) are in memory only, for the journal has failed: %s; they are lost where this process ends",
                self._unalarmed,
                reason,
            )
            self._alarmed, self._unalarmed = now, 0

    def _cannot_store(self, effect: Effect, error: Exception) -> None:
        _log.error(
            "%s cannot be written as JSON, so the journal cannot keep it: it is delivered from memory: %s [event %s]",
            one_line(effect.label),
            type(error).__name__,
            None if effect.event is None else effect.event.id,
        )

    # --- what lanes ask for ---------------------------------------------------------------------------

    async def lease(self, sink: str, effects: Sequence[Effect]) -> None:
        """Counts an attempt of each, before the sink is called; does not wait for a disk that has failed."""
        if (writer := self._writer) is None:
            return
        commits = [writer.lease(segment, sink, ids) for segment, ids in _by_segment(effects)]
        for commit in commits:
            commit.hurry()
        for commit in commits:
            await commit.finished()

    def settle(self, sink: str, effects: Sequence[Effect]) -> None:
        """These have left their lane for good."""
        for segment, ids in _by_segment(effects):
            self._settle(segment, sink, ids)

    def _settle(self, segment: object, sink: str, ids: Sequence[int]) -> None:
        if (writer := self._writer) is not None and isinstance(segment, Segment):
            writer.settle(segment, sink, ids)

    async def fetch(self, sink: str, segment: object, ids: Sequence[int]) -> tuple[list[Effect], int]:
        """The effects of these rows, in their order, and how many rows could not be read: those are dead letters now.

        Raises:
            JournalError: the disk does not answer as it should.
        """
        writer, keeper = self._writer, self._keeper
        if writer is None or keeper is None or not isinstance(segment, Segment):
            msg = "the journal is closed"
            raise JournalError(msg)
        read = writer.call(lambda: segment.fetch(sink, ids))
        await read.finished()
        if read.error is not None:
            raise JournalError(read.error)
        effects, entry = [], Entry(segment, (sink,), _ON_DISK)
        for fetched in read.result:
            try:
                effect = restored(fetched.event, fetched.attempts)
            except Exception as error:  # noqa: BLE001 - a validator is a user's code
                masker = self._maskers[sink][0]  # its own; what it must not see, its dead letter does not show
                told = summary_of(error) if masker is None else f"{type(error).__qualname__}: its text is withheld"
                reason = f"the journal's row of kind {fetched.event.kind!r} cannot be read"
                keeper.bury(segment, sink, fetched, reason, told, masker=masker)
            else:
                effect.row, effect.entry = fetched.event.id, entry
                effects.append(effect)
        return effects, len(read.result) - len(effects)

    # --- dead letters ---------------------------------------------------------------------------------

    def replay(self, *, sink: str | None, kind: str | None, ids: Collection[UUID] | None, to: str | None = None) -> int:
        """Makes pending rows of dead letters, and offers them to their lanes; how many. Blocks.

        Raises:
            JournalError: the disk has failed.
        """
        if (keeper := self._keeper) is None:
            msg = "the journal is closed"
            raise JournalError(msg)
        self.letters.write()
        try:
            replay = Replay(self._directory, self.letters.store, self.options)
            try:
                moved = sum(replay.move(sink=sink, kind=kind, ids=ids, to=to))
                keeper.take_over(replay.segment)
            except BaseException:
                if replay.segment not in keeper.adopted:
                    replay.segment.close()  # whoever adopts it finds out how far this came
                raise
        except (sqlite3.Error, OSError) as error:
            msg = f"replay(): the journal has failed: {summary_of(error)}"
            raise JournalError(msg) from error
        return moved

    # --- what it shows --------------------------------------------------------------------------------

    def stats(self) -> JournalStats:
        """How it stands, at this moment."""
        writer, keeper = self._writer, self._keeper
        failure = None if writer is None else writer.failure
        return JournalStats(
            state="ok" if failure is None else "failing",
            reason="" if failure is None else failure.reason,
            committed=0 if writer is None else writer.committed,
            degraded=self.degraded,
            refused=self.refused,
            segments=0 if writer is None or keeper is None else 1 + len(keeper.adopted),
        )

    def problems(self) -> list[str]:
        """What is wrong with it, in sentences for `health()`."""
        writer, keeper = self._writer, self._keeper
        if writer is None or keeper is None:
            return []
        found = [f"journal: {segment.path.name}: {failure.reason}" for segment, failure in writer.failures.items()]
        left = {**keeper.delayed, **keeper.damaged}
        found += [f"journal: {path.name} cannot be taken over: {reason}" for path, reason in left.items()]
        if self.letters.failure is not None:
            found.append(f"journal: dead letters cannot be written: {self.letters.failure}")
        return found


def _by_segment(effects: Sequence[Effect]) -> list[tuple[Segment, list[int]]]:
    ids: dict[Segment, list[int]] = {}
    for effect in effects:
        if (entry := effect.entry) is not None and isinstance(entry.segment, Segment):
            ids.setdefault(entry.segment, []).append(effect.row)
    return list(ids.items())


_ON_DISK, _CLOSED = Commit(), Commit()
_ON_DISK.finish()
_CLOSED.finish("the journal is closed")
