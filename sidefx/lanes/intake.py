"""`Intake`: the first three stages of a lane, from an offer to what waits for the sink."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from sidefx.errors import JournalError
from sidefx.event_loop import in_event_loop, soon_in_this_loop
from sidefx.lanes.buffer import Buffer
from sidefx.lanes.filter import Filter
from sidefx.lanes.redact import Redactor
from sidefx.lanes.window import Window

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence

    from sidefx.cohort import Cohort
    from sidefx.effect import Effect
    from sidefx.entry import Entry
    from sidefx.lanes.ledger import Ledger
    from sidefx.lanes.window import Archive
    from sidefx.options import SinkOptions
    from sidefx.report import Reporter

UNDECIDED = "undecided"
"""In place of a reason to drop: the filter is to be asked when the event is offered."""


class Next(Protocol):
    """What comes after the intake: the rest of its lane."""

    ledger: Ledger

    def arrived(self) -> None:
        """Something waits."""
        ...

    def drop(self, effects: Sequence[Effect], reason: str) -> None:
        """These end here, for that reason."""
        ...

    def refuse(self, effect: Effect, error: BaseException, *, show_event: bool) -> None:
        """It could not pass the filter or the redaction."""
        ...


class Intake:
    """Filters, redacts, and sees to it that what is to be on disk is; then it waits, in memory or there."""

    def __init__(
        self, sink: str, options: SinkOptions, after: Next, reporter: Reporter, archive: Archive | None
    ) -> None:
        self._sink = sink
        self._options = options
        self._after = after
        self._reporter = reporter
        self._archive = archive
        self._filter = Filter(predicate=options.filter, sample=options.sample)
        self.filters = not self._filter.passes_all
        """Whether it may drop something by what the configuration says."""
        self.durable = options.delivery == "journal"
        """Whether what it accepts is to be on disk."""
        self._redact = Redactor(options.redact) if options.redact else None
        self._originals: dict[Effect, Effect] = {}
        self.buffer = Buffer(options.buffer)
        self.window: Window | None = None
        """The same, where it lies over a journal."""
        self.open()

    def open(self) -> None:
        """Readies what belongs to one event loop."""
        if self._archive is None:
            self.buffer = Buffer(self._options.buffer)
        else:
            if self.window is not None:  # what it had to leave comes back from the journal, and is accepted once more
                self._after.ledger.accepted -= self.window.on_disk
            self.buffer = self.window = Window(self._options.buffer, self._sink)
        self._soon = soon_in_this_loop() if in_event_loop() else _at_once

    @property
    def redacts(self) -> bool:
        """Whether there is anything that the sink, and its log lines, must not show."""
        return self._redact is not None

    @property
    def queued(self) -> int:
        """Events that wait, or are being written."""
        elsewhere = 0 if self.window is None else self.window.on_disk + len(self.window.coming)
        return len(self.buffer) + elsewhere

    def offer(self, effect: Effect, *, held: bool = False) -> None:
        """Accepts an event; `held` says that somebody then waits for `room()`. Raises nothing."""
        self._after.ledger.accepted += 1
        if effect.cohort is not None:
            effect.cohort.join()
        if self._redact is None and not self.filters:
            self._enqueue(self._kept(effect, effect), held=held)
        else:
            self._screen(effect, held=held)

    def _screen(self, effect: Effect, *, held: bool) -> None:
        """The first two stages."""
        masked, reason, refusal, shown = effect, None, None, True
        try:
            if self.filters:
                reason = UNDECIDED if effect.screened is None else effect.screened.get(self._sink, UNDECIDED)
                if reason == UNDECIDED:
                    reason = self._filter.reason_to_drop(_event(effect))
        except BaseException as error:  # noqa: BLE001 - a user's predicate; what it raises is shown below
            refusal = error
        try:
            masked = self._masked(effect)
        except BaseException as error:  # noqa: BLE001 - a field that cannot be masked, or a user's class
            refusal, shown = error, False
        if refusal is not None:
            self._after.refuse(masked, refusal, show_event=shown)
        elif reason is not None:
            self._after.drop([masked], reason)
        else:
            self._enqueue(self._kept(effect, masked), held=held)

    def reason_to_drop(self, effect: Effect) -> str | None:
        """What the first stage says, asked before the event is journaled; None where it passes, or cannot be asked."""
        if not self.filters:
            return None
        try:
            return self._filter.reason_to_drop(_event(effect))
        except Exception:  # noqa: BLE001 - asked again when it is offered, and shown there
            return UNDECIDED

    def adopt(self, segment: object, ids: array[int], cohort: Cohort) -> None:
        """Accepts what has been found in the journal; it has joined the cohort."""
        assert self.window is not None  # noqa: S101 - there is a journal
        self._after.ledger.accepted += len(ids)
        self.window.shelve(segment, ids, cohort)

    async def refill(self) -> None:
        """Reads what waits on disk as memory has room for it, until it is cancelled."""
        window, archive = self.window, self._archive
        if window is None or archive is None:
            return
        while True:
            stretch, ids = await window.wanted()
            try:
                effects, unreadable = await archive.fetch(self._sink, stretch.segment, ids)
            except JournalError as error:
                self._reporter.fault(self._sink, error)
                window.set_aside()
                continue
            cohort = stretch.cohort
            window.came(len(ids))
            self._after.ledger.settle("rejected", "", unreadable)
            if missing := len(ids) - len(effects) - unreadable:
                self._after.ledger.settle("dropped", "missing", missing)
            if cohort is not None:
                cohort.leave(unreadable + missing)
            for effect in effects:
                effect.cohort = cohort
                try:
                    window.admit(self._masked(effect))
                except BaseException as error:  # noqa: BLE001 - a field that cannot be masked
                    self._after.refuse(effect, error, show_event=False)
            self._after.arrived()

    def _kept(self, effect: Effect, screened: Effect) -> Effect:
        """The effect with a row in the journal, where it is to have one and has none yet."""
        if not self.durable or (effect.entry is not None and self._sink in effect.entry.sinks) or self._archive is None:
            return screened
        whole = effect.with_event(_event(effect))  # other lanes have this one, too, and rows of their own
        whole.entry = None
        if self._archive.keep([(whole, (self._sink,))]) is None:
            return screened
        copy = whole if screened is effect else screened
        copy.entry, copy.row = whole.entry, whole.row
        copy.size = whole.size if copy is whole else None
        return copy

    def _enqueue(self, effect: Effect, *, held: bool) -> None:
        """The third stage: into memory, or, where that is full, to wait on disk."""
        window, entry = self.window, effect.entry
        if window is not None and entry is not None and self._sink in entry.sinks:
            if window.coming or not entry.commit.done:  # what is on disk does not overtake what is being written
                window.coming[effect] = held
                entry.commit.then(self._soon, lambda: self._come(window))
                return
            self._go_on(window, effect, entry, held=held)
        else:
            self._put(effect, held=held)

    def _go_on(self, window: Window, effect: Effect, entry: Entry, *, held: bool) -> None:
        """It has been written, and goes into memory, or, where that is full, waits on disk; or it could not be."""
        if not entry.held:
            effect.entry = None
            if self._archive is not None:
                self._archive.count_degraded(1, entry.commit.error)
            self._put(effect, held=held)
        elif window.has_no_room():
            self._originals.pop(effect, None)
            window.shelve(entry.segment, (effect.row,), effect.cohort)
        else:
            window.admit(effect)
            self._after.arrived()

    def _put(self, effect: Effect, *, held: bool) -> None:
        """It is in memory only."""
        dropped = self.buffer.put(effect, held=held)
        if dropped is not None:
            self._after.drop([dropped], "full")
        if dropped is not effect:
            self._after.arrived()

    def _come(self, window: Window) -> None:
        """Some have been written, or could not be: those go on that nothing is ahead of."""
        while window.coming:
            effect = next(iter(window.coming))
            entry = effect.entry
            if entry is not None and not entry.commit.done:
                return
            held = window.coming.pop(effect)
            if entry is None:
                self._put(effect, held=held)
            else:
                self._go_on(window, effect, entry, held=held)

    def original(self, effect: Effect) -> Effect:
        """What it was before redaction; asked once, as it leaves."""
        return self._originals.pop(effect, effect) if self._originals else effect

    # --- the journal --------------------------------------------------------------------------------

    def held(self, effects: Sequence[Effect]) -> list[Effect]:
        """Those of them that are on disk."""
        return [] if self.window is None else list(filter(self.window.holds, effects))

    async def lease(self, effects: Sequence[Effect]) -> None:
        """Has an attempt counted on disk, so that one that ends the process is known of afterwards."""
        if self._archive is not None and (held := self.held(effects)):
            await self._archive.lease(self._sink, held)

    def settle(self, effects: Sequence[Effect]) -> None:
        """These have left the lane for good: their rows go."""
        if self._archive is not None:
            self._archive.settle(self._sink, effects)

    def abandon(self, effects: list[Effect]) -> None:
        """The runtime ends: what has not been carried, these among it, stays in the journal, or is dropped, counted."""
        if (window := self.window) is not None:
            effects = effects + window.written()
        self.leave(effects)
        if window is not None and (kept := window.leave()):
            self._reporter.kept(self._sink, kept)

    def lose_coming(self) -> None:
        """The journal is closed: what it had not written by then is lost, and listed."""
        if (window := self.window) is not None and window.coming:
            effects = list(window.coming)
            window.coming.clear()
            self._after.drop(effects, "shutdown")

    def leave(self, effects: Sequence[Effect]) -> None:
        """The runtime ends with these in memory: they stay in the journal, or are dropped."""
        kept = self.held(effects)
        if self.window is not None and kept:
            self.window.on_disk += len(kept)
            for effect in kept:
                self._originals.pop(effect, None)
                if effect.cohort is not None:
                    effect.cohort.leave()
            gone = set(kept)
            effects = [effect for effect in effects if effect not in gone]
        if effects:
            self._after.drop(effects, "shutdown")

    def _masked(self, effect: Effect) -> Effect:
        if self._redact is None:
            return effect
        event = _event(effect)
        masked = self._redact(event)
        if masked is event:
            return effect
        copy = effect.with_event(masked)
        if self._options.fallback is not None:  # it has a redaction of its own, and starts from the whole event
            self._originals[copy] = effect
        return copy


def _event(effect: Effect) -> Any:
    return effect.event


def _at_once(call: Callable[[], object]) -> None:
    """In place of an event loop, where there is none yet, or none any more."""
    call()
