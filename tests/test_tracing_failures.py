"""Effects that fail under OpenTelemetry, tracers that fail, and apps that have none."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import anyio
import pytest

from sidefx import PartialError, PermanentError, RuntimeOptions, Settled, SideEffects, SinkOptions, after, tracing
from tests.hostile import QUICK, Made, accepts, hang, noop
from tests.lanes.sinks import Batches, Numbered, Other
from tests.traces import Traces, attributes, is_child

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

pytestmark = pytest.mark.anyio


# --- failures ------------------------------------------------------------------------------------------------------


async def test_every_attempt_has_a_span_that_says_how_it_failed(traces: Traces) -> None:
    """In the words of the log, without a traceback; after a partial delivery the rest has a span of its own."""
    one, two = Numbered(n=1), Numbered(n=2)
    sink = Batches(ConnectionError("refused\nby peer"), PartialError({two.id: LookupError("gone")}), None)
    async with SideEffects({"s": sink}, {"s": QUICK}) as fx:
        async with fx.scope():
            with traces.span() as request:
                after(one)
                after(two)
        await fx.flush(5)

    spans = traces.named("deliver s")
    failed = traces.api.StatusCode.ERROR
    assert [(span.status.status_code, span.status.description) for span in spans] == [
        (failed, "ConnectionError: refused\\nby peer"),
        (failed, "PartialError: 1 event(s) of the batch failed"),
        (traces.api.StatusCode.UNSET, None),
    ]
    shown = ("sidefx.attempt", "messaging.batch.message_count", "error.type")
    assert [tuple(attributes(span).get(name) for name in shown) for span in spans] == [
        (1, 2, "ConnectionError"),
        (2, 2, "sidefx.errors.PartialError"),
        (3, 1, None),
    ]
    assert all(is_child(span, request) for span in spans)
    assert [span.events for span in spans] == [()] * 3


async def test_a_callable_that_fails_says_so_in_its_span(traces: Traces, caplog: pytest.LogCaptureFixture) -> None:
    """As the log does, whose line belongs to the span."""
    lines: list[tuple[str, SpanContext]] = []

    class Correlating(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            lines.append((record.getMessage(), traces.here()))
            return True

    async def fail() -> None:
        raise LookupError("no such\norder")

    caplog.handler.addFilter(correlating := Correlating())
    async with SideEffects() as fx:
        with traces.span():
            after(fail, name="fail")
            after(anyio.sleep_forever, name="hang", timeout=0.01)
        await fx.flush(5)
    caplog.handler.removeFilter(correlating)

    for name, kind, reason in [
        ("fail", "LookupError", "LookupError: no such\\norder"),
        ("hang", "sidefx.errors.AttemptTimeout", "timeout: not done within 0.01 s"),
    ]:
        span = traces.one(f"after {name}")
        assert (span.status.status_code, span.status.description) == (traces.api.StatusCode.ERROR, reason)
        assert attributes(span)["error.type"] == kind
        assert span.events == ()
        ((line, where),) = [(line, where) for line, where in lines if f" {name} " in line]
        assert reason in line
        assert where == span.context


@pytest.mark.contract("L11")
async def test_a_span_shows_nothing_that_is_redacted(traces: Traces) -> None:
    """A sink that quotes its event quotes the mask, in the trace as in the log."""

    async def quote(event: Other) -> None:
        raise PermanentError(f"cannot take {event!r}")

    async with SideEffects({"s": quote}, {"s": SinkOptions(redact=("secret",))}) as fx:
        with traces.span():
            after(Other(secret="hunter2"))
        await fx.flush(5)

    assert "[redacted]" in str(traces.one("deliver s").status.description)
    assert [span.name for span in traces.all() if "hunter2" in span.to_json()] == []


async def test_what_the_shutdown_cuts_off_has_its_end(traces: Traces) -> None:
    """A span that says so, under its request like any other."""
    runtime = RuntimeOptions(drain_timeout=0.02)
    async with SideEffects({"s": hang}, runtime=runtime):
        with traces.span() as request:
            after(Made())
            after(anyio.sleep_forever, name="hang")

    for name in ["deliver s", "after hang"]:
        span = traces.one(name)
        assert (span.status.status_code, span.status.description) == (traces.api.StatusCode.ERROR, "shutdown")
        assert attributes(span)["error.type"] == "shutdown"
        assert is_child(span, request)


@pytest.mark.contract("X05")
async def test_a_span_can_end_in_another_context(traces: Traces, caplog: pytest.LogCaptureFixture) -> None:
    """As where a coroutine is closed by whoever finds it; what is current there stays so, and nothing is reset."""
    made = Made()
    effect = Mock(origin=None, label="x", event=made)
    span = contextvars.copy_context().run(tracing.delivery_span, "s", [effect], 1, batch=False)
    with traces.span() as elsewhere:
        span.end("shutdown")
        assert traces.here() == elsewhere

    assert traces.one("deliver s").status.description == "shutdown"
    assert caplog.records == []


class Hosted:
    """A sink for asyncio alone."""

    backend = "asyncio"

    async def send(self, event: Made) -> None: ...


# --- tracers that are broken, or not there -------------------------------------------------------------------------


class Broken:
    """Whatever is asked of it raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error


def broken_provider(traces: Traces, what: str, error: BaseException) -> Any:
    """A provider that fails at that point."""
    if what == "provider":
        return Broken(error)
    if what in {"on_start", "on_end"}:
        traces.provider.add_span_processor(Mock(**{f"{what}.side_effect": error}))
        return traces.provider
    provider = Mock()
    provider.get_tracer.return_value = tracer = Mock()
    if what == "tracer":
        tracer.start_span.side_effect = error
    else:
        tracer.start_span.return_value = Broken(error) if what == "span" else None
    return provider


