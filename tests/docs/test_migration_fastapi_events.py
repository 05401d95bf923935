"""From fastapi-events: what each sentence of the page says, shown on both sides.

Longer than other files: it is one section of the page, and each of its sentences needs an app for either side.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi_events.dispatcher import dispatch
from fastapi_events.handlers.local import LocalHandler
from fastapi_events.middleware import EventHandlerASGIMiddleware
from fastapi_events.registry.payload_schema import EventPayloadSchemaRegistry
from pydantic import BaseModel, ValidationError

from sidefx import Event, NotRunningError, RetryOptions, SideEffects, SinkOptions, after
from sidefx.asgi import ASGIApp
from sidefx.testing import capture
from tests.asgi.probe import Gate
from tests.docs.sides import Side, fastapi_app, with_sinks

# fastapi-events, on Python 3.13
pytestmark = pytest.mark.filterwarnings("ignore:Failing to pass a value to the 'type_params'")

ONCE = SinkOptions(retry=RetryOptions(attempts=1))
QUICKLY = SinkOptions(retry=RetryOptions(initial=0.001))

variable: ContextVar[str] = ContextVar("variable", default="as it was")


class Bug(Exception):
    pass


class Placed(Event, kind="migration_test.placed"):
    number: int
    currency: str = "EUR"


def with_handlers(endpoint: Any, *handlers: Any, middleware_id: int | None = None) -> FastAPI:
    """An app with fastapi-events, and handlers of every event."""
    local = LocalHandler()
    for handler in handlers:
        local.register(handler)
    app = fastapi_app(endpoint)
    app.add_middleware(EventHandlerASGIMiddleware, handlers=[local], middleware_id=middleware_id)
    return app


def telling(app: ASGIApp, sent: list[str]) -> ASGIApp:
    """The app, which tells what it sends."""

    async def told(scope: Any, receive: Any, send: Any) -> None:
        async def tell(message: Any) -> None:
            await send(message)
            sent.append(message["type"])

        await app(scope, receive, tell)

    return told


def place(number: int = 1) -> None:
    """What most endpoints do there."""
    dispatch("placed", {"number": number})


def place_now(number: int = 1) -> None:
    """What most endpoints do here."""
    after(Placed(number=number))


# --- when -----------------------------------------------------------------------------------------------------------


def test_the_request_ends_with_the_response(there: Side) -> None:
    """The request ends with the response."""
    with Gate() as gate:

        async def handler(event: Any) -> None:
            await gate.passed()

        case = there.server.play(with_handlers(place, handler))
        there.server.get(case=case)
        gate.reached()
        assert case not in there.server.witness.over
    with Gate() as gate:

        async def sink(event: Placed) -> None:
            await gate.passed()

        with with_sinks(sink) as here:
            case = here.server.play(fastapi_app(place_now))
            here.server.get(case=case)
            gate.reached()
            assert here.server.over(case), "while the sink still works"
            gate.open()


def test_the_500_does_not_wait(there: Side) -> None:
    """The request ends with the response: there, the 500 of an unhandled exception waits for the handlers."""
    sent: list[str] = []
    sent_before: list[list[str]] = []

    async def handler(event: Any) -> None:
        sent_before.append([*sent])

    def endpoint() -> None:
        place()
        raise Bug

    there.get(telling(with_handlers(endpoint, handler), sent))
    assert sent_before == [[]]

    async def sink(event: Placed) -> None:
        sent_before.append([*sent])

    def endpoint_now() -> None:
        place_now()
        raise Bug

    sent.clear()
    with with_sinks(sink) as here:
        here.get(telling(fastapi_app(endpoint_now), sent))
    assert sent_before[1:] == [["http.response.start", "http.response.body"]]


def test_after_background_tasks(there: Side) -> None:
    """Handlers and effects both follow the request's own `BackgroundTasks`."""
    ran: list[str] = []

    async def handler(event: Any) -> None:
        ran.append("handler")

    def endpoint(tasks: BackgroundTasks) -> None:
        place()
        tasks.add_task(ran.append, "task")

    there.get(with_handlers(endpoint, handler))
    assert ran == ["task", "handler"]


def test_a_late_dispatch(there: Side) -> None:
    """An event that comes after the request is delivered."""
    seen: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    over: list[asyncio.Event] = []

    async def outliving(dispatch_it: Any) -> None:
        await over[-1].wait()
        dispatch_it()

    def endpoint(dispatch_it: Any) -> Any:
        async def endpoint() -> None:
            over.append(asyncio.Event())
            tasks.append(asyncio.create_task(outliving(dispatch_it)))

        return endpoint

    async def let_go() -> None:
        over[-1].set()
        await tasks[-1]

    async def handler(event: Any) -> None:
        seen.append(event)

    there.get(with_handlers(endpoint(place), handler))
    there.server.run(let_go)
    there.get(with_handlers(lambda: None, handler))
    assert seen == []

    async def sink(event: Placed) -> None:
        seen.append(event.number)

    with with_sinks(sink) as here:
        here.get(fastapi_app(endpoint(place_now)))
        here.server.run(let_go)
    assert seen == [1]


