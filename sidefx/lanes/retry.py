"""The seventh stage: whether to try again, and when."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from sidefx.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidefx.options import RetryOptions


def pause_after(attempt: int, errors: Iterable[Exception], options: RetryOptions) -> float:
    """Seconds to wait after that attempt (the first is 1), which failed with these errors.

    Exponential back-off with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/),
    or what the receiver asked for with `retry_after` where that is longer.
    """
    # the exponent is bounded before the power is taken: 2.0 ** 5000 overflows
    ceiling = min(options.max, options.initial * 2.0 ** min(attempt - 1, 64))
    asked = max((_asked_by(error) for error in errors if isinstance(error, TransientError)), default=0.0)
    return max(random.uniform(0.0, ceiling), asked)  # noqa: S311 - jitter, not a secret


def _asked_by(error: TransientError) -> float:
    """Its `retry_after`; 0 where it is no number of seconds, or a subclass has none."""
    try:
        seconds = float(error.retry_after or 0.0)
    except Exception:  # noqa: BLE001 - a sink's own error class; a header that was passed on as it came
        return 0.0
    return seconds if seconds > 0 else 0.0  # nan is not above 0 either
