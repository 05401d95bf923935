"""For tests: look at what a handler scheduled, run it step by step, and hold a sink to its contract."""

from sidefx.testing.capture import Capture, capture
from sidefx.testing.conformance import check_sink
from sidefx.testing.django import scope_per_request

__all__ = ["Capture", "capture", "check_sink", "scope_per_request"]
