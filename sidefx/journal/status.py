"""`Status`: what a process says of its segments, in a file beside them, since nobody else may open them meanwhile."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


_BLOCK = 4_096


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class SinkRows(_Record):
    """The rows of one sink in one segment."""

    pending: int
    leased: int
    """Those whose sink is being called, or was when a process ended."""


class SegmentStatus(_Record):
    """One segment."""

    name: str
    bytes: int
    oldest: float | None
    """When its oldest event was journaled, as Unix time; None where it is empty."""
    sinks: dict[str, SinkRows]

    @property
    def waiting(self) -> int:
        """Deliveries that have not settled."""
        return sum(rows.pending + rows.leased for rows in self.sinks.values())


class Status(_Record):
    """One process and its segments, its own first."""

    pid: int
    runtime: str
    """The name of its `SideEffects`."""
    at: float
    """Unix time of this status."""
    state: Literal["ok", "failing"]
    reason: str
    segments: list[SegmentStatus]

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What is said there; None where nothing is, or nothing that can be read."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            return None

    def write(self, path: Path) -> None:
        """Writes it in one step, for its owner alone; on a full disk over the one before, which needs no room.

        Raises:
            OSError: it cannot be written.
        """
        text = self.model_dump_json().encode()
        text = text.ljust(-(-len(text) // _BLOCK) * _BLOCK)  # so that the next one has room in its place
        new = path.with_suffix(".new")
        with suppress(FileNotFoundError):
            new.unlink()
        try:
            _write(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), text)
            new.replace(path)
        except OSError:
            with suppress(FileNotFoundError):
                new.unlink()
            if path.stat().st_size < len(text):
                raise
            _write(os.open(path, os.O_WRONLY | os.O_CLOEXEC), text.ljust(path.stat().st_size))


def _write(descriptor: int, text: bytes) -> None:
    with open(descriptor, "wb", buffering=0) as file:
        if file.write(text) != len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
