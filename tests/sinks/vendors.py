"""The vendors' own Python clients, pointed at a loopback collector: `python -m tests.sinks.vendors CLIENT URL`.

In a process of their own, for they configure logging, register exit handlers and import what else is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from tests.sinks.collector import Collector, Received

KEY = "wk_s3cret"
AT = datetime(2026, 3, 4, 5, 6, 7, 891000, tzinfo=UTC)


@dataclass(frozen=True)
class Call:
    """What an app says to each client, ours and theirs."""

    event: str
    id: UUID
    user_id: str | None = None
    anonymous_id: str | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)


CALLS = (
    Call("Order Completed", UUID(int=1), user_id="17", properties={"total": 12.5, "coupon": None, "gift": True}),
    Call("Seen", UUID(int=2), anonymous_id="a-1"),
    Call(
        "Überwiesen 💸",
        UUID(int=3),
        user_id="ü-3",
        properties={"items": [{"sku": "a", "n": 2}, {"sku": "b", "n": 1}], "deep": {"er": {"est": "ß"}}},
        context={"locale": "de", "campaign": {"source": "mail"}},
    ),
    Call("Renewed", UUID(int=4), user_id="17", anonymous_id="a-1", properties={"on": AT, "quotes": '"\\'}),
    Call("Paid", UUID(int=5), user_id="17", properties={"price": Decimal("1.50")}),
    Call(
        "Session Seen", UUID(int=6), user_id="17", properties={"$session_id": "s-1", "$process_person_profile": False}
    ),
)


def sent_by(client: str, collector: Collector) -> list[Received]:
    """What that client sends for `CALLS`."""
    before = len(collector.received)
    command = [sys.executable, "-m", "tests.sinks.vendors", client, collector.url]
    subprocess.run(command, check=True, timeout=60, cwd=Path(__file__).parents[2], capture_output=True)
    return collector.received[before:]


def _segment(url: str) -> None:
    from segment.analytics.client import Client

    client = Client(KEY, host=url, max_retries=0, upload_size=len(CALLS), upload_interval=5)
    for call in CALLS:
        client.track(
            user_id=call.user_id,
            anonymous_id=call.anonymous_id,
            event=call.event,
            properties=dict(call.properties),
            context=dict(call.context),
            timestamp=AT,
            message_id=str(call.id),
        )
    client.flush()
    os._exit(0)  # its exit handler waits for one more interval


def _posthog(url: str, mode: str) -> None:
    from posthog.client import Client

    client = Client(KEY, host=url, max_retries=0, flush_at=len(CALLS), capture_mode=mode)
    for call in CALLS:
        client.capture(
            call.event,
            distinct_id=call.user_id or call.anonymous_id,
            properties=call.context | call.properties,
            timestamp=AT,
            uuid=str(call.id),
        )
    client.shutdown()


if __name__ == "__main__":
    _, chosen, address = sys.argv
    if chosen == "segment":
        _segment(address)
    else:
        _posthog(address, "v1" if chosen == "posthog_v1" else "v0")
