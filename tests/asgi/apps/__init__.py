"""The same small application in every framework: what the scenarios are played on.

Each app has the same paths; most of them schedule what `Script.schedule` does, and answer:

    /ok, /sync (from a thread), /bad (400), /down (500), /redirect    a whole response
    /http-exception (404), /boom                                      the framework's exception, and the app's own
    /mid-stream, /leave                                               a stream that breaks, and one without an end
    /items/{item} (POST, 201)                                         a route with a parameter
    /nested                                                           scheduled by a hook of the framework, nested
    /chat                                                             a websocket: an echo, or a bug
"""

from __future__ import annotations

from tests.asgi.apps.bare import BARE
from tests.asgi.apps.django import DJANGO
from tests.asgi.apps.falcon import FALCON
from tests.asgi.apps.fastapi import FASTAPI
from tests.asgi.apps.framework import AppBug, Framework, Script
from tests.asgi.apps.litestar import LITESTAR
from tests.asgi.apps.quart import QUART
from tests.asgi.apps.starlette import STARLETTE

__all__ = ["FRAMEWORKS", "AppBug", "Framework", "Script"]

FRAMEWORKS: dict[str, Framework] = {**BARE, **STARLETTE, **FASTAPI, **LITESTAR, **QUART, **FALCON, **DJANGO}
