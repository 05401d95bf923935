"""The writer: one thread, which commits together whatever waits, and what it does while the disk takes nothing."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import anyio
import pytest

from sidefx.effect import Effect
from sidefx.entry import Commit, Entry
from sidefx.journal.journal import Journal
from sidefx.journal.segment import Segment
from sidefx.journal.writer import Writer
from sidefx.options import JournalOptions
from tests.asgi.probe import eventually
from tests.journal.remains import Counted, fill, rows_in, rows_of, sound

ROOT = Path(__file__).parents[2]
WAL_HEADER, FRAME_HEADER, PAGE = 32, 24, 4096


def commits_in(path: Path) -> int:
    """Transactions in the segment's log since it was last checkpointed: https://sqlite.org/fileformat2.html#walformat."""
    log = path.with_name(f"{path.name}-wal").read_bytes()
    salts, commits = log[16:24], 0
    for start in range(WAL_HEADER, len(log), FRAME_HEADER + PAGE):
        _page, size_after_commit = struct.unpack_from(">II", log, start)
        commits += bool(size_after_commit) and log[start + 8 : start + 16] == salts
    return commits


class Faulty(Segment):
    """A segment on a disk that takes nothing for a while."""

    fault: Exception | None = None
    waits: threading.Event | None = None
    takes: float = 0.0
    """Seconds for each transaction."""

    @contextmanager
    def transaction(self, *, synchronous: str) -> Iterator[None]:
        if self.waits is not None:
            self.waits.wait(10)
        time.sleep(self.takes)
        with super().transaction(synchronous=synchronous):
            yield
            if self.fault is not None:
                raise self.fault


EIO = sqlite3.OperationalError("disk I/O error")


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[Faulty]:
    """The own one."""
    segment = Faulty.create(tmp_path / "own.sqlite", JournalOptions(path=tmp_path))
    yield segment
    segment.close()


@pytest.fixture
def writer(segment: Segment) -> Writer:
    """A writer that works in the test's own thread, step by step."""
    return Writer(segment, JournalOptions(path=segment.path.parent))


@pytest.fixture
def started(writer: Writer) -> Iterator[Writer]:
    """The same in a thread of its own."""
    writer.start()
    yield writer
    assert writer.close(10)


def insert(writer: Writer, *numbers: int, sinks: tuple[str, ...] = ("s",)) -> tuple[list[int], Commit]:
    """Has events written; their ids, and what to wait for."""
    _, first, commit = writer.insert([(row, sinks) for row in rows_of(Counted(n=n) for n in numbers)])
    commit.hurry()  # somebody will wait for it
    return list(range(first, first + len(numbers))), commit


def kept(writer: Writer, *numbers: int) -> list[int]:
    """The same, once they are on disk."""
    ids, commit = insert(writer, *numbers)
    assert commit.finished_blocking(10)
    assert commit.error is None
    return ids


# --- what is committed together ---------------------------------------------------------------------------


def test_all_that_waits_is_one_commit(writer: Writer, segment: Segment) -> None:
    """From however many callers, in the order in which they came."""
    before = commits_in(segment.path)
    waiting = [insert(writer, n) for n in range(50)]
    assert not any(commit.done for _, commit in waiting)
    writer.step()
    assert all(commit.done and commit.error is None for _, commit in waiting)
    assert commits_in(segment.path) - before == writer.commits == 1
    assert writer.committed == 50
    ids = [id_ for (id_,), _ in waiting]
    assert segment.pending() == {"s": array("Q", ids)} == {"s": array("Q", sorted(ids))}


def test_a_commit_has_about_a_thousand_events(writer: Writer) -> None:
    """So that the first of a flood need not wait for all of it."""
    waiting = [insert(writer, *range(30)) for _ in range(100)]
    written = []
    while not waiting[-1][1].done:
        writer.step()
        written.append(writer.committed)
    assert written == [1_020, 2_040, 3_000]


