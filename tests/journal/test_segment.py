"""The segment: one file of events, with a row for each sink that has not had its event."""

from __future__ import annotations

import itertools
import sqlite3
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidefx import JournalError
from sidefx.journal.segment import EventRow, Segment
from sidefx.options import JournalOptions
from tests.journal.remains import Counted, fill, left_behind, names, rows_in, sound, undecodable

KIB = 1_024
MIB = 1_024 * KIB


@pytest.fixture
def options(tmp_path: Path) -> JournalOptions:
    """As small as a segment may be bounded."""
    return JournalOptions(path=tmp_path, max_bytes=1_000_000)


@pytest.fixture
def segment(tmp_path: Path, options: JournalOptions) -> Iterator[Segment]:
    """A new one."""
    segment = Segment.create(tmp_path / "one.sqlite", options)
    yield segment
    segment.close()


def adopted(path: Path) -> Segment:
    """The one that is there, which nobody owns."""
    segment = Segment.adopt(path, JournalOptions(path=path.parent))
    assert segment is not None
    return segment


def counted(*numbers: int, text: str = "") -> list[Counted]:
    """Events of these numbers."""
    return [Counted(n=n, text=text) for n in numbers]


# --- making, opening, closing -------------------------------------------------------------------------


def test_a_new_one_is_there_and_locked(segment: Segment, tmp_path: Path) -> None:
    """With a log, without shared memory; nobody else gets it, and what opens the file all the same is refused."""
    fill(segment, counted(1))
    assert names(tmp_path) == {"one.sqlite", "one.sqlite-wal", "one.lock"}
    assert Segment.adopt(segment.path, JournalOptions(path=tmp_path)) is None
    looking = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM event')"
    looked = subprocess.run([sys.executable, "-c", looking, segment.path], capture_output=True, text=True, check=False)
    assert "database is locked" in looked.stderr


@pytest.mark.parametrize("killed", [True, False])
def test_what_somebody_has_left_is_all_there(killed: bool, tmp_path: Path) -> None:
    """Rows, attempts and leases, whether its process was killed or has ended in peace; new ids follow the old ones."""
    events = counted(1, 2, 3)
    path = left_behind(tmp_path, *events, sinks=("a", "b"), attempts=2, killed=killed)
    segment = adopted(path)
    assert segment.pending() == {"a": array("Q", [1, 2, 3]), "b": array("Q", [1, 2, 3])}
    assert segment.rows == {"a": 3, "b": 3}
    assert segment.leased == {"a": {1, 2, 3}, "b": {1, 2, 3}}
    assert sorted(segment.attempted()) == sorted(
        (event.id.bytes, sink, id_, 2) for id_, event in enumerate(events, 1) for sink in "ab"
    )
    assert fill(segment, counted(4), sinks=("a",)) == [4]
    assert [fetched.attempts for fetched in segment.fetch("a", [1, 4])] == [2, 0]
    segment.close()


def test_one_that_has_just_been_removed_is_nobodys(segment: Segment, tmp_path: Path) -> None:
    """Whoever looks for it then leaves no lock behind."""
    segment.close(remove=True)
    assert names(tmp_path) == set()
    assert Segment.adopt(segment.path, JournalOptions(path=tmp_path)) is None
    assert names(tmp_path) == set()