# --- what -----------------------------------------------------------------------------------------------------------


def test_a_sink_is_given_the_event(there: Side) -> None:
    """A sink is given the event, with its defaults."""
    seen: list[Any] = []
    schemas = EventPayloadSchemaRegistry()

    @schemas.register
    class PlacedThere(BaseModel):
        __event_name__ = "placed"
        number: int
        currency: str = "EUR"

    async def handler(event: Any) -> None:
        seen.append(event)

    there.get(with_handlers(lambda: dispatch(PlacedThere(number=1)), handler))
    there.get(with_handlers(lambda: dispatch("placed", {"number": 1}, payload_schema_registry=schemas), handler))
    assert seen == [("placed", {"number": 1})] * 2

    async def sink(event: Placed) -> None:
        seen.append((event.kind, event.number, event.currency))

    with with_sinks(sink) as here:
        here.get(fastapi_app(place_now))
    assert seen[2:] == [("migration_test.placed", 1, "EUR")]


def test_what_a_handler_depends_on(there: Side) -> None:
    """A sink is given the event, with its defaults: what a handler had from `Depends`, its constructor is given."""
    seen: list[Any] = []

    def get_client() -> str:
        return "a client"

    async def handler(event: Any, client: str = Depends(get_client)) -> None:
        seen.append(client)

    there.get(with_handlers(place, handler))

    class Sink:
        def __init__(self, *, client: str) -> None:
            self.client = client

        async def send(self, event: Placed) -> None:
            seen.append(self.client)

    with with_sinks(Sink(client="a client")) as here:
        here.get(fastapi_app(place_now))
    assert seen == ["a client", "a client"]


def test_every_event_is_validated(there: Side) -> None:
    """Every event is validated, where it is made."""
    seen: list[Any] = []
    schemas = EventPayloadSchemaRegistry()

    @schemas.register(event_name="placed")
    class PlacedThere(BaseModel):
        number: int

    def endpoint() -> None:
        dispatch("placed", {"number": "three"})
        with pytest.raises(ValidationError):
            dispatch("placed", {"number": "three"}, payload_schema_registry=schemas)

    async def handler(event: Any) -> None:
        seen.append(event)

    assert there.error(with_handlers(endpoint, handler)) is None
    assert seen == [("placed", {"number": "three"})]
    with pytest.raises(ValidationError):
        Placed(number="three")  # type: ignore[arg-type]  # that is the mistake


def test_reserved_names() -> None:
    """Three names of fields are taken."""
    with pytest.raises(TypeError, match="id is reserved by Event"):

        class WithId(Event, kind="migration_test.with_id"):
            id: int  # type: ignore[assignment]  # that is the mistake


def test_context_variables(there: Side) -> None:
    """A sink does not see the request's context variables."""
    seen: list[Any] = []

    async def handler(event: Any) -> None:
        seen.append(variable.get())

    def handler_sync(event: Any) -> None:
        seen.append(variable.get())

    async def endpoint() -> None:
        variable.set("the request's")
        place()

    there.get(with_handlers(endpoint, handler, handler_sync))
    assert seen == ["the request's", "as it was"]

    async def sink(event: Placed) -> None:
        assert event.request is not None
        seen.append((variable.get(), event.request.path))

    async def look() -> None:
        seen.append(variable.get())

    async def endpoint_now() -> None:
        variable.set("the request's")
        place_now()
        after(look)

    with with_sinks(sink) as here:
        here.get(fastapi_app(endpoint_now))
    assert set(seen[2:]) == {("as it was", "/"), "the request's"}


def test_no_handler(there: Side, caplog: pytest.LogCaptureFixture) -> None:
    """An event that nobody takes is warned of, once."""
    assert there.error(with_handlers(place)) is None
    assert caplog.records == []
    with with_sinks() as here:
        for _ in range(2):
            here.get(fastapi_app(place_now))
        assert here.server.fx.stats().unrouted == {"migration_test.placed": 2}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_handler_that_fails(there: Side) -> None:
    """A sink that fails is felt by no other, and not by the server."""
    seen: list[str] = []

    async def first(event: Any) -> None:
        raise Bug

    async def second(event: Any) -> None:
        seen.append("second")

    assert isinstance(there.error(with_handlers(place, first, second)), Bug)
    assert seen == []

    def endpoint() -> None:
        place()
        raise LookupError("the endpoint's own")

    error = there.error(with_handlers(endpoint, first))
    assert isinstance(error, Bug), "in place of the endpoint's own"
    assert isinstance(error.__context__, LookupError)

    async def first_now(event: Placed) -> None:
        raise Bug

    async def second_now(event: Placed) -> None:
        seen.append("second")

    with with_sinks(first_now, second_now, first_now=ONCE) as here:
        assert here.error(fastapi_app(place_now)) is None
        assert here.server.fx.stats().sinks["first_now"].expired == 1
    assert seen == ["second"]