def test_many_threads_write_at_once(started: Writer, segment: Segment) -> None:
    """Each event is there, once, under the id that its caller was told; there are fewer commits than events."""

    def caller(number: int) -> list[tuple[int, int]]:
        found = []
        for n in range(number * 1_000, number * 1_000 + 100):
            ids = kept(started, n, n + 500)
            found += [(ids[0], n), (ids[1], n + 500)]
        return found

    with ThreadPoolExecutor(8) as threads:
        told = dict(pair for pairs in threads.map(caller, range(8)) for pair in pairs)
    assert len(told) == 8 * 200
    assert started.committed == 1_600
    assert started.commits < 800
    read = started.call(lambda: segment.fetch("s", list(told)))
    assert read.finished_blocking(10)
    found = {each.event.id: Counted.model_validate_json(each.event.json).n for each in read.result}
    assert found == told


def test_who_has_just_been_told_is_committed_with_who_waits(started: Writer, segment: Faulty) -> None:
    """On a slow disk, two callers out of step do not each wait for the other's commit as well."""
    segment.takes = 0.1
    rounds, first = 10, insert(started, 0)
    eventually(lambda: started._writing is not None)  # the first caller's commit is under way when the second comes

    def caller(number: int) -> None:
        for n in range(rounds):
            kept(started, number + n)

    with ThreadPoolExecutor(2) as threads:
        second = threads.submit(caller, 1_000)
        assert first[1].finished_blocking(10)
        caller(2_000)
        second.result(30)
    assert started.committed == 2 * rounds + 1
    assert started.commits <= 1.5 * rounds + 1, "it would be two for each round"


def test_what_has_settled_is_written_soon_and_with_company(started: Writer, segment: Segment) -> None:
    """Nobody waits for it, so it waits for others, milliseconds."""
    ids = kept(started, *range(200))
    before = commits_in(segment.path)
    for id_ in ids:
        started.settle(segment, "s", [id_])

    def emptied() -> bool:
        looked = started.call(lambda: segment.empty)
        return looked.finished_blocking(10) and bool(looked.result)

    eventually(emptied)
    assert 1 <= commits_in(segment.path) - before <= 20


def test_an_event_that_settles_before_it_is_written_is_gone_all_the_same(writer: Writer, segment: Segment) -> None:
    """A response was given up, or refused: what was on its way to the disk is void, and must not come back."""
    (first, second), _ = insert(writer, 1, 2)
    writer.settle(segment, "s", [first])
    (third,), commit = insert(writer, 3)
    while not commit.done:
        writer.step()
    writer.step()
    assert segment.pending() == {"s": array("Q", [second, third])}


def test_an_attempt_is_counted_before_whoever_leases_goes_on(started: Writer, segment: Segment) -> None:
    """Also in a segment of another process, and without waiting for events."""
    other = Segment.create(segment.path.with_name("other.sqlite"), JournalOptions(path=segment.path.parent))
    theirs = fill(other, [Counted(n=1)])
    ours = kept(started, 2)
    for owner, ids in ((other, theirs), (segment, ours)):
        assert started.lease(owner, "s", ids).finished_blocking(10)
        looked = started.call(lambda owner=owner, ids=ids: owner.fetch("s", ids))  # type: ignore[misc]
        assert looked.finished_blocking(10)
        assert [fetched.attempts for fetched in looked.result] == [1]
    started.settle(other, "s", theirs)
    assert started.close(10)
    other.close()
    assert rows_in(other.path) == []


# --- what is synced -----------------------------------------------------------------------------------------