def test_one_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file nor a lock."""
    monkeypatch.setattr("sidefx.journal.segment._SCHEMA", "CREATE TABLE half (a); nonsense;")
    with pytest.raises(sqlite3.Error):
        Segment.create(tmp_path / "one.sqlite", JournalOptions(path=tmp_path))
    assert names(tmp_path) == set()


def foreign(path: Path, application: int, version: int) -> None:
    """Makes an SQLite file of somebody else's."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (text TEXT)")
    connection.execute("INSERT INTO theirs VALUES ('keep me')")
    connection.execute(f"PRAGMA application_id = {application}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(("application", "version"), [(0x73646678, 99), (0x12345678, 1), (0x73646664, 1)])
def test_a_file_of_another_version_or_of_another_program_is_left_alone(
    application: int, version: int, tmp_path: Path
) -> None:
    """What it holds is somebody's; the next one who wants it gets its lock."""
    path = tmp_path / "one.sqlite"
    foreign(path, application, version)
    for _ in range(2):
        with pytest.raises(JournalError, match="is no journal of this version of sidefx"):
            Segment.adopt(path, JournalOptions(path=tmp_path))
    assert sqlite3.connect(path).execute("SELECT text FROM theirs").fetchall() == [("keep me",)]


@pytest.mark.parametrize("content", [b"garbage" * 2_000, b"SQLite format 3\0" + bytes(4_080)])
def test_a_file_that_is_no_database_is_left_alone(content: bytes, tmp_path: Path) -> None:
    """It may be all that is left of something; the next one who wants it gets its lock."""
    path = tmp_path / "one.sqlite"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(sqlite3.DatabaseError):
            Segment.adopt(path, JournalOptions(path=tmp_path))
    assert path.read_bytes() == content


def test_one_whose_process_was_killed_while_it_made_it_is_empty(tmp_path: Path) -> None:
    """An empty file is what is left where the first transaction never was."""
    (tmp_path / "one.sqlite").touch()
    segment = adopted(tmp_path / "one.sqlite")
    assert segment.empty
    segment.close(remove=True)
    assert names(tmp_path) == set()


# --- rows ---------------------------------------------------------------------------------------------------


def test_an_event_is_kept_as_it_was_given(segment: Segment) -> None:
    """Every column, for each of its sinks; asked for in any order, it is given in that."""
    row = (bytes(range(16)), "a.kind\0", b'{"text": "\xff\x00"}', 1.5, "näme\n\0", 2.5, "file:1", 1)
    (first,) = fill(segment, [row], sinks=("a", "b"))
    (second,) = fill(segment, counted(2), sinks=("b",))
    for sink in ("a", "b"):
        (fetched,) = segment.fetch(sink, [first])
        assert fetched.event == EventRow(first, *row)
    assert [each.event.id for each in segment.fetch("b", [second, first, second, 99])] == [second, first, second]
    assert segment.fetch("a", [second]) == []
    assert segment.oldest() == 1.5


@pytest.mark.parametrize("size", [0, 1, 5 * KIB, 5 * MIB])
def test_an_event_may_be_of_any_size(size: int, tmp_path: Path) -> None:
    """It comes back byte by byte."""
    segment = Segment.create(tmp_path / "one.sqlite", JournalOptions(path=tmp_path))
    (id_,) = fill(segment, [undecodable(b"\xfe" * size)])
    assert segment.fetch("s", [id_])[0].event.json == b"\xfe" * size
    segment.close()


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 127, 200, 1_000, 2_047, 2_048, 2_049, 5_000])
def test_any_number_is_written_at_once(count: int, tmp_path: Path) -> None:
    """Kept, leased, fetched and settled, each once, whatever a statement can hold."""
    segment = Segment.create(tmp_path / "one.sqlite", JournalOptions(path=tmp_path))
    ids = fill(segment, counted(*range(count)), sinks=("a", "b"))
    with segment.transaction(synchronous="NORMAL"):
        segment.lease("a", ids)
    fetched = segment.fetch("a", ids)
    assert [each.event.id for each in fetched] == ids
    assert {each.attempts for each in fetched} == {1}
    assert {each.attempts for each in segment.fetch("b", ids)} == {0}
    with segment.transaction(synchronous="NORMAL"):
        segment.settle("a", ids)
        segment.settle("b", ids[:-1])
    assert segment.pending() == {"b": array("Q", ids[-1:])}
    assert [each.event.id for each in segment.fetch("b", ids)] == ids[-1:]
    segment.close()
    assert [(sink, event["n"]) for sink, _, _, event in rows_in(segment.path)] == [("b", count - 1)]


@pytest.mark.contract("J08")
def test_an_event_goes_with_the_last_of_its_deliveries(segment: Segment) -> None:
    """And not before; to settle it once more, or one that was never there, changes nothing."""
    ids = fill(segment, counted(1, 2), sinks=("a", "b"))
    for sink, left in (("a", ["b"]), ("a", ["b"]), ("b", [])):
        with segment.transaction(synchronous="NORMAL"):
            segment.settle(sink, [ids[0], 99])
        assert [sink for sink in ("a", "b") if segment.fetch(sink, [ids[0]])] == left
    assert not segment.empty
    with segment.transaction(synchronous="NORMAL"):
        for sink in ("a", "b"):
            segment.settle(sink, ids)
    assert segment.empty
    assert segment.oldest() is None


