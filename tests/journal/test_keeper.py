"""The keeper: what is done in the journal's house besides writing."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from sidefx import SinkOptions, after
from sidefx.journal.lock import FileLock
from sidefx.journal.segment import Segment
from tests.journal.figures import figure
from tests.journal.remains import Batches, Counted, Sink, journaled, left_behind, names, segments
from tests.waiting import until

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@pytest.mark.contract("J08")
async def test_the_file_is_as_large_as_what_is_undelivered(tmp_path: Path) -> None:
    """20,000 events of a kilobyte go through it, 500 at a time at most: it stays at those, and the log's own bound."""
    sink, largest = Batches(), 0
    async with journaled(tmp_path, s=sink) as fx:
        for start in range(0, 20_000, 500):
            async with fx.scope():
                for n in range(start, start + 500):
                    after(Counted(n=n, text="x" * 1_000))
            await fx.flush(20)
            largest = max(largest, fx.engine.journal._writer.own.bytes)  # type: ignore[union-attr]
        await until(lambda: not fx.engine.journal._writer.own.rows.total())  # type: ignore[union-attr]
    assert len(sink.given) == 20_000
    figure(f"J08 20,000 events of 1 kB, 500 undelivered at once: at most {largest / MIB:.1f} MiB")
    assert largest < 10 * MIB, "the log's bound of 4 MiB, what one transaction adds, and 500 events"
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.contract("J08")
async def test_a_file_that_was_large_shrinks_while_running(tmp_path: Path) -> None:
    """When what had piled up has been delivered."""
    sink = Sink(held=True)
    async with journaled(tmp_path, lanes={"s": SinkOptions(delivery="journal", concurrency=50)}, s=sink) as fx:
        own = fx.engine.journal._writer.own  # type: ignore[union-attr]
        for n in range(300):
            await fx.emit(Counted(n=n, text="x" * 50_000))
        assert own.bytes > 15 * MIB
        sink.held = False
        await fx.flush(20)
        await until(lambda: own.path.stat().st_size < 5 * MIB, within=15)
        assert own.bytes < 16 * MIB


async def test_it_says_how_things_stand(tmp_path: Path) -> None:
    """In a file beside the segment, within seconds of a change; it goes with the segment."""
    sink = Sink(held=True)
    left_behind(tmp_path, Counted(n=1))
    async with journaled(tmp_path, s=sink) as fx:
        for n in (2, 3):
            await fx.emit(Counted(n=n))
        own = fx.engine.journal._writer.own  # type: ignore[union-attr]

        def said() -> dict[str, object]:
            try:
                return json.loads(own.path.with_suffix(".json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]
            except (FileNotFoundError, ValueError):
                return {}

        def rows() -> list[object]:
            found = said().get("segments", [])
            return [each["sinks"] for each in found]  # type: ignore[attr-defined]

        one = {"s": {"pending": 0, "leased": 1}}
        await until(
            lambda: (
                rows()
                in (
                    [{"s": {"pending": 2, "leased": 0}}, one],
                    [{"s": {"pending": 1, "leased": 1}}, {"s": {"pending": 1, "leased": 0}}],
                )
            )
        )
        assert said()["pid"] == os.getpid()
        assert said()["state"] == "ok"
        sink.held = False
        await until(lambda: rows() == [{}])
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.contract("J07")
async def test_a_file_that_somebody_removes_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was in it ends with this process, and is told of; new events are on disk again within seconds."""
    sink = Sink(held=True)
    async with journaled(tmp_path, s=sink) as fx:
        await fx.emit(Counted(n=1))
        first = fx.engine.journal._writer.own  # type: ignore[union-attr]
        for path in segments(tmp_path):
            path.unlink()
        await until(lambda: fx.engine.journal._writer.own is not first, within=8)  # type: ignore[union-attr]
        await fx.emit(Counted(n=2))
        assert len(segments(tmp_path)) == 1
        sink.held = False
        await fx.flush(10)
    assert sink.given == [1, 2]
    assert "the journal's file was removed" in caplog.text
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.contract("J05")
async def test_a_segment_is_adopted_as_soon_as_its_owner_has_gone(tmp_path: Path) -> None:
    """Not before, and within seconds."""
    path = left_behind(tmp_path, Counted(n=1))
    owner = FileLock.acquire(path.with_suffix(".lock"))
    assert owner is not None
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        keeper = fx.engine.journal._keeper  # type: ignore[union-attr]
        for _ in range(3):
            keeper.adopt()  # type: ignore[union-attr]
        assert keeper.adopted == []  # type: ignore[union-attr]
        owner.release()
        await until(lambda: sink.given == [1], within=8)
        await until(lambda: not path.exists(), within=8)
        assert fx.health().status == "ok"


async def test_only_one_thread_uses_an_adopted_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at one connection would wait for each other, the one with the interpreter's lock, and all else with it."""
    left_behind(tmp_path, Counted(n=1))
    threads, empty = set[str](), Segment.empty.fget

    def seen(segment: Segment) -> bool:
        threads.add(threading.current_thread().name)
        return bool(empty(segment))  # type: ignore[misc]

    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        with monkeypatch.context() as patch:
            patch.setattr(Segment, "empty", property(seen))
            await until(lambda: sink.given == [1])
            await until(lambda: fx.engine.journal._keeper.adopted == [], within=8)  # type: ignore[union-attr]
    assert threads == {"sidefx journal sidefx"}
