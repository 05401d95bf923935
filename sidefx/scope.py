"""`after()` and `Scope`: what is scheduled under a unit of work waits until that work is over."""

from __future__ import annotations

import inspect
import math
import os
import sys
import threading
from collections import deque
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Protocol, get_args

from sidefx.effect import CallEffect, Effect, When, describe
from sidefx.errors import NotRunningError
from sidefx.events import Event
from sidefx.tracing import span_here

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidefx.request import RequestInfo

_WHEN = frozenset(get_args(When))


class Barrier(Protocol):
    """Where events are taken down before what answers them goes on."""

    async def secured(self, effects: Sequence[Effect], *, refusable: bool = False) -> bool:
        """Returns when they are on disk, or cannot be; False where the response, not begun yet, is to be refused."""
        ...

    def secured_blocking(self, effects: Sequence[Effect], *, refusable: bool = False) -> bool:
        """The same, for a thread without event loop."""
        ...

    def void(self, effects: Sequence[Effect]) -> None:
        """These were taken down, and are not to happen."""
        ...


class Releaser(Protocol):
    """What a scope hands its effects to: a runtime."""

    @property
    def accepting(self) -> bool:
        """Whether effects may still be released to it: from its start to the end of its drain."""
        ...

    @property
    def gate(self) -> Barrier | None:
        """Where effects are taken down before what answers them goes on; None where nothing is journaled."""
        ...

    def release(self, effects: Sequence[Effect]) -> None:
        """Starts what may start, in order. Safe from any thread; never blocks, never raises."""
        ...


class Recorder(Protocol):
    """What takes effects in place of a runtime: `sidefx.testing.capture()`."""

    def record(self, effects: Sequence[Effect]) -> None:
        """Takes what would have been released."""
        ...


class Scope:
    """A unit of work — a request, a job, a message — whose effects wait until it is over.

    Effects may be added from any thread. Once closed it lets everything through at once.
    """

    __slots__ = (
        "_closed",
        "_fresh",
        "_make_request",
        "_making",
        "_process",
        "_request",
        "_runtime",
        "_succeeded",
        "_waiting",
        "gate",
        "name",
    )

    def __init__(
        self,
        runtime: Releaser,
        *,
        name: str | None = None,
        request: RequestInfo | None = None,
        make_request: Callable[[], RequestInfo] | None = None,
    ) -> None:
        self.name = name
        self._runtime = runtime
        self._request = request
        self._make_request = make_request
        self._waiting: deque[Effect] = deque()
        self._fresh: deque[Effect] | None = None
        self.gate = None if _recorders else runtime.gate
        """Where its effects are taken down before what answers it goes on; None where nothing is journaled."""
        self._closed = False
        self._succeeded = True
        self._making = threading.Lock()
        self._process = _process

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, and the scope its parent's: nothing added here would ever be released."""
        return self._process is not _process

    @property
    def request(self) -> RequestInfo | None:
        """The request that this scope is, or lies in; made when first asked for."""
        if self._make_request is not None:
            with self._making:  # threads of one request may ask at the same time
                if self._make_request is not None:
                    self._request = self._make_request()
                    self._make_request = None
        return self._request

    @property
    def request_made(self) -> bool:
        """Whether anybody has asked for the request yet; waits for a thread that is just making it."""
        with self._making:
            return self._request is not None

    def add(self, effect: Effect) -> None:
        """Keeps it until the scope is closed; lets it through where it is already.

        Raises:
            NotRunningError: the scope is closed and its runtime takes no more.
        """
        if self._closed and not self._runtime.accepting and not _recorders:
            effect.discard()
            msg = f"after({effect.label}): the runtime of this scope has ended its drain and takes no more effects"
            raise NotRunningError(msg)
        self._waiting.append(effect)
        if self._fresh is not None and effect.event is not None and not self._closed:
            self._fresh.append(effect)
        if self._closed:  # looked at after appending: whoever closes meanwhile finds it there, or we do
            self._let_through()

    def keep_fresh(self) -> None:
        """From now on events are told apart that no gate has seen."""
        self._fresh = deque()

    @property
    def fresh(self) -> bool:
        """Whether there are events that no gate has seen."""
        return bool(self._fresh)

    def take_fresh(self, *, succeeding: bool) -> list[Effect]:
        """Events that no gate has seen, and that will happen if the work goes on as it looks."""
        fresh: list[Effect] = []
        with suppress(IndexError):  # another thread, or task, takes them as well
            while self._fresh:
                fresh.append(self._fresh.popleft())
        return [effect for effect in fresh if effect.when == "always" or (effect.when == "success") is succeeding]

    def unsecured(self, *, succeeded: bool) -> list[Effect]:
        """The events that are about to be let through, and are in no journal yet."""
        if self.inherited:
            return []
        return [
            effect
            for effect in tuple(self._waiting)  # other threads may add to it meanwhile
            if effect.event is not None
            and effect.entry is None
            and (effect.when == "always" or (effect.when == "success") is succeeded)
        ]

    def drop(self, effects: Sequence[Effect]) -> None:
        """These are not to happen: the response that they were for has been refused."""
        for effect in effects:
            with suppress(ValueError):
                self._waiting.remove(effect)
        if self.gate is not None:
            self.gate.void(effects)

    def close(self, *, succeeded: bool = True, held: bool = False) -> list[Effect]:
        """The work is over: lets through what its outcome allows, in order, and returns that.

        `held` says that somebody then waits until there is room for them.
        """
        self._succeeded = succeeded
        self._closed = True
        return self._let_through(held=held)

    def _let_through(self, *, held: bool = False) -> list[Effect]:
        effects: list[Effect] = []
        voided: list[Effect] = []
        inherited = self.inherited
        while self._waiting:
            try:
                effect = self._waiting.popleft()
            except IndexError:  # another thread lets them through as well
                break
            if inherited:  # a forked child leaves it with the scope: they are the parent's to release
                continue
            if effect.when == "always" or (effect.when == "success") is self._succeeded:
                effect.held = held
                effects.append(effect)
            else:
                effect.discard()
                voided.append(effect)
        if voided and self.gate is not None:
            self.gate.void(voided)
        if effects:
            release(self._runtime, effects)
        return effects