def test_a_transaction_that_fails_has_done_nothing(segment: Segment) -> None:
    """Neither in the file nor in the counts, and the next one is as any other."""
    ids = fill(segment, counted(1, 2), sinks=("a",))
    before = (segment.pending(), dict(segment.rows), dict(segment.leased))
    with pytest.raises(LookupError), segment.transaction(synchronous="FULL"):  # noqa: PT012 - what fails is the block
        segment.settle("a", ids[:1])
        segment.lease("a", ids[1:])
        raise LookupError
    row = (undecodable(b"x"), ("a",))
    with pytest.raises(sqlite3.IntegrityError), segment.transaction(synchronous="FULL"):  # noqa: PT012 - as above
        segment.settle("a", ids[:1])
        segment.insert(ids[1], [row])
    assert (segment.pending(), dict(segment.rows), dict(segment.leased)) == before
    with segment.transaction(synchronous="FULL"):
        segment.settle("a", ids[:1])
    assert segment.pending() == {"a": array("Q", ids[1:])}


def test_leases_are_counted_each_time(segment: Segment) -> None:
    """What is leased is on disk before the sink is called, and known of after a crash."""
    ids = fill(segment, counted(1, 2))
    for _ in range(3):
        with segment.transaction(synchronous="NORMAL"):
            segment.lease("s", ids[:1])
    segment.close()
    assert [(state, attempts) for _, state, attempts, _ in rows_in(segment.path)] == [("leased", 3), ("pending", 0)]


# --- size -----------------------------------------------------------------------------------------------------


@pytest.mark.contract("J07")
def test_one_that_is_full_says_so_and_has_room_again_once_something_has_settled(segment: Segment) -> None:
    """`max_bytes` bounds the file; what was written before stays, and settling needs no room."""
    ids: list[int] = []
    with pytest.raises(sqlite3.OperationalError, match="full"):  # noqa: PT012 - one of them
        for n in itertools.count():
            ids += fill(segment, counted(n, text="x" * 10 * KIB))
    assert 700 * KIB < len(ids) * 10 * KIB < 1_000_000
    assert segment.pending() == {"s": array("Q", ids)}
    with segment.transaction(synchronous="NORMAL"):
        segment.settle("s", ids[:-5])
    assert len(fill(segment, counted(*range(50), text="x" * 10 * KIB))) == 50
    segment.close()
    assert segment.path.stat().st_size <= 1_000_000


def test_a_look_whether_the_disk_takes_something_leaves_nothing(segment: Segment) -> None:
    """However often; where it does not, it says so."""
    for _ in range(200):
        segment.probe(64 * KIB)
    assert segment.bytes < 6 * MIB
    with pytest.raises(sqlite3.OperationalError, match="full"):
        segment.probe(2 * MIB)
    assert segment.empty


@pytest.mark.contract("J08")
def test_pages_that_are_free_for_good_are_given_back(tmp_path: Path) -> None:
    """The file shrinks to less than a tenth of what it was, and stays sound; a few free pages it keeps."""
    segment = Segment.create(tmp_path / "one.sqlite", JournalOptions(path=tmp_path))
    ids = [fill(segment, counted(*range(100), text="x" * 4 * KIB)) for _ in range(100)]
    for some in ids[1:]:
        with segment.transaction(synchronous="NORMAL"):
            segment.settle("s", some)
    full = segment.path.stat().st_size
    assert full > 35 * MIB
    for _ in range(8):
        segment.compact()
        fill(segment, counted(1))
    assert segment.bytes < 12 * MIB
    segment.close()
    assert MIB < segment.path.stat().st_size < 4 * MIB
    assert sound(segment.path)
    assert len(rows_in(segment.path)) == 100 + 8


def test_its_size_counts_the_log(segment: Segment) -> None:
    """What it takes of the disk, as `status` shows it."""
    before: Any = segment.bytes
    fill(segment, counted(1, text="x" * 100 * KIB))
    assert segment.bytes >= before + 100 * KIB
