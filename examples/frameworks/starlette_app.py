from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sidefx import SideEffects, after, audit
from sidefx.asgi import SideEffectsMiddleware


async def place_order(request: Request) -> PlainTextResponse:
    after(audit("order.place", target=f"order:{request.path_params['order_id']}"))
    return PlainTextResponse("placed")


async def stats(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(fx.stats()))


fx = SideEffects.from_toml("sidefx.toml")
routes = [Route("/orders/{order_id}", place_order, methods=["POST"]), Route("/stats", stats)]
app = SideEffectsMiddleware(Starlette(routes=routes), effects=fx)
