"""Django's own ASGI handler, which has neither lifespan nor websockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import django
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import async_only_middleware

from sidefx import SideEffects
from sidefx.asgi import ASGIApp, SideEffectsMiddleware
from tests.asgi.apps.framework import AppBug, Framework, Script, chunks_then_bug, chunks_then_wait


@async_only_middleware
def nesting(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """A middleware of Django's own."""

    async def middleware(request: HttpRequest) -> Any:
        response = await get_response(request)
        if request.path == "/nested":
            settings.SCRIPT.schedule_nested()
        return response

    return middleware


def build(effects: SideEffects, script: Script) -> ASGIApp:
    """Asynchronous views, and a synchronous one."""
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            SECRET_KEY="for the test",
            ROOT_URLCONF=None,
            MIDDLEWARE=[f"{__name__}.nesting"],
        )
        django.setup()
    from django.core.asgi import get_asgi_application

    def http_exception() -> Any:
        raise Http404

    def boom() -> Any:
        raise AppBug

    async def answer(request: HttpRequest, make: Callable[[], Any], **_: Any) -> Any:
        script.schedule()
        return make()

    async def stream(request: HttpRequest, chunks: Callable[[], Any]) -> Any:
        async def closing() -> Any:
            try:
                async for chunk in chunks():
                    yield chunk
            finally:
                request.close()  # where a stream breaks, Django leaves the body's file to the garbage collector

        script.schedule()
        return StreamingHttpResponse(closing())

    def sync(request: HttpRequest) -> Any:
        script.schedule()
        return HttpResponse("whole")

    async def nested(request: HttpRequest) -> Any:
        return HttpResponse("whole")

    answers: dict[str, Callable[[], Any]] = {
        "ok": lambda: HttpResponse("whole"),
        "bad": lambda: HttpResponse("whole", status=400),
        "down": lambda: HttpResponse("whole", status=500),
        "http-exception": http_exception,
        "boom": boom,
        "redirect": lambda: HttpResponseRedirect("/ok"),
        "items/<int:item>": lambda: HttpResponse("whole", status=201),
    }

    class Urls:
        urlpatterns = [path(where, answer, {"make": make}) for where, make in answers.items()]  # noqa: RUF012
        urlpatterns += [
            path("sync", sync),
            path("nested", nested),
            path("mid-stream", stream, {"chunks": chunks_then_bug}),
            path("leave", stream, {"chunks": chunks_then_wait}),
        ]

    settings.ROOT_URLCONF = Urls
    settings.SCRIPT = script
    return SideEffectsMiddleware(get_asgi_application(), effects=effects)


DJANGO = {
    "django": Framework(
        build, unhandled_outcome="complete", redirect_status=302, has_lifespan=False, has_websockets=False
    )
}
