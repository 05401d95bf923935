"""`scope_per_request`: for Django's test clients, which call its handlers past the adapter."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from sidefx.effect import Effect
from sidefx.errors import NotRunningError
from sidefx.request import Headers
from sidefx.scope import Scope, current_scope, enter_scope, the_one_runtime
from sidefx.sink import is_async_callable
from sidefx.snapshot import snapshot_of
from sidefx.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from sidefx.request import RequestInfo
    from sidefx.scope import Releaser


def scope_per_request(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A Django middleware for tests: what a request schedules waits until it is over, as under the adapter.

    Django's `Client` and `AsyncClient` pass no adapter: without this, effects are released at once, know of
    no request, and `when` knows of no status. Put it first in `MIDDLEWARE`, or around a view:
    `scope_per_request(view)(RequestFactory().get("/"))`. Under an adapter, and where nothing runs, it does nothing.
    """
    if is_async_callable(get_response):

        async def answer(request: Any) -> Any:
            if (runtime := _runtime_here()) is None:
                return await get_response(request)
            with _Exchange(request, runtime) as exchange:
                return exchange.answered(await get_response(request))

        return answer

    def answer_blocking(request: Any) -> Any:
        if (runtime := _runtime_here()) is None:
            return get_response(request)
        with _Exchange(request, runtime) as exchange:
            return exchange.answered(get_response(request))

    return answer_blocking


scope_per_request.sync_capable = True  # type: ignore[attr-defined]  # so Django asks which of the two it may be
scope_per_request.async_capable = True  # type: ignore[attr-defined]


class _Exchange:
    """One request and its response, on their way through Django's middlewares."""

    def __init__(self, request: Any, runtime: Releaser) -> None:
        self._asgi_scope = getattr(request, "scope", {})  # under `Client`, which speaks WSGI, there is none
        self._request = _request_info(request)
        self._scope = Scope(runtime, request=self._request)
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._before = enter_scope(self._scope)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        enter_scope(self._before)
        if error is not None:
            self._end(None, 0, raised=isinstance(error, Exception))

    def answered(self, response: Any) -> Any:
        """The response is over; one that streams is when Django closes it."""
        if not response.streaming:
            self._end(response.status_code, len(response.content) if getattr(response, "is_rendered", True) else 0)
            return response
        close = response.close

        def closed() -> None:
            try:
                close()
            finally:
                self._end(response.status_code, 0)

        response.close = closed
        return response

    def _end(self, status: int | None, sent: int, *, raised: bool = False) -> None:
        outcome, succeeded = verdict(status=status, raised=raised, left=False, complete=status is not None)
        self._request._complete(  # noqa: SLF001 - an adapter's part
            route=self._asgi_scope.get("path_template"),  # Django leaves none; a middleware of the app's may
            status=status,
            bytes_sent=sent,
            duration=time.perf_counter() - self._started,
            outcome=outcome,
        )
        self._scope.close(succeeded=succeeded)


def _runtime_here() -> Releaser | None:
    """Where effects of a scope would go; None where a request has its scope, or `after()` is to say what is missing."""
    if (scope := current_scope()) is not None:
        return scope._runtime if scope.request is None else None  # noqa: SLF001 - ours
    try:
        return the_one_runtime(Effect(None))
    except NotRunningError:
        return None


def _request_info(request: Any) -> RequestInfo:
    meta = request.META
    return snapshot_of(
        method=request.method,
        path=request.path,
        route=None,
        client=(meta["REMOTE_ADDR"], meta.get("REMOTE_PORT", "")) if meta.get("REMOTE_ADDR") else None,
        query=meta.get("QUERY_STRING", ""),
        headers=Headers(request.headers.items()),
    )
