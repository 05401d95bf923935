"""Django's clients, which call its handlers past the adapter: bare, and with `scope_per_request`."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template.response import SimpleTemplateResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory, override_settings
from django.urls import path

import sidefx
from sidefx import NotRunningError, SideEffects, after
from sidefx.asgi import SideEffectsMiddleware
from sidefx.testing import Capture, capture, scope_per_request
from tests.asgi.apps import FRAMEWORKS, AppBug, Script
from tests.asgi.probe import PATIENCE
from tests.clients.with_django import scoped

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Django knows asyncio alone."""
    return "asyncio"


@pytest.fixture
def script() -> Script:
    """What effects note."""
    return Script()


def adapted(script: Script) -> SideEffectsMiddleware:
    """The app under the adapter, with the middlewares that the settings have now."""
    app = FRAMEWORKS["django"].build(SideEffects(), script)
    assert isinstance(app, SideEffectsMiddleware)
    return app


@pytest.fixture(autouse=True)
def views(script: Script) -> None:
    """Django's clients find the views of the app in the settings."""
    adapted(script)


@pytest.fixture
def scopes() -> Iterator[None]:
    """With the middleware."""
    with scoped():
        yield


def urls(**views: Callable[[HttpRequest], Any]) -> Any:
    """Settings under which these are the views."""
    return override_settings(ROOT_URLCONF=tuple(path(name, view) for name, view in views.items()))


def notes_of(captured: Capture) -> list[Any]:
    """What would be noted."""
    return [effect.args[0] for effect in captured if effect.args]


# --- without the middleware ----------------------------------------------------------------------------------------


async def test_without_a_scope_effects_are_captured_at_once(sidefx_capture: Capture) -> None:
    """As outside of any request: they know of none, and `when` of no status."""
    assert (await AsyncClient().get("/bad")).status_code == 400
    assert notes_of(sidefx_capture) == ["always", "success"]
    assert [effect.request for effect in sidefx_capture if effect.request is not None] == []


def test_without_a_scope_effects_run_at_once() -> None:
    """A runtime of the test's own runs them; the view need not have ended."""
    ran: list[str] = []

    def view(request: HttpRequest) -> HttpResponse:
        after(ran.append, "effect")
        fx.flush_blocking(PATIENCE)
        ran.append("view")
        return HttpResponse()

    with SideEffects() as fx, urls(view=view):
        Client().get("/view")
    assert ran == ["effect", "view"]


@pytest.mark.contract("S11")
@pytest.mark.parametrize("middleware", [[], ["sidefx.testing.scope_per_request"]])
def test_with_nothing_running_the_view_is_told(middleware: list[str]) -> None:
    """The test sees what `after()` says of it, with the middleware too."""
    with override_settings(MIDDLEWARE=middleware), pytest.raises(NotRunningError, match=r"sidefx\.testing\.capture"):
        Client().get("/sync")


# --- with it -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("scopes")
def test_a_captured_effect_knows_its_request(sidefx_capture: Capture) -> None:
    """What the adapters tell of a request, this tells too."""
    headers = {"x-request-id": "r", "user-agent": "tests", "x-several": "a"}
    client = Client(headers=headers)
    client.cookies["session"] = "secret"
    client.get("/sync", query_params={"q": ["1", "2"]})
    request = sidefx_capture[0].request
    assert request is not None
    assert (request.method, request.path, request.status, request.bytes_sent) == ("GET", "/sync", 200, len("whole"))
    assert (request.request_id, request.user_agent, request.headers["X-Several"]) == ("r", "tests", "a")
    assert (request.query.getlist("q"), request.cookies["session"]) == (["1", "2"], "secret")
    assert request.client is not None
    assert request.client.host == "127.0.0.1"
    assert request.duration is not None


@pytest.mark.usefixtures("scopes")
async def test_a_captured_effect_knows_the_route_that_the_app_names(sidefx_capture: Capture) -> None:
    """Where the adapter looks for it."""

    async def view(request: Any, item: int) -> HttpResponse:
        request.scope["path_template"] = f"/{request.resolver_match.route}"
        after(print)
        return HttpResponse()

    with override_settings(ROOT_URLCONF=(path("items/<int:item>", view),)):
        await AsyncClient().get("/items/7")
    assert sidefx_capture[0].request is not None
    assert (sidefx_capture[0].request.path, sidefx_capture[0].request.route) == ("/items/7", "/items/<int:item>")


@pytest.mark.usefixtures("scopes")
def test_effects_run_after_the_view() -> None:
    """With the request that they were scheduled under."""
    ran: list[Any] = []

    def effect() -> None:
        request = sidefx.request()
        assert request is not None
        ran.append(request.status)

    def view(request: HttpRequest) -> HttpResponse:
        after(effect)
        fx.flush_blocking(PATIENCE)
        ran.append("view")
        return HttpResponse(status=201)

    with SideEffects() as fx, urls(view=view):
        Client().get("/view")
        fx.flush_blocking(PATIENCE)
    assert ran == ["view", 201]


@pytest.mark.usefixtures("scopes")
async def test_a_view_in_another_thread(sidefx_capture: Capture) -> None:
    """A synchronous view under `AsyncClient`, an asynchronous one under `Client`."""
    await AsyncClient().get("/sync", headers={"x-request-id": "r"})
    assert {effect.request_id for effect in sidefx_capture} == {"r"}


