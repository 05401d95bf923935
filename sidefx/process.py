"""What happens to the process that runtimes run in: it forks, and it ends."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - its own hook at exit, which ends every executor, is to run after ours
import logging
import os
import threading
from contextlib import suppress
from typing import Protocol

_log = logging.getLogger("sidefx")


class Inhabitant(Protocol):
    """A runtime, as the process sees it."""

    def renew(self) -> object:
        """Makes it as new, in a forked child, and returns what it was: that is the parent's."""
        ...

    def end(self) -> None:
        """The interpreter exits: drains it where its event loop can still run, and lists what is left."""
        ...


_inhabitants: dict[Inhabitant, None] = {}
_parents: list[object] = []
"""What a forked child has inherited: kept, so that no finaliser of it speaks over a connection of the parent's."""


def started(runtime: Inhabitant) -> None:
    """It runs in this process from now on."""
    _inhabitants[runtime] = None


def ended(runtime: Inhabitant) -> None:
    """It has stopped."""
    _inhabitants.pop(runtime, None)


def _in_forked_child() -> None:
    runtimes = tuple(_inhabitants)
    _inhabitants.clear()
    _parents.extend([runtime.renew() for runtime in runtimes])


def _at_exit() -> None:
    for runtime in tuple(_inhabitants):
        try:
            runtime.end()
        except BaseException as error:  # noqa: BLE001 - a second interrupt too: the next runtime has its own drain
            _log.error("%r could not be drained at the interpreter's exit: %r", runtime, error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)

# `atexit` comes too late: by then executors are closed, through which asyncio resolves names, and since Python 3.12
# no thread can be started. This hook, which `concurrent.futures` has for the same reason, runs before that.
with suppress(RuntimeError):  # imported while the interpreter exits
    threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # noqa: SLF001 - see above
