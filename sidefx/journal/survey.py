"""A look at the journal from outside, beside whatever runs: no segment that a process owns is opened."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidefx.errors import JournalError
from sidefx.journal import lock
from sidefx.journal.keeper import status_of
from sidefx.journal.segment import Segment
from sidefx.journal.status import Status
from sidefx.report import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from sidefx.journal.directory import Directory
    from sidefx.journal.status import SegmentStatus
    from sidefx.options import JournalOptions


@dataclass(frozen=True, slots=True)
class Seen:
    """One segment."""

    name: str
    owned: bool
    """Whether a process has it."""
    owner: Status | None = None
    """What that process says; None where it says nothing: a replay, or one that has just started."""
    status: SegmentStatus | None = None
    """What is in it; None where that cannot be told."""
    unreadable: str = ""
    """Why it cannot be read."""
    silent: float = 0.0
    """Seconds since its owner has said that it is there, which it does each second."""

    @property
    def waiting(self) -> int:
        """Deliveries that have not settled."""
        return 0 if self.status is None else self.status.waiting


def survey(directory: Directory, options: JournalOptions) -> list[Seen]:
    """Every segment, the oldest first. One that nobody owns is opened, under its lock, and left as it was."""
    said = {segment.name: (owner, segment) for owner in living(directory) for segment in owner.segments}
    seen = []
    for path in directory.segments():
        if not lock.held(path.with_suffix(".lock")):
            unowned = _look_into(path, options)
            if unowned is not None:
                seen.append(unowned)
                continue
        if path.exists():
            owner, status = said.get(path.stem, (None, None))
            silent = 0.0 if owner is None else _silence(directory, owner)
            seen.append(Seen(path.stem, owned=True, owner=owner, status=status, silent=silent))
    return seen


def living(directory: Directory) -> list[Status]:
    """What the processes say that have a segment now, the latest word first."""
    owned = {path.stem for path in directory.segments() if lock.held(path.with_suffix(".lock"))}
    found, told_of = [], set[str]()
    for status in heard(directory):
        own = status.segments[0].name if status.segments else ""
        if own in owned and own not in told_of:  # else its process has ended, and the segment is another's by now
            found.append(status)
            told_of.update(segment.name for segment in status.segments)
    return found


def heard(directory: Directory) -> list[Status]:
    """All that processes have left word of, those that have ended included; the latest word first."""
    words = [Status.read(path.with_suffix(".json")) for path in directory.segments()]
    return sorted((word for word in words if word is not None), key=lambda word: word.at, reverse=True)


def _silence(directory: Directory, owner: Status) -> float:
    with suppress(OSError):
        return time.time() - (directory.path / f"{owner.segments[0].name}.json").stat().st_mtime
    return 0.0


def _look_into(path: Path, options: JournalOptions) -> Seen | None:
    """One that nobody seems to own; None where somebody has just taken it, or it has gone."""
    try:
        if path.stat().st_uid != os.geteuid():  # what is written here would be another user's
            return Seen(path.stem, owned=False, unreadable="it belongs to another user")
        segment = Segment.adopt(path, options)
        if segment is None:
            return None
        try:
            return Seen(path.stem, owned=False, status=status_of(segment))
        finally:
            segment.close()
    except FileNotFoundError:
        return None
    except (sqlite3.Error, OSError, JournalError) as error:
        return Seen(path.stem, owned=False, unreadable=one_line(error))
