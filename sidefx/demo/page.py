"""The page, what it shows, and the switches behind it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import anyio.to_thread
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sidefx.demo.faults import Mode

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from sidefx import SinkStats
    from sidefx.demo.stage import Stage

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    # Nothing but the page's own files. `style-src-attr` is for the mails, which bring their styles in attributes.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_SHOWN = 8


def routes(stage: Stage) -> list[BaseRoute]:
    """The page's own paths, beside those of the shop."""

    async def state(_: Request) -> Response:
        return JSONResponse(await _state(stage), headers=_HEADERS)

    async def turn(request: Request) -> Response:
        """`{"sink": …, "mode": …}`: from the response on, that receiver behaves so."""
        try:
            wanted = await request.json()
            switch, mode = stage.switches[wanted["sink"]], wanted["mode"]
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"detail": "there is no such switch"}, status_code=422)
        if mode not in get_args(Mode):
            return JSONResponse({"detail": f"a mode is one of {', '.join(get_args(Mode))}"}, status_code=422)
        await switch.turn(mode)
        return Response(status_code=204)

    return [
        *(_file(path, name, media_type) for path, (name, media_type) in _FILES.items()),
        Route("/demo/state", state),
        Route("/demo/switch", turn, methods=["POST"]),
    ]


def _file(path: str, name: str, media_type: str) -> Route:
    content = Path(__file__).with_name(name).read_bytes()

    async def serve(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return Route(path, serve)


async def _state(stage: Stage) -> dict[str, Any]:
    """All that the page shows."""
    rows, count = await anyio.to_thread.run_sync(lambda: (stage.records.latest(_SHOWN), stage.records.count()))
    stats, health = stage.effects.stats(), stage.effects.health()
    events, mails = list(stage.collector.events.values()), list(stage.mailbox.mails.values())
    cache = stage.shop.cache
    return {
        **stage.timeline.state(),
        "sinks": [
            *(_sink(stage, name, sink) for name, sink in stats.sinks.items()),
            _sink(stage, "callables", stats.callables),
        ],
        "health": asdict(health),
        "audit": {"count": count, "rows": rows},
        "analytics": {"count": len(events), "events": [_event(event) for event in events[: -_SHOWN - 1 : -1]]},
        "mails": {"count": len(mails), "latest": [mail.shown for mail in mails[: -_SHOWN - 1 : -1]]},
        "cache": {**asdict(cache.stats()), "keys": cache.recently_dropped()[: -_SHOWN - 1 : -1]},
    }


def _sink(stage: Stage, name: str, sink: SinkStats) -> dict[str, Any]:
    switch = stage.switches.get(name)
    return {
        "name": name,
        "accepted": sink.accepted,
        "delivered": sink.delivered,
        "failed": sink.settled - sink.delivered,
        "waiting": sink.queued + sink.in_flight,
        "retried": sink.retried,
        "breaker": sink.breaker,
        "p50": None if sink.latency is None else sink.latency.p50 * 1_000,
        "mode": None if switch is None else switch.mode,
        "meanings": None if switch is None else switch.meanings,
    }


def _event(event: dict[str, Any]) -> dict[str, str]:
    return {
        "id": event["id"],
        "event": event["event"],
        "user": event["user_id"],
        "properties": json.dumps(event["properties"], ensure_ascii=False),
    }
