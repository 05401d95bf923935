"""OpenTelemetry, where the app uses it: an effect runs in a span that links to the one in which `after()` was called.

Nothing is imported here. An app that traces has imported OpenTelemetry by itself; for any other, all of this
is a look into `sys.modules`. A tracer that fails costs the spans, never an effect.

Names and attributes follow the semantic conventions for messaging
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/): a process span links to the creation
context of each message, and is its child where there is one message.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, Tracer, TracerProvider

Origin: TypeAlias = "SpanContext | None"
"""The span in which `after()` was called; None where there was none."""

_log = logging.getLogger("sidefx")

_MAX_LINKS = 128
"""What the SDK keeps of a span's links, unless it is told otherwise."""
_ERROR_CHARACTERS = 500


class Scheduled(Protocol):
    """What a span says of an effect."""

    origin: Origin

    @property
    def label(self) -> str:
        """Its name."""
        ...

    @property
    def event(self) -> Any:
        """None for a callable."""
        ...


class EffectSpan:
    """The span of one run of a callable, or of one attempt of a sink; nothing where nothing traces."""

    __slots__ = ("_before", "_span", "_within")

    def __init__(self, span: Span | None = None) -> None:
        self._span = span
        self._before: Context | None = None
        self._within: Context | None = None

    def enter(self, context: Context | None) -> None:
        """Makes it the current one of this task, until its end."""
        assert self._span is not None  # noqa: S101 - whoever has made one enters it
        contexts = _contexts()
        self._before = contexts.get_current()
        self._within = _api().set_span_in_context(self._span, context)
        contexts.attach(self._within)

    def end(self, reason: str = "", error: BaseException | None = None) -> None:
        """It is over; `reason` says why it failed, in the words of the log, and is empty where it did not."""
        if self._span is None:
            return
        with _leaving:
            # no token: it cannot be reset in another context, where a coroutine that is only closed may find itself
            contexts = _contexts()
            if self._within is not None and contexts.get_current() is self._within:
                contexts.attach(self._before)
        with _marking:
            if reason:
                api = _api()
                self._span.set_attribute("error.type", reason if error is None else _type_of(error))
                self._span.set_status(api.Status(api.StatusCode.ERROR, reason))
        with _ending:
            self._span.end()


_NOTHING = EffectSpan()


def span_here() -> Origin:
    """The current span, for an effect to keep; None where nothing traces."""
    if _api() is None:
        return None
    with _reading:
        here: SpanContext = _api().get_current_span().get_span_context()
        return here if here.is_valid else None
    return None


def traceparent_here() -> str | None:
    """The current span as W3C Trace Context writes it (https://www.w3.org/TR/trace-context/#traceparent-header)."""
    if (here := span_here()) is None:
        return None
    return f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"


def call_span(effect: Scheduled) -> EffectSpan:
    """Starts the span of a callable: in its own context, so under the span in which it was scheduled."""
    if _api() is None:
        return _NOTHING
    with _starting:
        attributes = {"messaging.operation.name": "after", "sidefx.effect": effect.label}
        return _started(f"after {effect.label}", None, [effect.origin], attributes)
    return _NOTHING


def delivery_span(sink: str, effects: Sequence[Scheduled], attempt: int, *, batch: bool) -> EffectSpan:
    """Starts the span of an attempt: under the one span in which all was scheduled, a root where there are several."""
    if _api() is None:
        return _NOTHING
    with _starting:
        attributes: dict[str, Any] = {
            "messaging.operation.name": "deliver",
            "messaging.destination.name": sink,
            "sidefx.sink": sink,
            "sidefx.attempt": attempt,
        }
        labels = {effect.label for effect in effects}
        if len(labels) == 1:
            attributes["sidefx.effect"] = labels.pop()
        if batch:
            attributes["messaging.batch.message_count"] = len(effects)
        if len(effects) == 1:
            attributes["messaging.message.id"] = str(effects[0].event.id)
        origins = _distinct(effect.origin for effect in effects)
        context = _contexts().Context()  # a fresh one: no baggage of one request of many, nothing that a sink has left
        if len(origins) == 1 and origins[0] is not None:
            context = _api().set_span_in_context(_api().NonRecordingSpan(origins[0]), context)
        return _started(f"deliver {sink}", context, origins, attributes)
    return _NOTHING


def context_here() -> Context | None:
    """What OpenTelemetry knows of this place, for `enter_context` in another; None where nothing traces."""
    if _api() is None:
        return None
    with _reading:
        here: Context = _contexts().get_current()
        return here
    return None


def enter_context(context: Context | None) -> None:
    """Makes it the current one of this task."""
    if context is not None:
        with _entering:
            _contexts().attach(context)


def _started(name: str, context: Context | None, origins: Iterable[Origin], attributes: dict[str, Any]) -> EffectSpan:
    api = _api()
    links = [api.Link(origin) for origin in origins if origin is not None][:_MAX_LINKS]
    attributes |= {"messaging.system": "sidefx", "messaging.operation.type": "process"}
    tracer = _tracer(api.get_tracer_provider())
    kind = api.SpanKind.CONSUMER
    span = EffectSpan(tracer.start_span(name, context, kind=kind, attributes=attributes, links=links))
    with _entering:
        span.enter(context)
    return span


def _api() -> Any:
    """The module `opentelemetry.trace`, if the app has imported it; typed `Any`, for it may be absent."""
    module = sys.modules.get("opentelemetry.trace")
    # `__all__` is its last line: another thread may be in the middle of importing it
    return None if module is None or not hasattr(module, "__all__") else module


def _contexts() -> Any:
    """The module `opentelemetry.context`, which `opentelemetry.trace` has imported."""
    return sys.modules["opentelemetry.context"]


@lru_cache(maxsize=1)
def _tracer(provider: TracerProvider) -> Tracer:
    """Asked for once: the SDK sets a filter of warnings each time."""
    from importlib import metadata  # noqa: PLC0415 - only programs that trace pay for it

    version = None
    with suppress(metadata.PackageNotFoundError):
        version = metadata.version("sidefx")
    return provider.get_tracer("sidefx", version)


def _distinct(origins: Iterable[Origin]) -> list[Origin]:
    """Each once, in order; a `SpanContext` cannot be hashed."""
    return list({None if origin is None else (origin.trace_id, origin.span_id): origin for origin in origins}.values())


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


_told: set[str] = set()


class _Contained:
    """A tracer is somebody else's code, and synchronous: nothing that it raises is a cancellation of ours."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None or isinstance(error, KeyboardInterrupt):
            return False
        if self._what not in _told:
            _told.add(self._what)
            shown = type(error).__qualname__
            with suppress(Exception):  # its text may be one that cannot be shown
                shown = ascii(error)[:_ERROR_CHARACTERS]
            with suppress(Exception):  # the log may be traced as well
                _log.warning(
                    "OpenTelemetry could not %s; no effect is hurt, and this is said once: %s", self._what, shown
                )
        return True


_reading = _Contained("read the current span")
_starting = _Contained("start a span")
_entering = _Contained("enter a span")
_leaving = _Contained("leave a span")
_marking = _Contained("mark a span as failed")
_ending = _Contained("end a span")
