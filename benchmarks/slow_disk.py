"""What a slow disk costs the journal, and how concurrency repays it: commits that wait for the disk are made slower.

    python benchmarks/slow_disk.py [--fsync 5] [--seconds 3] [--directory .]

First, how many events a second so many callers of `emit()` have on disk, each waiting for its own before it makes the
next, as requests do. Then, with 64 callers, how many of them a sink is given a second: it is called when its attempt
has been counted, and what counts it is often committed together with new events, which wait for the disk.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from disk import Disk

from sidefx import AuditEvent, BatchOptions, JournalOptions, RuntimeOptions, SideEffects, SinkOptions, audit
from sidefx.journal.segment import Segment

CALLERS = (1, 8, 64, 256)


class OneByOne:
    """Takes an event at a time."""

    async def send(self, event: AuditEvent) -> None:
        pass


class Batches:
    """Takes what there is."""

    async def send_batch(self, events: Sequence[AuditEvent]) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one round."""

    seconds: float
    waits: list[float]
    """Of each `emit()`, in seconds."""
    commits: int
    delivered: int

    @property
    def rate(self) -> float:
        """Events a second that were on disk."""
        return len(self.waits) / self.seconds


def slow_down(seconds: float) -> None:
    """From now on a commit that waits for the disk takes so much longer."""
    transaction = Segment.transaction

    @contextmanager
    def slowly(self: Segment, *, synchronous: str) -> Iterator[None]:
        with transaction(self, synchronous=synchronous):
            yield
            if synchronous == "FULL":
                time.sleep(seconds)  # the interpreter's lock is free meanwhile, as in fsync

    Segment.transaction = slowly  # type: ignore[method-assign]  # there is no slow disk to be had


async def one_round(sink: object, options: SinkOptions, callers: int, seconds: float, directory: Path) -> Round:
    """So many callers, for so many seconds."""
    waits: list[float] = []
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        short = RuntimeOptions(drain_timeout=0.1)  # what is left then stays in the journal, and goes with the folder
        journal = JournalOptions(path=Path(folder))
        async with SideEffects({"sink": sink}, {"sink": options}, runtime=short, journal=journal) as fx:
            until = time.perf_counter() + seconds

            async def call() -> None:
                while (before := time.perf_counter()) < until:
                    await fx.emit(audit("order.create", actor=1, target="order:1", metadata={"n": len(waits)}))
                    waits.append(time.perf_counter() - before)

            async with anyio.create_task_group() as tasks:
                for _ in range(callers):
                    tasks.start_soon(call)
            commits = fx.engine.journal._writer.commits  # type: ignore[union-attr]  # noqa: SLF001 - nobody else needs it
            return Round(seconds, waits, commits, fx.stats().sinks["sink"].delivered)


def measure(sink: object, callers: int, options: argparse.Namespace, **lane: Any) -> Round:
    """One round in an event loop of its own."""
    lane_options = SinkOptions(delivery="journal", **lane)
    return anyio.run(one_round, sink, lane_options, callers, options.seconds, options.directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsync", type=float, default=5.0, help="what the disk takes longer, in milliseconds")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--directory", type=Path, default=Path(), help="on the disk that is meant")
    options = parser.parse_args()

    logging.getLogger("sidefx").setLevel(logging.ERROR)
    disk = Disk()
    disk.sample(options.directory, 300)
    slow_down(options.fsync / 1_000)
    print(f"one fsync: {disk.fsync * 1_000:.2f} ms of this disk, and {options.fsync:g} ms more\n")

    print(f"{'callers':>8}{'events/s':>10}{'events a commit':>17}{'emit() p50':>13}{'p99':>10}")
    for callers in CALLERS:
        done = measure(Batches(), callers, options, batch=BatchOptions(max_events=500))
        cuts = [each * 1_000 for each in statistics.quantiles(done.waits, n=100)]
        together = len(done.waits) / done.commits
        print(f"{callers:>8}{done.rate:>10,.0f}{together:>17,.1f}{cuts[49]:>10.1f} ms{cuts[98]:>7.1f} ms")

    print(f"\n{'64 callers, and a sink that takes':36}{'on disk/s':>10}{'delivered/s':>13}")
    for name, sink, lane in (
        ("one at a time, concurrency = 1", OneByOne(), {}),
        ("one at a time, concurrency = 16", OneByOne(), {"concurrency": 16}),
        ("batches of up to 500", Batches(), {"batch": BatchOptions(max_events=500)}),
    ):
        done = measure(sink, 64, options, **lane)
        print(f"{name:36}{done.rate:>10,.0f}{done.delivered / done.seconds:>13,.0f}")


if __name__ == "__main__":
    main()
