"""An app with the `sidefx.toml` of the folder that it is served from, for starts that fail."""

from __future__ import annotations

import os
import sys
from typing import Any

import anyio

from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.probe import Happened

if missing := os.environ.get("NOT_INSTALLED"):
    sys.modules[missing] = None  # type: ignore[assignment]  # so that importing it fails


class Refusing:
    """A sink that cannot be opened."""

    def __init__(self, *, token: str = "") -> None:
        self._token = token

    async def __aenter__(self) -> None:
        raise ConnectionRefusedError("nobody answers at 127.0.0.1:1")

    async def __aexit__(self, *_: object) -> None: ...

    async def send(self, event: Happened) -> None: ...


class Hanging(Refusing):
    """A sink that is never open."""

    async def __aenter__(self) -> None:
        await anyio.sleep_forever()


async def _app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] != "lifespan", "the app was started though sidefx could not be"
    raise AssertionError("the app was asked though sidefx could not start")


app = SideEffectsMiddleware(_app)
