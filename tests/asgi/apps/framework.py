"""`Framework`: what the scenarios ask of each, and what they may differ in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

import anyio

import sidefx
from sidefx import SideEffects, after
from sidefx.asgi import ASGIApp
from tests.asgi.probe import Probe

variable: ContextVar[str] = ContextVar("variable", default="unset")


class AppBug(Exception):
    """What the apps raise where they are to break."""


@dataclass
class Script(Probe):
    """What the apps schedule, and what their effects have found."""

    variables: dict[str, str] = field(default_factory=dict)
    """The context variable, by the request of the effect that saw it."""

    def schedule(self) -> None:
        """One effect for each `when`, an event, and a look at a variable that has changed since."""
        variable.set("at the call")
        super().schedule()
        after(self._look)
        variable.set("too late")

    async def _look(self) -> None:
        request = sidefx.request()
        assert request is not None
        self.variables[request.request_id] = variable.get()

    def heard(self, text: str) -> str:
        """What a websocket says to that.

        Raises:
            AppBug: it was told to.
        """
        if text == "boom":
            raise AppBug
        return text

    def schedule_nested(self) -> None:
        """An effect that schedules another one: what a hook of the framework asks for."""
        after(self._outer)

    async def _outer(self) -> None:
        self.note("outer")
        after(self.note, "inner")

    def started(self) -> None:
        """The app's own start-up."""
        self.note("app started", "app")

    def stopped(self) -> None:
        """The app's own shutdown."""
        self.note("app stopped", "app")


@dataclass(frozen=True)
class Framework:
    """One way to build the app, and what is peculiar to it."""

    build: Callable[[SideEffects, Script], ASGIApp]
    unhandled_status: int | None = 500
    """What an unhandled exception looks like from the adapter: None where the 500 is made outside of it."""
    unhandled_outcome: str = "errored"
    redirect_status: int = 307
    route: str | None = None
    """What the framework leaves of the route of `/items/7`."""
    has_lifespan: bool = True
    has_websockets: bool = True
    raises_from_websockets: bool = True
    """Whether what a websocket's handler raises reaches the adapter; else the framework closes, and says nothing."""


async def chunks_then_wait() -> AsyncIterator[bytes]:
    """A stream that ends when the client leaves."""
    yield b"first"
    await anyio.sleep_forever()


async def chunks_then_bug() -> AsyncIterator[bytes]:
    """A stream that breaks."""
    yield b"first"
    raise AppBug
