"""The lane of callables: runs functions, coroutines and awaitables, each in the context of its `after()` call."""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any

import anyio

from sidefx.background import start_in
from sidefx.cancellation import must_go_on
from sidefx.effect import CallEffect
from sidefx.errors import AttemptTimeout
from sidefx.lanes.ledger import Ledger
from sidefx.report import summary_of
from sidefx.scope import running_effect
from sidefx.settled import CALLABLES, Settled
from sidefx.sink import is_async_callable
from sidefx.threads import DaemonThreads
from sidefx.tracing import call_span

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from sidefx.effect import Effect
    from sidefx.options import CallableOptions
    from sidefx.report import Reporter
    from sidefx.settled import Result


class Callables:
    """Starts effects first in, first out, at most `concurrency` at a time, each bounded by its timeout."""

    def __init__(
        self,
        options: CallableOptions,
        reporter: Reporter,
        *,
        before_settling: Callable[[], None],
    ) -> None:
        self.ledger = Ledger()
        self._options = options
        self._reporter = reporter
        self._threads = DaemonThreads()
        self._before_settling = before_settling
        self._queue: deque[Effect] = deque()
        self._tasks: TaskGroup | None = None
        self._starting: Effect | None = None
        self._running: set[Effect] = set()

    @property
    def queued(self) -> int:
        """Effects that wait for a place."""
        return len(self._queue)

    @property
    def abandoned_threads(self) -> int:
        """Synchronous effects past their deadline that still run."""
        return self._threads.abandoned

    def open(self, tasks: TaskGroup) -> None:
        """From now on effects run in that task group."""
        self._tasks = tasks

    def offer(self, effect: Effect) -> None:
        """Accepts an effect; where too many wait it is dropped, counted. Raises nothing."""
        self.ledger.accepted += 1
        if effect.cohort is not None:
            effect.cohort.join()
        if len(self._queue) >= self._options.max_queued:
            self._settle(effect, "dropped", "full")
            return
        self._queue.append(effect)
        self._start_next()

    def runs(self, effect: Effect | None) -> bool:
        """Whether it is being called at this moment."""
        return effect in self._running

    def close(self) -> None:
        """From now on it starts nothing."""
        self._tasks = None

    def abandon(self) -> None:
        """The runtime has ended: what has not been started is dropped, counted."""
        self.close()
        if (effect := self._starting) is not None:  # its task was cancelled before its first step
            self._starting = None
            self.ledger.in_flight -= 1
            self._settle(effect, "dropped", "shutdown")
        while self._queue:
            self._settle(self._queue.popleft(), "dropped", "shutdown")

    def _start_next(self) -> None:
        """Starts one effect, which starts the next: trio runs tasks of one turn in any order."""
        if (
            self._starting
            or not self._queue
            or self._tasks is None
            or self.ledger.in_flight >= self._options.concurrency
        ):
            return
        self._starting = effect = self._queue.popleft()
        self.ledger.in_flight += 1
        assert isinstance(effect, CallEffect)  # noqa: S101 - events go to lanes
        assert effect.context is not None  # noqa: S101 - it starts once
        # let go of here: a context holds the effect that scheduled this one, and that one's context the one before it
        context, effect.context = effect.context, None
        start_in(context, self._tasks, self._run, effect)

    async def _run(self, effect: Effect) -> None:
        self._starting = None
        self._running.add(effect)
        self._start_next()
        running_effect.set(effect)
        span = call_span(effect)
        started = anyio.current_time()
        timeout = self._options.timeout if effect.timeout is None else effect.timeout
        result: Result = "dropped"
        reason = "shutdown"
        failure: BaseException | None = None
        bounds = anyio.CancelScope(deadline=started + timeout)
        try:
            with bounds:
                await self._call(effect)
            if bounds.cancelled_caught:
                failure = AttemptTimeout(f"not done within {timeout:g} s")
                result, reason = "expired", f"timeout: {failure}"
            else:
                result, reason = "delivered", ""
        except BaseException as error:
            if must_go_on(error):
                raise
            failure = error  # SystemExit and a foreign cancellation too: one effect must not stop the others
            result, reason = "rejected", summary_of(error)
            if bounds.cancel_called:  # it was what it did about its cancellation that failed
                result, reason = "expired", f"timeout: not done within {timeout:g} s, then {reason}"
        finally:
            self.ledger.took(anyio.current_time() - started)
            self.ledger.in_flight -= 1
            self._running.discard(effect)
            self._before_settling()
            self._settle(effect, result, reason, failure, attempts=1)
            span.end(reason, failure)  # after it, for what the log says of it belongs to its trace
            if reason != "shutdown":
                self._start_next()

    async def _call(self, effect: Effect) -> None:
        if effect.awaitable is not None:
            await effect.awaitable
            return
        call: Any = effect.call
        outcome = call(*effect.args) if is_async_callable(call) else await self._threads.run(call, *effect.args)
        if inspect.isawaitable(outcome):  # a plain function may return one too: `lambda: send(x)`
            await outcome

    def _settle(
        self, effect: Effect, result: Result, reason: str, error: BaseException | None = None, attempts: int = 0
    ) -> None:
        self.ledger.settle(result, reason, 1)
        if attempts == 0:
            effect.discard()
        if result != "delivered" or self._reporter.observes:
            self._reporter.report(
                Settled(
                    sink=CALLABLES,
                    result=result,
                    name=effect.label,
                    reason=reason,
                    attempts=attempts,
                    error=error,
                    call_site=effect.call_site,
                    request_id=effect.request_id,
                ),
                with_traceback=True,
            )
        if effect.cohort is not None:
            effect.cohort.leave()
