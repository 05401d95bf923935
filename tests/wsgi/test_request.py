"""What an effect can read of its request."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import sidefx
from sidefx import SideEffects
from sidefx.request import RequestInfo
from sidefx.wsgi import SideEffectsMiddleware
from tests.asgi.probe import Probe
from tests.wsgi.by_hand import environ_of, served
from tests.wsgi.processes import COMMANDS, serving

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.contract("X02")
@pytest.mark.parametrize("kind", COMMANDS)
def test_every_fact_of_the_request(kind: str, tmp_path: Path) -> None:
    """Inside an effect the request can be read in full, and the response's end with it."""
    with serving(kind, "tests.wsgi.mirror:app", tmp_path) as server:
        reply, case = server.get(
            "/a%20b/%C3%A9?tag=x&tag=y&empty=&q=%C3%A9",
            method="POST",
            body=b"secret body",
            User_Agent="agent/1.0",
            traceparent=TRACEPARENT,
            Cookie='session=s3cret; theme="dark mode"',
            Authorization="Bearer t0ken",
            Content_Type="text/x-secret",
        )
        assert reply.status == 201
        facts: dict[str, Any] = json.loads(_first_of(server, case))

    assert (facts["request_id"], facts["method"], facts["path"]) == (case, "POST", "/a b/é")
    assert facts["query"] == {"tag": ["x", "y"], "empty": [""], "q": ["é"]}
    assert facts["headers"]["authorization"] == ["Bearer t0ken"]
    assert facts["headers"]["content-type"] == ["text/x-secret"]
    assert facts["headers"]["content-length"] == ["11"]
    assert facts["cookies"] == {"session": "s3cret", "theme": "dark mode"}
    assert facts["client"][0] == "127.0.0.1"
    assert isinstance(facts["client"][1], int) is (kind != "wsgiref")
    assert (facts["user_agent"], facts["traceparent"]) == ("agent/1.0", TRACEPARENT)
    assert (facts["status"], facts["bytes_sent"], facts["outcome"], facts["route"]) == (201, 6, "complete", None)
    assert 0 < facts["duration"] < 15


def _first_of(server: Any, case: str) -> str:
    from tests.asgi.probe import eventually

    return next(iter(eventually(lambda: server.record.of(case))))


def seen_by(app: Any, fx: SideEffects, **environ: Any) -> RequestInfo:
    """What the request looks like from within the app."""
    seen: list[RequestInfo | None] = []

    def looking(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = app(environ, start_response) if app is not None else start_response("204 No Content", []) and []
        seen.append(sidefx.request())
        return body  # type: ignore[no-any-return]  # the app's

    served(SideEffectsMiddleware(looking, effects=fx), environ_of(**environ))
    [request] = seen
    assert request is not None
    return request


@pytest.mark.contract("X02")
def test_what_a_server_leaves_out(fx: SideEffects) -> None:
    """A socket of the file system has no address, a peer may have no port, and a path may be no text at all."""
    environ = {"REMOTE_ADDR": "", "QUERY_STRING": "", "PATH_INFO": "/\xff", "CONTENT_TYPE": "", "CONTENT_LENGTH": ""}
    request = seen_by(None, fx, **environ)
    assert (request.client, request.path, dict(request.query)) == (None, "/\ufffd", {})
    assert "content-type" not in request.headers
    assert seen_by(None, fx, REMOTE_ADDR="::1", REMOTE_PORT="None").client == ("::1", None)


@pytest.mark.contract("X02")
@pytest.mark.parametrize("given", ["with space", "x" * 129, "quote\"'", "<script>"])
def test_a_request_id_that_is_not_sane_is_replaced(fx: SideEffects, given: str) -> None:
    """An id that could forge a log line, or has no bounds, is not taken over."""
    assert len(seen_by(None, fx, HTTP_X_REQUEST_ID=given).request_id) == 36


@pytest.mark.contract("X02")
def test_the_path_is_that_of_the_whole_app(fx: SideEffects, probe: Probe) -> None:
    """What mounts an app moves a part of the path elsewhere; the request has all of it, and the route too."""
    import flask

    inner = flask.Flask("inner")
    inner.add_url_rule("/items/<int:item>", view_func=lambda item: probe.schedule() or "whole", endpoint="item")
    mounting = DispatcherMiddleware(lambda *_: [], {"/shop": inner.wsgi_app})
    request = seen_by(mounting, fx, SCRIPT_NAME="/outer", PATH_INFO="/shop/items/7")
    fx.flush_blocking(10)

    assert request.path == "/outer/shop/items/7"
    assert probe.seen["case"].route == "/shop/items/<int:item>"


@pytest.mark.contract("X02", "X03")
def test_a_request_that_is_first_asked_for_in_an_effect(fx: SideEffects) -> None:
    """It is made then, with the end of the response in it; and it is the same one for everybody."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["ask"] = fx.bind(sidefx.request)
        start_response("202 Accepted", [])
        return [b"one"]

    environ = environ_of("/late", HTTP_USER_AGENT="agent/1.0")
    served(SideEffectsMiddleware(app, effects=fx), environ)
    request: RequestInfo = environ["ask"]()

    assert environ["ask"]() is request
    assert (request.status, request.bytes_sent, request.outcome) == (202, 3, "complete")
    assert (request.request_id, request.path, request.user_agent) == ("case", "/late", "agent/1.0")


def test_what_the_server_has_for_a_request_is_let_go_of(fx: SideEffects) -> None:
    """A context that lives on keeps no body and no socket: nothing but the text of the environ."""

    class Input:
        """The body of the request."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asking.append(fx.bind(sidefx.request))
        start_response("204 No Content", [])
        return []

    asking: list[Callable[[], RequestInfo | None]] = []
    body = Input()
    gone = weakref.ref(body)
    served(SideEffectsMiddleware(app, effects=fx), environ_of(**{"wsgi.input": body}))
    del body

    assert gone() is None
    assert asking[0]() is not None


@pytest.mark.contract("X02")
def test_a_route_that_the_app_tells(fx: SideEffects, probe: Probe) -> None:
    """Where a framework leaves none, an app puts it into the environ itself."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        probe.schedule()
        environ["path_template"] = "/items/<int:item>"
        start_response("204 No Content", [])
        return []

    served(SideEffectsMiddleware(app, effects=fx), environ_of("/items/7"))
    fx.flush_blocking(10)

    assert probe.seen["case"].route == "/items/<int:item>"
