"""The shop of docs/testing.md, in Falcon."""

from __future__ import annotations

from typing import Any

import falcon.asgi

from sidefx import AuditEvent, SideEffects, after, audit
from sidefx.asgi import SideEffectsMiddleware

delivered: list[AuditEvent] = []


async def record(event: AuditEvent) -> None:
    """Its sink."""
    delivered.append(event)


class Orders:
    """Its one resource."""

    async def on_post(self, req: Any, resp: Any) -> None:
        after(audit("order.create", target=req.get_param("sku")))


fx = SideEffects({"audit": record})
falcon_app: Any = falcon.asgi.App()
falcon_app.add_route("/orders", Orders())
app = SideEffectsMiddleware(falcon_app, effects=fx)