@pytest.mark.contract("S07", "L01")
@pytest.mark.parametrize("error", [RuntimeError("broken\ntracer"), SystemExit(3), asyncio.CancelledError()], ids=repr)
@pytest.mark.parametrize("what", ["provider", "tracer", "span", "nothing", "on_start", "on_end"])
async def test_a_broken_tracer_hurts_no_effect(
    traces: Traces, what: str, error: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything runs and is delivered, failures are what they were; the log says it once, in one line."""
    monkeypatch.setattr(traces.api, "_TRACER_PROVIDER", broken_provider(traces, what, error))
    records: list[Settled] = []

    async def fail() -> None:
        raise LookupError

    async with SideEffects({"s": accepts, "host": Hosted()}, observers=[records.append]) as fx:
        for _ in range(3):
            after(noop, name="noop")
            after(fail, name="fail")
            after(Made())
        await fx.flush(5)

    results = [f"{record.sink} {record.result}" for record in records]
    assert {result: results.count(result) for result in results} == {
        "callables delivered": 3,
        "callables rejected": 3,
        "s delivered": 3,
        "host delivered": 3,
    }
    said = [record.getMessage() for record in caplog.records if "OpenTelemetry" in record.getMessage()]
    assert said
    assert sorted(set(said)) == sorted(said)
    assert [line for line in said if "\n" in line] == []


async def test_a_context_that_cannot_be_entered_hurts_no_effect(
    traces: Traces, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its span is there and has its end, but nothing lies under it."""
    monkeypatch.setattr(traces.contexts, "attach", Mock(side_effect=RuntimeError("broken")))
    async with SideEffects({"s": Hosted()}) as fx:
        after(noop, name="noop")
        after(Made())
        await fx.flush(5)
        assert fx.stats().callables.delivered == fx.stats().sinks["s"].delivered == 1
    assert sorted(span.name for span in traces.all()) == ["after noop", "deliver s"]
    assert "could not enter a span" in caplog.text


async def test_a_current_span_that_is_broken_hurts_no_call(traces: Traces, caplog: pytest.LogCaptureFixture) -> None:
    """`after()` and `emit()` take the effect, which runs without a span."""

    class BrokenSpan(traces.api.NonRecordingSpan):  # type: ignore[name-defined]  # known at run time
        def get_span_context(self) -> Any:
            raise RuntimeError("broken span")

    context = traces.api.set_span_in_context(BrokenSpan(traces.api.INVALID_SPAN_CONTEXT))
    async with SideEffects({"s": accepts}) as fx:
        traces.contexts.attach(context)
        after(noop)
        after(Made())
        await fx.emit(Made())
        await fx.flush(5)
        assert fx.stats().callables.delivered == 1
        assert fx.stats().sinks["s"].delivered == 2
    assert "could not read the current span" in caplog.text


async def test_a_module_that_is_just_being_imported_is_none(
    traces: Traces, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another thread may be half through it: effects run untraced, and nobody is warned of anything."""
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))
    async with SideEffects({"s": Hosted()}) as fx:
        with traces.span():
            after(noop)
            after(Made())
        await fx.flush(5)
        assert fx.stats().callables.delivered == fx.stats().sinks["s"].delivered == 1
    assert [span.name for span in traces.all()] == ["request"]
    assert caplog.records == []


async def test_the_api_without_an_sdk_hands_the_trace_on(traces: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that only passes its caller's trace on passes it on from its effects, too."""
    monkeypatch.setattr(traces.api, "_TRACER_PROVIDER", None)
    seen: list[SpanContext] = []

    async def sink(event: Made) -> None:
        seen.append(traces.here())

    async def look() -> None:
        seen.append(traces.here())

    callers = traces.api.SpanContext(trace_id=1, span_id=2, is_remote=True)
    context = traces.api.set_span_in_context(traces.api.NonRecordingSpan(callers))
    async with SideEffects({"s": sink}) as fx:
        token = traces.contexts.attach(context)
        after(Made())
        after(look)
        traces.contexts.detach(token)
        await fx.flush(5)
    assert seen == [callers, callers]


APP_WITHOUT = """
import sys

import anyio

from sidefx import Event, PermanentError, SideEffects, after
from sidefx.asgi import SideEffectsMiddleware


class Seen(Event):
    pass


class Hosted:
    backend = "asyncio"

    async def send(self, event: Seen) -> None: ...


class Batches:
    def send_batch(self, events: list[Seen]) -> None:
        raise PermanentError("no")


def sync() -> None: ...


async def app(scope, receive, send):
    after(sync)
    after(anyio.sleep, 0)
    after(Seen())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def send(message): ...


async def main():
    async with SideEffects({"hosted": Hosted(), "batches": Batches()}) as fx:
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        await SideEffectsMiddleware(app, effects=fx)(scope, None, send)
        await fx.emit(Seen())
    stats = fx.stats()
    print(stats.callables.delivered, stats.sinks["hosted"].delivered, stats.sinks["batches"].rejected)


anyio.run(main, backend=sys.argv[1])
print([name for name in sys.modules if name.startswith("opentelemetry")])
import opentelemetry.trace  # it is there: nobody has looked for it
"""


@pytest.mark.contract("X06")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_app_that_does_not_trace_imports_nothing_of_it(backend: str) -> None:
    """Though it is installed: effects of every kind run, and no module of it is there."""
    done = subprocess.run(
        [sys.executable, "-c", APP_WITHOUT, backend], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2 2 2", "[]"]
