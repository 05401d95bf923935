"""Product analytics over HTTP: Segment, PostHog, Google Analytics 4, OpenTelemetry logs, or a plain JSON batch."""

from sidefx_sinks.analytics.discards import Discard
from sidefx_sinks.analytics.sink import Analytics

__all__ = ["Analytics", "Discard"]
