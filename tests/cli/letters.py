"""Dead letters, made by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sidefx.dead_letters import DeadLetter
from sidefx.events import uuid7


@cache
def now() -> datetime:
    """When the test made its first letter."""
    return datetime.now(UTC)


def letter(number: int = 0, **values: Any) -> DeadLetter:
    """One that died so many minutes ago."""
    event_id = values.pop("event_id", None) or uuid7()
    given = {
        "sink": "audit",
        "kind": "order.placed",
        "text": json.dumps({"id": str(event_id), "number": number}),
        "result": "expired",
        "reason": "5 attempts failed: OSError: connection refused",
        "error": "OSError: connection refused",
        "attempts": 5,
        "at": now() - timedelta(minutes=number),
    }
    return DeadLetter(event=None, event_id=event_id, **{**given, **values})
