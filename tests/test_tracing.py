"""Effects in OpenTelemetry's traces: under the request that scheduled them, and linked to it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from sidefx import BatchOptions, PermanentError, SideEffects, SinkOptions, after
from sidefx.testing import capture
from tests.hostile import ONCE, Made, accepts, noop
from tests.lanes.sinks import Batches, Numbered, Other
from tests.orders import Ordered, Stocked
from tests.traces import Traces, attributes, is_child

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

pytestmark = pytest.mark.anyio


# --- callables -----------------------------------------------------------------------------------------------------


@pytest.mark.contract("X01", "X06")
@pytest.mark.parametrize("how", ["async", "sync", "coroutine", "returns a coroutine"])
async def test_a_callable_runs_in_a_span_under_that_of_its_request(traces: Traces, how: str) -> None:
    """And what it does, in a thread too, lies under its own."""
    variable = contextvars.ContextVar("variable", default="unset")

    def work() -> None:
        with traces.span(f"inner of {variable.get()}"):
            pass

    async def work_async() -> None:
        work()

    effects: dict[str, Any] = {"async": work_async, "sync": work, "returns a coroutine": lambda: work_async()}  # noqa: PLW0108
    async with SideEffects() as fx:
        async with fx.scope():
            with traces.span() as request:
                variable.set(how)
                after(effects.get(how) or work_async(), name="work")
        await fx.flush(5)

    span = traces.one("after work")
    assert is_child(span, request)
    assert span.kind is traces.api.SpanKind.CONSUMER
    assert span.status.status_code is traces.api.StatusCode.UNSET
    assert attributes(span) == {
        "messaging.system": "sidefx",
        "messaging.operation.name": "after",
        "messaging.operation.type": "process",
        "sidefx.effect": "work",
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "sidefx"
    assert traces.one(f"inner of {how}").parent == span.context


@pytest.mark.contract("X01")
async def test_an_effect_of_an_effect_lies_under_it(traces: Traces) -> None:
    """At any depth, in one trace; an effect of a sink as well."""

    async def outer() -> None:
        after(noop, name="inner")

    async def sink(event: Made) -> None:
        after(noop, name="of the sink")

    async with SideEffects({"s": sink}) as fx:
        async with fx.scope():
            with traces.span() as request:
                after(outer, name="outer")
                after(Made())
        await fx.flush(5)

    assert is_child(traces.one("after outer"), request)
    for child, parent in [("after inner", "after outer"), ("after of the sink", "deliver s")]:
        context = traces.one(parent).context
        assert context is not None
        assert is_child(traces.one(child), context)
    assert {span.context.trace_id for span in traces.all() if span.context} == {request.trace_id}


async def test_without_a_span_an_effect_is_a_root(traces: Traces) -> None:
    """It is seen all the same."""
    async with SideEffects({"s": accepts}) as fx:
        with capture() as captured:
            after(noop)
        after(noop, name="noop")
        after(Made())
        await fx.flush(5)

    assert captured[0].origin is None
    for name in ["after noop", "deliver s"]:
        span = traces.one(name)
        assert span.parent is None
        assert span.links == ()


async def test_what_is_dropped_has_no_span(traces: Traces) -> None:
    """By `when`, or by a filter: only what runs is traced."""
    async with SideEffects({"s": accepts}, {"s": SinkOptions(filter=lambda _: False)}) as fx:
        async with fx.scope():
            with traces.span():
                after(noop, when="error")
                after(Made(), when="error")
                after(Made())
                after(noop, name="noop", when="success")
        await fx.flush(5)

    assert [span.name for span in traces.all()] == ["request", "after noop"]


async def test_an_unsampled_request_has_unsampled_effects(traces: Traces) -> None:
    """The sampler decides once for a trace; libraries in the effect still see that trace."""
    seen: list[SpanContext] = []

    async def look() -> None:
        seen.append(traces.here())

    unsampled = traces.api.SpanContext(trace_id=1, span_id=2, is_remote=True)
    context = traces.api.set_span_in_context(traces.api.NonRecordingSpan(unsampled))
    async with SideEffects({"s": accepts}) as fx:
        async with fx.scope():
            token = traces.contexts.attach(context)
            after(look)
            after(Made())
            traces.contexts.detach(token)
        await fx.flush(5)

    assert traces.all() == ()
    assert [span.trace_id for span in seen] == [1]


# --- sinks ---------------------------------------------------------------------------------------------------------


class Asyncio:
    """A sink for asyncio alone: hosted on a loop of its own where the app runs trio."""

    backend = "asyncio"

    def __init__(self, work: Any) -> None:
        self.work = work

    async def send(self, event: Made) -> None:
        asyncio.get_running_loop()
        self.work()


class InThread:
    """A synchronous sink."""

    def __init__(self, work: Any) -> None:
        self.work = work

    def send(self, event: Made) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.work()


class OnLoop(InThread):
    """A sink on the app's own loop."""

    async def send(self, event: Made) -> None:  # type: ignore[override]  # what a sink may be
        self.work()


@pytest.mark.parametrize("kind", [OnLoop, InThread, Asyncio])
async def test_a_delivery_lies_under_the_request(traces: Traces, kind: Any) -> None:
    """And what the sink's library does lies under the delivery, wherever the sink runs; the baggage stays behind."""
    baggage: list[Any] = []

    def work() -> None:
        baggage.append(traces.baggage.get_all())
        with traces.span("client"):
            pass

    made = Made()
    async with SideEffects({"ops": kind(work)}) as fx:
        async with fx.scope():
            with traces.span(context=traces.baggage.set_baggage("user", "ann")) as request:
                after(made)
        await fx.flush(5)

    span = traces.one("deliver ops")
    assert is_child(span, request)
    assert span.kind is traces.api.SpanKind.CONSUMER
    assert attributes(span) == {
        "messaging.system": "sidefx",
        "messaging.operation.name": "deliver",
        "messaging.operation.type": "process",
        "messaging.destination.name": "ops",
        "messaging.message.id": str(made.id),
        "sidefx.sink": "ops",
        "sidefx.effect": "test.made",
        "sidefx.attempt": 1,
    }
    assert traces.one("client").parent == span.context
    assert baggage == [{}]


