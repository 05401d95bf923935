from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from sidefx import SideEffects, after, audit
from sidefx.wsgi import SideEffectsMiddleware

fx = SideEffects.from_toml("sidefx.toml")


def shop(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/stats":
        body = str(fx.stats())
    else:
        environ["path_template"] = "/orders/{order_id}"  # for sidefx.request().route
        after(audit("order.place", target=environ["PATH_INFO"]))
        body = "placed"
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [body.encode()]


app = SideEffectsMiddleware(shop, effects=fx)
