"""What the journal costs a request: the same app on uvicorn, its events in memory and in the journal.

Each request schedules three audit events for one sink that does nothing. With `delivery = "journal"` they are on
disk before the response's first byte; `normal` and `background` are the two escapes of `[journal]`; `memory_again`
is `memory` a second time, and its ratio the noise that the others have to be read against.

    python benchmarks/journal_http.py [--rounds 9] [--seconds 1.0] [--connections 64] [--directory .]

The servers are up at the same time and have their rounds in turn. At many connections, requests a second are compared;
at one connection, the time to the first byte, beside what one fsync takes in the same minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from disk import Disk
from load import Load, drive, get, loop_factory

from sidefx import (
    AuditEvent,
    BatchOptions,
    BufferOptions,
    JournalOptions,
    SideEffects,
    SinkOptions,
    after,
    audit,
)
from sidefx.asgi import SideEffectsMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS = 3
APPS = {
    "memory": "at most once",
    "memory_again": "the noise",
    "journal": "on disk before the response",
    "normal": "synchronous = NORMAL: no fsync",
    "background": "ack = background: no waiting",
}
_DIRECTORY = "JOURNAL_HTTP_DIRECTORY"
_FIRST_PORT = 8_921


class _Nothing:
    async def send_batch(self, events: Sequence[AuditEvent]) -> None:
        pass


def _served(delivery: Literal["memory", "journal"], **journal: Any) -> SideEffectsMiddleware:
    path = Path(os.environ.get(_DIRECTORY, "."), "-".join([delivery, *journal.values()]))
    options = SinkOptions(
        delivery=delivery,
        batch=BatchOptions(max_events=500, linger=0.05),  # as in config.example.toml
        buffer=BufferOptions(max_events=100_000),
    )
    effects = SideEffects({"sink": _Nothing()}, {"sink": options}, journal=JournalOptions(path=path, **journal))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stats":
            body = _stats(effects)
        else:
            body = b"ok"
            for number in range(EVENTS):
                after(audit("order.create", actor=1, target="order:1", metadata={"n": number}))
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})

    return SideEffectsMiddleware(app, effects=effects)


def _stats(effects: SideEffects) -> bytes:
    sink = effects.stats().sinks["sink"]
    loop = type(asyncio.get_running_loop()).__module__
    lost = sink.accepted - sink.delivered - sink.queued - sink.in_flight
    return json.dumps({"loop": loop, "accepted": sink.accepted, "delivered": sink.delivered, "lost": lost}).encode()


memory = _served("memory")
memory_again = _served("memory")
journal = _served("journal")
normal = _served("journal", synchronous="NORMAL")
background = _served("journal", ack="background")


@contextmanager
def _servers(directory: Path, names: Sequence[str]) -> Iterator[dict[str, int]]:
    """One for each app, with the port that it listens at."""
    ports = {name: _FIRST_PORT + number for number, name in enumerate(names)}
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(__file__).parent), "--log-level", "critical"]
    environment = os.environ | {_DIRECTORY: str(directory)}
    servers = [
        subprocess.Popen([*command, "--port", str(port), f"journal_http:{name}"], env=environment)  # noqa: S603 - our own command
        for name, port in ports.items()
    ]
    try:
        yield ports
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


async def _answers(port: int) -> None:
    for _ in range(200):
        try:
            await drive(port, 1, 0.1)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            return
    sys.exit(f"the server at port {port} does not answer")


async def _rounds(
    ports: dict[str, int], options: argparse.Namespace, connections: int, between: Callable[[], None] = lambda: None
) -> dict[str, list[Load]]:
    results: dict[str, list[Load]] = {name: [] for name in ports}
    for number in range(options.rounds):
        between()
        for name in list(ports) if number % 2 else list(ports)[::-1]:
            results[name].append(await drive(ports[name], connections, options.seconds))
    return results


def _spread(values: Sequence[float], form: str) -> str:
    return f"{format(min(values), form)} to {format(max(values), form)}"


def _report_many(results: dict[str, list[Load]], connections: int) -> None:
    print(f"\n{connections} connections: requests a second\n")
    print(f"{'':14}{'req/s':>8}   {'rounds':20}{'/ memory':>9}   {'rounds':16}{'p50':>9}  generator")
    for name, rounds in results.items():
        rates = [load.rate for load in rounds]
        ratios = [load.rate / base.rate for load, base in zip(rounds, results["memory"], strict=True)]
        p50 = statistics.median(statistics.median(load.first_bytes) for load in rounds) * 1_000
        busy = statistics.median(load.busy for load in rounds)
        print(
            f"{name:14}{statistics.median(rates):8,.0f}   {_spread(rates, ',.0f'):20}"
            f"{'× ' + format(statistics.median(ratios), '.2f'):>9}   {_spread(ratios, '.2f'):16}"
            f"{p50:6.2f} ms  {busy:.0%} of a core   {APPS[name]}"
        )


def _report_one(results: dict[str, list[Load]], disk: Disk) -> None:
    print("\n1 connection: time to the first byte\n")
    print(f"{'':14}{'p50':>9}   {'rounds':20}{'- memory':>12}   {'of that, beside one fsync':26}")
    medians = {name: [statistics.median(load.first_bytes) * 1_000 for load in each] for name, each in results.items()}
    for name, values in medians.items():
        more = statistics.median(mine - base for mine, base in zip(values, medians["memory"], strict=True))
        beside = f"{more - disk.fsync * 1_000:+.3f} ms" if name == "journal" else ""
        print(
            f"{name:14}{statistics.median(values):6.3f} ms   {_spread(values, '.3f'):20}{more:+9.3f} ms   {beside:26}"
            f"{APPS[name]}"
        )


async def _measure(options: argparse.Namespace, directory: Path) -> None:
    with _servers(directory, options.apps) as ports:
        for port in ports.values():
            await _answers(port)
            await drive(port, options.connections, options.seconds)
        _report_many(await _rounds(ports, options, options.connections), options.connections)
        disk = Disk()
        _report_one(await _rounds(ports, options, 1, between=lambda: disk.sample(directory, 100)), disk)
        print(f"\n{disk}")
        for name, port in ports.items():
            seen = json.loads(await asyncio.to_thread(get, port, "/stats"))
            print(f"{name:14}{seen['loop']}: {seen['accepted']:,} events, {seen['lost']:,} of them lost by the lane")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--directory", type=Path, default=Path(), help="on the disk that is meant")
    parser.add_argument("--apps", nargs="+", choices=list(APPS), default=list(APPS))
    options = parser.parse_args()
    options.apps = list(dict.fromkeys(["memory", *options.apps]))
    print(f"{os.cpu_count()} cores, {options.rounds} rounds of {options.seconds:g} s for each app")
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="journal_http-") as directory,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        runner.run(_measure(options, Path(directory)))


if __name__ == "__main__":
    main()
