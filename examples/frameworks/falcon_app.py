import asyncio

import falcon.asgi
from falcon.asgi import Request, Response

from sidefx import SideEffects, after, audit
from sidefx.asgi import SideEffectsMiddleware

fx = SideEffects.from_toml("sidefx.toml")


def place(order_id: int) -> None:
    after(audit("order.place", target=f"order:{order_id}"))


class Order:
    async def on_post(self, req: Request, resp: Response, order_id: int) -> None:
        await asyncio.to_thread(place, order_id)  # not falcon.sync_to_async(place, order_id)
        resp.text = "placed"


class Stats:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.text = str(fx.stats())


class NameTheRoute:  # for sidefx.request().route
    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, object]) -> None:
        req.scope["path_template"] = req.uri_template


falcon_app = falcon.asgi.App(middleware=[NameTheRoute()])
falcon_app.add_route("/orders/{order_id:int}", Order())
falcon_app.add_route("/stats", Stats())
app = SideEffectsMiddleware(falcon_app, effects=fx)
