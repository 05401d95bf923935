"""What a process has left is delivered by the next one, or by one that lives."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sidefx import BatchOptions, BufferOptions, RetryOptions, SinkOptions
from sidefx.journal.dead import DeadStore
from sidefx.journal.writer import Writer
from sidefx.stats import SinkStats
from tests.journal.remains import (
    Batches,
    Counted,
    Sink,
    journaled,
    left_behind,
    names,
    rows_in,
    rows_of,
    segments,
    undecodable,
)
from tests.waiting import until

pytestmark = pytest.mark.anyio


def counted(*numbers: int) -> list[Counted]:
    """Events of these numbers."""
    return [Counted(n=n) for n in numbers]


def adds_up(stats: SinkStats) -> bool:
    """Whether nothing is missing, and nothing too much."""
    return stats.accepted == stats.settled + stats.queued + stats.in_flight


# --- at the start ---------------------------------------------------------------------------------------------


@pytest.mark.contract("J02", "L06")
@pytest.mark.parametrize("killed", [True, False])
async def test_what_a_dead_process_has_left_is_delivered_in_order(killed: bool, tmp_path: Path) -> None:
    """The older segment first; nothing of it is left afterwards."""
    left_behind(tmp_path, *counted(*range(300)), killed=killed)
    left_behind(tmp_path, *counted(*range(300, 310)), killed=killed)
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        await fx.flush(10)
        assert sink.given == list(range(310))
        await until(lambda: len(segments(tmp_path)) == 1)
        stats = fx.stats().sinks["s"]
        assert (stats.accepted, stats.delivered) == (310, 310)
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.contract("J02")
async def test_only_those_sinks_get_it_that_have_not_had_it(tmp_path: Path) -> None:
    """Per event and sink."""
    left_behind(tmp_path, *counted(1), sinks=("a",))
    left_behind(tmp_path, *counted(2), sinks=("a", "b"))
    a, b = Sink(), Sink()
    async with journaled(tmp_path, a=a, b=b) as fx:
        await fx.flush(10)
    assert (a.given, b.given) == ([1, 2], [2])


@pytest.mark.contract("J06")
async def test_what_was_under_way_travels_alone_and_gives_up_after_its_attempts(tmp_path: Path) -> None:
    """A poison event is charged by itself: the others are delivered, and those without attempts in a batch."""
    left_behind(tmp_path, *counted(1, 2), attempts=1)
    left_behind(tmp_path, *counted(66), attempts=3)
    left_behind(tmp_path, *counted(3, 4, 5))
    sink = Batches()
    once = SinkOptions(delivery="journal", retry=RetryOptions(attempts=3), batch=BatchOptions(max_events=10))
    async with journaled(tmp_path, lanes={"s": once}, s=sink) as fx:
        await fx.flush(10)
        await until(lambda: len(fx.dead_letters) == 1)
        (letter,) = fx.dead_letters
        assert (letter.result, letter.attempts) == ("expired", 3)
        assert letter.reason == "the process ended during each attempt, or soon after it"
        assert letter.event is not None
        assert letter.event.n == 66  # type: ignore[attr-defined]
    assert sink.batches[:2] == [[1], [2]]
    assert sorted(sink.given) == [1, 2, 3, 4, 5]
    assert len(sink.batches) <= 4


@pytest.mark.contract("J06", "J10")
@pytest.mark.parametrize(
    ("row", "sinks", "reason"),
    [
        (undecodable(b'{"x": 1}', kind="nobody.knows"), ("s",), "row of kind 'nobody.knows' cannot be read"),
        (undecodable(b"no json"), ("s",), f"row of kind '{Counted.kind}' cannot be read"),
        (undecodable(b'{"n": "no number"}'), ("s",), f"row of kind '{Counted.kind}' cannot be read"),
        (rows_of([Counted(n=5)])[0], ("gone",), "no sink named 'gone'"),
    ],
    ids=["kind", "json", "event", "sink"],
)
async def test_what_can_be_delivered_to_nobody_is_a_dead_letter(
    row: tuple[bytes, str, bytes, float, None, None, None, int], sinks: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    """With the reason and the JSON as it is; what came with it is delivered, and its row is gone."""
    left_behind(tmp_path, *counted(1), row, sinks=sinks)
    left_behind(tmp_path, *counted(2))
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        await until(lambda: 2 in sink.given and len(fx.dead_letters) == len(sinks) + (sinks == ("gone",)))
        dead = {letter.text: letter for letter in fx.dead_letters}
        letter = dead[row[2].decode()]
        assert reason in letter.reason
        assert letter.event_id.bytes == row[0]
        await until(lambda: len(segments(tmp_path)) == 1)
        assert adds_up(fx.stats().sinks["s"])
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.contract("J10")
async def test_what_was_for_a_sink_that_is_gone_can_be_replayed_to_another(tmp_path: Path) -> None:
    """Delivered once."""
    left_behind(tmp_path, *counted(1, 2), sinks=("gone",))
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        await until(lambda: len(fx.dead_letters) == 2)
        assert await fx.replay(sink="gone", to="s") == 2
        await fx.flush(10)
        assert len(fx.dead_letters) == 0
    assert sink.given == [1, 2]


async def test_a_sink_that_is_in_memory_by_now_gets_what_was_journaled_for_it(tmp_path: Path) -> None:
    """Its delivery was changed between two runs."""
    left_behind(tmp_path, *counted(1, 2))
    sink = Sink()
    async with journaled(tmp_path, lanes={"s": SinkOptions()}, s=sink) as fx:
        await fx.emit(Counted(n=3))
        await fx.flush(10)
        assert fx.stats().journal.committed == 0  # type: ignore[union-attr]
    assert sorted(sink.given) == [1, 2, 3]
    assert names(tmp_path) == {"dead.sqlite"}


def damage(path: Path, how: str) -> None:
    """Does that to a segment."""
    content = path.read_bytes()
    match how:
        case "garbage":
            path.write_bytes(os.urandom(len(content)))
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "a bad page":
            path.write_bytes(content[: 4096 * 8] + os.urandom(4096) + content[4096 * 9 :])
        case "another version":
            path.write_bytes(content[:60] + (99).to_bytes(4) + content[64:])


@pytest.mark.contract("J05", "J06")
@pytest.mark.parametrize("how", ["garbage", "truncated", "a bad page", "another version"])
async def test_a_damaged_segment_is_left_in_its_place_and_told(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once in the log, and in health as long as it is there; it keeps nobody from starting, or from anything else."""
    bad = left_behind(tmp_path, *[Counted(n=n, text="x" * 300) for n in range(200)], killed=False)
    damage(bad, how)
    content = bad.read_bytes()
    left_behind(tmp_path, *counted(1))
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        await fx.emit(Counted(n=2))
        await until(lambda: sorted(sink.given) == [1, 2])
        (reason,) = fx.health().reasons
        assert reason.startswith(f"journal: {bad.name} cannot be taken over: ")
    assert caplog.text.count("a segment of the journal cannot be taken over, and is left where it is") == 1
    assert bad.read_bytes() == content
    assert segments(tmp_path) == [bad]


