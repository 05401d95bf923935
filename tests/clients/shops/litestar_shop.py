"""The shop of docs/testing.md, in Litestar."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, post
from litestar.exceptions import NotFoundException
from litestar.params import FromQuery

from sidefx import AuditEvent, SideEffects, after, audit
from sidefx.asgi import SideEffectsMiddleware

delivered: list[AuditEvent] = []


async def record(event: AuditEvent) -> None:
    """Its sink."""
    delivered.append(event)


@post("/orders")
async def create_order(sku: FromQuery[str]) -> str:
    """Its one handler."""
    after(audit("order.create", target=sku), when="success")
    after(audit("order.refuse", target=sku), when="error")
    if sku == "coal":
        raise NotFoundException
    return sku


fx = SideEffects({"audit": record})
litestar: Any = Litestar([create_order])
app = SideEffectsMiddleware(litestar, effects=fx)
