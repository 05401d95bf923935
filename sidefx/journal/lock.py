"""`FileLock`: says which process owns a segment, until it ends in whatever way."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sidefx.journal.forks import inside

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

AVAILABLE = find_spec("fcntl") is not None
"""Whether this system has `flock`; Windows has not."""
fcntl: Any = import_module("fcntl") if AVAILABLE else None


class FileLock:
    """A lock that belongs to an open file (`flock(2)`): two runtimes of one process exclude each other, too."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        inside.keep(self)

    @classmethod
    @inside
    def acquire(cls, path: Path) -> Self | None:
        """The lock; None where somebody else has it. Makes the file, readable by its owner alone.

        Raises:
            OSError: the file cannot be made or opened.
        """
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError:
                os.close(descriptor)
                raise
            if _is_at(path, descriptor):
                return cls(path, descriptor)
            os.close(descriptor)  # it was removed between the two steps: that lock excludes nobody

    @inside
    def release(self, *, remove: bool = False) -> None:
        """Gives it back, and removes the file where nobody is to have it again. Idempotent."""
        if self._descriptor is not None:
            if remove:
                with suppress(FileNotFoundError):
                    self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = None
            inside.drop(self)

    def forget(self) -> None:
        """Closes it in a forked child; the lock stays with the parent."""
        self.release()


def held(path: Path) -> bool:
    """Whether somebody has the lock at this moment: a look, which makes no file and keeps nobody waiting.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look do not see each other
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