async def test_a_segment_of_a_process_that_was_killed_as_it_made_it_is_removed(tmp_path: Path) -> None:
    """There was nothing in it yet; neither was there in one that is empty."""
    (tmp_path / "00000000000000000000000000000000.sqlite").touch()
    left_behind(tmp_path)
    async with journaled(tmp_path, s=Sink()) as fx:
        await until(lambda: len(segments(tmp_path)) == 1)
        assert fx.health().status == "ok"
    assert names(tmp_path) == {"dead.sqlite"}


# --- while running ------------------------------------------------------------------------------------------------


@pytest.mark.contract("J05")
async def test_two_that_live_share_what_a_third_has_left(tmp_path: Path) -> None:
    """Each segment is taken by one of them, within seconds, and what is in it is delivered once."""
    first, second = Sink(), Sink()
    async with journaled(tmp_path, s=first) as one, journaled(tmp_path, s=second) as other:
        assert one is not other
        for start in range(0, 60, 10):
            left_behind(tmp_path, *counted(*range(start, start + 10)))
        await until(lambda: len(first.given) + len(second.given) == 60, within=10)
        await until(lambda: len(segments(tmp_path)) == 2, within=10)
    assert sorted(first.given + second.given) == list(range(60))
    for sink in (first, second):
        assert all(len(set(sink.given) & set(range(start, start + 10))) in {0, 10} for start in range(0, 60, 10))
    assert names(tmp_path) == {"dead.sqlite"}


async def test_a_flush_waits_for_what_was_taken_over(tmp_path: Path) -> None:
    """It was accepted before the flush."""
    left_behind(tmp_path, *counted(*range(50)))
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        await fx.flush(10)
        assert sink.given == list(range(50))


# --- stopped and started again --------------------------------------------------------------------------------------


@pytest.mark.contract("D02", "L09", "J02")
async def test_a_runtime_that_is_started_again_delivers_what_it_had_to_leave(tmp_path: Path) -> None:
    """The counts add up all the while: what it left is not accepted twice."""
    from sidefx import JournalOptions, RuntimeOptions, SideEffects

    sink = Sink(held=True)
    lanes = {"s": SinkOptions(delivery="journal", buffer=BufferOptions(max_events=3), retry=RetryOptions(attempts=9))}
    fx = SideEffects(
        {"s": sink}, lanes, runtime=RuntimeOptions(drain_timeout=0.05), journal=JournalOptions(path=tmp_path)
    )
    for run in range(3):
        async with fx:
            for n in range(10):
                await fx.emit(Counted(n=10 * run + n))
            assert adds_up(fx.stats().sinks["s"])
            assert fx.stats().sinks["s"].accepted == 10 * (run + 1)
            if run == 2:
                sink.held = False
                await fx.flush(10)
        stats = fx.stats().sinks["s"]
        assert adds_up(stats)
        assert stats.dropped == {}
        if run < 2:
            assert stats.queued == 10 * (run + 1)
            kept = [event["n"] for path in segments(tmp_path) for *_, event in rows_in(path)]
            assert sorted(kept) == list(range(10 * (run + 1)))
    assert sorted(sink.given) == list(range(30))
    assert stats.delivered == stats.accepted == 30
    assert names(tmp_path) == {"dead.sqlite"}


