"""The buffer of a lane is a window over the journal: what does not fit into memory waits on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sidefx import BufferOptions, PermanentError, SinkOptions
from sidefx.journal.segment import Fetched, Segment
from tests.journal.remains import Counted, Sink, journaled, left_behind
from tests.waiting import until

pytestmark = pytest.mark.anyio


def window(size: int, when_full: str = "drop_newest", **options: object) -> SinkOptions:
    """A journaled lane that holds so many."""
    return SinkOptions(
        delivery="journal",
        buffer=BufferOptions(max_events=size, when_full=when_full),  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )


class Watching(Sink):
    """Sees how much of its lane is in memory."""

    buffer: Any = ()
    most = 0

    async def send(self, event: Counted) -> None:
        self.most = max(self.most, len(self.buffer))
        await super().send(event)
        self.most = max(self.most, len(self.buffer))


@pytest.mark.contract("L06", "L08", "D04")
@pytest.mark.parametrize("when_full", ["drop_newest", "drop_oldest", "block"])
@pytest.mark.parametrize("size", [1, 7, 50])
async def test_nothing_that_is_on_disk_is_ever_dropped(when_full: str, size: int, tmp_path: Path) -> None:
    """Far more than the buffer holds: in order, memory never beyond its bound, and a flush waits for all of it."""
    sink = Watching(held=True)
    async with journaled(tmp_path, lanes={"s": window(size, when_full)}, s=sink) as fx:
        sink.buffer = fx.engine.lanes["s"].intake.buffer
        for n in range(400):
            await fx.emit(Counted(n=n))
        assert fx.stats().sinks["s"].queued + fx.stats().sinks["s"].in_flight == 400
        sink.held = False
        await fx.flush(20)
        stats = fx.stats().sinks["s"]
    assert sink.given == list(range(400))
    assert (stats.delivered, stats.dropped) == (400, {})
    assert 0 < sink.most <= size


@pytest.mark.contract("L08", "J07")
@pytest.mark.parametrize("when_full", ["drop_newest", "drop_oldest"])
async def test_a_policy_holds_for_what_is_in_memory_only(
    when_full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the journal fails: what it has acknowledged stays, whatever comes after it."""
    sink = Sink(held=True)
    async with journaled(tmp_path, lanes={"s": window(4, when_full)}, s=sink) as fx:
        for n in range(5):
            await fx.emit(Counted(n=n))
        await until(lambda: sink.called == [0])

        def fails(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        writer = fx.engine.journal._writer  # type: ignore[union-attr]
        monkeypatch.setattr(writer.own, "insert", fails)  # type: ignore[union-attr]
        monkeypatch.setattr(writer.own, "probe", fails)  # type: ignore[union-attr]
        for n in range(10, 20):
            await fx.emit(Counted(n=n))
        sink.held = False
        await fx.flush(10)
        stats = fx.stats().sinks["s"]
        assert fx.stats().journal.degraded == 10  # type: ignore[union-attr]
        monkeypatch.undo()
    assert sink.given[:5] == list(range(5)), "the journal had acknowledged these"
    assert stats.dropped["full"] >= 6
    assert stats.accepted == 15 == stats.settled


@pytest.mark.contract("L10")
@pytest.mark.parametrize("delivery", ["journal", "memory"])
async def test_the_fallback_of_a_journaled_lane_gets_it_once(delivery: str, tmp_path: Path) -> None:
    """Whether that is journaled or not, also where the window had to leave it on disk."""
    fallback = Sink()
    lanes = {"s": window(2, fallback="f"), "f": SinkOptions(delivery=delivery, events=())}  # type: ignore[arg-type]
    failing = Sink(*[PermanentError("never")] * 20, held=True)
    async with journaled(tmp_path, lanes=lanes, s=failing, f=fallback) as fx:
        for n in range(20):
            await fx.emit(Counted(n=n))
        failing.held = False
        await fx.flush(10)
        assert fx.stats().sinks["f"].accepted == 20
        await until(lambda: len(fx.dead_letters) == 20)
    assert fallback.given == list(range(20))


async def test_a_row_that_cannot_be_read_for_a_while_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector in a segment of another process: what is new is delivered, and the rest once it can be read."""
    from sidefx.journal.segment import Segment
    from tests.journal.remains import left_behind

    bad = left_behind(tmp_path, Counted(n=1), Counted(n=2))
    fetch = Segment.fetch

    def fails(self: Segment, sink: str, ids: object) -> object:
        if self.path == bad:
            raise sqlite3.OperationalError("disk I/O error")
        return fetch(self, sink, ids)  # type: ignore[arg-type]

    monkeypatch.setattr(Segment, "fetch", fails)
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        for n in (3, 4):
            await fx.emit(Counted(n=n))
        await until(lambda: sink.given == [3, 4], within=8)
        monkeypatch.undo()
        await fx.flush(10)
        assert sink.given == [3, 4, 1, 2]


@pytest.mark.contract("J06")
async def test_rows_that_cannot_be_read_are_tried_again_while_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that reports errors for a while: what lies there is delivered once it does not."""
    broken = left_behind(tmp_path, Counted(n=1))
    left_behind(tmp_path, Counted(n=2))
    fetch, failed = Segment.fetch, list[Path]()

    def fails_at_first(segment: Segment, sink: str, ids: Sequence[int]) -> list[Fetched]:
        if segment.path == broken and len(failed) < 2:
            failed.append(segment.path)
            raise sqlite3.OperationalError("disk I/O error")
        return fetch(segment, sink, ids)

    monkeypatch.setattr(Segment, "fetch", fails_at_first)
    sink = Sink()
    async with journaled(tmp_path, lanes={"s": window(1)}, s=sink) as fx:
        await fx.flush(20)
        assert fx.stats().sinks["s"].delivered == fx.stats().sinks["s"].accepted == 2
    assert failed == [broken, broken]
    assert sink.given == [2, 1]
