"""`Disk`: follows what was done to files, and says what a power cut at that moment may leave of it.

What was synced is there. Of the rest, any part may be: file systems and disks write in an order of their own, a sector
at a time. The bytes of a file are kept by a sync of the file, its name by one of the directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from random import Random
from typing import TypeAlias

SECTOR = 512


@dataclass(frozen=True, slots=True)
class Write:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """All that was written to this file before is on disk."""

    file: int


@dataclass(frozen=True, slots=True)
class Create:
    """The name leads to this file from here on; to a directory where it is None."""

    path: PurePath
    file: int | None


@dataclass(frozen=True, slots=True)
class Delete:
    path: PurePath


@dataclass(frozen=True, slots=True)
class SyncDirectory:
    """What was created and deleted in this directory before, is so on disk."""

    path: PurePath


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that the test saw happen: no business of the disk."""

    what: str
    whom: object


Change: TypeAlias = Write | Truncate | Create | Delete
"""What waits for a sync."""
Step: TypeAlias = Change | Sync | SyncDirectory | Mark
Image: TypeAlias = dict[PurePath, bytes]
"""The files that a power cut leaves, relative to the root."""
Loss: TypeAlias = Callable[[Sequence[Change], Random], Iterable[Change]]
"""Which of the changes that nothing had synced are on disk all the same."""


class Disk:
    """What is on it for certain, and what waits for a sync."""

    def __init__(self) -> None:
        self._files: dict[int, bytearray] = {}
        self._names: dict[PurePath, int | None] = {}
        self.waiting: list[Change] = []

    def follow(self, step: Step) -> None:
        """Does what was done."""
        match step:
            case Sync(synced):
                self._settle(lambda change: isinstance(change, Write | Truncate) and change.file == synced)
            case SyncDirectory(synced):
                self._settle(lambda change: isinstance(change, Create | Delete) and change.path.parent == synced)
            case Mark():
                pass
            case _:
                self.waiting.append(step)

    def image(self, loss: Loss, random: Random) -> Image:
        """What the cut leaves; a file whose name, or whose directory's, is lost is not to be seen."""
        files = {file: bytearray(content) for file, content in self._files.items()}
        names = dict(self._names)
        _apply(loss(self.waiting, random), files, names)
        return {
            path: bytes(files.get(file, b""))
            for path, file in names.items()
            if file is not None and all(parent in names for parent in path.parents[:-1])
        }

    def _settle(self, synced: Callable[[Change], bool]) -> None:
        _apply(filter(synced, self.waiting), self._files, self._names)
        self.waiting = [change for change in self.waiting if not synced(change)]


def _apply(changes: Iterable[Change], files: dict[int, bytearray], names: dict[PurePath, int | None]) -> None:
    for change in changes:
        match change:
            case Write(file, offset, data):
                content = files.setdefault(file, bytearray())
                content.extend(bytes(max(0, offset - len(content))))  # a hole reads as zeros
                content[offset : offset + len(data)] = data
            case Truncate(file, size):
                del files.setdefault(file, bytearray())[size:]
            case Create(path, file):
                names[path] = file
            case Delete(path):
                names.pop(path, None)


# --- what a power cut may leave of what waits ---------------------------------------------------------


def nothing(waiting: Sequence[Change], random: Random) -> Iterable[Change]:
    """The disk had written nothing by itself."""
    return ()


def everything(waiting: Sequence[Change], random: Random) -> Iterable[Change]:
    """It had written all: what `kill -9` leaves, too."""
    return waiting


def a_prefix(waiting: Sequence[Change], random: Random) -> Iterable[Change]:
    """It had written in order, and come so far."""
    return waiting[: random.randint(0, len(waiting))]


def some(waiting: Sequence[Change], random: Random) -> Iterable[Change]:
    """It had written in an order of its own; how much of it, varies."""
    share = random.random()
    return (change for change in waiting if random.random() < share)


def torn(waiting: Sequence[Change], random: Random) -> Iterable[Change]:
    """The same by the sector."""
    return some([part for change in waiting for part in _sectors(change)], random)


def _sectors(change: Change) -> Iterator[Change]:
    if not isinstance(change, Write):
        yield change
        return
    end = change.offset + len(change.data)
    edges = [change.offset, *range(change.offset - change.offset % SECTOR + SECTOR, end, SECTOR), end]
    for start, stop in pairwise(edges):
        yield Write(change.file, start, change.data[start - change.offset : stop - change.offset])


LOSSES: tuple[Loss, ...] = (nothing, everything, a_prefix, some, torn)
