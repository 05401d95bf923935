from litestar import Litestar, get, post
from litestar.params import FromPath

from sidefx import SideEffects, after, audit
from sidefx.asgi import SideEffectsMiddleware

fx = SideEffects.from_toml("sidefx.toml")


@post("/orders/{order_id:int}")
async def place_order(order_id: FromPath[int]) -> dict[str, int]:
    after(audit("order.place", target=f"order:{order_id}"))
    return {"placed": order_id}


@get("/stats")
async def stats() -> str:
    return str(fx.stats())


app = SideEffectsMiddleware(Litestar([place_order, stats]), effects=fx)
