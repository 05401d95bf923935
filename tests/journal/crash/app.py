"""An app that is killed: what it is asked for is journaled, and its sinks write down what they are given."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from sidefx import (
    AuditEvent,
    BatchOptions,
    BreakerOptions,
    Event,
    JournalOptions,
    RetryOptions,
    SideEffects,
    SinkOptions,
    TransientError,
    after,
    audit,
)
from sidefx.asgi import SideEffectsMiddleware
from tests.journal.crash.ledger import Ledger

_ATTEMPTS = int(os.environ["ATTEMPTS"])
"""Of the sink that a poison event kills."""
_AUDIT = os.environ.get("AUDIT")
"""The database and the table of the audit log, where there is one."""

_ledger = Ledger(Path(os.environ["LEDGER"]))
_holding = False
"""Whether this process' sink is held from now on."""


class Happened(Event, kind="crash_test.happened"):
    """For the sink that gets one event at a time."""


class Troubled(Event, kind="crash_test.troubled"):
    """For the sink that is slow, and fails at times."""


class Touchy(Event, kind="crash_test.touchy"):
    """For the sink that does not live through what is poison."""

    poison: bool = False


async def single(event: Happened) -> None:
    """Takes one at a time; is held on demand."""
    if _holding:
        await anyio.sleep_forever()
    _ledger.delivered("single", event)


async def audited(event: AuditEvent) -> None:
    """A second sink for what the audit log gets: that one passes over what it has already, so nobody would see it."""
    _ledger.delivered("audited", event)


class Troublesome:
    """Takes its time, so that something is in flight at most moments; and fails now and then."""

    async def send_batch(self, events: Sequence[Troubled]) -> None:
        if random.random() < 0.2:
            raise TransientError("a bad moment")
        for event in events:
            _ledger.delivered("troublesome", event)
            await anyio.sleep(random.uniform(0, 0.01))


class TouchySink:
    """Looks at the whole batch before it does anything."""

    async def send_batch(self, events: Sequence[Touchy]) -> None:
        for event in events:
            if event.poison:
                _ledger.note("poisoned", f"{len(events)}")
                os.kill(os.getpid(), signal.SIGKILL)
        for event in events:
            _ledger.delivered("touchy", event)


def _effects() -> SideEffects:
    patient = RetryOptions(attempts=1_000, initial=0.01, max=0.1)  # a crash is an attempt too
    journaled = SinkOptions(delivery="journal", retry=patient)
    sinks: dict[str, object] = {
        "single": single,
        "audited": audited,
        "troublesome": Troublesome(),
        "touchy": TouchySink(),
    }
    options = {
        "single": SinkOptions(delivery="journal", retry=patient, timeout=300),
        "audited": journaled,
        "troublesome": SinkOptions(
            delivery="journal",
            retry=patient,
            batch=BatchOptions(max_events=5),
            breaker=BreakerOptions(reset=0.5),  # five bad moments in a row come, too
        ),
        "touchy": SinkOptions(
            delivery="journal",
            retry=RetryOptions(attempts=_ATTEMPTS, initial=0.01, max=0.1),
            batch=BatchOptions(max_events=10, linger=0.2),
        ),
    }
    if _AUDIT:
        from pydantic import SecretStr

        from sidefx_sinks.audit_log import AuditLog

        url, _, table = _AUDIT.rpartition(" ")
        sinks["audit"] = AuditLog(url=SecretStr(url), table=table)
        options["audit"] = journaled
    return SideEffects(sinks, options, journal=JournalOptions(path=Path(os.environ["JOURNAL"])))


def _events(path: str) -> list[Event]:
    match path:
        case "/all":
            return [audit("order.create", actor="u1", target="order:1"), Happened(), Troubled()]
        case "/poison":
            return [Touchy(), Touchy(), Touchy(poison=True), Touchy(), Touchy()]
        case "/touchy":
            return [Touchy()]
    return [Happened()]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/hold":
        global _holding  # noqa: PLW0603 - this process', for good
        _holding = True
    if scope["path"] == "/dead":
        letters = [(letter.sink, f"{letter.event_id}", letter.attempts, letter.reason) for letter in _fx.dead_letters]
        body = json.dumps(letters).encode()
    else:
        events = _events(scope["path"])
        for event in events:
            after(event)
        body = "\n".join([f"{os.getpid()}", *(f"{event.kind} {event.id}" for event in events)]).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_ledger.note("born", f"{os.getpgid(0)}")
_fx = _effects()
app = SideEffectsMiddleware(_app, effects=_fx)
