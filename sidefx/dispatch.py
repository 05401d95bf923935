"""`Dispatcher`: takes released effects from any thread, and routes each to its lanes, in order."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from sidefx.cancellation import must_go_on
from sidefx.cohort import Cohort
from sidefx.errors import SidefxError
from sidefx.events import Event
from sidefx.report import indented_traceback, summary_of
from sidefx.routes import takes
from sidefx.threads import soon_in_this_loop

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sidefx.callables import Callables
    from sidefx.effect import Effect
    from sidefx.lanes import Lane
    from sidefx.sink import SinkSpec

_log = logging.getLogger("sidefx")

_TURNS_BEFORE_START = 2
"""Event-loop turns between the last message of a response and its effects: servers flush in the first ones."""
_ROUTED_A_TURN = 256
_FAN_OUT_DEPTH = 16
_FAN_OUT_EVENTS = 1_000


class FanOutError(SidefxError):
    """`Event.effects()` failed, or yields more than anybody can have meant."""


class Dispatcher:
    """Stands between scopes and lanes. All but `submit` is for the runtime's own event loop."""

    def __init__(self, lanes: Mapping[str, Lane], specs: Mapping[str, SinkSpec], callables: Callables) -> None:
        self._lanes = lanes
        self._specs = specs
        self._callables = callables
        self._routes: dict[type[Event], tuple[Lane, ...]] = {}
        self._inbox: deque[Sequence[Effect]] = deque()
        self._called = False  # whether the event loop has been asked to take in, and has not yet
        self._ready: deque[Effect] = deque()
        self._thread: int | None = None
        self._cohort = Cohort(self)
        self._cohorts: list[Cohort] = [self._cohort]
        self._submitted = self._routed = 0
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
        self._progress = anyio.Event()
        self._thread = threading.get_ident()
        self.take_in()

    def close(self) -> None:
        """No event loop runs it any more: what is there, and what comes, is routed to lanes that drop it."""
        here, self._thread = self.here, None
        self.take_in()
        while self._ready:  # counted down by nobody else: an observer may come back to this place
            self._route_ready(1)
        if here:
            self._progress.set()

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

    def join(self, effect: Effect) -> None:
        """From now on a flush waits for it."""
        cohort = effect.cohort
        if cohort is None or not cohort.awaited or cohort.owner is not self:
            effect.cohort = cohort = self._cohort
        cohort.join()

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
            self._progress.set()
            self._progress = anyio.Event()

    def route(self, effect: Effect) -> None:
        """Offers it to every lane that takes it; it has joined a cohort, and leaves it to the lanes."""
        try:
            if effect.event is None:
                self._callables.offer(effect)
            else:
                self._route_event(effect, depth=0, budget=[_FAN_OUT_EVENTS])
        finally:
            assert effect.cohort is not None  # noqa: S101 - join() gave it one
            effect.cohort.leave()

    def _route_event(self, effect: Effect, *, depth: int, budget: list[int]) -> None:
        event = effect.event
        assert event is not None  # noqa: S101 - only events come here
        lanes = self.lanes_of(type(event))
        for lane in lanes:
            lane.offer(effect, held=effect.held)
        if _fans_out(type(event)):
            self._fan_out(effect, event, depth=depth, budget=budget)
        elif not lanes:
            self._count_unrouted(event, effect)

    def _fan_out(self, effect: Effect, event: Event, *, depth: int, budget: list[int]) -> None:
        try:
            for further in event.effects():
                budget[0] -= 1
                _check_further(further, event, depth=depth, left=budget[0])
                with_request = further if further.request is not None else further._with(request=event.request)  # noqa: SLF001 - ours
                self._route_event(effect.with_event(with_request), depth=depth + 1, budget=budget)
        except BaseException as error:
            if must_go_on(error):
                raise
            _log.error(  # a user's method: contained, and shown
                "%s: effects() failed, what it yielded before goes on: %s [event %s, request %s, after() at %s]%s",
                event.kind,
                summary_of(error),
                event.id,
                effect.request_id or "-",
                effect.call_site or "-",
                indented_traceback(error),
            )

    def lanes_of(self, event_type: type[Event]) -> tuple[Lane, ...]:
        """The lanes that events of that class go to."""
        if (lanes := self._routes.get(event_type)) is None:
            lanes = tuple(
                lane for name, lane in self._lanes.items() if takes(self._specs[name], lane.options, event_type)
            )
            self._routes[event_type] = lanes
        return lanes

    def within_reach(self, event_type: type[Event]) -> Collection[Lane]:
        """The lanes that events of that class, and what they stand for, may go to."""
        return self._lanes.values() if _fans_out(event_type) else self.lanes_of(event_type)

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
            await self._progress.wait()


def _fans_out(event_type: type[Event]) -> bool:
    return event_type.effects is not Event.effects


def _check_further(further: object, event: Event, *, depth: int, left: int) -> None:
    if not isinstance(further, Event):
        msg = f"{event.kind}: effects() yields events, not {type(further).__qualname__}"
        raise FanOutError(msg)
    if depth >= _FAN_OUT_DEPTH or left < 0:
        msg = (
            f"{event.kind}: effects() goes on without end: more than {_FAN_OUT_DEPTH} levels deep "
            f"or {_FAN_OUT_EVENTS} events"
        )
        raise FanOutError(msg)
