"""One process of the model: what happens in it, what its sinks do, and what must hold of its numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio

from sidefx import (
    JournalOptions,
    NotRunningError,
    PartialError,
    PermanentError,
    RuntimeOptions,
    Settled,
    SideEffects,
    after,
)
from sidefx.gate import Passage
from sidefx.journal.segment import Segment
from sidefx.scope import Scope, enter_scope
from tests.journal.faults import rows_of
from tests.journal.model import JOURNALED, Key, Place, Solo, goes_to
from tests.journal.stepped import SteppedThreads

if TYPE_CHECKING:
    from tests.journal.world import World


class Failed(Exception):
    """The unit of work has failed."""


class Life:
    """One process, from its start to its end."""

    def __init__(self, world: World, without: str | None) -> None:
        self.world = world
        self.complete = without is None
        self.sinks = [name for name in world.options if name != without]
        self.options = JournalOptions(path=world.path, on_failure=world.on_failure)
        self.fx = SideEffects(
            {name: _Batches(self, name) if name == "batches" else _One(self, name) for name in self.sinks},
            {name: world.options[name] for name in self.sinks},
            runtime=RuntimeOptions(drain_timeout=2.0),
            journal=self.options,
            observers=[self._observe],
            name=f"life {len(world.lives)}",
        )
        self.fx.engine._keeping._threads = SteppedThreads(world.loop.pace, self)  # type: ignore[assignment]
        self.stopping = self.crashed = False
        self.doing: list[anyio.CancelScope] = []
        self.emitting = 0
        self.acknowledged: list[Key] = []
        self.settled: Counter[Key] = Counter()
        self.ends: Counter[tuple[str, str]] = Counter()
        self.called: set[Place] = set()

    def __repr__(self) -> str:
        return self.fx.name

    @property
    def accepts(self) -> bool:
        """Whether it takes events."""
        return self.fx.engine.accepting and not self.stopping and not self.crashed

    # --- what it does -------------------------------------------------------------------------------------

    async def emit(self, events: Sequence[tuple[Solo, Any]], *, early: bool, fails: bool) -> None:
        """Each by itself, one after the other."""
        for event, _ in events:
            keys = self._gives([event])
            healthy = self._healthy()
            self.emitting += 1
            try:
                await self.fx.emit(event)
            except NotRunningError:
                self.world.model.voids(keys)
                return
            finally:
                self.emitting -= 1
            if healthy == self._healthy():
                self._acknowledges(keys)

    async def scope(self, events: Sequence[tuple[Solo, Any]], *, early: bool, fails: bool) -> None:
        """All in one unit of work; `early` says that a response begins within it."""
        healthy = self._healthy()
        given: dict[str, list[Key]] = {"always": [], "success": [], "error": []}
        try:
            async with self.fx.scope("unit") as scope:
                for event, when in events:
                    after(event, when=when)
                    given[when] += self._gives([event])
                if early and not await self._passes(scope, given):
                    fails = True  # it is answered with 503
                void = given.pop("success" if fails else "error")
                if self._writes():  # else it has outlived its process, for which the status of its start decides
                    self.world.model.voids(void)
                if fails:
                    raise Failed
        except (Failed, NotRunningError):
            pass
        if healthy == self._healthy():
            self._acknowledges([key for keys in given.values() for key in keys])

    async def _passes(self, scope: Scope, given: dict[str, list[Key]]) -> bool:
        """Whether a response may begin in the midst of it, with a status that says success."""
        assert scope.gate is not None
        passage = Passage(scope, scope.gate)
        passed = await passage.secured(passage.ahead(200, starts=True), refusable=True)
        if not passed:
            durable = [key for key in given["always"] if key[1] in JOURNALED]
            events = {event_id for event_id, _ in durable}
            self.world.model.voids([key for key in given["always"] if key[0] in events])
            given["always"] = []
        return passed

    async def after(self, events: Sequence[tuple[Solo, Any]], *, early: bool, fails: bool) -> None:
        """Outside of a unit of work: nobody waits for the disk."""
        before = enter_scope(self.fx.engine.open_scope())
        for event, _ in events:
            self._gives([event])
            after(event)
        enter_scope(before)

    async def with_(self, events: Sequence[tuple[Solo, Any]], *, early: bool, fails: bool) -> None:
        """A unit of work of synchronous code on the event loop, which it must not stop."""
        with self.fx.scope("unit"):
            for event, _ in events:
                self._gives([event])
                after(event)

    def _gives(self, events: Sequence[Solo]) -> list[Key]:
        keys = [key for event in events for key in goes_to(event, self.sinks)]
        self.world.model.keeps(keys)
        return keys

    def _writes(self) -> bool:
        """Whether its journal takes down what has settled."""
        journal = self.fx.engine.journal
        return journal is not None and journal._writer is not None and not journal._writer._closing

    def _healthy(self) -> object:
        """Something that is the same at two times where the journal has worked all along; else not."""
        journal = self.fx.engine.journal
        assert journal is not None
        works = self.accepts and journal._writer is not None and journal._writer.failure is None
        return self.world.fails[id(self.options)] if works else object()

    def _acknowledges(self, keys: Collection[Key]) -> None:
        self.world.model.acknowledges(keys)
        self.acknowledged += [key for key in keys if key[1] in JOURNALED]

    def _observe(self, record: Settled) -> None:
        if self.crashed or record.event is None:
            return
        key = record.event.id, record.sink
        self.settled[key] += 1
        self.ends[record.sink, record.result] += 1
        model = self.world.model
        if record.result in {"rejected", "expired"} and record.sink == "one":
            model.keeps([(key[0], "last")])
        if record.result == "dropped":
            model.says(key not in model.due, f"{record.sink} dropped what was acknowledged ({record.reason})")
        self._adds_up()

    # --- what its sinks do --------------------------------------------------------------------------------------

    async def carry(self, sink: str, events: Sequence[Solo]) -> None:
        """A sink is called, and does the next that it was told to."""
        if self.crashed:
            await anyio.sleep_forever()
        self._adds_up()
        self._looks_at(sink, events)
        script = self.world.scripts.get(sink)
        outcome = script.popleft() if script else "ok"
        failures: dict[UUID, Exception] = {}
        if outcome == "fails":
            raise RuntimeError("no")
        if outcome == "refuses":
            raise PermanentError("never")
        if outcome == "partly":
            failures = {events[0].id: RuntimeError("no"), events[-1].id: PermanentError("never")}
        if outcome == "hangs":
            event = anyio.Event()
            self.world.hung.append(event)
            await event.wait()
        if outcome == "slow":
            await anyio.sleep(0.7)
        if self.crashed:
            await anyio.sleep_forever()
        for each in events:
            if each.id not in failures:
                self.world.model.delivers(each, sink)
        if failures:
            raise PartialError(failures)

    def _looks_at(self, sink: str, events: Sequence[Solo]) -> None:
        """What the disk has of it when a sink is called."""
        model, journal = self.world.model, self.fx.engine.journal
        assert journal is not None
        # a lease that the disk has kept waiting for too long is written later: the sink has been called by then
        failed = anyio.current_time() - self.world.failed_at.get(id(self.options), -math.inf) < 2 * self.options.timeout
        counted = not failed and journal._writer is not None and not journal._writer.failures
        for event in events:
            found = [
                (segment, *row)
                for segment in self.world.disk.segments.get(self, [])
                for row in rows_of(segment, sink, event.id)
            ]
            if len(found) == 1:
                segment, number, row = found[0]
                place = segment.path.name, number, sink
                again = place in self.called
                model.is_called((event.id, sink), place, row, counted=counted, again=again)
                model.says(
                    again or row.attempts <= 1 or len(events) == 1,
                    "what was under way at a crash does not travel alone",
                )
                self.called.add(place)

    # --- what must hold of it -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Its numbers add up, with each other and with what is on disk."""
        if self.crashed:
            return
        self._adds_up()
        says, engine = self.world.model.says, self.fx.engine
        stats = engine.sink_stats()
        for name, sink in stats.items():
            counts = {
                "delivered": sink.delivered,
                "rejected": sink.rejected,
                "expired": sink.expired,
                "dropped": sum(sink.dropped.values()),
            }
            seen = {result: self.ends[name, result] for result in counts}
            says(counts == seen, f"{self}: {name} counts {counts}, and its records are {seen}")
            if name in JOURNALED:
                most, has = self.world.options[name].buffer.max_events, len(engine.lanes[name].intake.buffer)
                says(has <= most, f"{self}: {name} has {has} events in memory, and room for {most}")
        if self.accepts and not self.emitting:
            there = sum(each.queued + each.in_flight for each in stats.values()) + engine.dispatcher.waiting
            awaited = sum(cohort.open for cohort in engine.dispatcher._cohorts)
            says(there == awaited, f"{self}: a flush waits for {awaited} events, and {there} are there")
        for segment in self.world.disk.segments.get(self, []):
            if segment.path not in self.world.disk.written_to:
                self._counts_rows(segment)

    def _adds_up(self) -> None:
        if not self.crashed:
            for name, sink in self.fx.engine.sink_stats().items():
                whole = sink.accepted == sink.settled + sink.queued + sink.in_flight
                self.world.model.says(whole and min(sink.queued, sink.in_flight) >= 0, f"{self}: {name}: {sink}")

    def _counts_rows(self, segment: Segment) -> None:
        query = "SELECT sink, count(*), sum(state = 'leased') FROM delivery GROUP BY sink"
        there = {sink: (rows, leased) for sink, rows, leased in segment._connection.execute(query)}
        said = {sink: (rows, len(segment.leased.get(sink, ()))) for sink, rows in segment.rows.items() if rows}
        self.world.model.says(there == said, f"{segment}: the rows and those leased are {there}, and it says {said}")


class _One:
    def __init__(self, life: Life, name: str) -> None:
        self._life, self._name = life, name

    async def send(self, event: Solo) -> None:
        await self._life.carry(self._name, [event])


class _Batches:
    def __init__(self, life: Life, name: str) -> None:
        self._life, self._name = life, name

    async def send_batch(self, events: Sequence[Solo]) -> None:
        await self._life.carry(self._name, events)
