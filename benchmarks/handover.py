"""What it takes an event loop of this machine to have another thread do something, and to be told of it.

    python benchmarks/handover.py [--samples 1000]

The journal's writer is a thread, so a response that waits for the disk waits for two wakings as well. On one core they
are cheap; where one core wakes another, on virtual machines above all, they are not. As in a server, the loop has
waited for a while, and then worked for a while, when it asks.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import threading
import time
from queue import SimpleQueue

from load import loop_factory

_PAUSE, _WORK = 0.0002, 0.0001
"""Seconds that the loop waits, and works, before it asks."""


async def hand_over(samples: int) -> float:
    """Median seconds from the loop's call to its being told."""
    loop = asyncio.get_running_loop()
    asked: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()

    def answer() -> None:
        while (future := asked.get()) is not None:
            loop.call_soon_threadsafe(future.set_result, None)

    thread = threading.Thread(target=answer)
    thread.start()
    taken = []
    for _ in range(samples):
        await asyncio.sleep(_PAUSE)
        future = loop.create_future()
        worked = time.perf_counter() + _WORK
        while (began := time.perf_counter()) < worked:
            pass
        asked.put(future)
        await future
        taken.append(time.perf_counter() - began)
    asked.put(None)
    thread.join()
    return statistics.median(taken)


def measured(samples: int) -> float:
    """The same on an event loop of its own."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(hand_over(samples))


def main() -> None:
    """Prints it: on all cores, and on one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000)
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    for label, some in ((f"{len(cores)} cores", cores), ("one core", {min(cores)})):
        os.sched_setaffinity(0, some)
        print(f"{label}: {measured(options.samples) * 1_000:.3f} ms to a thread and back")


if __name__ == "__main__":
    main()
