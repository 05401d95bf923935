"""What an app's OpenTelemetry would export: for tests, by way of the fixture `traces`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext


class Traces:
    """OpenTelemetry's SDK with an exporter into memory."""

    def __init__(self) -> None:
        from opentelemetry import baggage, context, trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.api, self.contexts, self.baggage = trace, context, baggage
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._tracer = self.provider.get_tracer("the app")

    @contextmanager
    def span(self, name: str = "request", **options: Any) -> Iterator[SpanContext]:
        """A span of the app's own, as an instrumentation opens one around a request or a call."""
        with self._tracer.start_as_current_span(name, **options) as span:
            yield span.get_span_context()

    def here(self) -> SpanContext:
        """The current span."""
        return self.api.get_current_span().get_span_context()

    def all(self) -> Sequence[ReadableSpan]:
        """Every span that has ended, in the order of their ends."""
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of that name."""
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The only one of that name."""
        (span,) = self.named(name)
        return span


def is_child(span: ReadableSpan, parent: SpanContext) -> bool:
    """Whether it lies under the other, with a link to it."""
    assert [link.context for link in span.links] == [parent]
    return span.parent == parent and span.context is not None and span.context.trace_id == parent.trace_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Its attributes."""
    return dict(span.attributes or {})
