"""SIGTERM and SIGINT, where no server tells of its end: they come first to what is to be drained."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class Drainable(Protocol):
    """What is to be drained before a signal reaches its handler."""

    @property
    def busy(self) -> bool:
        """Whether anything is queued or running."""
        ...

    def settle_then(self, callback: Callable[[], object]) -> None:
        """Calls it once what there is now has settled, or its time is over. Safe in a signal handler."""
        ...


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_EVENT_LOOPS = {"asyncio.unix_events", "uvloop.loop"}
"""Their placeholders do nothing: such a loop hears of a signal by itself, and at once. Granian hangs where it hears of
one again while it is ending."""
_drainables: WeakSet[Drainable] = WeakSet()
_handlers: dict[int, Any] = {}
"""Who handled a signal before us."""


def drain_first(drainable: Drainable) -> None:
    """Until `no_longer`, SIGTERM and SIGINT drain it and reach their handler then; a second one goes straight there.

    Without effect outside of the main thread, where nobody can handle signals.
    """
    _drainables.add(drainable)
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if handler not in {None, signal.SIG_IGN, _on_signal}:  # None: not Python's
            _handlers[number] = handler
            signal.signal(number, _on_signal)


def no_longer(drainable: Drainable) -> None:
    """It has ended: once nothing is left to drain, the signals are their handlers' again."""
    _drainables.discard(drainable)
    if not _drainables and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            _give_back(number)


def _on_signal(number: int, _frame: FrameType | None) -> None:
    heard = getattr(_handlers.get(number), "__module__", None) in _EVENT_LOOPS
    _give_back(number)
    busy = [drainable for drainable in _drainables if drainable.busy]
    left = len(busy)

    def settled() -> None:
        nonlocal left
        left -= 1
        if left == 0 and not heard:
            signal.raise_signal(number)

    for drainable in busy:
        drainable.settle_then(settled)
    if not busy and not heard:
        signal.raise_signal(number)


def _give_back(number: int) -> None:
    handler = _handlers.pop(number, None)
    if handler is not None and signal.getsignal(number) == _on_signal:
        signal.signal(number, handler)


def exit_on_sigterm() -> None:
    """Has SIGTERM end the process in order, as Ctrl-C does, where nobody handles it and it would end at once."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, lambda *_: None)  # it is ending: another one is not to interrupt the drain
    sys.exit(128 + number)
