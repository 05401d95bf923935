"""Product analytics over HTTP: Segment, PostHog, or a plain JSON batch."""

from sidefx_sinks.analytics.sink import Analytics

__all__ = ["Analytics"]