_current: ContextVar[Scope | None] = ContextVar("sidefx_scope", default=None)
running_effect: ContextVar[Effect | None] = ContextVar("sidefx_effect", default=None)
"""The callable that is running in this context, if any."""

_process = object()
"""This process: a forked child has another one."""


def _in_forked_child() -> None:
    global _process  # noqa: PLW0603 - there is one process
    _process = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)

_running: list[Releaser] = []
_recorders: list[Recorder] = []


def current_scope() -> Scope | None:
    """The scope of this context."""
    return _current.get()


def enter_scope(scope: Scope | None) -> Scope | None:
    """Makes it the current one of this context and returns the one before.

    To leave it, enter the one before. A token is of no use here: it cannot be reset in another
    context, which is where generators and worker threads may find themselves.
    """
    before = _current.get()
    _current.set(scope)
    return before


def release(runtime: Releaser, effects: Sequence[Effect]) -> None:
    """Hands effects to the runtime, or to the innermost recorder while there is one."""
    try:
        recorder = _recorders[-1]
    except IndexError:
        runtime.release(effects)
    else:
        recorder.record(effects)


def announce(runtime: Releaser) -> None:
    """The runtime has started: `after()` without a scope may find it."""
    _running.append(runtime)


def withdraw(runtime: Releaser) -> None:
    """The runtime has ended."""
    if runtime in _running:
        _running.remove(runtime)


def start_recording(recorder: Recorder) -> None:
    """From now on, in every thread, effects go to the recorder."""
    _recorders.append(recorder)


def stop_recording(recorder: Recorder) -> None:
    """Ends `start_recording`."""
    _recorders.remove(recorder)


def is_recording() -> bool:
    """Whether effects go to a recorder, so that no runtime is needed."""
    return bool(_recorders)


def request() -> RequestInfo | None:
    """The request that the running code or effect belongs to; None outside of one.

    Inside an effect it is complete: status, duration and outcome of the response included.
    """
    scope = _current.get()
    return None if scope is None else scope.request


