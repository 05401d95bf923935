"""What a runtime has done so far, as a snapshot that prints as one table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidefx.lanes.breaker import State
    from sidefx.lanes.ledger import Latency, Ledger

_COLUMNS = (
    *("sink", "accepted", "delivered", "rejected", "expired", "dropped"),
    *("queued", "in flight", "retried", "breaker", "p50", "p99"),
)


@dataclass(frozen=True, slots=True)
class SinkStats:
    """One lane's counts: accepted = delivered + rejected + expired + dropped + queued + in_flight."""

    accepted: int
    delivered: int
    rejected: int
    expired: int
    dropped: Mapping[str, int]
    """By reason: full, filtered, sampled, shutdown."""
    queued: int
    in_flight: int
    retried: int
    breaker: State
    latency: Latency | None
    """Of one attempt, in seconds; None before the first."""

    @property
    def settled(self) -> int:
        """All that has left the lane."""
        return self.delivered + self.rejected + self.expired + sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class JournalStats:
    """The journal of this process."""

    state: Literal["ok", "failing"]
    """`failing`: new events of `delivery = "journal"` are in memory only, or refused."""
    reason: str
    """Why it fails; empty where it does not."""
    committed: int
    """Events that were written to disk."""
    degraded: int
    """Events that were in memory only, for the disk had failed."""
    refused: int
    """Requests that were answered with 503, for the disk had failed."""
    segments: int
    """Files that this process owns: its own, and those of processes that have ended."""


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of every lane; `print(stats)` shows it as a table."""

    sinks: Mapping[str, SinkStats]
    callables: SinkStats
    """Functions and awaitables given to `after()`."""
    unrouted: Mapping[str, int] = field(default_factory=dict)
    """Events that no sink takes, by kind."""
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    """By sink: in memory, or, with a journal, of all processes that share it."""
    abandoned_threads: int = 0
    """Synchronous calls past their deadline that still run."""
    journal: JournalStats | None = None
    """None where no sink's delivery is "journal"."""

    def __str__(self) -> str:
        rows = [_COLUMNS, *(_row(name, sink) for name, sink in self.sinks.items())]
        if self.callables.accepted:
            rows.append(_row("(callables)", self.callables))
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        lines = [
            "  ".join(_aligned(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        if self.unrouted:
            lines.append("no sink takes: " + ", ".join(f"{kind} × {count}" for kind, count in self.unrouted.items()))
        if self.dead_letters:
            lines.append("dead letters: " + ", ".join(f"{sink} × {count}" for sink, count in self.dead_letters.items()))
        if (journal := self.journal) is not None:
            counts = [f"{journal.committed} committed", f"{journal.degraded} degraded", f"{journal.refused} refused"]
            why = f" ({journal.reason})" if journal.reason else ""
            lines.append(f"journal: {journal.state}{why}, {', '.join(counts)}, {journal.segments} segment(s)")
        return "\n".join(line.rstrip() for line in lines)


HealthStatus: TypeAlias = Literal["ok", "degraded"]


@dataclass(frozen=True, slots=True)
class Health:
    """`ok`, or `degraded` with the reasons."""

    status: HealthStatus
    reasons: tuple[str, ...] = ()


def snapshot(ledger: Ledger, *, queued: int, breaker: State = "closed") -> SinkStats:
    """What the ledger says now."""
    return SinkStats(
        accepted=ledger.accepted,
        delivered=ledger.delivered,
        rejected=ledger.rejected,
        expired=ledger.expired,
        dropped=dict(ledger.dropped),
        queued=queued,
        in_flight=ledger.in_flight,
        retried=ledger.retried,
        breaker=breaker,
        latency=ledger.latency(),
    )


def _row(name: str, sink: SinkStats) -> tuple[str, ...]:
    dropped = ", ".join(f"{count} {reason}" for reason, count in sink.dropped.items()) or "0"
    p50, p99 = ("-", "-") if sink.latency is None else (_ms(sink.latency.p50), _ms(sink.latency.p99))
    counts = (sink.accepted, sink.delivered, sink.rejected, sink.expired)
    rest = (sink.queued, sink.in_flight, sink.retried)
    return (name, *map(str, counts), dropped, *map(str, rest), sink.breaker, p50, p99)


def _ms(seconds: float) -> str:
    return f"{seconds * 1_000:.1f} ms"


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
