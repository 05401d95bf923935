"""The shop: what an application of your own looks like. Start reading here.

A handler does its work, says with `after()` what else should happen, and returns. All of that starts once the
response has gone; which sink takes what is written in `config.example.toml`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, ValidationError
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sidefx import Event, after, audit, email, invalidate, track
from sidefx_sinks.cache import MemoryCache

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

PRICES = {"teapot": Decimal("24.50"), "kettle": Decimal("39.00"), "samovar": Decimal("180.00")}


class Order(BaseModel):
    """What a customer sends."""

    customer: Annotated[str, Field(min_length=1, max_length=80)]
    email: Annotated[str, Field(min_length=3, max_length=200)]
    product: str
    quantity: Annotated[int, Field(ge=1, le=10)] = 1


@dataclass(frozen=True)
class Receipt:
    """What a customer gets."""

    number: int
    customer: str
    product: str
    quantity: int
    total: str


class OrderRefused(Event, kind="order.refused"):
    """A domain event: the handler says what happened, and here stands what follows from it."""

    email: str
    product: str
    reason: str

    def effects(self) -> Iterable[Event]:
        """A record for the audit log, and one for analytics."""
        yield audit(
            "order.refuse", actor=self.email, target=f"product:{self.product}", outcome="failure", reason=self.reason
        )
        yield track("Order Refused", user_id=self.email, properties={"product": self.product, "reason": self.reason})


class Shop:
    """Stock and orders, in memory."""

    def __init__(self) -> None:
        self.stock = {"teapot": 100, "kettle": 100, "samovar": 0}
        self.receipts: dict[str, list[Receipt]] = {}
        self.placed = 0
        self.cache = MemoryCache.named()  # the one that the sink `cache` of the configuration clears
        self.routes = [
            Route("/orders", self.place_order, methods=["POST"]),
            Route("/customers/{email}/orders", self.list_orders),
        ]

    async def place_order(self, request: Request) -> Response:
        """`POST /orders`: 201 with the receipt, 409 where the product is sold out, 422 where it makes no sense."""
        try:
            order = Order.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"detail": error.errors(include_url=False, include_context=False)}, status_code=422)
        if self.stock.get(order.product, 0) < order.quantity:
            after(OrderRefused(email=order.email, product=order.product, reason="sold out"))
            return JSONResponse({"detail": f"{order.product} is sold out"}, status_code=409)

        receipt = self._sell(order)

        after(
            audit(
                "order.place",
                actor=order.email,
                target=f"order:{receipt.number}",
                changes={"total": [None, receipt.total]},
            )
        )
        after(track("Order Completed", user_id=order.email, properties=asdict(receipt)))
        after(invalidate(tags=f"customer:{order.email}"))
        after(
            email(
                to=order.email,
                subject=f"Your order {receipt.number}",
                template="receipt",  # templates/receipt.txt and templates/receipt.html
                context=asdict(receipt),
            ),
            when="success",  # no receipt where the response turns out to be an error
        )
        after(self.restock, order.product)  # any function will do
        return JSONResponse(asdict(receipt), status_code=201)

    async def list_orders(self, request: Request) -> Response:
        """`GET /customers/{email}/orders`: from the cache, until that customer orders again."""
        address = request.path_params["email"]
        key = f"orders:{address}"
        found = "hit"
        if (orders := self.cache.get(key)) is None:
            found = "miss"
            orders = [asdict(receipt) for receipt in self.receipts.get(address, [])]
            self.cache.set(key, orders, tags=[f"customer:{address}"])
        return JSONResponse(orders, headers={"X-Cache": found})

    def restock(self, product: str) -> None:
        """Orders more of what runs low; a plain function, so it runs in a worker thread."""
        if self.stock[product] < 50:
            self.stock[product] += 100

    def _sell(self, order: Order) -> Receipt:
        self.stock[order.product] -= order.quantity
        self.placed += 1
        total = PRICES[order.product] * order.quantity
        receipt = Receipt(self.placed, order.customer, order.product, order.quantity, str(total))
        self.receipts.setdefault(order.email, []).append(receipt)
        return receipt
