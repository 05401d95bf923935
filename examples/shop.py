"""A FastAPI app with an audit log, a sink of its own, and a function after the response.

pip install 'sidefx[audit,cli]' fastapi uvicorn
cd examples && sidefx check sidefx.toml && uvicorn shop:app
curl -X POST 'http://127.0.0.1:8000/orders?sku=tea'
"""

from __future__ import annotations

import logging
from decimal import Decimal

from fastapi import FastAPI, HTTPException

from sidefx import Event, after, audit, request
from sidefx.asgi import SideEffectsMiddleware

log = logging.getLogger("uvicorn.error")

PRICES = {"tea": Decimal("12.50")}
stock = {"tea": 3}


class OrderPlaced(Event, kind="order.placed"):
    sku: str
    total: Decimal


class Till:
    """A sink: its constructor's parameters are its settings, and `send` says which events it takes."""

    def __init__(self, *, currency: str = "EUR") -> None:
        self.currency = currency
        self.taken = Decimal(0)

    async def send(self, event: OrderPlaced) -> None:
        self.taken += event.total
        log.info("in the till: %s %s", self.taken, self.currency)


def recount_stock(sku: str) -> None:
    stock[sku] -= 1
    info = request()
    if info is not None and info.duration is not None:
        log.info("%d × %s left; the response took %.1f ms and was gone by now", stock[sku], sku, info.duration * 1_000)


api = FastAPI()


@api.post("/orders", status_code=201)
async def create_order(sku: str) -> dict[str, str]:
    if sku not in PRICES:
        after(audit("order.create", target=sku, outcome="failure", reason="no such item"))
        raise HTTPException(404, "no such item")
    after(audit("order.create", actor="guest", target=sku, changes={"total": [None, str(PRICES[sku])]}))
    after(OrderPlaced(sku=sku, total=PRICES[sku]), when="success")
    after(recount_stock, sku)
    return {"sku": sku, "total": str(PRICES[sku])}


app = SideEffectsMiddleware(api, config="sidefx.toml")
