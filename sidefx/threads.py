"""Worker threads for synchronous code, which never keep the process alive.

anyio's own worker threads are joined when the interpreter exits, so one that hangs would keep the
process from ending; these are daemonic, and one whose caller has given up is left to itself.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import anyio

from sidefx.errors import SidefxError
from sidefx.event_loop import soon_in_this_loop

if TYPE_CHECKING:
    from collections.abc import Callable

_IDLE_SECONDS = 10.0


class TooManyHungThreadsError(SidefxError):
    """So many abandoned calls are still hanging in their threads that no more are started."""


class DaemonThreads:
    """A pool that grows as needed and shrinks when idle."""

    def __init__(self, *, max_abandoned: int = 64) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()  # one for all threads: jobs start in the order they came
        self._turn = threading.Lock()  # held from the taking of a job to its first step, or another would overtake it
        self._idle = threading.Semaphore(0)
        self._max_abandoned = max_abandoned
        self._lock = threading.Lock()
        self._abandoned = 0

    @property
    def abandoned(self) -> int:
        """Calls whose caller has given up and which still run."""
        return self._abandoned

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls the function in a thread, in a copy of this context, and returns or raises what it does.

        When cancelled, it leaves the call to itself and returns at once.

        Raises:
            TooManyHungThreadsError: too many abandoned calls have not come back.
        """
        if self._abandoned >= self._max_abandoned:
            msg = f"{self._abandoned} abandoned synchronous calls still hang in their threads; no more are started"
            raise TooManyHungThreadsError(msg)
        job = _Job(self, function, args)
        if not self._idle.acquire(blocking=False):  # the thread first: where none can be started, no job is left behind
            threading.Thread(target=self._work, name="sidefx-worker", daemon=True).start()
        self._jobs.put(job)
        try:
            await job.done.wait()
        except BaseException:
            job.abandon()
            raise
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # or the traceback would hold the job, and the job the traceback
        return job.result

    def _work(self) -> None:
        while True:
            self._turn.acquire()
            try:
                job = self._jobs.get(timeout=_IDLE_SECONDS)
            except Empty:
                self._turn.release()
                if self._idle.acquire(blocking=False):
                    return
                continue  # somebody counts on this thread: a job is on its way
            job.run(self._turn.release)
            del job
            self._idle.release()

    def _count(self, change: int) -> None:
        self._abandoned += change


class _Job:
    def __init__(self, pool: DaemonThreads, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._pool = pool
        self._function = function
        self._args = args
        self._context = copy_context()
        self._soon = soon_in_this_loop()
        self._finished = False
        self._abandoned = False
        self.done = anyio.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self, begun: Callable[[], None]) -> None:
        with self._pool._lock:  # noqa: SLF001 - the same module
            if self._abandoned:  # before it could begin: nobody wants it any more
                begun()
                self._pool._count(-1)  # noqa: SLF001
                return
        try:
            self.result = self._context.run(self._enter, begun)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, whatever it is
            self.error = error
        with self._pool._lock:  # noqa: SLF001 - the same module
            self._finished = True
            if self._abandoned:
                self._pool._count(-1)  # noqa: SLF001
                return
        with suppress(RuntimeError):  # the loop has gone, and with it whoever waited
            self._soon(self.done.set)

    def _enter(self, begun: Callable[[], None]) -> Any:
        begun()
        return self._function(*self._args)

    def abandon(self) -> None:
        with self._pool._lock:  # noqa: SLF001
            if not self._finished:
                self._abandoned = True
                self._pool._count(+1)  # noqa: SLF001
