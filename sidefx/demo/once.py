"""`--once`: the demo without a person. Orders are placed over HTTP; what follows is counted where it arrives."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import httpx

from sidefx.demo.timeline import quantiles

if TYPE_CHECKING:
    from sidefx import Stats
    from sidefx.demo.stage import Stage

_AT_A_TIME = 4
_SETTLE_SECONDS = 60.0


async def once(stage: Stage, orders: int) -> bool:
    """Places the orders, prints what came of them, and says whether nothing is missing."""
    before = await _found(stage)
    print(f"sidefx demo: {orders:,} orders over HTTP, {_AT_A_TIME} at a time …", flush=True)
    started = time.perf_counter()
    # In a thread, on an event loop of its own: what the customers do is not for the shop's loop.
    answered = await anyio.to_thread.run_sync(anyio.run, _place, stage.url, orders, abandon_on_cancel=True)
    placed = time.perf_counter()
    problems = []
    try:
        await stage.effects.flush(timeout=_SETTLE_SECONDS)
    except TimeoutError as error:
        problems.append(str(error))
    waited = time.perf_counter() - placed

    found = {"orders answered 201": len(answered)}
    found |= {what: count - before[what] for what, count in (await _found(stage)).items()}
    settled = "not everything" if problems else "everything"
    print(f"placed in {placed - started:.1f} s; {settled} had settled {waited:.1f} s after the last response\n")
    _print_responses(answered)
    _print_sinks(stage.effects.stats())
    _print_found(found, orders)
    problems += [
        f"{orders:,} {what} were expected, {count:,} were found" for what, count in found.items() if count != orders
    ]
    for problem in problems:
        print(f"sidefx demo: {problem}", file=sys.stderr)
    if not problems:
        print("Nothing is missing.")
    return not problems


async def _place(url: str, orders: int) -> list[float]:
    """Places the orders, and returns the seconds that each accepted one took, as its customer sees it."""
    seconds: list[float] = []
    numbers = iter(range(orders))

    async def shopper(client: httpx.AsyncClient) -> None:
        for number in numbers:
            address = f"customer-{number}@example.org"
            order = {"customer": f"Customer {number}", "email": address, "product": "teapot"}
            with suppress(httpx.HTTPError):  # not answered, so not counted
                await client.get(f"/customers/{address}/orders")  # now in the cache, for the order to drop
                started = time.perf_counter()
                response = await client.post("/orders", json=order)
                if response.status_code == httpx.codes.CREATED:
                    seconds.append(time.perf_counter() - started)

    async with (
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(_AT_A_TIME):
            tasks.start_soon(shopper, client)
    return seconds


async def _found(stage: Stage) -> dict[str, int]:
    """What has arrived until now, counted at the receivers: not what sidefx says, but what they have."""
    return {
        "rows in the audit log": await anyio.to_thread.run_sync(stage.records.count),
        "events at the collector": len(stage.collector.events),
        "mails in the mailbox": len(stage.mailbox.mails),
        "keys dropped from the cache": stage.shop.cache.stats().dropped,
    }


def _print_responses(seconds: list[float]) -> None:
    cuts = quantiles(seconds)
    shown = "   ".join(f"{name} {'-' if ms is None else f'{ms:.1f} ms'}" for name, ms in cuts.items())
    print(f"{'response':<28}{shown}\n")


def _print_sinks(stats: Stats) -> None:
    print(f"{'sink':<28}{'accepted':>10}{'delivered':>11}{'failed':>9}")
    for name, sink in {**stats.sinks, "(functions)": stats.callables}.items():
        if sink.accepted:
            print(f"{name:<28}{sink.accepted:>10,}{sink.delivered:>11,}{sink.settled - sink.delivered:>9,}")
    print()


def _print_found(found: dict[str, int], expected: int) -> None:
    print(f"{'':<28}{'expected':>10}{'found':>11}")
    for what, count in found.items():
        print(f"{what:<28}{expected:>10,}{count:>11,}")
    print()
