"""The shop of docs/testing.md, in Flask."""

from __future__ import annotations

from flask import Flask, abort, request

from sidefx import AuditEvent, SideEffects, after, audit
from sidefx.wsgi import SideEffectsMiddleware

delivered: list[AuditEvent] = []


async def record(event: AuditEvent) -> None:
    """Its sink."""
    delivered.append(event)


fx = SideEffects({"audit": record})
app = Flask(__name__)
app.wsgi_app = SideEffectsMiddleware(app.wsgi_app, effects=fx)  # type: ignore[method-assign]  # Flask's own way


@app.post("/orders")
def create_order() -> tuple[str, int]:
    """Its one view."""
    sku = request.form["sku"]
    after(audit("order.create", target=sku), when="success")
    after(audit("order.refuse", target=sku), when="error")
    if sku == "coal":
        abort(404)
    return sku, 201
