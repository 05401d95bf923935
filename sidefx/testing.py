"""For tests: look at what a handler scheduled, run it step by step, and hold a sink to its contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, overload

import anyio

from sidefx.background import runs_on_asyncio
from sidefx.effect import Effect
from sidefx.events import Event
from sidefx.hosting import AsyncioHost, in_threads, opened
from sidefx.options import RetryOptions, SinkOptions
from sidefx.runtime import SideEffects
from sidefx.scope import running_effect, start_recording, stop_recording
from sidefx.sink import inspect_sink, is_async_callable
from sidefx.threads import DaemonThreads

__all__ = ["Capture", "capture", "check_sink"]

E = TypeVar("E", bound=Event)


class Capture(Sequence[Effect]):
    """What `after()` scheduled and the outcome of its request allowed, in order; nothing of it has run.

    Each item has `event`, or `call` (or `awaitable`) with `args`, and `name`, `when`, `timeout`, `request`.
    """

    def __init__(self) -> None:
        self._effects: list[Effect] = []
        self._next = 0

    @overload
    def __getitem__(self, index: int) -> Effect: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Effect]: ...
    def __getitem__(self, index: int | slice) -> Effect | Sequence[Effect]:
        return self._effects[index]

    def __len__(self) -> int:
        return len(self._effects)

    def __repr__(self) -> str:
        return f"<Capture of {', '.join(effect.label for effect in self._effects) or 'nothing'}>"

    def events(self, kind: type[E] = Event) -> list[E]:  # type: ignore[assignment]  # the default stands for "any"
        """The events of that class, in order."""
        return [effect.event for effect in self._effects if isinstance(effect.event, kind)]

    def calls(self, function: Callable[..., Any]) -> list[tuple[Any, ...]]:
        """The arguments of each scheduled call of that function, in order."""
        return [effect.args for effect in self._effects if effect.call == function]

    async def run(self, sinks: Mapping[str, object] | None = None) -> None:
        """Runs what was captured, one after another, and what that schedules in turn.

        Callables are called and awaitables awaited, each in the context of its `after()` call; events
        are given to those of `sinks` that take them. What has run is not run again by a second call.

        Raises:
            Exception: the first error of any of them, as it is; those after it have not run.
        """
        threads = DaemonThreads()
        deliveries = {name: inspect_sink(sink) for name, sink in (sinks or {}).items()}
        while self._next < len(self._effects):
            effect = self._effects[self._next]
            self._next += 1
            if effect.event is None:
                await _run_in_context(effect, threads)
                continue
            for event in _with_what_it_stands_for(effect.event):
                for spec in deliveries.values():
                    if spec.accepts(type(event)):
                        await in_threads(threads)(spec.deliver, [event] if spec.batch else event)

    def run_blocking(self, sinks: Mapping[str, object] | None = None) -> None:
        """`run` for synchronous tests, on an asyncio loop of its own."""
        anyio.run(self.run, sinks)

    def record(self, effects: Sequence[Effect]) -> None:
        """Takes what would have been released."""
        self._effects.extend(effects)

    def discard(self) -> None:
        """Closes coroutines that have not been run, so that nothing warns of them."""
        for effect in self._effects[self._next :]:
            effect.discard()


@contextmanager
def capture() -> Iterator[Capture]:
    """While the block lasts, effects of every thread are captured instead of run; no runtime is needed.

    An app under `SideEffectsMiddleware` starts no runtime meanwhile and reads no configuration.
    """
    captured = Capture()
    start_recording(captured)
    try:
        yield captured
    finally:
        stop_recording(captured)
        captured.discard()


def _with_what_it_stands_for(event: Event) -> Iterator[Event]:
    yield event
    for further in event.effects():
        yield from _with_what_it_stands_for(further)


async def _run_in_context(effect: Effect, threads: DaemonThreads) -> None:
    error: BaseException | None = None

    async def run() -> None:
        nonlocal error
        running_effect.set(effect)
        try:
            if effect.awaitable is not None:
                await effect.awaitable
            elif effect.call is not None:
                await in_threads(threads)(effect.call, *effect.args)
        except Exception as raised:  # noqa: BLE001 - raised again below, outside of the task group
            error = raised

    assert effect.context is not None  # noqa: S101 - after() captured one for every callable
    async with anyio.create_task_group() as tasks:
        effect.context.run(tasks.start_soon, run)
    if error is not None:
        raise error


async def check_sink(
    make: Callable[[], object],
    events: Sequence[Event],
    *,
    secrets: Sequence[str] = (),
    timeout: float = 30.0,
) -> None:
    """Holds a sink to the contract, against its real receiver: the suite that every built-in sink passes.

    Args:
        make: gives a new, unopened instance each time, such as `lambda: Slack(webhook=URL)`.
        events: at least two, of a type that the sink takes.
        secrets: strings that neither its repr nor its `vars()` may show.
        timeout: seconds for the whole check.

    Raises:
        AssertionError: which promise the sink breaks.
        SinkContractError: it is no sink.
    """
    assert len(events) > 1, "give check_sink at least two events"  # noqa: S101 - this function is for tests
    with anyio.fail_after(timeout):
        sink = make()
        spec = inspect_sink(sink)
        for event in events:
            assert spec.accepts(type(event)), f"{sink!r} does not take {event.kind} events"  # noqa: S101
        for secret in secrets:
            assert secret not in repr(sink), f"the repr of {type(sink).__qualname__} shows a secret"  # noqa: S101
            assert secret not in str(vars(sink)), f"{type(sink).__qualname__} holds a secret as a plain string"  # noqa: S101
        await _check_delivery(make(), events)
        await _check_reopening(make(), events)
        await _check_cancellation(make(), events)
        await _check_health(make())


async def _check_delivery(sink: object, events: Sequence[Event]) -> None:
    """Everything is delivered; delivered again, which happens after a crash, it is no error."""
    options = SinkOptions(concurrency=2, retry=RetryOptions(attempts=1))
    runtime = SideEffects({"sink": sink}, {"sink": options})
    async with runtime:
        for _ in range(2):
            for event in events:
                await runtime.emit(event)
            await runtime.flush()
    letters = [f"{letter.reason} {letter.error}" for letter in runtime.dead_letters]
    assert not letters, f"not every event was delivered, or not a second time: {letters}"  # noqa: S101


async def _check_reopening(sink: object, events: Sequence[Event]) -> None:
    """One instance can be closed and opened again, as a test client or a reload does."""
    for _ in range(2):
        async with SideEffects({"sink": sink}) as runtime:
            await runtime.emit(events[0])
            await runtime.flush()
            assert runtime.stats().sinks["sink"].delivered, "it delivers nothing after it was closed and opened again"  # noqa: S101


async def _check_cancellation(sink: object, events: Sequence[Event]) -> None:
    """A delivery that is cancelled ends, and leaves the sink usable."""
    spec = inspect_sink(sink)
    threads = DaemonThreads()
    payload: Any = list(events) if spec.batch else events[0]
    async with AsyncioHost(threads) as host:
        call = host.call if spec.asyncio_only and not runs_on_asyncio() else in_threads(threads)
        async with opened(sink, call):
            with anyio.CancelScope() as bounds:
                bounds.cancel()
                await call(spec.deliver, payload)
            await call(spec.deliver, payload)


async def _check_health(sink: object) -> None:
    """`check()`, where there is one, finds nothing wrong with a receiver that works."""
    check = getattr(sink, "check", None)
    if check is None:
        return
    threads = DaemonThreads()
    asyncio_only = inspect_sink(sink).asyncio_only
    async with AsyncioHost(threads) as host:
        call = host.call if asyncio_only and not runs_on_asyncio() else in_threads(threads)
        async with opened(sink, call):
            found = await call(check)
    assert found is None, f"check() returns {found!r}; it is to return None, or raise"  # noqa: S101
    assert is_async_callable(check) or not asyncio_only, "check() of an asyncio sink is to be async"  # noqa: S101
