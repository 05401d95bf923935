"""The life of a small journal, in a process that is killed on its way; and a start with what such a one has left.

`live FOLDER` emits events, delivers them, replays a dead letter and stops. `recover FOLDER` starts in the same folder,
delivers what is there and stops; `mend FOLDER...` does so in several, where nothing is refused any more. All write down
what their sinks are given.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidefx import Event, JournalOptions, PermanentError, SideEffects, SinkOptions
from tests.journal.crash.zygote import serve

EVENTS = 8
REFUSED = 3
"""The event that its sink refuses, until it is mended: a dead letter, which is replayed then."""
PATIENCE = 20.0


class Noted(Event, kind="crash_test.noted"):
    """Something to deliver."""

    number: int


class One:
    """A sink that gets one event at a time."""

    def __init__(self, folder: Path, *, mended: bool = False) -> None:
        self._delivered = _appending(folder / "delivered")
        self.mended = mended

    async def send(self, event: Noted) -> None:
        if event.number == REFUSED and not self.mended:
            raise PermanentError("this one is refused")
        os.write(self._delivered, f"one {event.number} {event.id}\n".encode())


class Batches:
    """A sink that gets several."""

    def __init__(self, folder: Path) -> None:
        self._delivered = _appending(folder / "delivered")

    async def send_batch(self, events: Sequence[Noted]) -> None:
        for event in events:
            os.write(self._delivered, f"batches {event.number} {event.id}\n".encode())


class SmallLog(sqlite3.Connection):
    """Moves what is in the write-ahead log into the file after every few commits: 1,000 pages is a long life."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.execute("PRAGMA wal_autocheckpoint = 12")


def live(what: str, folders: Sequence[str]) -> None:
    """Does one of these."""
    sqlite3.connect = functools.partial(sqlite3.connect, factory=SmallLog)  # type: ignore[assignment]
    paths = list(map(Path, folders))
    asyncio.run(_live(paths[0]) if what == "live" else _recover_all(paths, mended=what == "mend"))


async def _live(folder: Path) -> None:
    seen = _appending(folder / "seen")

    async def emit(number: int) -> None:
        event = Noted(number=number)
        await fx.emit(event)
        os.write(seen, f"{number} {event.id}\n".encode())

    one = One(folder)
    async with _effects(folder, one) as fx:
        for number in range(EVENTS // 2):
            await emit(number)
        await asyncio.gather(*map(emit, range(EVENTS // 2, EVENTS)))
        await fx.flush(PATIENCE)
        one.mended = True
        await fx.replay()
        await fx.flush(PATIENCE)


async def _recover_all(folders: Sequence[Path], *, mended: bool) -> None:
    await asyncio.gather(*(_recover(folder, One(folder, mended=mended)) for folder in folders))


async def _recover(folder: Path, one: One) -> None:
    async with _effects(folder, one) as fx:
        await fx.flush(PATIENCE)
        letters = [(letter.sink, f"{letter.event.number}", f"{letter.event.id}") for letter in fx.dead_letters]
    (folder / "dead").write_text(json.dumps(letters), encoding="utf-8")


def _effects(folder: Path, one: One) -> SideEffects:
    journaled = SinkOptions(delivery="journal")
    return SideEffects(
        {"one": one, "batches": Batches(folder)},
        {"one": journaled, "batches": journaled},
        journal=JournalOptions(path=folder / "journal"),
    )


def _appending(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


if __name__ == "__main__":
    logging.getLogger("sidefx").setLevel(logging.CRITICAL)  # the refused event is no news
    serve(live)
