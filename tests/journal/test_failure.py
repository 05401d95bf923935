"""A disk that is full, too small or read-only, for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidefx import SinkOptions
from sidefx.journal.dead import DeadStore
from tests.journal.remains import Counted, Sink, journaled, names, segments, sound
from tests.waiting import until

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of three megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("nothing may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill_up(folder: Path) -> Path:
    """Takes all the room that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 4_096):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return ballast


@pytest.mark.contract("J07")
async def test_a_full_disk_keeps_nothing_and_loses_nothing_that_it_has_kept(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Degraded, with an alarm in log, stats and health; it recovers by itself, and what was acknowledged is there."""
    sink = Sink(held=True)
    async with journaled(disk / "journal", s=sink) as fx:
        for n in range(5):
            await fx.emit(Counted(n=n))
        ballast = fill_up(disk)
        for n in range(5, 10):
            await fx.emit(Counted(n=n, text="x" * 9_000))
        stats = fx.stats().journal
        assert stats is not None
        assert (stats.state, stats.degraded > 0) == ("failing", True)
        assert any(reason.startswith("journal: ") for reason in fx.health().reasons)
        sink.held = False
        await fx.flush(10)
        assert sink.given == list(range(10))
        ballast.unlink()
        await until(lambda: fx.health().status == "ok", within=8)
        committed = stats.committed
        await fx.emit(Counted(n=10))
        assert fx.stats().journal.committed > committed  # type: ignore[union-attr]
        await fx.flush(10)
    assert caplog.text.count("the journal has failed, new events are not kept") == 1
    assert "in memory only" in caplog.text
    assert names(disk / "journal") == {"dead.sqlite"}


@pytest.mark.contract("J07", "J02")
async def test_what_a_full_disk_has_acknowledged_is_delivered_by_the_next_process(disk: Path) -> None:
    """Although nothing could be taken down of its delivery: twice, then, and never not at all."""
    sink = Sink()
    async with journaled(disk / "journal", s=Sink(held=True)) as fx:
        for n in range(5):
            await fx.emit(Counted(n=n))
        fx.options = fx.options.model_copy(update={"drain_timeout": 0.1})
        fx.engine.options = fx.options
        ballast = fill_up(disk)
    (path,) = segments(disk / "journal")
    ballast.unlink()
    assert sound(path)
    async with journaled(disk / "journal", s=sink) as fx:
        await fx.flush(10)
    assert sink.given == list(range(5))


LIMITED = """
import logging, resource, signal, sys
from pathlib import Path
from sidefx import SinkOptions
from tests.journal.remains import Counted, Sink, journaled
import anyio

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logging.basicConfig(format="%(levelname)s %(message)s")

async def main():
    sink = Sink(held=True)
    async with journaled(Path(sys.argv[1]), s=sink) as fx:
        await fx.emit(Counted(n=0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        for n in range(1, 20):
            await fx.emit(Counted(n=n, text="x" * 9_000))
        print(fx.stats().journal.state, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with anyio.fail_after(8):
            while fx.stats().journal.state == "failing":
                await anyio.sleep(0.01)
        sink.held = False
        await fx.flush(10)
        print(sink.given == list(range(20)), fx.stats().journal.state)

anyio.run(main)
"""


@pytest.mark.contract("J07")
def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    """`ulimit -f`: nothing is lost, and it works again once it may."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "failing\nTrue ok\n", done.stderr
    assert done.stderr.count("CRITICAL the journal has failed") == 1
    assert names(tmp_path) == {"dead.sqlite"}


@pytest.mark.contract("J07")
async def test_dead_letters_wait_for_a_full_disk_too(disk: Path) -> None:
    """In memory, told in health; they are on disk when there is room again."""
    from sidefx import PermanentError

    sink = Sink(PermanentError("never"))
    async with journaled(disk / "journal", lanes={"s": SinkOptions()}, s=sink) as fx:
        ballast = fill_up(disk)
        await fx.emit(Counted(n=1, text="x" * 20_000))
        await fx.flush(10)
        await until(lambda: any("dead letters cannot be written" in reason for reason in fx.health().reasons))
        assert fx.stats().dead_letters == {"s": 1}
        ballast.unlink()
        await until(lambda: not any("cannot be written" in reason for reason in fx.health().reasons), within=8)
    assert DeadStore(disk / "journal" / "dead.sqlite").counts() == {"s": 1}
