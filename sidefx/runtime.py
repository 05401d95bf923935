"""`SideEffects`: the runtime that owns sinks and lanes, and starts and ends with the app.

Longer than other files: it is what users hold in their hands, and a good part of it is what they read of it.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

import anyio

from sidefx import process
from sidefx.background import BackgroundTask, asyncio_loop
from sidefx.block import ScopeBlock
from sidefx.callables import Callables
from sidefx.dead_letters import DeadLetters
from sidefx.dispatch import Dispatcher
from sidefx.effect import Effect, describe
from sidefx.errors import NotRunningError, SidefxError, SinkStartError
from sidefx.events import Event
from sidefx.home import Home
from sidefx.hosting import AsyncioHost
from sidefx.lanes import Lane
from sidefx.loop_thread import LoopThread
from sidefx.options import RuntimeOptions, SinkOptions
from sidefx.problems import ConfigError
from sidefx.report import Reporter, indented_traceback, summary_of
from sidefx.routes import check_routes
from sidefx.scope import Scope, announce, current_scope, enter_scope, running_effect, withdraw
from sidefx.sink import is_async_callable
from sidefx.stats import Health, SinkStats, Stats, snapshot
from sidefx.threads import DaemonThreads
from sidefx.tracing import span_here

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from uuid import UUID

    from anyio.abc import TaskGroup

    from sidefx.settled import Observer

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("sidefx")

_RECENT = timedelta(minutes=5)
"""For so long a dead letter makes `health()` degraded."""


class SideEffects:
    """Sinks with a lane each, and whatever `after()` gives them to do.

    `async with SideEffects({"ops": Slack(...)}, options={"ops": SinkOptions(timeout=3.0)}) as fx:` runs on
    asyncio and trio; `with SideEffects(...)` runs it on an asyncio loop in a thread, for synchronous
    programs. Leaving the block waits up to `drain_timeout` seconds for what is queued and running.

    Args:
        sinks: sinks by name; see `sidefx.sink` for what a sink is.
        options: how the lane of each works; a sink without an entry has the defaults.
        runtime: settings of the whole.
        observers: plain functions, called with each `Settled` record.
        name: what messages call this runtime.

    Raises:
        SinkContractError: an object is no sink.
        ConfigError: sinks and options do not fit each other.
        TypeError: an observer is asynchronous.
    """

    def __init__(
        self,
        sinks: Mapping[str, object] | None = None,
        options: Mapping[str, SinkOptions] | None = None,
        *,
        runtime: RuntimeOptions | None = None,
        observers: Iterable[Observer] = (),
        name: str = "sidefx",
    ) -> None:
        self.name = name
        self.options = runtime or RuntimeOptions()
        self._sinks = dict(sinks or {})
        self._sink_options = dict(options or {})
        self._observers = tuple(observers)
        if wrong := [observer for observer in self._observers if is_async_callable(observer)]:
            msg = f"an observer is a plain function, called on the event loop; {describe(wrong[0])} is asynchronous"
            raise TypeError(msg)
        self._make()

    def _make(self) -> None:
        """Makes what carries effects."""
        self._homes = {name: Home(name, sink) for name, sink in self._sinks.items()}
        specs = {name: home.spec for name, home in self._homes.items()}
        if problems := check_routes(specs, self._sink_options):
            raise ConfigError(problems)
        self.dead_letters = DeadLetters(per_sink=self.options.dead_letters)
        self._reporter = Reporter(self.dead_letters, self._observers)
        self._lanes = {
            name: Lane(
                name,
                self._homes[name].deliver,
                self._sink_options.get(name, SinkOptions()),
                self._reporter,
                batch=spec.batch,
            )
            for name, spec in specs.items()
        }
        for lane in self._lanes.values():
            lane.fallback = None if lane.options.fallback is None else self._lanes[lane.options.fallback]
        self._callables = Callables(
            self.options.callables,
            self._reporter,
            before_settling=lambda: self._dispatcher.take_in(),  # noqa: PLW0108 - the dispatcher is yet to come
        )
        self._dispatcher = Dispatcher(self._lanes, specs, self._callables)
        self._main_task: BackgroundTask | None = None
        self._accepting = False
        self._giving_up = threading.RLock()
        self._loop: AbstractEventLoop | None = None
        self._told: list[Callable[[], object]] = []
        self._thread: LoopThread | None = None
        self._scope_before: Scope | None = None

    @classmethod
    def from_toml(cls, path: str | Path | None = None, *, observers: Iterable[Observer] = ()) -> Self:
        """The runtime that a TOML file describes; environment variables override it.

        Args:
            path: the file; by default what `SIDEFX_CONFIG` names, else `sidefx.toml`.
            observers: plain functions, called with each `Settled` record.

        Raises:
            ConfigError: every mistake in the file, in one go.
        """
        from sidefx.config import config_path, load  # noqa: PLC0415 - programs that read no file do not pay for the reader

        path = config_path(path)
        config = load(path)
        return cls(config.sinks, config.options, runtime=config.runtime, observers=observers, name=path)

    def __repr__(self) -> str:
        return f"<SideEffects {self.name!r}: {', '.join(self._lanes) or 'no sinks'}>"

    # --- life cycle -------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._main_task is not None

    @property
    def here(self) -> bool:
        """Whether it runs on the event loop of this thread."""
        return self._dispatcher.here

    @property
    def accepting(self) -> bool:
        """Whether effects may be released to it: from its start to the end of its drain."""
        return self._accepting and not self._dispatcher.dead

    async def __aenter__(self) -> Self:
        """Starts it, and makes it the one that `after()` in this block finds."""
        await self.start()
        self._scope_before = enter_scope(self.open_scope())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drains and stops it."""
        enter_scope(self._scope_before)
        await self.stop()

    def __enter__(self) -> Self:
        """Starts it on an asyncio loop in a thread of its own."""
        self.start_blocking()
        self._scope_before = enter_scope(self.open_scope())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drains and stops it, and ends its thread."""
        enter_scope(self._scope_before)
        self.stop_blocking()

    def start_blocking(self) -> None:
        """Starts it on an asyncio loop in a thread of its own; where nobody stops it, the interpreter's exit drains it.

        Raises:
            SinkStartError: a sink could not be opened; those before it have been closed again.
            NotRunningError: it is running already.
        """
        thread = LoopThread(f"sidefx {self.name}")
        thread.start()
        try:
            thread.call(self.start)
        except BaseException:
            thread.stop()
            raise
        self._thread = thread

    def stop_blocking(self) -> None:
        """Drains and stops what `start_blocking` has started, and ends its thread. Idempotent.

        Raises:
            SidefxError: called from inside an effect, which would wait for itself.
        """
        self._refuse_inside("stop_blocking")
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.call(self.stop)
            finally:
                thread.stop()

    async def start(self) -> None:
        """Opens the sinks and starts the lanes, in a task of its own that no cancel scope of the caller reaches.

        Raises:
            SinkStartError: a sink could not be opened; those before it have been closed again.
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
        self._refuse_inside("stop")
        with anyio.CancelScope(shield=True):  # each step is bounded by drain_timeout; the cancellation goes on after it
            await self.drain()
            if (main := self._main_task) is not None:
                self._opening.cancel()
                self._stopping.set()
                with anyio.move_on_after(
                    2 * self.options.drain_timeout + 1
                ) as bounds:  # closing the sinks is bounded too
                    await main.finished()
                if bounds.cancelled_caught:
                    stats = {**self._sink_stats(), "callables": self._callable_stats()}
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
            await self._dispatcher.settled()

    async def _main(self) -> None:
        enter_scope(self.open_scope())  # what a sink schedules is for the runtime that it belongs to
        try:
            async with AsyncioHost(DaemonThreads()) as host, anyio.create_task_group() as homes:
                closing = anyio.Event()
                try:
                    with self._opening:
                        for name, home in self._homes.items():
                            opening = self._lanes[name].options.timeout
                            await homes.start(home.keep_open, host, closing, opening, self.options.drain_timeout)
                    if self._opening.cancelled_caught:
                        msg = f"{self!r} was stopped before its sinks were open"
                        self._start_error = SinkStartError(msg)
                    else:
                        await self._work()
                except Exception as error:  # noqa: BLE001 - start() raises it, or the log has it
                    self._fail(error)
                finally:
                    closing.set()
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)
        finally:
            self._main_task = None
            process.ended(self)
            self._give_up()
            self._reporter.ended()
            self._started.set()

    def _fail(self, error: Exception) -> None:
        if self._started.is_set():
            _log.critical("%r has failed and takes no more: %s%s", self, summary_of(error), indented_traceback(error))
        elif self._start_error is None:
            self._start_error = error

    async def _work(self) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                self._open_lanes(self._tasks)
                self._started.set()
                await self._stopping.wait()
                self._callables.close()
                self._tasks.cancel_scope.cancel()
        finally:
            self._accepting = False
            withdraw(self)
            self._give_up()

    def _open_lanes(self, tasks: TaskGroup) -> None:
        self._dispatcher.open()
        self._callables.open(tasks)
        for lane in self._lanes.values():
            lane.open()
            for _ in range(lane.options.concurrency):
                tasks.start_soon(lane.run, name=f"sidefx lane {lane.name}")
        tasks.start_soon(self._dispatcher.run, name="sidefx dispatcher")
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
        """The interpreter exits: drains and stops it where its event loop can still run, else lists what is left."""
        if self._thread is not None:
            self.stop_blocking()
        elif (loop := self._loop) is None or loop.is_closed():
            self._callables.close()
            self._give_up()
        elif not loop.is_running():  # it was stopped with all that is in it, as Twisted does
            loop.run_until_complete(self.stop())

    @property
    def busy(self) -> bool:
        """Whether anything is queued or running."""
        return self._dispatcher.busy

    def settle_then(self, callback: Callable[[], object]) -> None:
        """Calls it once what there is now has settled, at most `drain_timeout` later. Safe in a signal handler."""
        self._told.append(callback)
        with suppress(RuntimeError):  # the loop has just ended, and calls it with what else it leaves
            self._dispatcher.soon(self._tidings.set)

    async def _settle_when_told(self) -> None:
        try:
            await self._tidings.wait()
            with suppress(TimeoutError):
                await self.flush(self.options.drain_timeout)
        finally:
            while self._told:
                self._told.pop()()

    def _give_up(self) -> None:
        """Nothing runs any more: what is left, and what came from a thread meanwhile, is dropped and listed."""
        with self._giving_up:
            self._dispatcher.close()
            for lane in self._lanes.values():
                lane.abandon()
            self._callables.abandon()
            self._reporter.list_left_over()

    # --- what users call --------------------------------------------------------------------------

    def scope(self, name: str | None = None) -> ScopeBlock:
        """A unit of work of one's own: `async with fx.scope("nightly-import"):`, or `with`.

        What `after()` schedules within it starts when the block is left; `when="success"` holds
        where its body did not raise.
        """
        return ScopeBlock(self, name)

    async def emit(self, event: Event) -> None:
        """Queues the event now, without waiting for a response; returns when it is queued.

        Where a lane with `when_full = "block"` is full, it waits for room.

        Raises:
            NotRunningError: the runtime is not running.
            TypeError: it is no event.
        """
        if not isinstance(event, Event):
            msg = f"emit() takes an Event, not {type(event).__qualname__}; use after() for callables"
            raise TypeError(msg)
        self._check_here(f"emit({event.kind})")
        effect = Effect(event=event)
        effect.origin = span_here()
        if (parent := running_effect.get()) is not None:
            effect.cohort = parent.cohort
        if (scope := current_scope()) is not None:
            effect.bind(scope.request)
        effect.held = True
        self._dispatcher.join(effect)
        self._dispatcher.route(effect)
        await self._room(effect)

    async def flush(self, timeout: float | None = None) -> None:
        """Returns when all that was accepted before it, and what that has scheduled, has settled.

        Args:
            timeout: seconds; None waits as long as it takes.

        Raises:
            TimeoutError: that did not happen in time; nothing is cancelled.
            NotRunningError: the runtime is not running.
            SidefxError: called from inside an effect, which would wait for itself.
        """
        self._refuse_inside("flush")
        self._check_here("flush()")
        cohorts = self._dispatcher.cut()
        try:
            with anyio.move_on_after(math.inf if timeout is None else timeout) as bounds, self._hurried():
                for cohort in cohorts:
                    await cohort.settled()
        finally:
            self._dispatcher.retire(cohorts)
        if bounds.cancelled_caught:
            lanes = {**self._sink_stats(), "callables": self._callable_stats()}
            counts = {name: lane.queued + lane.in_flight for name, lane in lanes.items()}
            counts["on the way to their lanes"] = self._dispatcher.waiting
            left = ", ".join(f"{name}: {n}" for name, n in counts.items() if n)
            msg = f"flush(): not settled within {timeout:g} s ({left or 'nothing left by now'})"
            raise TimeoutError(msg)

    def flush_blocking(self, timeout: float | None = None) -> None:
        """`flush` for synchronous programs, under `with SideEffects(...)`."""
        self._refuse_inside("flush_blocking")
        if self._thread is None:
            msg = "flush_blocking() is for `with SideEffects(...)`; in asynchronous code await flush()"
            raise NotRunningError(msg)
        self._thread.call(self.flush, timeout)

    def bind(self, function: Callable[P, T]) -> Callable[P, T]:
        """The function, made to run in the scope of this place: carries a scope into a thread by hand."""
        scope = current_scope() or self.open_scope()

        @functools.wraps(function)
        def bound(*args: P.args, **kwargs: P.kwargs) -> T:
            before = enter_scope(scope)
            try:
                return function(*args, **kwargs)
            finally:
                enter_scope(before)

        return bound

    async def replay(
        self, *, sink: str | None = None, kind: str | None = None, ids: Collection[UUID] | None = None
    ) -> int:
        """Sends dead letters that match all that is given to their sinks again, and says how many.

        Each leaves the dead letters; where it fails again, it comes back. Where a lane is full, the rest stays.

        Raises:
            NotRunningError: the runtime is not running.
        """
        self._check_here("replay()")
        replayed: Counter[str] = Counter()
        for letter in self.dead_letters.take(sink=sink, kind=kind, ids=ids):
            if self._lanes[letter.sink].full:
                self.dead_letters.add(letter)
                continue
            replayed[letter.sink] += 1
            effect = Effect(event=letter.event, request=letter.event.request)
            effect.replayed = True
            effect.origin = span_here()
            self._dispatcher.join(effect)
            self._lanes[letter.sink].offer(effect, held=True)
            effect.cohort.leave()  # type: ignore[union-attr]  # join() gave it one
        for name in replayed:
            await self._lanes[name].room()
        return replayed.total()

    def stats(self) -> Stats:
        """Counts of every lane, at this moment."""
        return Stats(
            sinks=self._sink_stats(),
            callables=self._callable_stats(),
            unrouted=dict(self._dispatcher.unrouted),
            dead_letters=dict(Counter(letter.sink for letter in self.dead_letters)),
            abandoned_threads=self._callables.abandoned_threads
            + sum(home.abandoned_threads for home in self._homes.values()),
        )

    def health(self) -> Health:
        """`degraded` where a breaker is not closed or there are dead letters of the last five minutes."""
        reasons = [
            f"sinks.{name}: breaker {sink.breaker}"
            for name, sink in self._sink_stats().items()
            if sink.breaker != "closed"
        ]
        since = datetime.now(UTC) - _RECENT
        recent = Counter(letter.sink for letter in self.dead_letters if letter.at > since)
        reasons += [f"sinks.{name}: {count} dead letter(s) in the last 5 minutes" for name, count in recent.items()]
        return Health("degraded" if reasons else "ok", tuple(reasons))

    def _sink_stats(self) -> dict[str, SinkStats]:
        return {
            name: snapshot(lane.ledger, queued=lane.queued, breaker=lane.breaker.state)
            for name, lane in self._lanes.items()
        }

    def _callable_stats(self) -> SinkStats:
        return snapshot(self._callables.ledger, queued=self._callables.queued)

    # --- what scopes and adapters call ------------------------------------------------------------

    def release(self, effects: Sequence[Effect]) -> None:
        """Starts what may start, in order. Safe from any thread; never blocks, never raises."""
        if self._dispatcher.dead:
            _log.error("%r: %d effect(s) are lost: its event loop was closed and it never stopped", self, len(effects))
            for effect in effects:
                effect.discard()
            return
        self._dispatcher.submit(effects)
        if not self.running:  # a request that outlived the runtime
            self._give_up()

    async def hold(self, effects: Sequence[Effect]) -> None:
        """Keeps a finished request until the lanes that its effects went to have room (`when_full = "block"`)."""
        if self._accepting and self._dispatcher.here and any(lane.blocks for lane in self._lanes.values()):
            await self._dispatcher.routed()
            for effect in effects:
                await self._room(effect)

    async def _room(self, effect: Effect) -> None:
        if effect.event is not None:
            for lane in self._dispatcher.within_reach(type(effect.event)):
                if lane.blocks:
                    await lane.room()

    def open_scope(self) -> Scope:
        """A scope that is over already: what it is given is released at once, to this runtime."""
        scope = Scope(self, name=self.name)
        scope.close()
        return scope

    def _check_here(self, call: str) -> None:
        if not self._accepting:
            msg = f"{call}: {self!r} is not running; use `async with`"
            raise NotRunningError(msg)
        if not self._dispatcher.here:
            msg = f"{call}: {self!r} runs on the event loop of another thread; use after() here, or flush_blocking()"
            raise SidefxError(msg)

    def _refuse_inside(self, call: str) -> None:
        if self._callables.runs(running_effect.get()):
            msg = f"{call}() was called from inside an effect: it would wait for itself"
            raise SidefxError(msg)

    @contextmanager
    def _hurried(self) -> Iterator[None]:
        """Meanwhile no batch waits for more events."""
        with ExitStack() as stack:
            for lane in self._lanes.values():
                stack.enter_context(lane.hurried())
            yield