def after(
    effect: Event | Callable[..., Any] | Awaitable[Any],
    *args: Any,
    when: When = "always",
    name: str | None = None,
    timeout: float | None = None,
) -> None:
    """Schedules a side effect for when the response is over.

    Args:
        effect: an `Event` for the sinks, a sync or async callable, or an awaitable.
        *args: what the callable is called with.
        when: `always`; on `success` (a status below 400 was sent and the app did not raise); or on `error`.
        name: what logs and statistics call it; by default the event's kind or the function's name.
        timeout: seconds. Of a callable or awaitable, until it is cancelled (default: `callables.timeout`);
            of an event, for all attempts of each sink, where that is shorter than the sink's deadline.

    Outside of a request the effect is released at once to the runtime that is running.

    Raises:
        TypeError: `effect` is none of these, or arguments were given to what is not called.
        ValueError: `when` or `timeout` has no such value.
        NotRunningError: there is no running `SideEffects`, several without a scope, or its drain has ended.
    """
    if isinstance(effect, Event) and not args and timeout is None and when in _WHEN:
        scheduled = Effect(effect, when, name)
    else:
        scheduled = _effect_of(effect, args, when, name, timeout)
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to the caller's line
    scheduled.site, scheduled.offset = frame.f_code, frame.f_lasti
    scheduled.origin = span_here()
    if (parent := running_effect.get()) is not None:
        scheduled.cohort = parent.cohort
    scope = _current.get()
    if scope is None or scope.inherited:
        try:
            runtime = the_one_runtime(scheduled)
        except NotRunningError:
            scheduled.discard()
            raise
        if when == "error":  # what is in no unit of work fails with none
            scheduled.discard()
        else:
            release(runtime, (scheduled,))
        return
    if (request := scope.request) is not None:
        scheduled.bind(request)
    scope.add(scheduled)


def _effect_of(effect: object, args: tuple[Any, ...], when: When, name: str | None, timeout: float | None) -> Effect:
    try:
        _check_options(when, timeout)
        _check(effect, args)
    except (TypeError, ValueError):
        if inspect.iscoroutine(effect):
            effect.close()
        raise
    if isinstance(effect, Event):
        return Effect(effect, when, name, timeout)
    context = copy_context()
    if callable(effect):
        return CallEffect(call=effect, args=args, context=context, when=when, name=name, timeout=timeout)
    return CallEffect(awaitable=effect, context=context, when=when, name=name, timeout=timeout)  # type: ignore[arg-type]  # checked: it is awaitable


def _check_options(when: str, timeout: float | None) -> None:
    if when not in _WHEN:
        msg = f"after(when={when!r}): when is one of 'always', 'success' and 'error'"
        raise ValueError(msg)
    if timeout is not None and not 0 < timeout < math.inf:
        msg = f"after(timeout={timeout!r}): timeout is a number of seconds above 0"
        raise ValueError(msg)


def _check(effect: object, args: tuple[Any, ...]) -> None:
    if isinstance(effect, Event) and not args:
        return
    if isinstance(effect, type) and issubclass(effect, Event):
        name = effect.__qualname__
        msg = f"after() takes an instance of {name}, not the class; write after({name}(...))"
        raise TypeError(msg)
    if isinstance(effect, Event) or not callable(effect):
        if not isinstance(effect, Event) and not inspect.isawaitable(effect):
            given = "None" if effect is None else f"an object of type {type(effect).__qualname__}"
            msg = (
                f"after() takes an Event, a callable or an awaitable, not {given}; "
                "was a function called by mistake? Write after(function, argument)"
            )
            raise TypeError(msg)
        if args:
            msg = f"after({describe(effect)}): arguments are for callables; an event or an awaitable takes none"
            raise TypeError(msg)


def the_one_runtime(effect: Effect) -> Releaser:
    """Where an effect goes that lies in no scope: to the runtime that is running, or to a recorder.

    Raises:
        NotRunningError: there is none, or there are several.
    """
    running = [runtime for runtime in tuple(_running) if runtime.accepting]
    if _recorders or len(running) == 1:
        return running[0] if running else _NOBODY
    if not running:
        msg = (
            f"after({effect.label}): no SideEffects is running here. Wrap the app in "
            "sidefx.asgi.SideEffectsMiddleware and start it, or use `async with SideEffects(...)`; "
            "a forked process has none of its parent's; in tests, use sidefx.testing.capture()"
        )
        raise NotRunningError(msg)
    msg = (
        f"after({effect.label}): {len(running)} runtimes are running and this thread or task belongs to none; "
        "carry the scope into it with fx.bind(function)"
    )
    raise NotRunningError(msg)


class _Nobody:
    """Stands where only a recorder listens."""

    accepting = False
    gate = None

    def release(self, effects: Sequence[Effect]) -> None:
        raise NotImplementedError


_NOBODY = _Nobody()
