"""Flask: what it does around a request stays as it is, and its test client works."""

from __future__ import annotations

from collections.abc import Iterator

import flask
import pytest

import sidefx
from sidefx import SideEffects, after
from sidefx.testing import capture
from sidefx.wsgi import SideEffectsMiddleware
from tests.asgi.probe import Happened, Probe
from tests.wsgi.by_hand import called, environ_of


def app_with(diary: list[str]) -> flask.Flask:
    """An app that writes down what Flask does."""
    app = flask.Flask("under_test")

    @app.get("/stream/<name>")
    def streamed(name: str) -> flask.Response:
        diary.append("view")

        def generate() -> Iterator[str]:
            diary.append(f"first piece of {flask.request.path}")
            after(diary.append, "effect of the stream")
            yield "Hello, "
            diary.append(f"second piece for {flask.request.args['as']}")
            yield name

        return flask.Response(flask.stream_with_context(generate()), mimetype="text/plain")

    @app.get("/plain")
    def plain() -> str:
        after(diary.append, "effect")
        diary.append("view")
        return "whole"

    @app.get("/boom")
    def boom() -> str:
        raise LookupError

    @app.after_request
    def after_request(response: flask.Response) -> flask.Response:
        diary.append("after_request")
        response.call_on_close(lambda: diary.append("closed"))
        return response

    @app.teardown_request
    def teardown_request(error: BaseException | None) -> None:
        after(diary.append, "effect of the teardown")
        diary.append(f"teardown_request {error!r} {flask.has_request_context()}")

    @app.teardown_appcontext
    def teardown_appcontext(error: BaseException | None) -> None:
        diary.append(f"teardown_appcontext {error!r}")

    return app


@pytest.mark.contract("A11", "X02")
@pytest.mark.parametrize("path", ["/stream/ada?as=a", "/plain", "/boom"])
@pytest.mark.parametrize("pieces", [0, 1, 9])
def test_what_flask_does_around_a_request(fx: SideEffects, path: str, pieces: int) -> None:
    """Its order is the same with the adapter as without, also for a client that leaves in mid-stream."""
    diaries: list[list[str]] = []
    for effects in (None, fx):
        diary: list[str] = []
        diaries.append(diary)
        app = app_with(diary)
        if effects is not None:
            app.wsgi_app = SideEffectsMiddleware(app.wsgi_app, effects=effects)  # type: ignore[method-assign]  # Flask's own way
        where, _, query = path.partition("?")
        response = called(app, environ_of(where, QUERY_STRING=query))
        body = iter(response.iterable)
        diary += [str(next(body, None)) for _ in range(pieces)]
        response.close()
        fx.flush_blocking(10)

    plain, adapted = ([line for line in diary if not line.startswith("effect")] for diary in diaries)
    assert adapted == plain
    assert "effect of the teardown" in diaries[1]
    if pieces > 0 and path == "/plain":
        assert diaries[1][-2:] == ["effect", "effect of the teardown"]


@pytest.mark.contract("X02")
def test_the_route_of_a_stream(fx: SideEffects, probe: Probe) -> None:
    """Flask has forgotten the request by the time that the body is read; the route was noted before."""
    app = flask.Flask("under_test")

    @app.get("/stream/<name>")
    def streamed(name: str) -> flask.Response:
        def generate() -> Iterator[str]:
            after(probe.note, "streamed")
            yield name

        return flask.Response(generate(), mimetype="text/plain")

    app.wsgi_app = SideEffectsMiddleware(app.wsgi_app, effects=fx)  # type: ignore[method-assign]  # Flask's own way
    called(app, environ_of("/stream/ada")).send()
    fx.flush_blocking(10)

    assert probe.seen["case"].route == "/stream/<name>"


@pytest.mark.contract("X01")
def test_what_flask_keeps_for_the_effect(fx: SideEffects) -> None:
    """The request that Flask knows is the one that the effect belongs to: its context was captured."""
    app = flask.Flask("under_test")
    seen: list[str] = []

    @app.get("/<name>")
    def view(name: str) -> str:
        after(lambda: seen.append(f"{sidefx.request().path} {flask.request.path}"))  # type: ignore[union-attr]  # it is there
        return name

    app.wsgi_app = SideEffectsMiddleware(app.wsgi_app, effects=fx)  # type: ignore[method-assign]  # Flask's own way
    for name in ("ada", "grace"):
        app.test_client().get(f"/{name}", buffered=True)
    fx.flush_blocking(10)

    assert seen == ["/ada /ada", "/grace /grace"]


@pytest.mark.parametrize(
    ("path", "due"), [("/plain", "success"), ("/empty", "success"), ("/down", "error"), ("/nowhere", "error")]
)
def test_flasks_test_client_under_capture(probe: Probe, path: str, due: str) -> None:
    """It closes no response by itself; what was scheduled is captured all the same once it has the response."""
    app = flask.Flask("under_test")
    app.before_request(probe.schedule)
    app.add_url_rule("/plain", view_func=lambda: "whole", endpoint="plain")
    app.add_url_rule("/empty", view_func=lambda: ("", 204), endpoint="empty")
    app.add_url_rule("/down", view_func=lambda: ("down", 500), endpoint="down")
    with capture() as captured:
        app.wsgi_app = SideEffectsMiddleware(app.wsgi_app)  # type: ignore[method-assign]  # Flask's own way
        response = app.test_client().get(path)
        assert [effect.args for effect in captured if effect.event is None] == [("always",), (due,)]
        [event] = captured.events(Happened)
        assert event.request is not None
        assert event.request.status == response.status_code


def test_flasks_test_client_with_a_runtime(fx: SideEffects, probe: Probe) -> None:
    """With `buffered=True`, or in a `with` block, it closes the response, and the effects start."""
    app = flask.Flask("under_test")
    app.before_request(probe.schedule)
    app.add_url_rule("/", view_func=lambda: "whole")
    app.wsgi_app = SideEffectsMiddleware(app.wsgi_app, effects=fx)  # type: ignore[method-assign]  # Flask's own way
    client = app.test_client()
    response = client.get("/", buffered=True)
    with client.get("/") as other:
        assert (response.data, other.data) == (b"whole", b"whole")
    fx.flush_blocking(10)

    assert len(probe.delivered) == 2
    assert all(isinstance(event, Happened) for event in probe.delivered)