LIFE = """
import sys
from pathlib import Path
from sidefx.journal.segment import Segment
from sidefx.journal.writer import Writer
from sidefx.options import JournalOptions
from tests.journal.remains import Counted, rows_of

options = JournalOptions(path=sys.argv[1], synchronous=sys.argv[2])
segment = Segment.create(Path(sys.argv[1], "own.sqlite"), options)
writer = Writer(segment, options)
writer.start()
print("begins", flush=True)
for n in range(20):
    _, id_, commit = writer.insert([(row, ("s",)) for row in rows_of([Counted(n=n)])])
    commit.finished_blocking(10)
    print("acknowledged", flush=True)
    writer.lease(segment, "s", [id_]).finished_blocking(10)
    print("leased", flush=True)
    writer.settle(segment, "s", [id_])
    writer.call(lambda: None).finished_blocking(10)
    while not writer.call(lambda: None).finished_blocking(10) or segment.rows["s"]: pass
    print("settled", flush=True)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.contract("J01")
@pytest.mark.parametrize(("synchronous", "expected"), [("FULL", 1), ("NORMAL", 0)])
def test_the_disk_is_waited_for_where_an_event_is_acknowledged_and_nowhere_else(
    synchronous: Literal["FULL", "NORMAL"], expected: int, tmp_path: Path
) -> None:
    """One sync of the log before each acknowledgement under `FULL`; none for attempts and what settles, or `NORMAL`."""
    trace = tmp_path / "trace"
    watched = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,fdatasync,write"]
    program = [sys.executable, "-c", LIFE, str(tmp_path), synchronous]
    subprocess.run([*watched, *program], cwd=ROOT, check=True, capture_output=True, timeout=60)
    syncs, found = 0, list[tuple[str, int]]()
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        if re.search(r"f(data)?sync\(\d+<[^>]*own\.sqlite", line):
            syncs += 1
        elif said := re.search(r'write\(1<[^>]*>, "(\w+)(\\n)?"', line):
            found.append((said[1], syncs))
            syncs = 0
    assert found[0][0] == "begins"
    assert found[1:] == [("acknowledged", expected), ("leased", 0), ("settled", 0)] * 20


# --- whatever happens, nobody waits for ever ----------------------------------------------------------------------


class Hiding(list[Any]):
    """Does something when it is looked into: as a finaliser may come in wherever memory is asked for."""

    def __init__(self, items: list[Any], then: Callable[[], object]) -> None:
        super().__init__(items)
        self._then = then

    def __iter__(self) -> Iterator[Any]:
        self._then()
        return super().__iter__()


def test_a_finaliser_may_settle_in_the_middle_of_an_insert(started: Writer, segment: Segment) -> None:
    """In the same thread: a response that nobody closed is collected, and what it had scheduled is void."""
    (old,) = kept(started, 1)
    rows = Hiding([(row, ("s",)) for row in rows_of([Counted(n=2)])], lambda: started.settle(segment, "s", [old]))
    inserted: list[Commit] = []
    inserting = threading.Thread(target=lambda: inserted.append(started.insert(rows)[2]), daemon=True)
    inserting.start()
    inserting.join(10)
    assert inserted, "it waits for itself"
    assert inserted[0].finished_blocking(10)
    assert started.close(10)
    assert segment.pending() == {"s": array("Q", [old + 1])}


@pytest.mark.contract("J07")
def test_a_log_handler_that_raises_ends_no_thread(started: Writer, segment: Faulty) -> None:
    """A log file on the same disk, say: who waits is told, and the journal works again afterwards."""

    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(28, "No space left on device")

    handler, log = Full(), logging.getLogger("sidefx.journal")
    log.addHandler(handler)
    try:
        segment.fault = EIO
        _, commit = insert(started, 1)
        assert commit.finished_blocking(10)
        assert commit.error == str(EIO)
        segment.fault = None
        eventually(lambda: started.failure is None)
        kept(started, 2)
    finally:
        log.removeHandler(handler)


@pytest.mark.contract("J01", "J07")
def test_what_waited_for_a_file_that_was_lost_is_not_taken_for_written(writer: Writer, segment: Segment) -> None:
    """What comes after that is, in the new file, and is in no commit with it."""
    (first,), lost = insert(writer, 1)
    new = Segment.create(segment.path.with_name("new.sqlite"), JournalOptions(path=segment.path.parent))
    writer.replace_own(new)
    (second,), commit = insert(writer, 2)
    while not commit.done:
        writer.step()
    assert lost.error == "the journal's file was lost"
    assert commit.error is None
    assert segment.pending() == {}
    assert new.pending() == {"s": array("Q", [second])}
    assert first == second == 1
    new.close()


@pytest.mark.contract("J07")
def test_a_disk_that_hangs_at_the_end_keeps_nobody_waiting(segment: Faulty) -> None:
    """Neither for a commit, within `timeout`, nor for what is to be read."""
    writer = Writer(segment, JournalOptions(path=segment.path.parent, timeout=0.2))
    writer.start()
    segment.waits = threading.Event()
    _, commit = insert(writer, 1)
    eventually(lambda: writer._writing is not None)
    asked = writer.call(lambda: segment.empty)
    assert not writer.close(0.05)
    assert commit.finished_blocking(10)
    assert commit.error == "the disk has not answered within 0.2 s"
    for call in (asked, writer.call(lambda: segment.empty)):
        assert call.finished_blocking(10)
        assert call.error == "the journal is closed"
    segment.waits.set()
    eventually(lambda: writer.closed)
    assert writer.close(10)


def test_nothing_is_called_once_it_is_closed(started: Writer) -> None:
    """Its thread has ended, and in another one it would meet whoever closes the file."""
    assert started.close(10)
    called: list[int] = []
    call = started.call(lambda: called.append(1))
    assert (call.done, call.error, called) == (True, "the journal is closed", [])


def test_what_settles_for_a_file_that_is_closed_is_no_failure(started: Writer, segment: Segment) -> None:
    """It was let go, empty, while somebody still held an event of it."""
    other = Faulty.create(segment.path.with_name("other.sqlite"), JournalOptions(path=segment.path.parent))
    theirs = fill(other, [Counted(n=1)])
    other.fault = EIO
    started.settle(other, "s", theirs)
    eventually(lambda: other in started.failures)
    started.call(other.close)
    started.call(lambda: started.forget(other))
    started.settle(other, "s", theirs)
    kept(started, 2)
    assert started.call(lambda: None).finished_blocking(10)
    assert started.failures == {}


# --- while the disk takes nothing -------------------------------------------------------------------------------


@pytest.mark.contract("J07")
@pytest.mark.parametrize(
    "fault", [EIO, OSError(28, "No space left on device"), ValueError("what nobody has thought of")]
)
def test_a_disk_that_takes_nothing_is_told_to_whoever_waits_and_found_to_work_again(
    fault: Exception, started: Writer, segment: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    """Until then nobody waits in vain; what settles meanwhile is taken down afterwards. One line each in the log."""
    settling = kept(started, 1, 2)
    segment.fault = fault
    _, commit = insert(started, 3)
    assert commit.finished_blocking(10)
    assert commit.error == str(fault)
    assert started.failure is not None
    assert started.failure.reason == str(fault)
    started.settle(segment, "s", settling[:1])
    for _ in range(3):
        _, refused = insert(started, 4)
        assert refused.done, "it does not wait"
        assert refused.error == str(fault)
        assert started.lease(segment, "s", settling[1:]).done
    segment.fault = None
    eventually(lambda: started.failure is None)
    ids = kept(started, 5)
    assert started.close(10)
    assert segment.pending() == {"s": array("Q", [settling[1], *ids])}
    levels = [(record.levelname, record.message.partition(":")[0]) for record in caplog.records]
    assert [level for level, _ in levels] == ["CRITICAL", "WARNING"]
    assert levels[0][1] == "the journal has failed, new events are not kept"
    assert "the journal works again" in levels[1][1]


@pytest.mark.contract("J07")
def test_what_an_adopted_segment_suffers_does_not_touch_new_events(started: Writer, segment: Segment) -> None:
    """It is told apart; what settles in it waits until it works again."""
    other = Faulty.create(segment.path.with_name("other.sqlite"), JournalOptions(path=segment.path.parent))
    theirs = fill(other, [Counted(n=1), Counted(n=2)])
    other.fault = EIO
    started.settle(other, "s", theirs[:1])
    eventually(lambda: started.failures)
    assert set(started.failures) == {other}
    assert started.failure is None
    kept(started, 3)
    other.fault = None
    eventually(lambda: not started.failures)
    assert started.close(10)
    assert other.pending() == {"s": array("Q", theirs[1:])}
    other.close()


@pytest.mark.contract("J07")
def test_a_segment_that_is_full_works_again_once_something_has_settled(tmp_path: Path) -> None:
    """What settles makes room, without a restart."""
    segment = Segment.create(tmp_path / "own.sqlite", JournalOptions(path=tmp_path, max_bytes=1_000_000))
    writer = Writer(segment, JournalOptions(path=tmp_path, max_bytes=1_000_000))
    writer.start()
    ids: list[int] = []
    while writer.failure is None:
        _, id_, commit = writer.insert([(row, ("s",)) for row in rows_of([Counted(text="x" * 10_000)])])
        assert commit.finished_blocking(10)
        ids += [id_] if commit.error is None else []
    assert writer.failure.reason == "database or disk is full"
    assert len(ids) > 70
    writer.settle(segment, "s", ids[10:])
    eventually(lambda: writer.failure is None)
    more = kept(writer, 1, 2)
    assert writer.close(10)
    assert segment.pending() == {"s": array("Q", [*ids[:10], *more])}
    segment.close()
    assert sound(segment.path)


def test_a_disk_that_hangs_is_nobodys_to_wait_for(segment: Faulty) -> None:
    """Whoever has waited for `timeout` is told; until the disk answers nobody waits, and what it wrote late is void."""
    writer = Writer(segment, JournalOptions(path=segment.path.parent, timeout=0.05))
    writer.start()
    segment.waits = threading.Event()
    _, hanging = insert(writer, 1)
    _, refused = insert(writer, 2)
    for commit in (hanging, refused):
        assert commit.finished_blocking(10)
        assert commit.error == "the disk has not answered within 0.05 s"
    assert insert(writer, 2)[1].done
    assert writer.failure is not None
    segment.waits.set()
    eventually(lambda: writer.failure is None)
    ids = kept(writer, 3)
    assert writer.close(10)
    assert segment.pending() == {"s": array("Q", ids)}


def test_a_name_that_is_no_whole_text_ends_nothing(started: Writer) -> None:
    """SQLite takes no half characters, as a client's JSON may have them: the thread lives through any row."""
    row = rows_of([Counted(n=1)])[0]
    _, _, commit = started.insert([((*row[:4], "half \ud800", *row[5:]), ("s",))])
    assert commit.finished_blocking(10)
    assert commit.error is not None
    eventually(lambda: started.failure is None)
    kept(started, 2)


