from flask import Flask

from sidefx import SideEffects, after, audit
from sidefx.wsgi import SideEffectsMiddleware

fx = SideEffects.from_toml("sidefx.toml")
app = Flask(__name__)
app.wsgi_app = SideEffectsMiddleware(app.wsgi_app, effects=fx)


@app.post("/orders/<int:order_id>")
def place_order(order_id: int) -> dict[str, int]:
    after(audit("order.place", target=f"order:{order_id}"))
    return {"placed": order_id}


@app.get("/stats")
def stats() -> str:
    return str(fx.stats())
