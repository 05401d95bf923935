"""`Engine`: lanes and callables with what carries effects to them, from their start to the end of their drain.

Longer than other files: how it starts, drains and ends, and what may happen meanwhile, is one story.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from sidefx import process
from sidefx.background import BackgroundTask
from sidefx.callables import Callables
from sidefx.dead_letters import LettersInMemory
from sidefx.dispatch import Dispatcher
from sidefx.effect import Effect
from sidefx.errors import NotRunningError, SidefxError, SinkStartError
from sidefx.event_loop import asyncio_loop
from sidefx.gate import Gate
from sidefx.home import Home, open_all
from sidefx.hosting import AsyncioHost
from sidefx.keeping import keeping_for
from sidefx.lanes import Lane
from sidefx.options import JournalOptions, SinkOptions
from sidefx.problems import ConfigError
from sidefx.report import Reporter, indented_traceback, summary_of
from sidefx.routes import check_routes
from sidefx.scope import Scope, announce, enter_scope, running_effect, withdraw
from sidefx.stats import SinkStats, snapshot
from sidefx.threads import DaemonThreads
from sidefx.tracing import span_here

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from uuid import UUID

    from anyio.abc import TaskGroup

    from sidefx.dead_letters import DeadLetters
    from sidefx.options import RuntimeOptions
    from sidefx.settled import Observer

_log = logging.getLogger("sidefx")


class Engine:
    """What runs inside of a `SideEffects`: scopes release to it, and adapters start, drain and stop it.

    All but `release`, `busy`, `settle_then` and `end` is for the event loop on which it was started.
    """

    def __init__(
        self,
        name: str,
        sinks: Mapping[str, object],
        sink_options: Mapping[str, SinkOptions],
        *,
        options: RuntimeOptions,
        observers: Sequence[Observer],
        journal: JournalOptions | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self._sinks = sinks
        self._sink_options = sink_options
        self._observers = observers
        self._journal_options = journal
        self._make()

    def _make(self) -> None:
        """Makes what carries effects."""
        self.homes = {name: Home(name, sink) for name, sink in self._sinks.items()}
        specs = {name: home.spec for name, home in self.homes.items()}
        if problems := check_routes(specs, self._sink_options):
            raise ConfigError(problems)
        self._keeping = keeping_for(self.name, self.homes, self._sink_options, self._journal_options)
        self.journal = None if self._keeping is None else self._keeping.journal
        self.dead_letters: DeadLetters = (
            LettersInMemory(per_sink=self.options.dead_letters) if self.journal is None else self.journal.letters
        )
        self._reporter = Reporter(self.dead_letters, self._observers)
        self.lanes = {
            name: Lane(
                name,
                self.homes[name].deliver,
                self._sink_options.get(name, SinkOptions()),
                self._reporter,
                batch=spec.batch,
                archive=self.journal,
            )
            for name, spec in specs.items()
        }
        for lane in self.lanes.values():
            lane.fallback = None if lane.options.fallback is None else self.lanes[lane.options.fallback]
        self.callables = Callables(
            self.options.callables,
            self._reporter,
            before_settling=lambda: self.dispatcher.take_in(),  # noqa: PLW0108 - the dispatcher is yet to come
        )
        self.dispatcher = Dispatcher(self.lanes, specs, self.callables)
        self._gate = None if self.journal is None else Gate(self.journal, self.dispatcher)
        self._main_task: BackgroundTask | None = None
        self._accepting = False
        self._giving_up = threading.RLock()
        self._loop: AbstractEventLoop | None = None
        self._told: list[Callable[[], object]] = []
        self.at_end: Callable[[], object] | None = None
        """Called when it has ended, for whoever has started it."""

    def __repr__(self) -> str:
        return f"<SideEffects {self.name!r}: {', '.join(self.lanes) or 'no sinks'}>"

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._main_task is not None

    @property
    def here(self) -> bool:
        """Whether it runs on the event loop of this thread."""
        return self.dispatcher.here

    @property
    def accepting(self) -> bool:
        """Whether effects may be released to it: from its start to the end of its drain."""
        return self._accepting and not self.dispatcher.dead

    @property
    def gate(self) -> Gate | None:
        """Where effects are taken down before what answers them goes on; None where nothing is journaled."""
        return self._gate

    @property
    def busy(self) -> bool:
        """Whether anything is queued or running."""
        return self.dispatcher.busy

    # --- start and end ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the sinks and starts the lanes, in a task of its own that no cancel scope of the caller reaches.

        Raises:
            SinkStartError: a sink could not be opened; the others have been closed again.
            NotRunningError: it is running already.
        """
        if self.running:
            msg = f"{self!r} is running already; one runtime runs once at a time"
            raise NotRunningError(msg)
        self._started = anyio.Event()
        self._stopping = anyio.Event()
        self._opening = anyio.CancelScope()
        self._start_error: Exception | None = None
        self._loop = asyncio_loop()
        self.token = anyio.lowlevel.current_token()
        # a context of its own: whoever starts it may be the first request, whose variables are no business of the sinks
        self._main_task = BackgroundTask(self._main, name=f"sidefx {self.name}", context=Context())
        process.started(self)
        try:
            await self._started.wait()
        except BaseException:
            await self.stop()
            raise
        if self._start_error is not None:
            raise self._start_error

    async def stop(self) -> None:
        """Drains, cancels and lists what is left, and closes the sinks. Idempotent.

        Raises:
            SidefxError: called from inside an effect, which would wait for itself.
        """
        self.refuse_inside("stop")
        with anyio.CancelScope(shield=True):  # each step is bounded by drain_timeout; the cancellation goes on after it
            await self.drain()
            if (main := self._main_task) is not None:
                self._opening.cancel()
                self._stopping.set()
                closing = 2 * self.options.drain_timeout + 1  # that of the sinks is bounded too
                with anyio.move_on_after(closing) as bounds:
                    await main.finished()
                if bounds.cancelled_caught:
                    stats = {**self.sink_stats(), "callables": self.callable_stats()}
                    held = ", ".join(name for name, each in stats.items() if each.in_flight)
                    _log.critical("%r cannot end: what runs here swallows its cancellation: %s", self, held or "a sink")
                    await main.finished()

    async def drain(self, timeout: float | None = None) -> None:
        """Waits up to `timeout` seconds until nothing is queued or running, then takes no more.

        What effects schedule meanwhile is waited for as well. Idempotent.

        Args:
            timeout: seconds; None waits up to `drain_timeout`.
        """
        if not self._accepting:
            return
        with anyio.move_on_after(self.options.drain_timeout if timeout is None else timeout):
            await self.settled()
        self._accepting = False
        withdraw(self)

    async def settled(self) -> None:
        """Returns when nothing is queued or running, what comes meanwhile included."""
        with self._hurried():
            await self.dispatcher.settled()

    async def flush(self, timeout: float | None = None) -> None:
        """As `SideEffects.flush`."""
        self.refuse_inside("flush")
        self.check_here("flush()")
        cohorts = self.dispatcher.cut()
        try:
            with anyio.move_on_after(math.inf if timeout is None else timeout) as bounds, self._hurried():
                for cohort in cohorts:
                    await cohort.settled()
        finally:
            self.dispatcher.retire(cohorts)
        if bounds.cancelled_caught:
            lanes = {**self.sink_stats(), "callables": self.callable_stats()}
            counts = {name: lane.queued + lane.in_flight for name, lane in lanes.items()}
            counts["on the way to their lanes"] = self.dispatcher.waiting
            left = ", ".join(f"{name}: {n}" for name, n in counts.items() if n)
            msg = f"flush(): not settled within {timeout:g} s ({left or 'nothing left by now'})"
            raise TimeoutError(msg)

    async def _main(self) -> None:
        enter_scope(self.open_scope())  # what a sink schedules is for the runtime that it belongs to
        try:
            async with AsyncioHost(DaemonThreads()) as host, anyio.create_task_group() as homes:
                closing = anyio.Event()
                try:
                    if self._keeping is not None:
                        await self._keeping.open(self._take_found)
                    with self._opening:
                        await open_all(
                            self.homes,
                            homes,
                            host,
                            closing,
                            opening_seconds={name: lane.options.timeout for name, lane in self.lanes.items()},
                            closing_seconds=self.options.drain_timeout,
                        )
                    if self._opening.cancelled_caught:
                        msg = f"{self!r} was stopped before its sinks were open"
                        self._start_error = SinkStartError(msg)
                    else:
                        await self._work()
                except Exception as error:  # noqa: BLE001 - start() raises it, or the log has it
                    self._fail(error)
                finally:
                    closing.set()
                    if self._keeping is not None:
                        await self._keeping.close()
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)
        finally:
            self._main_task = None
            process.ended(self)
            self._give_up(closing=True)
            self._reporter.ended()
            self._started.set()
            if self.at_end is not None:
                self.at_end()

    def _fail(self, error: Exception) -> None:
        if self._started.is_set():
            _log.critical("%r has failed and takes no more: %s%s", self, summary_of(error), indented_traceback(error))
        elif self._start_error is None:
            self._start_error = error

    async def _work(self) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                self._open_lanes(self._tasks)
                self._take_found()
                self._started.set()
                await self._stopping.wait()
                self.callables.close()
                self._tasks.cancel_scope.cancel()
        finally:
            self._accepting = False
            withdraw(self)
            self._give_up()

    def _take_found(self) -> None:
        """Gives the lanes what the journal has for them."""
        while self._accepting and self._keeping is not None and (found := self._keeping.found()) is not None:
            segment, sink, ids = found
            self.dispatcher.adopt(self.lanes[sink], segment, ids)

    def _open_lanes(self, tasks: TaskGroup) -> None:
        self.dispatcher.open()
        self.callables.open(tasks)
        for lane in self.lanes.values():
            lane.open()
            for _ in range(lane.options.concurrency):
                tasks.start_soon(lane.run, name=f"sidefx lane {lane.name}")
            if self.journal is not None:
                tasks.start_soon(lane.intake.refill, name=f"sidefx lane {lane.name} reads the journal")
        tasks.start_soon(self.dispatcher.run, name="sidefx dispatcher")
        self._tidings = anyio.Event()
        tasks.start_soon(self._settle_when_told, name="sidefx settles")
        self._accepting = True
        announce(self)

    # --- what the process calls -------------------------------------------------------------------

    def renew(self) -> object:
        """Makes it as new, in a forked child, and returns what it was: that is the parent's."""
        withdraw(self)
        before = [vars(self).copy(), *(vars(sink).copy() for sink in self._sinks.values() if hasattr(sink, "__dict__"))]
        self._make()
        return before

    def end(self) -> None:
        """The interpreter exits: drains and stops it where its event loop can still run, and lists what is left."""
        if (loop := self._loop) is None or loop.is_closed():
            self.callables.close()
            self._give_up(closing=True)
            return
        while self.running:
            try:
                self._stop_from_outside(loop)
            except SystemExit:  # out of a signal handler: it is ending already
                continue
            except KeyboardInterrupt:
                _log.warning("interrupted: the exit does not wait for effects any longer")
                loop.call_soon_threadsafe(self._stopping.set)

    def _stop_from_outside(self, loop: AbstractEventLoop) -> None:
        if not loop.is_running():  # it was stopped with all that is in it, as Twisted does
            loop.run_until_complete(self.stop())
        else:  # in a thread: a daemonic one, or there would be no exit yet
            import asyncio  # noqa: PLC0415 - not under trio

            asyncio.run_coroutine_threadsafe(self.stop(), loop).result(4 * self.options.drain_timeout + 2)

    def settle_then(self, callback: Callable[[], object]) -> None:
        """Calls it once what there is now has settled, at most `drain_timeout` later. Safe in a signal handler."""
        self._told.append(callback)
        with suppress(RuntimeError):  # the loop has just ended, and calls it with what else it leaves
            self.dispatcher.soon(self._tidings.set)

    async def _settle_when_told(self) -> None:
        try:
            await self._tidings.wait()
            try:
                await self.flush(self.options.drain_timeout)
            except TimeoutError:  # its time is up: listed here, for the process may end where nothing of ours can run
                await self.drain(timeout=0)
                self._stopping.set()
        finally:
            while self._told:
                self._told.pop()()

    def _give_up(self, *, closing: bool = False) -> None:
        """Nothing runs any more: what is left, and what came from a thread meanwhile, is dropped and listed.

        `closing` says that nothing will: the journal is closed as well, and what is in it stays there.
        """
        with self._giving_up:
            self.dispatcher.close()
            for lane in self.lanes.values():
                lane.abandon()
            self.callables.abandon()
            if self.journal is not None and closing:
                self.journal.close()
                for lane in self.lanes.values():
                    lane.abandon()
                    lane.intake.lose_coming()
            self._reporter.list_left_over()

    # --- what the runtime shows, and asks ---------------------------------------------------------

    def sink_stats(self) -> dict[str, SinkStats]:
        """Counts of every lane, at this moment."""
        return {
            name: snapshot(lane.ledger, queued=lane.queued, breaker=lane.breaker.state)
            for name, lane in self.lanes.items()
        }

    def callable_stats(self) -> SinkStats:
        """Counts of what is no event."""
        return snapshot(self.callables.ledger, queued=self.callables.queued)

    # --- what scopes and adapters call ------------------------------------------------------------

    def release(self, effects: Sequence[Effect]) -> None:
        """Starts what may start, in order. Safe from any thread; never blocks, never raises."""
        if self.dispatcher.dead:
            lost = [effect for effect in effects if effect.entry is None]
            _log.error("%r: %d effect(s) are lost: its event loop was closed and it never stopped", self, len(lost))
            for effect in lost:
                effect.discard()
            return
        self.dispatcher.submit(effects)
        if not self.running:  # a request that outlived the runtime
            self._give_up(closing=True)

    async def hold(self, effects: Sequence[Effect]) -> None:
        """Keeps a finished request until the lanes that its effects went to have room (`when_full = "block"`)."""
        if self._accepting and self.dispatcher.here and any(lane.blocks for lane in self.lanes.values()):
            await self.dispatcher.routed()
            for effect in effects:
                await self.room(effect)

    async def room(self, effect: Effect) -> None:
        """Returns when the lanes that it goes to, and that hold who gives to them, have room."""
        if effect.event is not None:
            for lane in self.dispatcher.within_reach(type(effect.event)):
                if lane.blocks:
                    await lane.room()

    async def replay(self, *, sink: str | None, kind: str | None, ids: Collection[UUID] | None, to: str | None) -> int:
        """As `SideEffects.replay`."""
        if self._keeping is not None:
            return await self._keeping.replay(sink=sink, kind=kind, ids=ids, to=to)
        assert isinstance(self.dead_letters, LettersInMemory)  # noqa: S101 - there is no journal
        replayed: Counter[str] = Counter()
        for letter in self.dead_letters.take(sink=sink, kind=kind, ids=ids):
            lane = self.lanes[to or letter.sink]
            if lane.full:
                self.dead_letters.add(letter)
                continue
            replayed[lane.name] += 1
            effect = Effect(letter.event)
            effect.request = None if letter.event is None else letter.event.request
            effect.replayed = True
            effect.origin = span_here()
            cohort = self.dispatcher.join(effect)
            lane.offer(effect, held=True)
            cohort.leave()
        for name in replayed:
            await self.lanes[name].room()
        return replayed.total()

    def open_scope(self) -> Scope:
        """A scope that is over already: what it is given is released at once, to this runtime."""
        scope = Scope(self, name=self.name)
        scope.close()
        return scope

    def check_here(self, call: str) -> None:
        """Refuses a call for which it is to run, and on this event loop.

        Raises:
            NotRunningError: it does not run.
            SidefxError: it runs on another event loop.
        """
        if not self._accepting:
            msg = f"{call}: {self!r} is not running; use `async with`"
            raise NotRunningError(msg)
        if not self.dispatcher.here:
            msg = f"{call}: {self!r} runs on the event loop of another thread; use after() here, or flush_blocking()"
            raise SidefxError(msg)

    def refuse_inside(self, call: str) -> None:
        """Refuses a call that waits for effects, from one of them.

        Raises:
            SidefxError: it was called from inside an effect.
        """
        if self.callables.runs(running_effect.get()):
            msg = f"{call}() was called from inside an effect: it would wait for itself"
            raise SidefxError(msg)

    @contextmanager
    def _hurried(self) -> Iterator[None]:
        """Meanwhile no batch waits for more events."""
        with ExitStack() as stack:
            for lane in self.lanes.values():
                stack.enter_context(lane.hurried())
            yield
