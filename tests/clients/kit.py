"""`Kit`: one test client, set up as its users set it up; and how a scenario is played with it."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from sidefx import SideEffects
from sidefx.testing import Capture
from tests.asgi.apps import FRAMEWORKS, AppBug, Framework, Script
from tests.asgi.probe import PATIENCE

SLOW_SECONDS = 0.02
"""What an effect takes that nobody has waited for by chance."""


@dataclass(frozen=True)
class Client:
    """A client in use."""

    get: Callable[[str, dict[str, str]], Awaitable[int]]
    """Sends the headers along, and says the status."""
    flush: Callable[[SideEffects], object] | None = None
    """How the test waits for what the app's own runtime does, where that lives on an event loop of the client's."""

    async def ask(self, path: str, case: str | None = None) -> int:
        """The status of one request; its id is the path, unless another is given."""
        try:
            return await self.get(path, {"x-request-id": case or path})
        except AppBug:  # many clients hand on what the app raises
            return 500


@dataclass(frozen=True)
class Kit:
    """One client, for the app of one framework."""

    framework: str
    opened: Callable[[Any], AbstractAsyncContextManager[Client]]
    backend: Literal["asyncio", "trio"] | None = None
    """What the test itself runs on; None where it is synchronous."""
    lifespan: Literal["client", "request"] | None = None
    """Whether the app's lifespan lasts as long as the client, or each request has one, or there is none."""
    starter: Literal["adapter", "app", "test"] = "adapter"
    """Who starts the runtime, where the test has not."""

    @property
    def traits(self) -> Framework:
        """What the framework may differ in."""
        return FRAMEWORKS[self.framework]

    def app(self, effects: SideEffects, script: Script) -> Any:
        """The same small application, under the adapter; of its paths the tests ask for those in `EXPECTED`."""
        return self.traits.build(effects, script)

    @asynccontextmanager
    async def running(self, effects: SideEffects) -> AsyncIterator[SideEffects]:
        """The runtime, run by the test."""
        if self.backend is None:
            with effects:
                yield effects
        else:
            async with effects:
                yield effects

    async def flush(self, effects: SideEffects) -> None:
        """How the test waits for a runtime that it runs itself."""
        if self.backend is None:
            effects.flush_blocking(PATIENCE)
        else:
            await effects.flush(PATIENCE)

    async def run(self, captured: Capture, script: Script) -> None:
        """How the test runs what was captured."""
        if self.backend is None:
            captured.run_blocking({"sink": script.sink})
        else:
            await captured.run({"sink": script.sink})


def played(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The scenario as a test: on the event loop of its kit; in plain synchronous code where that has none.

    A synchronous client never waits, so that what is written with `await` runs to its end in one go.
    """

    @functools.wraps(scenario)
    def test(kit: Kit, **fixtures: Any) -> None:
        if kit.backend is not None:
            anyio.run(functools.partial(scenario, kit=kit, **fixtures), backend=kit.backend)
            return
        playing = scenario(kit=kit, **fixtures)
        try:
            playing.send(None)
        except StopIteration:
            return
        playing.close()
        raise AssertionError("a synchronous client has waited for an event loop")

    return test