# --- calls, and the end -----------------------------------------------------------------------------------------


def test_a_call_is_answered_between_commits(started: Writer, segment: Segment) -> None:
    """In the writer's thread, with what it returned, or what it raised."""
    thread = started.call(threading.current_thread)
    assert thread.finished_blocking(10)
    assert thread.result is not threading.current_thread()
    assert (thread.error, thread.result.name) == (None, "sidefx journal")
    fails = started.call(lambda: {}["missing"])
    assert fails.finished_blocking(10)
    assert fails.error == "KeyError: 'missing'"


def test_the_end_writes_what_waits(writer: Writer, segment: Segment) -> None:
    """Events and what has settled, of however many commits; afterwards every call is answered, and nothing is taken."""
    ids = [insert(writer, *range(700)) for _ in range(4)]
    for some, _ in ids[:2]:
        writer.settle(segment, "s", some)
    writer.start()
    assert writer.close(10)
    assert all(commit.done and commit.error is None for _, commit in ids)
    assert segment.pending() == {"s": array("Q", [*ids[2][0], *ids[3][0]])}
    late = writer.call(lambda: 1)
    assert late.done
    assert late.error == "the journal is closed"
    _, refused = insert(writer, 1)
    assert (refused.done, refused.error) == (True, "the journal is closed")
    assert writer.lease(segment, "s", [1]).done
    writer.settle(segment, "s", [1])


