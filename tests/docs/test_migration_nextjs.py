"""From Next.js, which cannot run here: what each sentence of the page says of sidefx."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from fastapi import Depends, HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse, StreamingResponse

import sidefx
from sidefx import CallableOptions, ResponseOverError, RuntimeOptions, SideEffects, after
from tests.asgi.servers import staged
from tests.docs.sides import KIND, Side, fastapi_app


def test_errors_and_redirects(here: Side) -> None:
    """It runs on an error, a redirect and a "not found", as there."""
    ran: list[Any] = []

    async def note(what: str) -> None:
        ran.append(what)

    def schedule(what: str) -> None:
        after(note, what)
        after(note, f"{what}: success", when="success")
        after(note, f"{what}: error", when="error")

    def error() -> None:
        schedule("error")
        raise LookupError

    def redirect() -> Any:
        schedule("redirect")
        return RedirectResponse("/elsewhere")

    def not_found() -> None:
        schedule("not found")
        raise HTTPException(404)

    for endpoint in (error, redirect, not_found):
        here.get(fastapi_app(endpoint))
    assert ran == ["error", "error: error", "redirect", "redirect: success", "not found", "not found: error"]


def test_the_request(here: Side) -> None:
    """The request can be read in every effect."""
    seen: list[Any] = []

    def look(where: str) -> None:
        request = sidefx.request()
        assert request is not None
        seen.append((where, request.cookies["session"], request.headers["user-agent"], request.status))

    async def nested() -> None:
        after(look, "another effect")

    def dependency() -> None:
        after(look, "a dependency")

    async def body() -> AsyncIterator[bytes]:
        after(look, "the body")
        yield b"body"

    def endpoint() -> Any:
        after(look, "the endpoint")
        after(nested)
        return StreamingResponse(body())

    app = fastapi_app(endpoint, dependencies=[Depends(dependency)])
    here.get(app, Cookie="session=s-1", User_Agent="a browser")
    places = ["a dependency", "another effect", "the body", "the endpoint"]
    assert sorted(seen) == [(place, "s-1", "a browser", 200) for place in places]


def test_the_response(here: Side) -> None:
    """The response cannot be changed, as there."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def effect() -> None:
            with pytest.raises(ResponseOverError) as raised:
                await send({"type": "http.response.start", "status": 200, "headers": [(b"set-cookie", b"a=b")]})
            seen.append(raised.value)

        after(effect)
        await PlainTextResponse("ok")(scope, receive, send)

    here.get(app)
    assert len(seen) == 1


def test_lambdas(here: Side) -> None:
    """A lambda sees variables as they are when it runs."""
    seen: list[str] = []

    def endpoint() -> None:
        for sku in ("tea", "coal"):
            after(lambda: seen.append(f"a lambda's {sku}"))  # noqa: B023 - that is the mistake
            after(seen.append, sku)

    here.get(fastapi_app(endpoint))
    assert sorted(seen) == ["a lambda's coal", "a lambda's coal", "coal", "tea"]


def test_a_coroutine(here: Side) -> None:
    """A coroutine object can be given too."""
    seen: list[str] = []

    async def work() -> None:
        seen.append("effect")

    async def endpoint() -> None:
        after(work())
        await anyio.sleep(0.01)
        seen.append("endpoint ends")

    here.get(fastapi_app(endpoint))
    assert seen == ["endpoint ends", "effect"]


def test_the_deadline(here: Side) -> None:
    """The deadline is yours."""
    expired = here.server.fx.stats().callables.expired

    def endpoint() -> None:
        after(anyio.sleep_forever, timeout=0.01)

    here.get(fastapi_app(endpoint))
    assert here.server.fx.stats().callables.expired == expired + 1
    assert CallableOptions().timeout == 30


def test_nested(here: Side) -> None:
    """An effect in an effect is waited for."""
    seen: list[str] = []

    async def inner() -> None:
        await anyio.sleep(0.01)
        seen.append("inner")

    async def outer() -> None:
        after(inner)

    def endpoint() -> None:
        after(outer)

    here.get(fastapi_app(endpoint))
    assert seen == ["inner"], "by the flush"
    with staged(KIND) as server:
        server.get(case=server.play(fastapi_app(endpoint)))
    assert seen == ["inner", "inner"], "by the drain"


def test_shutdown() -> None:
    """Shutdown waits for `drain_timeout` seconds."""

    def endpoint() -> None:
        after(anyio.sleep_forever)

    with staged(KIND, lambda probe: SideEffects(runtime=RuntimeOptions(drain_timeout=0.05))) as server:
        server.get(case=server.play(fastapi_app(endpoint)))
    assert server.fx.stats().callables.dropped == {"shutdown": 1}
    assert RuntimeOptions().drain_timeout == 10
