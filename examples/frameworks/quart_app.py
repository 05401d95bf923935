from quart import Quart, request

from sidefx import SideEffects, after, audit
from sidefx.asgi import SideEffectsMiddleware

fx = SideEffects.from_toml("sidefx.toml")
app = Quart(__name__)
app.asgi_app = SideEffectsMiddleware(app.asgi_app, effects=fx)


@app.post("/orders/<int:order_id>")
async def place_order(order_id: int) -> dict[str, int]:
    after(audit("order.place", target=f"order:{order_id}"))
    return {"placed": order_id}


@app.get("/stats")
async def stats() -> str:
    return str(fx.stats())


@app.before_request
async def name_the_route() -> None:  # for sidefx.request().route
    if request.url_rule is not None:
        request.scope["path_template"] = request.url_rule.rule
