"""Several runtimes in one process: under one lifespan, and on servers of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidefx import RuntimeOptions, SideEffects
from tests.asgi import processes
from tests.asgi.probe import PATIENCE, Gate, Happened, Probe, eventually
from tests.asgi.servers import staged

NAMES = ("one", "two")


@pytest.mark.contract("A16", "D01", "D02", "D03")
@pytest.mark.parametrize("hangs", NAMES)
@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn-trio", "granian"])
def test_two_runtimes_under_one_lifespan(kind: str, hangs: str, tmp_path: Path) -> None:
    """SIGTERM drains both; one that hangs has its time and is listed, and keeps the other from nothing."""
    (works,) = {*NAMES} - {hangs}
    with processes.serving(kind, "tests.asgi.mounted:app", tmp_path) as process:
        process.get(f"/{hangs}/hang")
        process.tells(f"{hangs} was given hang")
        process.get(f"/{works}/work")
        process.terminate()
        process.tells("shutting down")
        process.allow("effects")
        printed = process.end()
        told = process.told

    assert told.index(f"effect of {works} done") < told.index(f"{hangs} closed")
    assert f"{works} was given nested" in told
    assert told[-1] == "app stopped"
    (listing,) = [line for line in printed.splitlines() if "not finished at shutdown" in line]
    assert listing.endswith(
        f"1 effect(s) were not finished at shutdown and are lost: sinks.{hangs}: asgi_test.happened × 1"
    )


@pytest.mark.contract("A16", "D03")
@pytest.mark.parametrize(
    ("first", "second"),
    [("uvicorn-h11", "uvicorn-h11"), ("hypercorn-asyncio", "hypercorn-trio"), ("granian", "hypercorn-trio")],
)
def test_two_servers_in_two_threads(first: str, second: str) -> None:
    """Each has its own event loop and runtime: effects stay apart, and the other does not feel a drain that hangs."""
    with Gate() as gate, staged(second) as other:

        def make(probe: Probe) -> SideEffects:
            return SideEffects({"sink": probe.sink}, runtime=RuntimeOptions(drain_timeout=PATIENCE), name="hung")

        with staged(first, make) as hung:
            hung_case = hung.scheduled(gate.passed, hung.probe.schedule)
            gate.reached()
            hung.stop()
            eventually(lambda: "lifespan.shutdown" in hung.witness.told)

            case = other.scheduled(other.probe.schedule, Happened(what="on its own"))
            assert other.settled(case) == ["always", "success"]
            other.run(other.fx.stop)
            assert not other.fx.running
            assert hung.fx.running
            gate.open()
        assert hung.witness.lifespan[-1] == "lifespan.shutdown.complete"

    assert hung.probe.of(hung_case) == ["always", "success"]
    assert {event.what for event in other.probe.delivered} == {"event", "on its own"}
    assert [event.what for event in hung.probe.delivered] == ["event"]
    assert {case for case, _ in other.probe.notes}.isdisjoint({hung_case})