def test_attempts(there: Side) -> None:
    """A sink that fails is called again, up to five times."""
    calls: list[str] = []

    async def handler(event: Any) -> None:
        calls.append("handler")
        raise Bug

    there.error(with_handlers(place, handler))
    assert calls == ["handler"]

    async def five(event: Placed) -> None:
        calls.append("five")
        raise Bug

    async def once(event: Placed) -> None:
        calls.append("once")
        raise Bug

    with with_sinks(five, once, five=QUICKLY, once=ONCE) as here:
        here.get(fastapi_app(place_now))
    assert (calls.count("five"), calls.count("once")) == (5, 1)
    assert RetryOptions().attempts == 5


def test_one_event_at_a_time(there: Side) -> None:
    """A sink takes one event at a time, in order."""
    seen: list[str] = []

    async def handler(event: Any) -> None:
        seen.append(f"{event[1]['number']} starts")
        await anyio.sleep(0.001)
        seen.append(f"{event[1]['number']} ends")

    def endpoint() -> None:
        place(1)
        place(2)

    there.get(with_handlers(endpoint, handler))
    assert seen[:2] == ["1 starts", "2 starts"]
    seen.clear()

    async def sink(event: Placed) -> None:
        await handler((event.kind, {"number": event.number}))

    def endpoint_now() -> None:
        place_now(1)
        place_now(2)

    with with_sinks(sink) as here:
        here.get(fastapi_app(endpoint_now))
    assert seen == ["1 starts", "1 ends", "2 starts", "2 ends"]


def test_handlers_of_one_event(there: Side) -> None:
    """Sinks do not wait for each other."""
    seen: list[str] = []

    async def first(event: Any) -> None:
        await anyio.sleep(0.001)
        seen.append("first")

    async def second(event: Any) -> None:
        seen.append("second")

    there.get(with_handlers(place, first, second))
    assert seen == ["first", "second"]
    seen.clear()
    second_came = anyio.Event()

    async def waits(event: Placed) -> None:
        await second_came.wait()
        seen.append("first")

    async def comes(event: Placed) -> None:
        seen.append("second")
        second_came.set()

    with with_sinks(waits, comes) as here:
        here.get(fastapi_app(place_now))
    assert seen == ["second", "first"]


# --- elsewhere ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:coroutine '_dispatch_as_task")
def test_outside_of_a_request(there: Side) -> None:
    """Outside of a request an event is delivered at once."""
    with pytest.raises(LookupError, match="fastapi_middleware_identifier"):
        place()
    seen: list[str] = []

    async def handler(event: Any) -> None:
        seen.append("handler")

    app = with_handlers(lambda: None, handler, middleware_id=7)
    there.get(app)  # which makes the middleware
    with pytest.raises(RuntimeError, match="no running event loop"):
        dispatch("placed", middleware_id=7)

    async def dispatch_there() -> None:
        dispatch("placed", middleware_id=7)
        await anyio.lowlevel.checkpoint()

    there.server.run(dispatch_there)
    there.get(app)
    assert seen == ["handler"]

    with pytest.raises(NotRunningError):
        place_now()

    async def sink(event: Placed) -> None:
        seen.append("sink")

    with SideEffects({"sink": sink}):
        place_now()
    assert seen == ["handler", "sink"]


def test_a_chained_event(there: Side) -> None:
    """What a sink schedules is waited for."""
    seen: list[str] = []
    with Gate() as gate:

        async def chaining(event: Any) -> None:
            if event[0] == "placed":
                dispatch("shipped")
            else:
                await gate.passed()
                seen.append("shipped")

        there.get(with_handlers(place, chaining))
        gate.reached()
        assert seen == [], "the request is over, and nobody waits for it"

    async def sink(event: Placed) -> None:
        after(shipped)

    async def shipped() -> None:
        await anyio.sleep(0.01)
        seen.append("shipped here")

    seen.clear()
    with with_sinks(sink) as here:
        here.server.get(case=here.server.play(fastapi_app(place_now)))
    assert "shipped here" in seen, "the server has stopped"


def test_in_tests(there: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a test, `capture()` tells what was scheduled."""
    seen: list[Any] = []

    async def handler(event: Any) -> None:
        seen.append(event)

    monkeypatch.setenv("FASTAPI_EVENTS_DISABLE_DISPATCH", "1")
    there.get(with_handlers(place, handler))
    assert seen == []
    with capture() as captured:
        place_now()
    assert [event.number for event in captured.events(Placed)] == [1]


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:coroutine 'BaseEventHandler.handle_many'")
async def test_trio(anyio_backend: str) -> None:
    """It runs on trio too."""
    seen: list[Any] = []

    async def handler(event: Any) -> None:
        seen.append("handler")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        place()

    async def none(*_: Any) -> Any: ...

    local = LocalHandler()
    local.register(handler)
    there = EventHandlerASGIMiddleware(app, handlers=[local])
    if anyio_backend == "trio":
        with pytest.raises(RuntimeError, match="event loop"):
            await there({"type": "http"}, none, none)
    else:
        await there({"type": "http"}, none, none)

    async def sink(event: Placed) -> None:
        seen.append("sink")

    async with SideEffects({"sink": sink}):
        place_now()
    assert seen[-1] == "sink"
    assert (anyio_backend == "asyncio") is ("handler" in seen)
