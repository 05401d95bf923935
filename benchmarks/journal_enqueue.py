"""Events made and acknowledged a second, by 100 callers with three events a request: sidefx beside other libraries.

Acknowledged means that the call has returned: where the last column says "power cut", the event was on disk by then,
with an fsync behind it. Each way makes the same audit events and stores their JSON; each begins with an empty
directory, has its rounds in turn with the others, and afterwards is asked how many events it holds: all of those that
it has acknowledged, or the script says so. The libraries are synchronous: their 100 callers are tasks that call in a
pool of 100 threads; their best single thread stands beside that. sidefx' callers are tasks on one event loop.

    python benchmarks/journal_enqueue.py [--rounds 5] [--seconds 1.0] [--callers 100] [--directory .] [--only sidefx]

What to install for the other rows: `pip install --group bench`, or persist-queue, huey, litequeue and sqlalchemy.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from disk import EVENTS, Disk
from enqueue_others import OTHERS, Queue
from enqueue_sidefx import OURS, Ours
from load import loop_factory


@dataclass(slots=True)
class Round:
    """What one way has done in its seconds."""

    requests: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds from the first event's making to the last one's acknowledgement."""
    missing: int = 0
    """Acknowledged, and not held afterwards."""
    remark: str = ""

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.requests * EVENTS / self.seconds


async def _callers(callers: int, seconds: float, request: Callable[[], Awaitable[object]]) -> Round:
    """So many tasks, each with one request after another."""
    round_ = Round()
    started = time.perf_counter()
    until = started + seconds

    async def caller() -> None:
        while (asked := time.perf_counter()) < until:
            await request()
            round_.latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(caller() for _ in range(callers)))
    round_.seconds = time.perf_counter() - started
    round_.requests = len(round_.latencies)
    return round_


async def _in_tasks(ours: Ours, directory: Path, options: argparse.Namespace) -> Round:
    async with ours.opened(directory) as request:
        round_ = await _callers(options.callers, options.seconds, request)
    round_.remark = ours.remark
    round_.missing = round_.requests * EVENTS - ours.held(directory)
    return round_


async def _in_threads(queue: Queue, options: argparse.Namespace) -> Round:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(options.callers) as pool:
        return await _callers(options.callers, options.seconds, lambda: loop.run_in_executor(pool, queue.request))


def _alone(queue: Queue, options: argparse.Namespace) -> Round:
    round_ = Round()
    started = time.perf_counter()
    while (asked := time.perf_counter()) < started + options.seconds:
        queue.request()
        round_.latencies.append(time.perf_counter() - asked)
    round_.seconds = time.perf_counter() - started
    round_.requests = len(round_.latencies)
    return round_


def _theirs(kind: type[Queue], directory: Path, options: argparse.Namespace, *, threads: bool) -> Round:
    queue = kind(directory)
    try:
        round_ = _run(_in_threads(queue, options)) if threads else _alone(queue, options)
        round_.remark = queue.settings()
    finally:
        queue.close()
    round_.missing = round_.requests * EVENTS - queue.held(directory)
    return round_


def _run(main: Awaitable[Round]) -> Round:
    async def run() -> Round:
        return await main

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(run())


@dataclass(frozen=True, slots=True)
class Way:
    """A row of the table."""

    name: str
    callers: int
    survives: str
    round: Callable[[Path], Round]


def _ways(options: argparse.Namespace) -> Iterator[Way]:
    def ours_in(each: Ours) -> Callable[[Path], Round]:
        return lambda directory: _run(_in_tasks(each, directory, options))

    def theirs_in(kind: type[Queue], *, threads: bool) -> Callable[[Path], Round]:
        return lambda directory: _theirs(kind, directory, options, threads=threads)

    for ours in OURS:
        yield Way(ours.name, options.callers, ours.survives, ours_in(ours))
    for kind in OTHERS:
        if (missing := kind.missing()) is not None:
            print(f"{kind.name}: left out, {missing} is not installed: pip install {missing}")
            continue
        yield Way(kind.name, options.callers, kind.survives, theirs_in(kind, threads=True))
        yield Way(kind.name, 1, kind.survives, theirs_in(kind, threads=False))


def _report(results: dict[Way, list[Round]]) -> None:
    base = next(iter(results.values()))
    print(f"\n{'':46}{'callers':>8}{'events/s':>10}   {'rounds':20}{'/ first':>9}{'p50':>10}{'p99':>10}  survives a")
    for way, rounds in results.items():
        rates = [each.rate for each in rounds]
        ratio = statistics.median(each.rate / first.rate for each, first in zip(rounds, base, strict=True))
        cuts = [statistics.quantiles(each.latencies, n=100) for each in rounds]
        p50, p99 = (statistics.median(cut[at] for cut in cuts) * 1_000 for at in (49, 98))
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        print(
            f"{way.name:46}{way.callers:>8}{statistics.median(rates):10,.0f}   {spread:20}{f'× {ratio:.3f}':>9}"
            f"{p50:7.2f} ms{p99:7.2f} ms  {way.survives}"
        )
    print()
    for name, remark in {way.name: rounds[-1].remark for way, rounds in results.items()}.items():
        print(f"{name}: {remark}")
    for way, rounds in results.items():
        if missing := sum(each.missing for each in rounds):
            print(f"{way.name}, {way.callers} callers: {missing:,} acknowledged events are NOT held")


def _measure(options: argparse.Namespace, directory: Path) -> tuple[dict[Way, list[Round]], Disk]:
    ways: Sequence[Way] = [way for way in _ways(options) if options.only in way.name]
    results: dict[Way, list[Round]] = {way: [] for way in ways}
    disk, folders = Disk(), count()
    for number in range(options.rounds):
        disk.sample(directory, 200)
        for way in ways if number % 2 else ways[::-1]:
            folder = directory / str(next(folders))
            folder.mkdir()
            results[way].append(way.round(folder))
    return results, disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument("--callers", type=int, default=100)
    parser.add_argument("--directory", type=Path, default=Path(), help="on the disk that is meant")
    parser.add_argument("--only", default="", help="ways with this in their name")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {options.rounds} rounds of {options.seconds:g} s for each way")
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="journal_enqueue-") as directory:
        results, disk = _measure(options, Path(directory))
    _report(results)
    print(f"\n{disk}")


if __name__ == "__main__":
    main()
