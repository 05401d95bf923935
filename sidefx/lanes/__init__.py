"""A lane carries events to one sink, apart from every other lane.

The stages stand in one order: filter, redact, buffer, batch, rate limit, breaker, retry, timeout,
sink. The first three act when an event arrives; `Lane` runs the rest. A retry passes the rate limit
and the breaker anew, because both stand for what the receiver can bear.
"""

from sidefx.lanes.lane import Lane

__all__ = ["Lane"]
