"""The same small application without a framework, in Flask and in Django: what the scenarios are played on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class AppBug(Exception):
    """What the apps raise where they are to break."""


@dataclass(frozen=True)
class Framework:
    """One way to build the app, and what is to be seen of it."""

    build: Callable[[Callable[[], object], Path], WSGIApplication]
    unhandled_status: int | None = 500
    unhandled_outcome: str = "complete"
    route: str | None = None


def chunks() -> Iterator[bytes]:
    """A stream that ends by itself."""
    yield from (b"one", b"two", b"three")


def chunks_without_end() -> Iterator[bytes]:
    """A stream that ends when the client has left, which the server sees where it writes."""
    yield b"first"
    for _ in itertools.count():
        time.sleep(0.001)
        yield b"more" * 1000


def chunks_then_bug() -> Iterator[bytes]:
    """A stream that breaks."""
    yield b"first"
    raise AppBug


STATUSES = {
    "/ok": "200 OK",
    "/bad": "400 Bad Request",
    "/http-exception": "404 Not Found",
    "/down": "500 Internal Server Error",
    "/redirect": "302 Found",
}


def bare(schedule: Callable[[], object], file: Path) -> WSGIApplication:
    """A plain WSGI callable: every way that PEP 3333 has of giving a body."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        path = environ["PATH_INFO"]
        schedule()
        streams: dict[str, Callable[[], Iterator[bytes]]] = {
            "/stream": chunks,
            "/mid-stream": chunks_then_bug,
            "/leave": chunks_without_end,
        }
        if path == "/boom":
            raise AppBug
        if path == "/empty":
            start_response("204 No Content", [])
            return []
        headers = [("Content-Type", "text/plain")]
        if path == "/redirect":
            headers.append(("Location", "/ok"))
        if path in STATUSES:
            headers.append(("Content-Length", "5"))
        if path == "/file":
            headers.append(("Content-Length", str(file.stat().st_size)))
        write: Any = start_response(STATUSES.get(path, "200 OK"), headers)
        if path == "/write":
            write(b"wh")
            write(b"ole")
            return []
        if path == "/unsized":
            return [b"whole"]
        if path in streams:
            return streams[path]()
        if path.startswith("/file"):
            return environ["wsgi.file_wrapper"](file.open("rb"))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"whole"]

    return app


def flask_app(schedule: Callable[[], object], file: Path) -> WSGIApplication:
    """Flask, with the adapter to come around its `wsgi_app`."""
    import flask

    app = flask.Flask("under_test")
    app.before_request(schedule)  # type: ignore[arg-type]  # it returns nothing
    streams = {"/stream": chunks, "/mid-stream": chunks_then_bug, "/leave": chunks_without_end}

    def stream(path: str) -> Callable[[], Any]:
        return lambda: flask.Response(streams[path](), mimetype="text/plain")

    def boom() -> Any:
        raise AppBug

    async def asynchronous() -> Any:
        return "whole"

    app.add_url_rule("/ok", view_func=lambda: "whole", endpoint="ok")
    app.add_url_rule("/items/<int:item>", view_func=lambda item: "whole", endpoint="item")
    app.add_url_rule("/async", view_func=asynchronous)
    app.add_url_rule("/bad", view_func=lambda: ("whole", 400), endpoint="bad")
    app.add_url_rule("/down", view_func=lambda: ("whole", 500), endpoint="down")
    app.add_url_rule("/http-exception", view_func=lambda: flask.abort(404), endpoint="http-exception")
    app.add_url_rule("/boom", view_func=boom)
    app.add_url_rule("/redirect", view_func=lambda: flask.redirect("/ok"), endpoint="redirect")
    app.add_url_rule("/empty", view_func=lambda: ("", 204), endpoint="empty")
    app.add_url_rule("/file", view_func=lambda: flask.send_file(file), endpoint="file")
    for path in streams:
        app.add_url_rule(path, view_func=stream(path), endpoint=path[1:])
    return app.wsgi_app


def django_app(schedule: Callable[[], object], file: Path) -> WSGIApplication:
    """Django's own WSGI handler."""
    import django
    from django.conf import settings
    from django.http import FileResponse, Http404, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
    from django.urls import path

    def http_exception() -> Any:
        raise Http404

    def boom() -> Any:
        raise AppBug

    def answer(request: Any, make: Callable[[], Any], **_: object) -> Any:
        schedule()
        return make()

    async def asynchronous(request: Any) -> Any:
        schedule()
        return HttpResponse(b"whole")

    answers: dict[str, Callable[[], Any]] = {
        "ok": lambda: HttpResponse(b"whole"),
        "items/<int:item>": lambda: HttpResponse(b"whole"),
        "bad": lambda: HttpResponse(b"whole", status=400),
        "down": lambda: HttpResponse(b"whole", status=500),
        "http-exception": http_exception,
        "boom": boom,
        "redirect": lambda: HttpResponseRedirect("/ok"),
        "empty": lambda: HttpResponse(status=204),
        "file": lambda: FileResponse(file.open("rb")),
        "stream": lambda: StreamingHttpResponse(chunks()),
        "mid-stream": lambda: StreamingHttpResponse(chunks_then_bug()),
        "leave": lambda: StreamingHttpResponse(chunks_without_end()),
    }

    class Urls:
        urlpatterns = [path(where, answer, {"make": make}) for where, make in answers.items()]  # noqa: RUF012
        urlpatterns += [path("async", asynchronous)]

    settings.configure(
        ALLOWED_HOSTS=["*"], SECRET_KEY="for the test", ROOT_URLCONF=Urls, MIDDLEWARE=[f"{__name__}.lengths"]
    )
    django.setup()
    from django.core.wsgi import get_wsgi_application

    application: Any = get_wsgi_application()
    return application  # type: ignore[no-any-return]  # it is what its name says


def lengths(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What Django's `CommonMiddleware` does, and no more."""

    def middleware(request: Any) -> Any:
        response = get_response(request)
        if not response.streaming and not response.has_header("Content-Length"):
            response.headers["Content-Length"] = str(len(response.content))
        return response

    return middleware


FRAMEWORKS = {
    "bare": Framework(bare, unhandled_status=None, unhandled_outcome="errored"),
    "flask": Framework(flask_app, route="/items/<int:item>"),
    "django": Framework(django_app),
}
