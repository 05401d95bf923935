from typing import Any

from sidefx import SideEffects, after, audit
from sidefx.asgi import Receive, Send, SideEffectsMiddleware

fx = SideEffects.from_toml("sidefx.toml")


async def bare(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] != "http":  # no lifespan: sidefx answers in its place
        raise NotImplementedError(scope["type"])
    if scope["path"] == "/stats":
        text = str(fx.stats())
    else:
        after(audit("order.place", target=f"order:{scope['path'].rpartition('/')[2]}"))
        text = "placed"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


app = SideEffectsMiddleware(bare, effects=fx)
