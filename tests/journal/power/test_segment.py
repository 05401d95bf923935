"""The journal's file and its writer under power cuts."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Literal
from uuid import UUID

import pytest

from sidefx.journal.segment import NewEvent, Segment
from sidefx.journal.writer import Writer
from sidefx.options import JournalOptions
from tests.journal.figures import figure
from tests.journal.power.cuts import Cuts, cut, laid_out, scratch
from tests.journal.power.disk import Disk, Image, everything
from tests.journal.power.scale import LONG, SEEDS
from tests.journal.power.vfs import Recorder

SINKS = ("audit", "mail")
ROUNDS = 30 if LONG else 6


def live(recorder: Recorder, synchronous: Literal["FULL", "NORMAL"], random: Random, rounds: int) -> None:
    """Two lives of a segment, the second after a clean end: events, leases and settlements, in any mixture."""
    options = JournalOptions(path=recorder.root, synchronous=synchronous)
    path = recorder.root / "one.sqlite"
    pending: list[tuple[int, UUID, str]] = []
    for begin in (Segment.create, Segment.adopt):
        segment = begin(path, options)
        assert segment is not None
        writer, leased = Writer(segment, options), list[tuple[int, UUID, str]]()
        for _ in range(rounds):
            for id_, uuid, sink in [each for each in leased if random.random() < 0.5]:
                recorder.mark("delivered", (uuid, sink))
                writer.settle(segment, sink, [id_])
                leased.remove((id_, uuid, sink))
            for each in [each for each in pending if random.random() < 0.3]:
                writer.lease(segment, each[2], [each[0]])
                leased.append(each)
                pending.remove(each)
            events = [new_event(random) for _ in range(random.choice((0, 0, 1, 1, 2, 5, 20)))]
            kept = writer.insert([(event, SINKS) for event in events]) if events else None
            writer.step()
            if kept is None:
                continue
            _, first, commit = kept
            assert commit.done, "a step commits"
            assert commit.error is None
            for id_, (uuid, *_rest) in enumerate(events, first):
                for sink in SINKS:
                    recorder.mark("acknowledged", (UUID(bytes=uuid), sink))
                    pending.append((id_, UUID(bytes=uuid), sink))
        segment.close()
        pending += leased


def new_event(random: Random) -> NewEvent:
    """One that fills a line or some pages."""
    json = random.randbytes(random.choice((100, 300, 6_000)))
    return (random.randbytes(16), "order.placed", json, time.time(), None, None, None, 0)


def found_in(image: Image) -> frozenset[object] | None:
    """What SQLite finds in the image: the deliveries that are still to come; None where it finds damage."""
    found = set[object]()
    with scratch() as root:
        for path in laid_out(image, Path(root)).glob("*.sqlite"):
            try:
                with closing(sqlite3.connect(path)) as connection:
                    connection.execute("PRAGMA synchronous = OFF")
                    if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                        return None
                    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'delivery'").fetchone():
                        query = "SELECT uuid, sink FROM delivery JOIN event ON event.id = event"
                        found |= {(UUID(bytes=uuid), sink) for uuid, sink in connection.execute(query)}
            except sqlite3.DatabaseError:
                return None
    return frozenset(found)


def lives_and_cuts(synchronous: Literal["FULL", "NORMAL"], *, deaf: bool = False, moments: int | None = None) -> Cuts:
    """What is lost when the power is cut in the lives of segments, one for each seed."""
    cuts = Cuts()
    for seed in SEEDS:
        with scratch() as root:
            recorder = Recorder(Path(root), deaf=deaf)
            with recorder.on():
                live(recorder, synchronous, Random(seed), ROUNDS)
        cuts += cut(recorder.tape, found_in, random=Random(seed), moments=moments)
    return cuts


@pytest.mark.contract("J04")
@pytest.mark.timeout(3_600 if LONG else 120)
def test_a_power_cut_takes_nothing_acknowledged_from_a_segment() -> None:
    """After each single step, whatever is left of what was not synced: every acknowledged delivery is in the file."""
    cuts = lives_and_cuts("FULL")
    figure(f"J04 segment, FULL:      {cuts}")
    assert (cuts.lost, cuts.damaged) == (0, 0), cuts.examples[0]
    assert cuts.acknowledged > 10_000


@pytest.mark.contract("J04")
@pytest.mark.timeout(3_600 if LONG else 120)
def test_without_syncs_at_commits_a_power_cut_does_take_some() -> None:
    """The control: `NORMAL` loses what was acknowledged, but damages nothing."""
    cuts = lives_and_cuts("NORMAL", moments=150)
    figure(f"J04 segment, NORMAL:    {cuts}")
    assert cuts.lost > 0
    assert cuts.damaged == 0, cuts.examples[0]


def test_a_disk_that_lies_about_syncs_takes_some_from_full_too() -> None:
    """The control of the rig: it is the syncs that keep what was acknowledged, and it is seen where they are not."""
    cuts = lives_and_cuts("FULL", deaf=True, moments=100)
    figure(f"J04 segment, no syncs:  {cuts}")
    assert cuts.lost > 0
    assert cuts.damaged > 0


def test_the_tape_has_all_that_was_done(tmp_path: Path) -> None:
    """Played to its end, it gives the files as they are; SQLite's own VFS is the default again."""
    recorder = Recorder(tmp_path)
    with recorder.on():
        live(recorder, "FULL", Random(3), ROUNDS)
    steps, disk = len(recorder.tape), Disk()
    for step in recorder.tape:
        disk.follow(step)
    assert disk.image(everything, Random()) == {Path("one.sqlite"): (tmp_path / "one.sqlite").read_bytes()}
    with closing(sqlite3.connect(tmp_path / "one.sqlite")) as connection:
        connection.execute("DELETE FROM event")
        connection.commit()
    assert len(recorder.tape) == steps
