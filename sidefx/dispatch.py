"""`Dispatcher`: takes released effects from any thread, and routes each to its lanes, in order."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from sidefx.cohort import Cohort
from sidefx.event_loop import soon_in_this_loop
from sidefx.fan_out import fans_out, further
from sidefx.routes import takes

if TYPE_CHECKING:
    from array import array
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sidefx.callables import Callables
    from sidefx.effect import Effect
    from sidefx.events import Event
    from sidefx.lanes import Lane
    from sidefx.sink import SinkSpec

_log = logging.getLogger("sidefx")

_TURNS_BEFORE_START = 2
"""Event-loop turns between the last message of a response and its effects: servers flush in the first ones."""
_ROUTED_A_TURN = 256


@dataclass(frozen=True, slots=True)
class Route:
    """Where events of one class go."""

    lanes: tuple[Lane, ...]
    durable: tuple[Lane, ...]
    """Those of them whose events are to be on disk."""
    names: tuple[str, ...]
    """Of these."""
    screens: bool
    """Whether one of these may drop an event."""
    fans_out: bool
    """Whether events of the class may stand for others."""


class Dispatcher:
    """Stands between scopes and lanes. All but `submit` is for the runtime's own event loop."""

    def __init__(self, lanes: Mapping[str, Lane], specs: Mapping[str, SinkSpec], callables: Callables) -> None:
        self._lanes = lanes
        self._specs = specs
        self._callables = callables
        self._routes: dict[type[Event], Route] = {}
        self._inbox: deque[Sequence[Effect]] = deque()
        self._called = False  # whether the event loop has been asked to take in, and has not yet
        self._ready: deque[Effect] = deque()
        self._thread: int | None = None
        self._cohort = Cohort(self)
        self._cohorts: list[Cohort] = [self._cohort]
        self._submitted = self._routed = 0
        self._progress: anyio.Event | None = None
        """Set for whoever waits for what has been submitted to be routed."""
        self.unrouted: Counter[str] = Counter()
        """Events that no sink takes, by kind."""

    @property
    def busy(self) -> bool:
        """Whether anything has been taken or is coming that has not settled."""
        return bool(self._inbox) or any(cohort.open for cohort in self._cohorts)

    @property
    def waiting(self) -> int:
        """How many effects are here, and in no lane yet."""
        return len(self._ready)

    # --- in ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """This event loop is where it routes."""
        self.soon = soon_in_this_loop()
        """Has something called in this event loop, from any thread."""
        # only asyncio's loop can be closed with tasks in it; trio's run ends with its last task
        self._is_closed = getattr(getattr(self.soon, "__self__", None), "is_closed", bool)
        self._arrival = anyio.Event()
        self._progress = None
        self._thread = threading.get_ident()
        self.take_in()

    def close(self) -> None:
        """No event loop runs it any more: what is there, and what comes, is routed to lanes that drop it."""
        here, self._thread = self.here, None
        self.take_in()
        while self._ready:  # counted down by nobody else: an observer may come back to this place
            self._route_ready(1)
        if here:
            self._tell_progress()

    @property
    def dead(self) -> bool:
        """Whether its event loop was closed under it: nothing here will ever run again."""
        return self._thread is not None and self._is_closed()

    @property
    def here(self) -> bool:
        """Whether its event loop runs in this thread."""
        return self._thread == threading.get_ident()

    def submit(self, effects: Sequence[Effect]) -> None:
        """Takes effects, in order, from any thread. Never blocks, never raises."""
        self._inbox.append(effects)
        if self.here:
            self.take_in()
        elif self._thread is not None and not self._called:
            self._called = True
            with suppress(RuntimeError):  # the loop has just ended: who ends the runtime takes in what is here
                self.soon(self.take_in)

    def take_in(self) -> None:
        """Moves what has arrived from other threads by now to what is ready: a flood of more waits for its turn."""
        self._called = False  # before it looks: what arrives from here on calls again
        for _ in range(len(self._inbox)):
            try:
                effects = self._inbox.popleft()
            except IndexError:  # another thread that ends the runtime takes in as well
                return
            for effect in effects:
                self.join(effect)
            self._ready.extend(effects)
            self._submitted += len(effects)
            if self._thread is not None:
                self._arrival.set()

    def join(self, effect: Effect) -> Cohort:
        """From now on a flush waits for it."""
        cohort = effect.cohort
        if cohort is None or not cohort.awaited or cohort.owner is not self:
            effect.cohort = cohort = self._cohort
        cohort.join()
        return cohort

    # --- through ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Routes until it is cancelled."""
        while True:
            await self._arrival.wait()
            self._arrival = anyio.Event()
            while count := len(self._ready):
                for _ in range(_TURNS_BEFORE_START):
                    await anyio.lowlevel.checkpoint()
                while count > 0:
                    self._route_ready(min(count, _ROUTED_A_TURN))
                    count -= _ROUTED_A_TURN
                    if count > 0:
                        await anyio.lowlevel.checkpoint()

    def _route_ready(self, count: int) -> None:
        for _ in range(count):
            self.route(self._ready.popleft())
        self._routed += count
        if self._thread is not None:
            self._tell_progress()

    def _tell_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    def route(self, effect: Effect) -> None:
        """Offers it to every lane that takes it; it has joined a cohort, and leaves it to the lanes."""
        try:
            if effect.event is None:
                self._callables.offer(effect)
            else:
                self._route_event(effect, effect.event)
        finally:
            assert effect.cohort is not None  # noqa: S101 - join() gave it one
            effect.cohort.leave()

    def _route_event(self, effect: Effect, event: Event) -> None:
        route = self.route_of(type(event))
        for lane in route.lanes:
            lane.offer(effect, held=effect.held)
        if route.fans_out:
            for each in further(effect):
                each.cohort, each.held, each.replayed = effect.cohort, effect.held, effect.replayed
                assert each.event is not None  # noqa: S101 - events stand for events
                self._route_event(each, each.event)
        elif not route.lanes:
            self._count_unrouted(event, effect)

    def adopt(self, lane: Lane, segment: object, ids: array[int]) -> None:
        """Gives a lane what has been found for it in the journal; a flush waits for it."""
        self._cohort.join(len(ids))
        lane.intake.adopt(segment, ids, self._cohort)

    def route_of(self, event_type: type[Event]) -> Route:
        """The lanes that events of that class go to; found once."""
        if (route := self._routes.get(event_type)) is None:
            lanes = tuple(
                lane for name, lane in self._lanes.items() if takes(self._specs[name], lane.options, event_type)
            )
            durable = tuple(lane for lane in lanes if lane.intake.durable)
            route = self._routes[event_type] = Route(
                lanes=lanes,
                durable=durable,
                names=tuple(lane.name for lane in durable),
                screens=any(lane.intake.filters for lane in durable),
                fans_out=fans_out(event_type),
            )
        return route

    def within_reach(self, event_type: type[Event]) -> Collection[Lane]:
        """The lanes that events of that class, and what they stand for, may go to."""
        route = self.route_of(event_type)
        return self._lanes.values() if route.fans_out else route.lanes

    def _count_unrouted(self, event: Event, effect: Effect) -> None:
        self.unrouted[event.kind] += 1
        if self.unrouted[event.kind] == 1:
            _log.warning(
                "no sink takes events of kind %s; they are counted and dropped. Configure one, or widen its `events` "
                "[after() at %s]",
                event.kind,
                effect.call_site or "-",
            )

    # --- waiting ----------------------------------------------------------------------------------

    def new_cohort(self) -> Cohort:
        """A cohort for effects that somebody will wait for by themselves; give it to `retire` afterwards."""
        cohort = Cohort(self)
        self._cohorts.append(cohort)
        return cohort

    def retire(self, cohorts: Iterable[Cohort]) -> None:
        """Nobody waits for these any more; those with open members stay until they have none."""
        for cohort in cohorts:
            cohort.awaited -= 1
        self._cohorts = [cohort for cohort in self._cohorts if cohort.open or cohort.awaited]

    def cut(self) -> list[Cohort]:
        """Every cohort with what was accepted until now, to be given to `retire`; what comes later joins another."""
        self.take_in()
        before = list(self._cohorts)
        for cohort in before:
            cohort.awaited += 1
        self._cohort.awaited -= 1
        self._cohort = self.new_cohort()
        return before

    async def settled(self) -> None:
        """Returns when nothing is left anywhere, what arrives meanwhile included."""
        self.take_in()
        while unsettled := [cohort for cohort in self._cohorts if cohort.open]:
            for cohort in unsettled:
                await cohort.settled()
            self.take_in()

    async def routed(self) -> None:
        """Returns when all that has been submitted is in its lanes."""
        goal = self._submitted
        while self._routed < goal:
            if self._progress is None:
                self._progress = anyio.Event()
            await self._progress.wait()
