"""The journal and its lanes against a model: schedules, failures, restarts, crashes and replays, in any order."""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from hypothesis import HealthCheck, register_random, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.journal.life import Life
from tests.journal.model import KINDS
from tests.journal.world import World

LONG = os.environ.get("SIDEFX_LONG_TESTS") == "1"

sinks = st.sampled_from(["one", "batches", "wide", "memory", "last"])
outcomes = st.sampled_from(["ok", "fails", "refuses", "partly", "slow", "hangs"])
plans = st.lists(
    st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from(["always", "success", "success", "error"])),
    min_size=1,
    max_size=4,
)
mostly = st.sampled_from([True, True, False])
some_living = precondition(lambda self: self.world.living)


class Processes(RuleBasedStateMachine):
    """What processes, their disk and their sinks may do."""

    world: World

    def __init__(self, backend: str) -> None:
        super().__init__()
        self._backend = backend

    @initialize(
        room=st.integers(1, 4), batch=st.integers(1, 4), on_failure=st.sampled_from(["degrade", "degrade", "refuse"])
    )
    def begin(self, room: int, batch: int, on_failure: str) -> None:
        self.world = World(self._backend, room=room, batch=batch, on_failure=on_failure)
        self.world.do(self.world.start)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                if not self.world.broken:
                    self.world.do(self.world.end)
            finally:
                self.world.close()

    # --- time -----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.005, 0.03, 0.3, 2.5, 12.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.do(anyio.sleep, seconds)

    @rule(turns=st.integers(1, 6))
    def the_loop_turns(self, turns: int) -> None:
        async def turn() -> None:
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()

        self.world.do(turn)

    # --- processes ------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.living) < 2)
    @rule(without=st.sampled_from([None, None, None, "batches", "wide"]))
    def one_starts(self, without: str | None) -> None:
        self.world.do(self.world.start, without)

    @precondition(lambda self: len(self.world.living) < 2 and self._stopped)
    @rule()
    def one_starts_again(self) -> None:
        self.world.do(self.world.start_again, self._stopped[0])

    @some_living
    @rule(which=st.integers(0, 1), wait=st.booleans())
    def one_stops(self, which: int, wait: bool) -> None:
        self.world.do(partial(self.world.stop, self._life(which), wait=wait))

    @some_living
    @rule(which=st.integers(0, 1))
    def one_crashes(self, which: int) -> None:
        self.world.do(self.world.crash, self._life(which))

    # --- events ---------------------------------------------------------------------------------------

    @some_living
    @rule(
        which=st.integers(0, 1),
        way=st.sampled_from(["scope", "scope", "scope", "emit", "after", "with"]),
        plan=plans,
        early=mostly,
        fails=mostly,
        wait=st.booleans(),
    )
    def something_happens(
        self, which: int, way: str, plan: list[tuple[str, Any]], early: bool, fails: bool, wait: bool
    ) -> None:
        self.world.do(partial(self.world.keep, self._life(which), way, plan, early=early, fails=fails, wait=wait))

    @some_living
    @rule(which=st.integers(0, 1), kind=st.sampled_from(["model.solo", "model.triple", "model.family"]))
    def a_response_fails_after_its_start(self, which: int, kind: str) -> None:
        plan = [(kind, "success")]
        self.world.do(partial(self.world.keep, self._life(which), "scope", plan, early=True, fails=True, wait=True))

    @some_living
    @rule(which=st.integers(0, 1), seconds=st.sampled_from([0.1, 5.0, 100.0]), wait=st.booleans())
    def somebody_flushes(self, which: int, seconds: float, wait: bool) -> None:
        self.world.do(partial(self.world.flush, self._life(which), seconds, wait=wait))

    @some_living
    @rule(which=st.integers(0, 1), sink=st.none() | sinks, to=st.none() | sinks)
    def letters_are_replayed(self, which: int, sink: str | None, to: str | None) -> None:
        life = self._life(which)
        self.world.do(self.world.replay, life, sink, to if to in life.sinks else None)

    @rule(sink=st.none() | sinks)
    def letters_are_purged(self, sink: str | None) -> None:
        if self.world.disk.healthy:
            self.world.do(self.world.purge, sink)

    # --- sinks ----------------------------------------------------------------------------------------

    @rule(sink=sinks, script=st.lists(outcomes, min_size=1, max_size=5))
    def a_sink_is_told(self, sink: str, script: list[str]) -> None:
        self.world.scripts.setdefault(sink, deque()).extend(script)

    @precondition(lambda self: self.world.hung)
    @rule()
    def sinks_that_hang_go_on(self) -> None:
        self.world.do(self.world.release)

    # --- the disk -------------------------------------------------------------------------------------

    @some_living
    @rule(
        which=st.integers(0, 1),
        what=st.sampled_from(["own", "adopted", "all"]),
        stage=st.sampled_from(["begin", "commit", "read"]),
    )
    def segments_fail(self, which: int, what: str, stage: Any) -> None:
        segments = self.world.disk.segments.get(self._life(which), [])
        for segment in {"own": segments[:1], "adopted": segments[1:], "all": segments}[what]:
            self.world.disk.broken.setdefault(segment.path, set()).add(stage)
        if what == "all":
            self.world.disk.broken[None] = {stage}

    @rule(uses=st.integers(0, 3))
    def dead_letters_fail(self, uses: int) -> None:
        self.world.disk.uses_left = uses

    @rule(
        stage=st.sampled_from(["begin", "commit", "committed", "dead", "buried"]),
        seconds=st.sampled_from([0.0, 0.02, 1.0, 6.0]),
    )
    def the_disk_is_slow(self, stage: Any, seconds: float) -> None:
        self.world.disk.slow.pop(stage, None)
        if seconds:
            self.world.disk.slow[stage] = seconds

    @precondition(lambda self: not self.world.disk.healthy)
    @rule()
    def the_disk_works(self) -> None:
        self.world.disk.mend()

    # --------------------------------------------------------------------------------------------------

    def _life(self, which: int) -> Life:
        living = self.world.living
        return living[which % len(living)]

    @property
    def _stopped(self) -> list[Life]:
        return [life for life in self.world.lives if life.stopping and not life.crashed and not life.fx.running]


@pytest.mark.contract("L09", "J02", "J05", "J07", "J09", "J10")
@pytest.mark.timeout(0 if LONG else 120)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_whatever_happens_every_event_comes_to_its_end_once(backend: str) -> None:
    """What was acknowledged is delivered, or a dead letter; twice only where a crash came between; and all adds up."""
    register_random(trio._core._run._r)  # type: ignore[attr-defined]  # so that trio's order is repeated as well
    run_state_machine_as_test(
        partial(Processes, backend),
        settings=settings(
            max_examples=5000 if LONG else 20,
            stateful_step_count=60 if LONG else 40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
