"""Telling a cancellation that was meant for us from one that an effect or a sink has made itself."""

from __future__ import annotations

import sys

import anyio


def meant_for_this_task() -> bool:
    """Whether the running task is being cancelled, while a cancellation error is in the air.

    On asyncio, whoever awaits a task that somebody else has cancelled gets a `CancelledError` too,
    though nobody wants the awaiting task to stop. On trio only trio raises `Cancelled`.
    """
    if (asyncio := sys.modules.get("asyncio")) is None:
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no asyncio loop here: trio
        return True
    return task is None or task.cancelling() > 0


def must_go_on(error: BaseException) -> bool:
    """Whether who has caught it must raise it again: this task's own cancellation, or the program's end.

    Anything else that a user's code raises, `SystemExit` included, is a failure of that code alone.
    """
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return meant_for_this_task()
    return isinstance(error, (KeyboardInterrupt, GeneratorExit))
