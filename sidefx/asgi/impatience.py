"""Signals that come while the server is ending already: Ctrl-C cuts the drain short, SIGTERM does not."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import anyio

from sidefx.event_loop import soon_in_this_loop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextmanager
def interruptible() -> Iterator[anyio.CancelScope]:
    """SIGINT cancels the block, and goes on to whoever handled it before.

    Without effect outside of the main thread, where nobody can handle signals.
    """
    with anyio.CancelScope() as bounds:
        before = signal.getsignal(signal.SIGINT)
        if before is None or threading.current_thread() is not threading.main_thread():  # None: not Python's
            yield bounds
            return
        soon = soon_in_this_loop()

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            with suppress(RuntimeError):  # the loop has gone: another runtime's lifespan put us back too late
                soon(bounds.cancel)
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield bounds
        finally:
            if signal.getsignal(signal.SIGINT) is on_interrupt:
                signal.signal(signal.SIGINT, before)


@contextmanager
def unterminated() -> Iterator[None]:
    """A SIGTERM that nobody handles does not end the process in this block: it is ending in good order.

    Hypercorn sends one to each of its workers as soon as the first of them has ended.
    """
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: None)  # not SIG_IGN, which child processes would inherit
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
