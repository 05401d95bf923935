"""Threads that move one at a time, on virtual time: what they do, and in which order, is the same in every run.

A thread of these runs until it would wait: for a bell, a lock, another thread, a slow disk. Then the event loop goes
on, whose clock is the only one. So the journal's own threads are tested as they are, without their races being luck.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any, Self, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from tests.virtual_time import virtual_backend

T = TypeVar("T")
_STUCK_SECONDS = 60.0


class Killed(BaseException):
    """The thread is to end where it is, as it does when its process is killed."""


class Loop:
    """An event loop on virtual time, in a thread of its own, that goes on only while it is asked to."""

    def __init__(self, backend: str) -> None:
        name, options = virtual_backend(backend)
        self._orders: SimpleQueue[tuple[Callable[[], Awaitable[Any]], Future[Any]] | None] = SimpleQueue()
        self._opened = threading.Event()
        self._thread = threading.Thread(
            target=anyio.run,
            args=(self._main,),
            kwargs={"backend": name, "backend_options": options},
            name="the event loop",
            daemon=True,
        )
        self.tasks: TaskGroup
        self.pace: Pace

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._opened.wait(_STUCK_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.put(None)
        self._thread.join(_STUCK_SECONDS)
        assert not self._thread.is_alive()

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Has it run there; nothing there moves afterwards."""
        done: Future[T] = Future()
        self._orders.put((function, done))
        return done.result(_STUCK_SECONDS)

    async def _main(self) -> None:
        async with anyio.create_task_group() as self.tasks:
            self.pace = Pace(self.tasks)
            self._opened.set()
            while (order := self._orders.get()) is not None:  # blocks the loop: no time passes
                function, done = order
                try:
                    done.set_result(await function())
                except BaseException as error:  # noqa: BLE001 - whoever asked gets it
                    done.set_exception(error)
            self.pace.kill_all()
            self.tasks.cancel_scope.cancel()


class Pace:
    """What the threads of one event loop share: which of them runs, and what time it is."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.tasks = tasks
        self.threads: list[SteppedThread] = []
        self._time = 0.0
        self._loop = threading.get_ident()
        self._here = threading.local()
        self._pending: deque[Callable[[], object]] = deque()

    def as_module(self) -> SimpleNamespace:
        """What stands for `threading`."""

        def thread(*, target: Callable[[], object], name: str = "", daemon: bool = True) -> SteppedThread:
            return SteppedThread(self, target, owner=getattr(self.current(), "owner", None))

        ours = {"Thread": thread, "Lock": lambda: SteppedLock(self), "Event": lambda: SteppedEvent(self)}
        return SimpleNamespace(**vars(threading) | ours)

    def current(self) -> SteppedThread | None:
        """The one that runs; None in the event loop."""
        return getattr(self._here, "thread", None)

    def enter(self, thread: SteppedThread) -> None:
        """From now on this thread is that one."""
        self._here.thread = thread

    def now(self) -> float:
        """What the event loop's clock says, in any thread."""
        return self._time if self.current() else anyio.current_time()

    def look_at_the_clock(self) -> None:
        """In the event loop: a thread is about to go on."""
        self._time = anyio.current_time()

    def park(self, signal: Signal | None, seconds: float | None) -> bool:
        """Lets the event loop go on until the signal is given; False where that took longer than so many seconds."""
        thread = self.current()
        assert thread is not None, "the event loop itself would wait here, and nothing would go on"
        return thread.park(signal, seconds)

    def in_loop(self, call: Callable[[], object]) -> None:
        """Has it called in the event loop: now, or when this thread waits."""
        if threading.get_ident() == self._loop:
            call()
        else:
            self._pending.append(call)

    def catch_up(self) -> None:
        """What a thread wanted to be called in the event loop."""
        while self._pending:
            self._pending.popleft()()

    def kill(self, owner: object) -> None:
        """Ends all threads of that owner where they are."""
        for thread in [each for each in self.threads if each.owner is owner]:
            thread.kill()

    def kill_all(self) -> None:
        """Ends all of them."""
        for thread in tuple(self.threads):
            thread.kill()


