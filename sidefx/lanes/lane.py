"""`Lane`: carries the events of one sink, from their arrival to their one `Settled` record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from sidefx.cancellation import must_go_on
from sidefx.errors import AttemptTimeout, PartialError, PermanentError, SidefxError
from sidefx.event_loop import clock_here
from sidefx.lanes.batch import Batcher
from sidefx.lanes.breaker import Breaker
from sidefx.lanes.intake import Intake
from sidefx.lanes.ledger import Ledger
from sidefx.lanes.rate import RateLimiter
from sidefx.lanes.retry import pause_after
from sidefx.report import one_line, summary_of
from sidefx.settled import Settled
from sidefx.tracing import delivery_span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from uuid import UUID

    from sidefx.effect import Effect
    from sidefx.lanes.window import Archive
    from sidefx.options import SinkOptions
    from sidefx.report import Reporter
    from sidefx.settled import Result


class SinkCancelledError(SidefxError):
    """The sink raised a cancellation although nobody had cancelled it."""


class Lane:
    """One sink's own way: nothing that happens here is felt elsewhere.

    `deliver` takes what the sink takes: one event, or a list of them where `batch` is set.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Any], Awaitable[object]],
        options: SinkOptions,
        reporter: Reporter,
        *,
        batch: bool,
        archive: Archive | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self.fallback: Lane | None = None
        self.ledger = Ledger()
        self._deliver = deliver
        self._takes_batches = batch
        self._reporter = reporter
        self.intake = Intake(name, options, self, reporter, archive)
        self.offer = self.intake.offer
        self._failing = False
        self._traced = False
        self.open()

    def open(self) -> None:
        """Readies what belongs to one event loop; the counts go on from where they were."""
        batch = self.options.batch if self._takes_batches else self.options.batch.model_copy(update={"max_events": 1})
        self._now = clock_here()
        self.intake.open()
        self._batcher = Batcher(
            self.intake.buffer,
            batch,
            max_event_bytes=self.options.max_event_bytes,
            reject=self._reject_unfit,
        )
        self._rate = RateLimiter(self.options.rate_limit) if self.options.rate_limit is not None else None
        self.breaker = Breaker(self.options.breaker)

    @property
    def queued(self) -> int:
        """Events that wait."""
        return self.intake.queued + len(self._batcher)

    @property
    def blocks(self) -> bool:
        """Whether whoever releases events to it is to wait for `room()`."""
        return self.intake.buffer.blocks

    @property
    def full(self) -> bool:
        """Whether its buffer would drop something for one more event."""
        return self.intake.buffer.full

    async def room(self) -> None:
        """Returns once its buffer is within its bound."""
        await self.intake.buffer.room()

    async def run(self) -> None:
        """Carries events until it is cancelled; `options.concurrency` of these run side by side."""
        while True:
            batch = await self._batcher.next()
            await self._carry(batch)

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Meanwhile no batch lingers."""
        batcher = self._batcher  # a runtime that is started again has another one
        batcher.hurry()
        try:
            yield
        finally:
            batcher.relax()

    def abandon(self) -> None:
        """The runtime ends: what has not been carried stays in the journal, or is dropped, counted."""
        self.intake.abandon(self._batcher.leftovers())

    # --- what its intake calls ----------------------------------------------------------------------

    def arrived(self) -> None:
        """Something waits."""
        self._batcher.wake()

    def drop(self, effects: Sequence[Effect], reason: str) -> None:
        """These end here, for that reason."""
        self._settle(effects, "dropped", reason)

    def refuse(self, effect: Effect, error: BaseException, *, show_event: bool) -> None:
        """Rejects what could not pass the filter or the redaction."""
        if not self.intake.redacts:
            self._settle([effect], "rejected", summary_of(error), error, show_event=show_event)
        else:  # the error may quote what the sink's log lines must not show
            reason = f"{type(error).__qualname__}: its text is withheld, for `redact` is set"
            self._settle([effect], "rejected", reason, PermanentError(reason), show_event=show_event)
        if isinstance(error, KeyboardInterrupt):
            raise error

    # --- from the first attempt to the end ------------------------------------------------------------

    async def _carry(self, batch: list[Effect]) -> None:
        """Attempts until every event of the batch has settled."""
        waiting = batch
        failures: dict[UUID, Exception] = {}
        self.ledger.in_flight += len(batch)
        attempts = before = batch[0].attempts  # what has been attempted before a crash travels alone
        started = self._now()
        try:
            if attempts >= self.options.retry.attempts:
                self._expire(waiting, failures, attempts, "the process ended during each attempt, or soon after it")
                return
            while waiting:
                until = self._expiry(waiting, started) if attempts > before else math.inf
                if not await self._may_attempt(until):
                    self._expire(waiting, failures, attempts, "the deadline passed")
                    return
                if attempts == before:
                    started = self._now()
                else:
                    self.ledger.retried += len(waiting)
                attempts += 1
                error = await self._attempt(waiting, attempts, self._expiry(waiting, started))
                failures = {} if error is None else _failures(waiting, error)
                self._tell_breaker(waiting, error, failures, attempts)
                waiting = self._sort_out(waiting, failures, attempts)
                if not waiting:
                    return
                pause = pause_after(attempts, failures.values(), self.options.retry)
                waiting = self._on_time(waiting, failures, attempts, started, pause)
                if waiting:
                    await anyio.sleep(pause)
        except Exception as error:  # noqa: BLE001 - a fault of sidefx itself: it costs these events, not the lane
            self._reporter.fault(self.name, error)
            self.breaker.give_back()
            self._end(waiting, "rejected", f"sidefx itself failed: {summary_of(error)}", error, attempts)
        except BaseException:
            self.ledger.in_flight -= len(waiting)
            self.intake.leave(waiting)
            raise

    def _expiry(self, effects: list[Effect], started: float) -> float:
        """When the last of them has used up its deadline."""
        return started + max(self._deadline(effect) for effect in effects)

    def _deadline(self, effect: Effect) -> float:
        return self.options.deadline if effect.timeout is None else min(effect.timeout, self.options.deadline)

    async def _may_attempt(self, until: float) -> bool:
        """Waits for the rate limit and the breaker; False where that, or the pause before it, took too long."""
        if self._now() >= until:  # a busy event loop ends a pause later than it was to end
            return False
        if self._rate is None and self.breaker.state == "closed":
            return True
        with anyio.CancelScope(deadline=until):
            while True:
                # the breaker first: a place in the rate that passes while it is open would be used later, in a burst
                probes = await self.breaker.admit()
                if self._rate is not None and (wait := self._rate.reserve(self._now())) > 0:
                    try:
                        await anyio.sleep(wait)
                    except BaseException:
                        if probes:
                            self.breaker.give_back()
                        raise
                if probes or self.breaker.state == "closed":
                    return True
        return False

    def _on_time(
        self, effects: list[Effect], failures: dict[UUID, Exception], attempts: int, started: float, pause: float
    ) -> list[Effect]:
        """Those that may be tried again after the pause; the others' deadline is over before that, so they expire."""
        resumes = self._now() + pause
        late = [effect for effect in effects if started + self._deadline(effect) <= resumes]
        self._expire(late, failures, attempts, f"the deadline passes before the next attempt, in {pause:.1f} s")
        return [effect for effect in effects if effect not in late] if late else effects

    async def _attempt(self, effects: list[Effect], number: int, until: float) -> Exception | None:
        """Calls the sink once, bounded and in a span of its own, and returns what it raised."""
        try:
            await self.intake.lease(effects)
        except BaseException:
            self.breaker.give_back()
            raise
        span = delivery_span(self.name, effects, number, batch=self._takes_batches)
        error: Exception | None = None
        reason = "shutdown"
        try:
            error = await self._call(effects, until)
            reason = "" if error is None else summary_of(error)
        finally:
            span.end(reason, error)
        return error

    async def _call(self, effects: list[Effect], until: float) -> Exception | None:
        started = self._now()
        limit = min(self.options.timeout, until - started)
        payload = [_event(effect) for effect in effects] if self._takes_batches else _event(effects[0])
        try:
            with anyio.CancelScope(deadline=started + limit) as bounds:
                await self._deliver(payload)
        except Exception as error:  # noqa: BLE001 - a sink raises what it likes, and the lane decides
            return _alone(error)
        except BaseException as error:
            if must_go_on(error):
                self.breaker.give_back()
                raise
            return SinkCancelledError(f"the sink raised {type(error).__name__}")
        finally:
            self.ledger.took(self._now() - started)
        return AttemptTimeout(f"no answer within {limit:g} s") if bounds.cancelled_caught else None

    def _sort_out(self, effects: list[Effect], failures: dict[UUID, Exception], attempts: int) -> list[Effect]:
        """Settles what the attempt has decided, and returns what is to be tried again."""
        if not failures:
            self._end(effects, "delivered", "", None, attempts)
            return []
        delivered: list[Effect] = []
        exhausted: list[Effect] = []
        again: list[Effect] = []
        for effect in effects:
            failure = failures.get(_event(effect).id)
            if failure is None:
                delivered.append(effect)
            elif isinstance(failure, PermanentError):
                self._end([effect], "rejected", one_line(failure) or "permanent error", failure, attempts)
            elif attempts >= self.options.retry.attempts:
                exhausted.append(effect)
            else:
                again.append(effect)
        self._expire(exhausted, failures, attempts, "the last attempt failed")
        if delivered:
            self._end(delivered, "delivered", "", None, attempts)
        return again

    def _expire(self, effects: list[Effect], failures: dict[UUID, Exception], attempts: int, reason: str) -> None:
        for effect in effects:
            failure = failures.get(_event(effect).id)
            why = reason if failure is None else f"{reason}: {summary_of(failure)}"
            self._end([effect], "expired", why, failure, attempts)

    def _tell_breaker(
        self, effects: list[Effect], error: Exception | None, failures: dict[UUID, Exception], attempts: int
    ) -> None:
        """A refusal and a partial delivery are answers too: only a sink that gives none is failing."""
        refused = any(isinstance(failure, PermanentError) for failure in failures.values())
        if error is None or refused or len(failures) < len(effects):
            self.breaker.succeed()
            if error is None:
                self._traced = False
                if self._failing:
                    self._failing = False
                    self._reporter.recovered(self.name)
            return
        if not self._failing and attempts < self.options.retry.attempts:
            self._reporter.failing(self.name, error, attempts, self.options.retry.attempts)
            self._failing = True
        if self.breaker.fail(self._now()):
            self._reporter.opened(self.name, self.options.breaker.reset, error)

    def _end(
        self, effects: Sequence[Effect], result: Result, reason: str, error: BaseException | None, attempts: int
    ) -> None:
        self.ledger.in_flight -= len(effects)
        self._settle(effects, result, reason, error, attempts)

    def _settle(
        self,
        effects: Sequence[Effect],
        result: Result,
        reason: str = "",
        error: BaseException | None = None,
        attempts: int = 0,
        *,
        show_event: bool = True,
    ) -> None:
        self.ledger.settle(result, reason, len(effects))
        given_up = result in {"rejected", "expired"}
        held = self.intake.held(effects)
        if held and not given_up:
            self.intake.settle(held)
        for effect in effects:
            if result != "delivered" or self._reporter.observes:
                self._reporter.report(
                    Settled(
                        sink=self.name,
                        result=result,
                        name=effect.label,
                        reason=reason,
                        attempts=attempts,
                        event=effect.event if show_event else None,
                        error=error,
                        call_site=effect.call_site,
                        request_id=effect.request_id,
                    ),
                    with_traceback=given_up and not (self._failing or self._traced),
                    then=partial(self.intake.settle, [effect]) if held else None,
                )
            original = self.intake.original(effect)
            if given_up:
                self._traced = True
                self._failing = self._failing or result == "expired"  # a refusal is an answer: the sink works
                if self.fallback is not None and not effect.replayed:
                    self.fallback.offer(original)
            if effect.cohort is not None:
                effect.cohort.leave()

    def _reject_unfit(self, effect: Effect, reason: str) -> None:
        self._settle([effect], "rejected", reason, PermanentError(reason))


def _event(effect: Effect) -> Any:
    return effect.event


def _alone(error: Exception) -> Exception:
    """The only error in a group: a sink's own task group wraps what it raises."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _failures(effects: list[Effect], error: Exception) -> dict[UUID, Exception]:
    """What failed, by event id: of a partial error what it names, of any other everything.

    Where a partial error names only events of some other batch, nobody knows what was delivered: a
    second delivery is better than none.
    """
    if isinstance(error, PartialError) and isinstance(failures := getattr(error, "failures", None), Mapping):
        ids = {_event(effect).id for effect in effects}
        named = {id_: failure for id_, failure in failures.items() if id_ in ids}
        if named or not failures:
            return named
    return {_event(effect).id: error for effect in effects}