async def test_an_idle_runtime_leaves_the_dead_letters_alone(tmp_path: Path) -> None:
    """No segment, no lock, no status, however often."""
    fx = journaled(tmp_path, s=Sink())
    for _ in range(3):
        async with fx:
            await until(lambda: any(path.suffix == ".json" for path in tmp_path.iterdir()))
        assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.contract("J10", "L11")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b'{"n": "no number", "text": "hunter2"}', '{"n":"no number","text":"[redacted]"}'),
        (b"hunter2, and no JSON", None),
    ],
)
async def test_a_row_that_cannot_be_read_shows_its_dead_letter_no_more_than_its_sink(
    text: bytes, shown: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What `redact` hides is in no letter and in no log line; what cannot be masked is not in it at all."""
    left_behind(tmp_path, undecodable(text))
    lane = SinkOptions(delivery="journal", redact=("text",))
    async with journaled(tmp_path, lanes={"s": lane}, s=Sink()) as fx:
        await until(lambda: len(fx.dead_letters) == 1)
    (letter,) = DeadStore(tmp_path / "dead.sqlite").newest()
    assert letter.text == shown
    assert "hunter2" not in caplog.text + repr(letter)


@pytest.mark.contract("J06")
@pytest.mark.parametrize(("sinks", "attempts"), [(("gone",), 0), (("s",), 1), (("s", "gone"), 1)])
async def test_a_row_without_a_sound_id_keeps_no_process_from_starting(
    sinks: tuple[str, ...], attempts: int, tmp_path: Path
) -> None:
    """A disk has damaged it: what else is in the file goes on."""
    sound_row = rows_of([Counted(n=1)])[0]
    left_behind(tmp_path, (b"x", *sound_row[1:]), sound_row, sinks=sinks, attempts=attempts)
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        await fx.flush(10)
        await until(lambda: not segments(tmp_path)[1:])
        assert len(fx.dead_letters) == 2 * ("gone" in sinks)
    assert sink.given == [1, 1] * ("s" in sinks)
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.contract("J06")
@pytest.mark.parametrize(
    "sinks",
    [
        *("", "[", "[]", "[1]", "null", "t", '"t"', '{"s": 1}', '["t"', ' ["s"]', '["s"] ', '["s",1]', '["s",["s"]]'),
        *(5, 1.5, b"t", b'["s"]', b'["\xff"]', "[" * 100_000),
    ],
    ids=range(19),
)
async def test_a_row_whose_sinks_cannot_be_read_becomes_a_dead_letter(sinks: object, tmp_path: Path) -> None:
    """A disk has damaged it: what else is in the file goes on, and nothing of it stays."""
    path = left_behind(tmp_path, *counted(1, 2), killed=False)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE event SET sinks = ? WHERE id = 1", (sinks,))
        if sinks == "t":  # what is no UTF-8, as text
            connection.execute("UPDATE event SET sinks = CAST(x'5b22ff225d' AS TEXT) WHERE id = 1")
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        await fx.flush(10)
        await until(lambda: not segments(tmp_path)[1:])
        assert len(fx.dead_letters) == 1
    assert sink.given == [2]
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.contract("J05")
async def test_what_a_process_takes_over_as_it_ends_is_left_to_the_next_one(tmp_path: Path) -> None:
    """A replay, or an adoption, that comes too late holds no lock."""
    async with journaled(tmp_path, s=Sink()) as fx:
        keeper = fx.engine.journal._keeper  # type: ignore[union-attr]
    left_behind(tmp_path, *counted(1))
    assert keeper is not None
    keeper._closing = False
    keeper.adopt()
    assert keeper.adopted == []
    sink = Sink()
    async with journaled(tmp_path, s=sink) as fx:
        await fx.flush(10)
    assert sink.given == [1]


@pytest.mark.contract("J07")
async def test_an_own_segment_that_is_damaged_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    """Nobody can tell whether it is empty, so it stays."""
    async with journaled(tmp_path, s=Sink()) as fx:
        await fx.emit(Counted(n=1))
        await fx.flush(5)
        writer: Writer = fx.engine.journal._writer  # type: ignore[union-attr,assignment]
        own = writer.own
        await writer.call(own._connection.close).finished()  # in its thread: SQLite closes nothing under a statement
    assert not fx.running
    assert own.path.exists()