def test_one_that_was_never_started_can_be_closed(writer: Writer, segment: Segment) -> None:
    """A start that failed half-way ends so."""
    _, commit = insert(writer, 1)
    assert writer.close(10)
    assert commit.done
    assert not segment.empty


@pytest.mark.contract("J07")
def test_the_end_on_a_disk_that_takes_nothing_says_what_will_be_delivered_again(
    writer: Writer, segment: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    """It has been delivered, and nothing of that could be taken down."""
    ids, _ = insert(writer, 1, 2, 3)
    writer.start()
    eventually(lambda: writer.committed == 3)
    segment.fault = EIO
    writer.settle(segment, "s", ids[:2])
    eventually(lambda: writer.failure)
    assert writer.close(10)
    last = caplog.records[-1]
    assert last.levelno == logging.ERROR
    assert last.message.startswith("2 settled event(s) could not be taken down, and will be delivered again")
    segment.fault = None
    assert segment.pending() == {"s": array("Q", ids)}


def test_the_end_on_a_disk_that_works_by_then_takes_down_what_has_settled(
    writer: Writer, segment: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of it is delivered again."""
    writer.start()
    ids = kept(writer, 1, 2)
    segment.fault = EIO
    writer.settle(segment, "s", ids[:1])
    eventually(lambda: writer.failure)
    segment.fault = None
    assert writer.close(10)
    assert segment.pending() == {"s": array("Q", ids[1:])}
    assert "delivered again" not in caplog.text


def test_the_end_does_not_wait_for_a_disk_that_hangs(writer: Writer, segment: Faulty) -> None:
    """Longer than it was told to; it says that it is not over."""
    writer.start()
    segment.waits = threading.Event()
    _, hanging = insert(writer, 1)
    assert not writer.close(0.05)
    assert not hanging.done
    segment.waits.set()
    assert writer.close(10)
    assert hanging.done


def test_a_new_file_in_place_of_one_that_was_lost_takes_new_events(started: Writer, segment: Segment) -> None:
    """Who waits for the old one is told; the ids begin anew."""
    new = Segment.create(segment.path.with_name("new.sqlite"), JournalOptions(path=segment.path.parent))
    kept(started, 1, 2, 3)
    assert started.call(lambda: started.replace_own(new)).finished_blocking(10)
    owner, first, commit = started.insert([(row, ("s",)) for row in rows_of([Counted(n=4)])])
    assert commit.finished_blocking(10)
    assert (owner, first, commit.error) == (new, 1, None)
    assert started.close(10)
    new.close()
    assert [event["n"] for *_, event in rows_in(new.path)] == [4]


# --- what must hold of the numbers and the bell -----------------------------------------------------------


def test_a_number_that_is_skipped_moves_nobody_elses(writer: Writer, segment: Segment) -> None:
    """Whatever comes between taking numbers and keeping rows: each caller's number is its own row's."""
    told = [insert(writer, 1)[0][0]]
    segment.taken(1)
    told += [insert(writer, n)[0][0] for n in (2, 3)]
    for _ in range(2):
        writer.step()
    kept = [json.loads(fetched.event.json)["n"] for fetched in segment.fetch("s", told)]
    assert (told, kept) == ([1, 3, 4], [1, 2, 3])


@pytest.mark.anyio
async def test_leases_of_several_files_are_asked_for_at_once(tmp_path: Path) -> None:
    """None waits for another's commit before the writer hears of it."""
    rung: list[str] = []
    files = [Segment.create(tmp_path / f"{name}.sqlite", JournalOptions(path=tmp_path)) for name in ("a", "b")]
    commits = {segment: Commit(partial(rung.append, segment.path.stem)) for segment in files}
    journal = Journal(JournalOptions(path=tmp_path), "test", {"s": [None]})
    journal._writer = SimpleNamespace(lease=lambda segment, sink, ids: commits[segment])  # type: ignore[assignment]
    effects = []
    for segment in files:
        effect = Effect(Counted(n=1))
        effect.row, effect.entry = 1, Entry(segment, ("s",), Commit())
        effects.append(effect)
    with anyio.move_on_after(0):
        await journal.lease("s", effects)
    assert rung == ["a", "b"]
    for segment in files:
        segment.close()
