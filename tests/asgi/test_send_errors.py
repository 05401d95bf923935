"""A server of ASGI 2.4, whose `send` raises once the client has gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from sidefx import SideEffects
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.probe import Probe
from tests.asgi.servers import body, start


class GoneError(OSError):
    """What a 2.4 server raises once the client has gone."""


async def _ask_2_4(app: ASGIApp, *, goes_after: int) -> tuple[Probe, BaseException | None]:
    """One request to the app on a server double, whose client goes after so many messages.

    A double, because no installed server raises from `send` over HTTP: they swallow what is sent to
    nobody (`test_disconnect.py`), though ASGI 2.4 lets them raise.
    """
    probe = Probe()
    effects = SideEffects({"sink": probe.sink})
    sent: list[Any] = []
    raised: BaseException | None = None

    async def send(message: Any) -> None:
        if len(sent) >= goes_after:
            raise GoneError("the client has gone")
        sent.append(message)

    async def receive() -> Any:
        if sent:
            await anyio.sleep_forever()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def scheduling(scope: Any, receive: Any, send: Any) -> None:
        probe.schedule()
        await app(scope, receive, send)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "GET",
        "path": "/",
        "headers": [(b"x-request-id", b"the-case")],
        "query_string": b"",
    }
    async with effects:
        try:
            await SideEffectsMiddleware(scheduling, effects=effects)(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - what the server would get
            raised = error
        await effects.flush(10)
    return probe, raised


async def _two_chunks(scope: Any, receive: Any, send: Any) -> None:
    await send(start())
    await send(body(b"one", more_body=True))
    await send(body(b"two"))


@pytest.mark.anyio
@pytest.mark.contract("A08", "S13")
@pytest.mark.parametrize("goes_after", [0, 1, 2])
async def test_oserror_from_send_is_a_disconnect_and_propagates(goes_after: int) -> None:
    """The app gets the server's `OSError`, the server gets it back, and the outcome is `disconnected`."""
    probe, raised = await _ask_2_4(_two_chunks, goes_after=goes_after)

    assert isinstance(raised, GoneError)
    assert probe.of("the-case") == ["always", "success"]
    assert probe.seen["the-case"].outcome == "disconnected"


@pytest.mark.anyio
@pytest.mark.contract("A08", "S13")
async def test_what_a_framework_makes_of_the_oserror_is_its_consequence() -> None:
    """Starlette turns the `OSError` into `ClientDisconnect`; that too is the client's leaving, no error."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"chunk"

    probe, raised = await _ask_2_4(StreamingResponse(chunks()), goes_after=2)

    assert isinstance(raised, ClientDisconnect)
    assert probe.of("the-case") == ["always", "success"]
    assert probe.seen["the-case"].outcome == "disconnected"


@pytest.mark.anyio
@pytest.mark.contract("A08", "S13")
async def test_an_oserror_under_base_http_middleware() -> None:
    """Neither does the way through `BaseHTTPMiddleware` make an error of it."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"chunk"

    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app = BaseHTTPMiddleware(StreamingResponse(chunks()), dispatch=pass_on)
    probe, raised = await _ask_2_4(app, goes_after=2)

    assert isinstance(raised, OSError | ClientDisconnect)
    assert probe.of("the-case") == ["always", "success"]
    assert probe.seen["the-case"].outcome == "disconnected"


@pytest.mark.anyio
@pytest.mark.contract("A08", "S13")
async def test_an_app_that_goes_on_after_the_oserror_and_lets_it_out_in_the_end() -> None:
    """The `OSError` stays the client's, where the app first tries its last message too."""
    swallowed: list[OSError] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for message in (body(b"one", more_body=True), body(b"two")):
            try:
                await send(message)
            except OSError as error:
                swallowed.append(error)
        raise swallowed[0]

    probe, raised = await _ask_2_4(app, goes_after=1)

    assert raised is swallowed[0]
    assert probe.of("the-case") == ["always", "success"]
    assert probe.seen["the-case"].outcome == "disconnected"


@pytest.mark.anyio
@pytest.mark.contract("A08", "S13")
async def test_a_bug_after_the_oserror_is_still_a_bug() -> None:
    """Only the server's own `OSError` is excused: another one of the app's is an error."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        raise FileNotFoundError("a file of the app's")

    probe, raised = await _ask_2_4(app, goes_after=9)

    assert isinstance(raised, FileNotFoundError)
    assert probe.of("the-case") == ["always", "error"]
    assert probe.seen["the-case"].outcome == "errored"


@pytest.mark.anyio
@pytest.mark.contract("A09")
async def test_an_oserror_after_the_last_message_is_no_disconnect() -> None:
    """A whole response stays whole, whatever comes of a message that follows it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _two_chunks(scope, receive, send)
        with pytest.raises(GoneError):
            await send(body(b"three"))

    probe, raised = await _ask_2_4(app, goes_after=3)

    assert raised is None
    assert probe.of("the-case") == ["always", "success"]
    assert probe.seen["the-case"].outcome == "complete"
