"""Settings of the runtime and its lanes, as frozen records; the TOML file says the same in tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ImportString, PositiveFloat, PositiveInt, model_validator

Share = Annotated[float, Field(ge=0, le=1)]

_PERIODS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_RATE = re.compile(r"(\d+)\s*/\s*(s|min|h)")


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class BatchOptions(_Options):
    """When a batch is closed: whichever of the three comes first."""

    max_events: PositiveInt = 100
    max_bytes: PositiveInt | None = None
    """Of the events' JSON, in bytes; a larger event travels by itself. None: no limit."""
    linger: Annotated[float, Field(ge=0)] = 0.0
    """Seconds to wait for more events once there is one."""


class BufferOptions(_Options):
    """How much a lane holds, and what happens beyond it."""

    max_events: PositiveInt = 10_000
    when_full: Literal["drop_newest", "drop_oldest", "block"] = "drop_newest"
    """`block` holds the finished request (never its response) until there is room."""


class RetryOptions(_Options):
    """Exponential back-off with full jitter."""

    attempts: PositiveInt = 5
    """Calls of the sink for one event, the first included."""
    initial: PositiveFloat = 0.2
    """Seconds: the upper end of the first pause; it doubles each time."""
    max: PositiveFloat = 30.0
    """Seconds: the upper end of every pause."""


class BreakerOptions(_Options):
    """When a lane stops calling a sink that keeps failing."""

    failures: PositiveInt = 5
    """Failed attempts in a row that open it."""
    reset: PositiveFloat = 30.0
    """Seconds until it lets one attempt through to see."""


class RateLimit(_Options):
    """At most `calls` of the sink in `period` seconds."""

    calls: PositiveInt
    period: PositiveFloat = 1.0

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if (match := _RATE.fullmatch(value.strip())) is None:
            msg = "a rate is written as '50/s', '5/min' or '100/h'"
            raise ValueError(msg)
        return {"calls": int(match[1]), "period": _PERIODS[match[2]]}

    def __str__(self) -> str:
        unit = next((name for name, seconds in _PERIODS.items() if seconds == self.period), f"{self.period:g}s")
        return f"{self.calls}/{unit}"


class SinkOptions(_Options):
    """How the lane of one sink works. Durations are in seconds."""

    delivery: Literal["memory", "journal"] = "memory"
    """`memory`: at most once; a crash loses what is queued. `journal`: at least once; on disk before the response."""
    events: tuple[str, ...] | None = None
    """Kinds, or patterns such as `order.*`. None: every kind that the sink accepts."""
    timeout: PositiveFloat = 10.0
    """For one attempt."""
    deadline: PositiveFloat = 300.0
    """For all attempts of an event, from the start of the first."""
    concurrency: PositiveInt = 1
    """Calls of the sink at a time; 1 keeps the events in order."""
    batch: BatchOptions = BatchOptions()
    buffer: BufferOptions = BufferOptions()
    retry: RetryOptions = RetryOptions()
    breaker: BreakerOptions = BreakerOptions()
    rate_limit: RateLimit | None = None
    max_event_bytes: PositiveInt | None = 10_000_000
    """Of an event's JSON; a larger one is rejected. None: no limit."""
    filter: ImportString[Callable[[Any], Any]] | None = None
    """`module:name` of a function of the event; what it answers False to is dropped, counted."""
    sample: Share = 1.0
    """The share of events to deliver; the rest is dropped, counted."""
    redact: tuple[str, ...] = ()
    """Paths such as `metadata.password` whose values this sink must not see; `*` is any one name."""
    fallback: str | None = None
    """The sink that takes what this one has given up on."""

    @model_validator(mode="after")
    def _attempt_fits_deadline(self) -> Self:
        if self.timeout > self.deadline:
            msg = (
                f"timeout ({self.timeout:g} s, one attempt) is longer than deadline ({self.deadline:g} s, all attempts)"
            )
            raise ValueError(msg)
        return self


class CallableOptions(_Options):
    """How callables and awaitables given to `after()` run."""

    concurrency: PositiveInt = 32
    timeout: PositiveFloat = 30.0
    """Seconds, unless `after(..., timeout=...)` says otherwise."""
    max_queued: PositiveInt = 10_000
    """Beyond it the newest is dropped, counted."""


class JournalOptions(_Options):
    """Where and how events of `delivery = "journal"` are kept on disk."""

    path: Path = Path(".sidefx/journal")
    """A directory on a local disk, for the processes of one app; relative to the working directory."""
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """`NORMAL` does not wait for the disk: a power cut may lose events whose response was seen; a crash does not."""
    ack: Literal["commit", "background"] = "commit"
    """`background`: responses do not wait for the commit; a crash loses what was scheduled in the last milliseconds."""
    on_failure: Literal["degrade", "refuse"] = "degrade"
    """When the disk fails: `degrade` keeps events in memory, with an alarm; `refuse` answers requests with 503."""
    timeout: PositiveFloat = 5.0
    """Seconds that a response waits for the disk; then the journal has failed."""
    max_bytes: Annotated[int, Field(ge=1_000_000)] | None = None
    """Of one process's file of events, in bytes; one that is full has failed. None: as much as the disk holds."""


class RuntimeOptions(_Options):
    """Settings of the whole runtime."""

    drain_timeout: PositiveFloat = 10.0
    """Seconds that shutdown waits for what is queued and running."""
    callables: CallableOptions = CallableOptions()
    dead_letters: PositiveInt = 1_000
    """How many a sink keeps in memory; the oldest beyond that stay in the log only."""
