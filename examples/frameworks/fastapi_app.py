from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from sidefx import SideEffects, after, audit
from sidefx.asgi import SideEffectsMiddleware

fx = SideEffects.from_toml("sidefx.toml")
app = FastAPI()


@app.post("/orders/{order_id}")
async def place_order(order_id: int) -> dict[str, int]:
    after(audit("order.place", target=f"order:{order_id}"))
    return {"placed": order_id}


@app.get("/stats", response_class=PlainTextResponse)
async def stats() -> str:
    return str(fx.stats())


app.add_middleware(SideEffectsMiddleware, effects=fx)  # the last one: it is the outermost then
