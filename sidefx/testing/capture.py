"""`capture()`: what a handler scheduled, to look at and to run step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, overload

import anyio

from sidefx.background import start_in
from sidefx.effect import CallEffect, Effect
from sidefx.events import Event
from sidefx.hosting import in_threads
from sidefx.scope import running_effect, start_recording, stop_recording
from sidefx.sink import inspect_sink
from sidefx.threads import DaemonThreads

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

    @overload
    def events(self) -> list[Event]: ...
    @overload
    def events(self, kind: type[E]) -> list[E]: ...
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

    assert isinstance(effect, CallEffect)  # noqa: S101 - it has no event
    assert effect.context is not None  # noqa: S101 - nobody has started it
    async with anyio.create_task_group() as tasks:
        start_in(effect.context, tasks, run)
    if error is not None:
        raise error
