"""`check_sink`: the suite that every sink passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from sidefx.event_loop import runs_on_asyncio
from sidefx.hosting import AsyncioHost, in_threads, opened
from sidefx.options import RetryOptions, SinkOptions
from sidefx.runtime import SideEffects
from sidefx.sink import inspect_sink, is_async_callable
from sidefx.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidefx.events import Event


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