@pytest.mark.usefixtures("scopes")
def test_a_streaming_response_is_over_when_it_is_closed(sidefx_capture: Capture) -> None:
    """Which Django's client does at its end."""
    closed: list[str] = []

    class Response(StreamingHttpResponse):
        def close(self) -> None:
            closed.append("response")
            super().close()

    def view(request: HttpRequest) -> StreamingHttpResponse:
        after(print)
        return Response([b"a", b"b"])

    with urls(view=view):
        response: Any = Client().get("/view")
        chunks = iter(response.streaming_content)
        assert (next(chunks), len(sidefx_capture)) == (b"a", 0)
        assert (list(chunks), len(sidefx_capture), closed) == ([b"b"], 1, ["response"])


@pytest.mark.usefixtures("scopes")
async def test_an_asynchronous_stream_is_over_when_it_is_closed(sidefx_capture: Capture) -> None:
    """The same for `AsyncClient`."""

    async def stream() -> Any:
        yield b"a"
        yield b"b"

    async def view(request: HttpRequest) -> StreamingHttpResponse:
        after(print)
        return StreamingHttpResponse(stream())

    with urls(view=view):
        response: Any = await AsyncClient().get("/view")
        assert len(sidefx_capture) == 0
        assert [chunk async for chunk in response.streaming_content] == [b"a", b"b"]
        assert len(sidefx_capture) == 1


@pytest.mark.contract("S13")
@pytest.mark.usefixtures("scopes")
def test_an_exception_that_django_hands_on(sidefx_capture: Capture) -> None:
    """`DEBUG_PROPAGATE_EXCEPTIONS`: it passes the middleware, no status was sent."""
    with override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True), pytest.raises(AppBug):
        Client().get("/boom")
    assert notes_of(sidefx_capture) == ["always", "error"]
    request = sidefx_capture[0].request
    assert request is not None
    assert (request.status, request.outcome) == (None, "errored")
    assert sidefx.request() is None


@pytest.mark.usefixtures("scopes")
async def test_under_the_adapter_the_middleware_does_nothing(script: Script, sidefx_capture: Capture) -> None:
    """It may stand in the settings for good: the request is the adapter's."""
    app = adapted(script)
    django, seen = app.app, []

    async def between(scope: Any, receive: Any, send: Any) -> None:
        seen.append(sidefx.request())
        await django(scope, receive, send)

    app.app = between
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        await client.get("/bad")
    assert notes_of(sidefx_capture) == ["always", "error"]
    assert {id(effect.request) for effect in sidefx_capture} == {id(seen[0])}


@pytest.mark.usefixtures("scopes")
def test_of_several_runtimes_it_takes_the_one_of_the_test(script: Script) -> None:
    """A scope that the test has opened says which."""
    with SideEffects(name="one") as one, SideEffects(name="other") as other:
        Client().get("/sync", headers={"x-request-id": "other"})
        with one.scope("test"):
            Client().get("/sync", headers={"x-request-id": "one"})
        one.flush_blocking(PATIENCE)
        other.flush_blocking(PATIENCE)
        assert one.stats().callables.delivered == other.stats().callables.delivered == 3
    assert script.of("one") == script.of("other") == ["always", "success"]


# --- around a view -------------------------------------------------------------------------------------------------


def test_a_view_that_a_request_factory_calls(script: Script, sidefx_capture: Capture) -> None:
    """A call of a view is no request; in the middleware's hands it is."""

    def view(request: HttpRequest) -> HttpResponse:
        script.schedule()
        return HttpResponse(status=404)

    request = RequestFactory().get("/view", headers={"x-request-id": "r"})
    view(request)
    assert notes_of(sidefx_capture) == ["always", "success"]
    assert scope_per_request(view)(request).status_code == 404
    assert notes_of(sidefx_capture)[2:] == ["always", "error"]
    assert sidefx_capture[-1].request_id == "r"


async def test_an_asynchronous_view_that_a_request_factory_calls(script: Script, sidefx_capture: Capture) -> None:
    """One that raises."""

    async def view(request: HttpRequest) -> HttpResponse:
        script.schedule()
        raise AppBug

    with pytest.raises(AppBug):
        await scope_per_request(view)(AsyncRequestFactory().get("/view"))
    assert notes_of(sidefx_capture) == ["always", "error"]


def test_a_template_response_that_nobody_has_rendered(sidefx_capture: Capture) -> None:
    """Django renders it between the view and the middlewares; who calls the view by hand may not."""

    def view(request: HttpRequest) -> SimpleTemplateResponse:
        after(print)
        return SimpleTemplateResponse("page.html")

    scope_per_request(view)(RequestFactory().get("/view"))
    assert len(sidefx_capture) == 1


# --- Django's own test cases -----------------------------------------------------------------------------------------


def test_a_test_case_of_django_s() -> None:
    """It needs no pytest."""
    from django.test import SimpleTestCase, modify_settings

    @modify_settings(MIDDLEWARE={"prepend": "sidefx.testing.scope_per_request"})
    class Orders(SimpleTestCase):
        def setUp(self) -> None:
            self.captured = self.enterContext(capture())

        def test_sync(self) -> None:
            self.client.get("/bad")
            assert [effect.when for effect in self.captured] == ["always", "error", "always", "always"]

        async def test_async(self) -> None:
            await self.async_client.get("/ok")
            assert [effect.when for effect in self.captured] == ["always", "success", "always", "always"]

    result = unittest.TestResult()
    cases: Any = Orders
    unittest.defaultTestLoader.loadTestsFromTestCase(cases).run(result)
    assert (result.testsRun, result.errors, result.failures) == (2, [], [])
    assert "sidefx.testing.scope_per_request" not in settings.MIDDLEWARE
