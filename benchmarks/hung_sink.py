"""What a request feels of a sink that hangs for good: nothing, or this shows it.

Three equal apps on uvicorn, each scheduling one event a request: two whose sink is healthy, one whose
sink never answers. Rounds of load alternate between them; the ratio of the two healthy ones is the
noise that the third has to be read against.

    python benchmarks/hung_sink.py [--rounds 7] [--requests 4000] [--connections 16]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from sidefx import AuditEvent, RuntimeOptions, SideEffects, after, audit
from sidefx.asgi import SideEffectsMiddleware

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
APPS = ("healthy", "healthy_again", "hung")


async def _healthy(event: AuditEvent) -> None:
    await anyio.lowlevel.checkpoint()


async def _hung(event: AuditEvent) -> None:
    await anyio.sleep_forever()


async def _app(scope: Any, receive: Any, send: Any) -> None:
    after(audit("order.create", actor=1, target="order:1", metadata={"n": 1}))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def _served(sink: Any) -> SideEffectsMiddleware:
    return SideEffectsMiddleware(_app, effects=SideEffects({"sink": sink}, runtime=RuntimeOptions(drain_timeout=0.1)))


healthy = _served(_healthy)
healthy_again = _served(_healthy)
hung = _served(_hung)


async def _connection(port: int, requests: int, latencies: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(requests):
        started = time.perf_counter()
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        latencies.append(time.perf_counter() - started)
    writer.close()
    await writer.wait_closed()


async def _round(port: int, requests: int, connections: int) -> tuple[float, float]:
    """The round's p50 and p99, in seconds."""
    latencies: list[float] = []
    await asyncio.gather(*(_connection(port, requests // connections, latencies) for _ in range(connections)))
    cuts = statistics.quantiles(latencies, n=100)
    return cuts[49], cuts[98]


async def _answers(port: int) -> None:
    for _ in range(200):
        try:
            await _round(port, 2, 1)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            return
    sys.exit(f"the server at port {port} does not answer")


async def _measure(options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    ports = {name: 8_911 + number for number, name in enumerate(APPS)}
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(__file__).parent), "--log-level", "critical"]
    servers = [subprocess.Popen([*command, "--port", str(port), f"hung_sink:{name}"]) for name, port in ports.items()]  # noqa: ASYNC220, S603 - our own command
    try:
        for port in ports.values():
            await _answers(port)
            await _round(port, options.requests, options.connections)  # warm, and the hung sink's buffer full
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in APPS}
        for number in range(options.rounds):
            for name in APPS if number % 2 else reversed(APPS):
                results[name].append(await _round(ports[name], options.requests, options.connections))
        return results
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=4_000, help="in each round")
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    results = asyncio.run(_measure(options))
    print(f"{options.rounds} rounds of {options.requests} requests over {options.connections} connections\n")
    print(f"{'':16}{'p50':>10}{'p99':>10}   p99 of the rounds")
    for name, rounds in results.items():
        p50, p99 = (statistics.median(column) * 1_000 for column in zip(*rounds, strict=True))
        spread = sorted(round_[1] * 1_000 for round_ in rounds)
        print(f"{name:16}{p50:7.2f} ms{p99:7.2f} ms   {spread[0]:.2f} to {spread[-1]:.2f} ms")
    print()
    for name in APPS[1:]:
        ratios = [
            [theirs[i] / base[i] for theirs, base in zip(results[name], results["healthy"], strict=True)]
            for i in (0, 1)
        ]
        print(f"{name} / healthy: p50 × {statistics.median(ratios[0]):.2f}, p99 × {statistics.median(ratios[1]):.2f}")


if __name__ == "__main__":
    main()