async def test_a_batch_of_several_requests_is_a_root_that_links_to_each(traces: Traces) -> None:
    """Once, however many events of it there are."""
    sink = Batches()
    async with SideEffects({"s": sink}, {"s": SinkOptions(batch=BatchOptions(linger=60))}) as fx:
        requests = []
        for n in range(3):
            with traces.span() as request:
                requests.append(request)
                after(Numbered(n=n))
                after(Numbered(n=n), name="again")
        await fx.flush(5)

    span = traces.one("deliver s")
    assert sink.batches == [[0, 0, 1, 1, 2, 2]]
    assert span.parent is None
    assert [link.context for link in span.links] == requests
    assert attributes(span)["messaging.batch.message_count"] == 6
    assert "sidefx.effect" not in attributes(span)


@pytest.mark.parametrize("orphans", [0, 1])
async def test_a_batch_of_one_request_lies_under_it(traces: Traces, orphans: int) -> None:
    """Where it holds something of no request, it does not."""
    async with SideEffects({"s": Batches()}, {"s": SinkOptions(batch=BatchOptions(linger=60))}) as fx:
        with traces.span() as request:
            after(Numbered(n=1))
            after(Numbered(n=2))
        for n in range(orphans):
            after(Numbered(n=n))
        await fx.flush(5)

    span = traces.one("deliver s")
    assert [link.context for link in span.links] == [request]
    assert span.parent == (None if orphans else request)


async def test_the_links_of_a_batch_are_bounded(traces: Traces) -> None:
    """To what the SDK keeps."""
    async with SideEffects({"s": Batches()}, {"s": SinkOptions(batch=BatchOptions(max_events=500, linger=60))}) as fx:
        for n in range(150):
            with traces.span():
                after(Numbered(n=n))
        await fx.flush(5)

    span = traces.one("deliver s")
    assert (len(span.links), span.dropped_links) == (128, 0)
    assert attributes(span)["messaging.batch.message_count"] == 150


async def test_copies_of_an_event_keep_its_request(traces: Traces) -> None:
    """What it stands for, what a redaction makes of it, what falls back; `emit` is traced like `after`."""
    hidden = SinkOptions(redact=("secret",), retry=ONCE.retry, fallback="stocked")

    async def refuse(event: Other) -> None:
        assert event.secret == "[redacted]"
        raise PermanentError("no")

    async def stocked(event: Stocked | Other) -> None: ...

    options = {"refuse": hidden, "stocked": SinkOptions(events=("test.stocked",))}
    async with SideEffects({"refuse": refuse, "stocked": stocked}, options) as fx:
        with traces.span() as request:
            await fx.emit(Ordered())
            after(Other(secret="hunter2"))
        await fx.flush(5)

    spans = [traces.one("deliver refuse"), *traces.named("deliver stocked")]
    assert [attributes(span)["sidefx.effect"] for span in spans] == ["test.other", "test.stocked", "test.other"]
    assert all(is_child(span, request) for span in spans)


async def test_a_lane_is_in_no_span_between_two_attempts(traces: Traces) -> None:
    """Observers, and the lane's own log lines, belong to no delivery that is over."""
    seen: list[bool] = []
    observers = [lambda settled: seen.append(traces.here().is_valid)]
    async with SideEffects({"s": accepts}, observers=observers) as fx:
        with traces.span():
            after(Made())
        await fx.flush(5)

    assert seen == [False]


async def test_what_a_sink_leaves_behind_changes_no_later_delivery(traces: Traces) -> None:
    """A sink that enters a context and forgets to leave it changes no trace but its own."""

    async def forgets(event: Made) -> None:
        with traces.span("client"):
            inside = traces.contexts.get_current()
        traces.contexts.attach(inside)

    async with SideEffects({"s": forgets}) as fx:
        for n in range(2):
            after(Made(n=n))
            await fx.flush(5)

    assert [span.parent for span in traces.named("deliver s")] == [None, None]
    assert [span.parent for span in traces.named("client")] == [span.context for span in traces.named("deliver s")]


async def test_the_tracer_is_asked_for_once(traces: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers take their time for it."""
    provider = Mock(wraps=traces.provider)
    monkeypatch.setattr(traces.api, "_TRACER_PROVIDER", provider)
    async with SideEffects({"s": accepts}) as fx:
        for n in range(3):
            after(noop)
            after(Made(n=n))
        await fx.flush(5)

    assert len(traces.all()) == 6
    assert provider.get_tracer.call_count == 1


async def test_a_replayed_letter_is_delivered_in_the_span_of_its_replay(traces: Traces) -> None:
    """It is the replay that has it sent, long after the request's trace has ended."""
    refuses = True

    async def sink(event: Stocked) -> None:
        if refuses:
            raise PermanentError

    async with SideEffects({"sink": sink}) as fx:
        after(Stocked())
        await fx.flush(10)
        refuses = False
        with traces.span("replay") as replay:
            await fx.replay()
        await fx.flush(10)
    first, second = traces.named("deliver sink")
    assert first.parent is None
    assert is_child(second, replay)
