"""The shop of docs/testing.md, in Quart."""

from __future__ import annotations

from quart import Quart, request

from sidefx import AuditEvent, SideEffects, after, audit
from sidefx.asgi import SideEffectsMiddleware

delivered: list[AuditEvent] = []


async def record(event: AuditEvent) -> None:
    """Its sink."""
    delivered.append(event)


fx = SideEffects({"audit": record})
app = Quart(__name__)
app.asgi_app = SideEffectsMiddleware(app.asgi_app, effects=fx)  # type: ignore[method-assign]  # Quart's own way


@app.post("/orders")
async def create_order() -> tuple[str, int]:
    """Its one handler."""
    after(audit("order.create", target=request.args["sku"]))
    return "", 201
