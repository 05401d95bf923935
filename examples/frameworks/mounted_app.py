from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from sidefx import SideEffects, after, audit
from sidefx.asgi import SideEffectsMiddleware

fx = SideEffects.from_toml("sidefx.toml")
shop = FastAPI()


@shop.post("/orders/{order_id}")
async def place_order(order_id: int) -> dict[str, int]:
    after(audit("order.place", target=f"order:{order_id}"))
    return {"placed": order_id}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with fx:  # what is mounted hears of no lifespan: the outer app starts and stops it
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/shop", SideEffectsMiddleware(shop, effects=fx))


@app.get("/stats", response_class=PlainTextResponse)
async def stats() -> str:
    return str(fx.stats())
