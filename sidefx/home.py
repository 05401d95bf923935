"""`Home`: where one sink lives while its runtime runs."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import anyio

from sidefx.cancellation import must_go_on
from sidefx.errors import SidefxError, SinkStartError
from sidefx.event_loop import runs_on_asyncio
from sidefx.hosting import in_threads, opened
from sidefx.report import indented_traceback, summary_of
from sidefx.sink import inspect_sink
from sidefx.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import TaskGroup, TaskStatus

    from sidefx.hosting import AsyncioHost, Caller

_log = logging.getLogger("sidefx")


class Home:
    """Opens one sink, calls it, and closes it: on this loop, in threads of its own, or on a hosted asyncio loop.

    Raises:
        SinkContractError: the object is no sink.
    """

    def __init__(self, name: str, sink: object) -> None:
        self.spec = inspect_sink(sink)
        self._name = name
        self._sink = sink
        self._threads = DaemonThreads()  # apart from the other sinks': one that hangs uses up its own
        self._call: Caller = in_threads(self._threads)

    @property
    def abandoned_threads(self) -> int:
        """Synchronous calls that still run, though nobody waits for them any more."""
        return self._threads.abandoned

    async def deliver(self, payload: Any) -> None:
        """Calls the sink, and raises what it raises."""
        await self._call(self.spec.deliver, payload)

    async def keep_open(
        self,
        host: AsyncioHost,
        closing: anyio.Event,
        opening_seconds: float,
        closing_seconds: float,
        *,
        task_status: TaskStatus[None],
    ) -> None:
        """Holds the sink open until `closing` is set: one task enters and leaves it, and a slow one delays no other.

        Raises:
            SinkStartError: it could not be opened, or not in that time.
        """
        hosted = self.spec.asyncio_only and not runs_on_asyncio()
        self._call = host.call if hosted else in_threads(self._threads)
        kind = type(self._sink).__qualname__
        with anyio.CancelScope(deadline=anyio.current_time() + opening_seconds) as bounds:
            try:
                async with opened(self._sink, self._call):
                    bounds.deadline = math.inf
                    task_status.started()
                    bounds.shield = True  # it is closed in peace, also where the event loop itself is ending
                    try:
                        await closing.wait()
                    finally:
                        bounds.deadline = anyio.current_time() + closing_seconds
            except BaseException as error:
                if must_go_on(error):
                    raise
                if not closing.is_set():
                    reason = str(error) if isinstance(error, SidefxError) else summary_of(error)
                    msg = f"sinks.{self._name}: {kind} could not be opened: {reason}"
                    raise SinkStartError(msg) from error
                _log.error(
                    "sinks.%s could not be closed: %s%s", self._name, summary_of(error), indented_traceback(error)
                )
        if bounds.cancelled_caught and not closing.is_set():
            msg = f"sinks.{self._name}: {kind} could not be opened within {opening_seconds:g} s, its timeout"
            raise SinkStartError(msg)
        if bounds.cancelled_caught:
            _log.error("sinks.%s: closing took longer than %g s and was given up", self._name, closing_seconds)


async def open_all(
    homes: Mapping[str, Home],
    tasks: TaskGroup,
    host: AsyncioHost,
    closing: anyio.Event,
    *,
    opening_seconds: Mapping[str, float],
    closing_seconds: float,
) -> None:
    """Opens them in tasks of that group, all at once: one that is slow keeps no other waiting.

    Raises:
        SinkStartError: some could not be opened; it names each of them.
    """
    failures: dict[str, SinkStartError] = {}

    async def open_one(name: str, home: Home) -> None:
        try:
            await tasks.start(home.keep_open, host, closing, opening_seconds[name], closing_seconds)
        except SinkStartError as error:
            failures[name] = error

    async with anyio.create_task_group() as opening:
        for name, home in homes.items():
            opening.start_soon(open_one, name, home)
    told = [failures[name] for name in homes if name in failures]
    if len(told) == 1:
        raise told[0]
    if told:
        msg = "\n  ".join([f"{len(told)} sinks could not be opened", *map(str, told)])
        raise SinkStartError(msg) from told[0]