class Signal:
    """Something that happens, time and again."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waiting: list[anyio.Event] = []

    def give(self) -> None:
        """It happens."""
        self._pace.in_loop(self._tell)

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()

    async def given(self) -> None:
        """Returns when it has happened the next time."""
        event = anyio.Event()
        self._waiting.append(event)
        await event.wait()


class SteppedThread:
    """As `threading.Thread`; a task of the event loop waits in its stead."""

    def __init__(self, pace: Pace, target: Callable[[], object], *, owner: object) -> None:
        self.owner = owner
        self.ended = Signal(pace)
        self.result: Any = None
        self.error: BaseException | None = None
        self._pace = pace
        self._target = target
        self._alive = self._killed = False
        self._wish: tuple[Signal | None, float | None] = (None, None)
        self._granted = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._bounds: anyio.CancelScope | None = None

    def start(self) -> None:
        self._alive = True
        self._pace.threads.append(self)
        threading.Thread(target=self._run, daemon=True).start()
        self._pace.in_loop(lambda: self._pace.tasks.start_soon(self._drive))

    def is_alive(self) -> bool:
        return self._alive

    def join(self, timeout: float | None = None) -> None:
        if self._alive:
            self._pace.park(self.ended, timeout)

    def park(self, signal: Signal | None, seconds: float | None) -> bool:
        """In the thread: waits."""
        if not self._killed:
            self._wish = signal, seconds
            self._back.release()
            self._go.acquire()
        if self._killed:
            raise Killed
        return self._granted

    def kill(self) -> None:
        """In the event loop, while it waits: ends it there."""
        if self._alive:
            self._killed = True
            if self._bounds is not None:
                self._bounds.cancel()
            self._step()

    async def _drive(self) -> None:
        with anyio.CancelScope() as self._bounds:
            while self._alive and self._step():
                signal, seconds = self._wish
                with anyio.move_on_after(float("inf") if seconds is None else seconds) as bounds:
                    await (anyio.sleep_forever() if signal is None else signal.given())
                self._granted = not bounds.cancelled_caught

    def _step(self) -> bool:
        """Lets it run until it waits or ends; whether it is still there."""
        self._pace.look_at_the_clock()
        self._go.release()
        assert self._back.acquire(timeout=_STUCK_SECONDS), "a thread waits for something that nobody here knows of"
        self._pace.catch_up()
        return self._alive

    def _run(self) -> None:
        self._go.acquire()
        self._pace.enter(self)
        try:
            if not self._killed:
                self.result = self._target()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever looks
            self.error = error
        finally:
            self._alive = False
            self._pace.threads.remove(self)
            self.ended.give()
            self._back.release()


class SteppedThreads:
    """As `DaemonThreads`: the threads in which an owner has things done."""

    def __init__(self, pace: Pace, owner: object) -> None:
        self._pace = pace
        self._owner = owner

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls it in a thread, and returns or raises what it does; None where the thread is killed meanwhile."""
        thread = SteppedThread(self._pace, lambda: function(*args), owner=self._owner)
        thread.start()
        await thread.ended.given()
        if thread.error is not None:
            raise thread.error
        return thread.result


class SteppedQueue:
    """As `queue.SimpleQueue`, for one reader."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._items: deque[object] = deque()
        self._arrival = Signal(pace)

    def put(self, item: object) -> None:
        self._items.append(item)
        self._arrival.give()

    def get(self, timeout: float | None = None) -> object:
        while not self._items:
            if not self._pace.park(self._arrival, timeout):
                raise Empty
        return self._items.popleft()

    def get_nowait(self) -> object:
        if not self._items:
            raise Empty
        return self._items.popleft()


class SteppedLock:
    """As `threading.Lock`."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._held = False
        self._free = Signal(pace)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        while self._held:
            if not blocking or not self._pace.park(self._free, None if timeout < 0 else timeout):
                return False
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        self._free.give()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SteppedEvent:
    """As `threading.Event`."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._is_set = False
        self._set = Signal(pace)

    def set(self) -> None:
        self._is_set = True
        self._set.give()

    def wait(self, timeout: float | None = None) -> bool:
        if not self._is_set:
            self._pace.park(self._set, timeout)
        return self._is_set
