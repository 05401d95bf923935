"""`ScopeBlock`: `fx.scope()` as a block of code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidefx.errors import NotRunningError
from sidefx.event_loop import in_event_loop
from sidefx.scope import Releaser, Scope, current_scope, enter_scope, is_recording

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from sidefx.effect import Effect


class Holder(Releaser, Protocol):
    """A runtime that can keep whoever has released effects to it until there is room for them."""

    async def hold(self, effects: Sequence[Effect]) -> None:
        """Returns when the lanes that the effects went to have room."""
        ...


class ScopeBlock:
    """A block whose effects start when it is left: `async with`, or `with`, which waits for no room.

    What is journaled is on disk by then; `with` on an event loop, which it would stop, does not wait for the disk.
    """

    def __init__(self, runtime: Holder, name: str | None) -> None:
        self._runtime = runtime
        self._name = name
        self._before: Scope | None = None

    def __enter__(self) -> Scope:
        """Opens the scope.

        Raises:
            NotRunningError: the runtime is not running, so nothing that is scheduled could ever start.
        """
        if not self._runtime.accepting and not is_recording():
            msg = f"scope({self._name or ''}): {self._runtime!r} is not running; use `async with` or `with` on it first"
            raise NotRunningError(msg)
        outer = current_scope()
        self._scope = Scope(self._runtime, name=self._name, request=outer.request if outer is not None else None)
        self._before = enter_scope(self._scope)
        return self._scope

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        enter_scope(self._before)
        try:
            if self._scope.gate is not None and not in_event_loop():
                self._scope.gate.secured_blocking(self._scope.unsecured(succeeded=error is None))
        finally:
            self._scope.close(succeeded=error is None)

    async def __aenter__(self) -> Scope:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        enter_scope(self._before)
        try:
            if self._scope.gate is not None:
                await self._scope.gate.secured(self._scope.unsecured(succeeded=error is None))
        finally:  # a block that is cancelled does not wait
            released = self._scope.close(succeeded=error is None, held=True)
        await self._runtime.hold(released)
