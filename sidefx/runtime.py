"""`SideEffects`: what users hold in their hands; inside of it runs an `Engine`."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

import anyio.from_thread

from sidefx.block import ScopeBlock
from sidefx.effect import Effect, describe
from sidefx.engine import Engine
from sidefx.errors import NotRunningError, SidefxError
from sidefx.events import Event
from sidefx.loop_thread import LoopThread
from sidefx.options import JournalOptions, RuntimeOptions, SinkOptions
from sidefx.problems import nearest
from sidefx.scope import Scope, current_scope, enter_scope, running_effect
from sidefx.sink import is_async_callable
from sidefx.stats import Health, Stats
from sidefx.tracing import span_here

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from uuid import UUID

    from sidefx.dead_letters import DeadLetters
    from sidefx.settled import Observer

P = ParamSpec("P")
T = TypeVar("T")

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
        journal: where events of `delivery = "journal"` are kept; by default `.sidefx/journal`, where a sink has it.
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
        journal: JournalOptions | None = None,
        observers: Iterable[Observer] = (),
        name: str = "sidefx",
    ) -> None:
        self.name = name
        self.options = runtime or RuntimeOptions()
        observers = tuple(observers)
        if wrong := [observer for observer in observers if is_async_callable(observer)]:
            msg = f"an observer is a plain function, called on the event loop; {describe(wrong[0])} is asynchronous"
            raise TypeError(msg)
        self.engine = Engine(
            name, dict(sinks or {}), dict(options or {}), options=self.options, observers=observers, journal=journal
        )
        """What runs; for adapters."""
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
        return cls(
            config.sinks,
            config.options,
            runtime=config.runtime,
            journal=config.journal,
            observers=observers,
            name=path,
        )

    def __repr__(self) -> str:
        return repr(self.engine)

    @property
    def dead_letters(self) -> DeadLetters:
        """What sinks have given up on: in memory, a bounded number for each sink, or, with a journal, on disk."""
        return self.engine.dead_letters

    # --- life cycle -------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.engine.running

    async def __aenter__(self) -> Self:
        """Starts it, and makes it the one that `after()` in this block finds."""
        await self.start()
        self._scope_before = enter_scope(self.engine.open_scope())
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
        self._scope_before = enter_scope(self.engine.open_scope())
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
            SinkStartError: a sink could not be opened; the others have been closed again.
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
        self.engine.refuse_inside("stop_blocking")
        thread, self._thread = self._thread, None
        if thread is not None and self.running:  # a forked child has the object, and not the thread
            try:
                thread.call(self.stop)
            finally:
                thread.stop()

    async def start(self) -> None:
        """Opens the sinks and starts the lanes, in a task of its own that no cancel scope of the caller reaches.

        Raises:
            SinkStartError: a sink could not be opened; the others have been closed again.
            NotRunningError: it is running already.
        """
        await self.engine.start()

    async def stop(self) -> None:
        """Drains, cancels and lists what is left, and closes the sinks. Idempotent.

        Raises:
            SidefxError: called from inside an effect, which would wait for itself.
        """
        await self.engine.stop()

    # --- what users call --------------------------------------------------------------------------

    def scope(self, name: str | None = None) -> ScopeBlock:
        """A unit of work of one's own: `async with fx.scope("nightly-import"):`, or `with`.

        What `after()` schedules within it starts when the block is left; `when="success"` holds
        where its body did not raise.
        """
        return ScopeBlock(self.engine, name)

    async def emit(self, event: Event) -> None:
        """Queues the event now, without waiting for a response; returns when it is queued, or, in a journal, on disk.

        Where a lane with `when_full = "block"` is full, it waits for room.

        Raises:
            NotRunningError: the runtime is not running.
            TypeError: it is no event.
        """
        if not isinstance(event, Event):
            msg = f"emit() takes an Event, not {type(event).__qualname__}; use after() for callables"
            raise TypeError(msg)
        self.engine.check_here(f"emit({event.kind})")
        effect = Effect(event)
        effect.origin = span_here()
        if (parent := running_effect.get()) is not None:
            effect.cohort = parent.cohort
        if (scope := current_scope()) is not None:
            effect.bind(scope.request)
        effect.held = True
        cohort = self.engine.dispatcher.join(effect)  # first: a flush that comes meanwhile waits for it
        if self.engine.gate is not None:
            try:
                await self.engine.gate.secured([effect])
            except BaseException:
                self.engine.gate.void([effect])
                cohort.leave()
                raise
        self.engine.dispatcher.route(effect)
        await self.engine.room(effect)

    async def flush(self, timeout: float | None = None) -> None:
        """Returns when all that was accepted before it, and what that has scheduled, has settled.

        Args:
            timeout: seconds; None waits as long as it takes.

        Raises:
            TimeoutError: that did not happen in time; nothing is cancelled.
            NotRunningError: the runtime is not running.
            SidefxError: called from inside an effect, which would wait for itself.
        """
        await self.engine.flush(timeout)

    def flush_blocking(self, timeout: float | None = None) -> None:
        """`flush` for synchronous code, where the runtime runs in another thread: its own, or a server's.

        Raises:
            TimeoutError: that did not happen in time; nothing is cancelled.
            NotRunningError: the runtime is not running.
            SidefxError: called from inside an effect, or on the event loop that would have to go on meanwhile.
        """
        self.engine.refuse_inside("flush_blocking")
        if not self.engine.accepting:
            msg = f"flush_blocking(): {self!r} is not running; use `with`"
            raise NotRunningError(msg)
        if self.engine.here:
            msg = f"flush_blocking(): {self!r} runs on the event loop of this thread; await flush()"
            raise SidefxError(msg)
        anyio.from_thread.run(self.engine.flush, timeout, token=self.engine.token)

    def bind(self, function: Callable[P, T]) -> Callable[P, T]:
        """The function, made to run in the scope of this place: carries a scope into a thread by hand."""
        scope = current_scope() or self.engine.open_scope()

        @functools.wraps(function)
        def bound(*args: P.args, **kwargs: P.kwargs) -> T:
            before = enter_scope(scope)
            try:
                return function(*args, **kwargs)
            finally:
                enter_scope(before)

        return bound

    async def replay(
        self,
        *,
        sink: str | None = None,
        kind: str | None = None,
        ids: Collection[UUID] | None = None,
        to: str | None = None,
    ) -> int:
        """Sends dead letters that match all that is given to their sinks again, or to the sink `to`; says how many.

        Each leaves the dead letters; where it fails again, it comes back. Where a lane is full, the rest stays; with a
        journal, it waits there.

        Raises:
            NotRunningError: the runtime is not running.
            JournalError: the journal's disk has failed.
            ValueError: there is no sink `to`.
        """
        self.engine.check_here("replay()")
        if to is not None and to not in self.engine.lanes:
            msg = f"replay(to={to!r}): no sink has that name; {nearest(to, self.engine.lanes)}"
            raise ValueError(msg)
        return await self.engine.replay(sink=sink, kind=kind, ids=ids, to=to)

    def stats(self) -> Stats:
        """Counts of every lane, at this moment."""
        return Stats(
            sinks=self.engine.sink_stats(),
            callables=self.engine.callable_stats(),
            unrouted=dict(self.engine.dispatcher.unrouted),
            dead_letters=dict(self.dead_letters.counts()),
            abandoned_threads=self.engine.callables.abandoned_threads
            + sum(home.abandoned_threads for home in self.engine.homes.values()),
            journal=None if self.engine.journal is None else self.engine.journal.stats(),
        )

    def health(self) -> Health:
        """`degraded` where a breaker is not closed, the journal fails, or there are dead letters of five minutes."""
        reasons = [
            f"sinks.{name}: breaker {sink.breaker}"
            for name, sink in self.engine.sink_stats().items()
            if sink.breaker != "closed"
        ]
        since = datetime.now(UTC) - _RECENT
        if self.engine.journal is not None:
            reasons += self.engine.journal.problems()
        recent = self.dead_letters.counts(since)
        reasons += [f"sinks.{name}: {count} dead letter(s) in the last 5 minutes" for name, count in recent.items()]
        return Health("degraded" if reasons else "ok", tuple(reasons))
