"""The timeline: when each order was answered, and when each of its effects had landed."""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sidefx

if TYPE_CHECKING:
    from sidefx import Settled
    from sidefx.asgi import ASGIApp, ASGIScope, Message, Receive, Send

_ORDERS = 50
_DURATIONS = 100

_EFFECTS = {
    201: ("callables", "cache", "email", "audit", "analytics"),
    409: ("audit", "analytics"),
}
"""What `Shop.place_order` schedules, by the status of its response: the sinks that it goes to."""


@dataclass
class Answered:
    """One order, and what has become of its effects. Times are in seconds."""

    request_id: str
    started: float
    status: int = 0
    ended: float | None = None
    landed: list[dict[str, Any]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """For the page, in milliseconds; an effect's are counted from the end of the response."""
        ended = self.ended or time.perf_counter()
        arrived = {effect["sink"] for effect in self.landed}
        return {
            "id": self.request_id,
            "status": self.status,
            "ms": (ended - self.started) * 1_000,
            "since_ms": (time.perf_counter() - ended) * 1_000,
            "landed": [effect | {"ms": max(effect["at"] - ended, 0) * 1_000} for effect in self.landed],
            "pending": [sink for sink in _EFFECTS.get(self.status, ()) if sink not in arrived],
        }


class Timeline:
    """Watches the shop from within sidefx's middleware, and hears as an observer how each effect ended."""

    def __init__(self) -> None:
        self._orders: OrderedDict[str, Answered] = OrderedDict()
        self._durations: deque[float] = deque(maxlen=_DURATIONS)

    def watch(self, app: ASGIApp) -> ASGIApp:
        """The app, with each of its orders timed: from the request's arrival to the end of the response."""

        async def watched(scope: ASGIScope, receive: Receive, send: Send) -> None:
            request = sidefx.request()
            if request is None or request.method != "POST" or request.path != "/orders":
                await app(scope, receive, send)
                return
            order = Answered(request.request_id, time.perf_counter())
            self._orders[order.request_id] = order
            if len(self._orders) > _ORDERS:
                self._orders.popitem(last=False)

            async def timed(message: Message) -> None:
                await send(message)
                if message["type"] == "http.response.start":
                    order.status = message["status"]
                elif not message.get("more_body", False):
                    order.ended = time.perf_counter()
                    self._durations.append(order.ended - order.started)

            await app(scope, receive, timed)

        return watched

    def observe(self, settled: Settled) -> None:
        """One effect has left its lane; sidefx calls this."""
        order = self._orders.get(settled.request_id or "")
        if order is not None:
            order.landed.append(
                {
                    "sink": settled.sink,
                    "name": settled.name,
                    "result": settled.result,
                    "reason": settled.reason,
                    "attempts": settled.attempts,
                    "at": time.perf_counter(),
                }
            )

    def state(self) -> dict[str, Any]:
        """The latest order, and the quantiles of the last hundred responses, in milliseconds."""
        latest = next(reversed(self._orders.values()), None)
        return {
            "order": None if latest is None else latest.state(),
            "responses": len(self._durations),
            **quantiles(self._durations),
        }


def quantiles(seconds: deque[float] | list[float]) -> dict[str, float | None]:
    """p50 and p99 in milliseconds; None where there is nothing yet."""
    if len(seconds) < 2:
        only = next((value * 1_000 for value in seconds), None)
        return {"p50": only, "p99": only}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": cuts[49] * 1_000, "p99": cuts[98] * 1_000}
