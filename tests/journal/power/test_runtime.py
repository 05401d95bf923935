"""A whole runtime under power cuts, and its restart on what is left."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

import anyio
import pytest

from tests.journal.figures import figure
from tests.journal.power.cuts import Cuts, cut, laid_out, moments_of, scratch
from tests.journal.power.disk import Image, Mark, Step, torn
from tests.journal.power.scale import LONG, SEEDS
from tests.journal.power.shop import Restart, Shop, refused
from tests.journal.power.vfs import Recorder

ROUNDS = 12 if LONG else 5
CUTS = 150 if LONG else 25


@pytest.fixture(autouse=True)
def _quietly(caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of starts would fill the report of a failure."""
    caplog.set_level(logging.CRITICAL, logger="sidefx")


def lived(synchronous: Literal["FULL", "NORMAL"], backend: str, seed: int) -> list[Step]:
    """The tape of a shop's life."""
    with scratch() as root:
        recorder = Recorder(Path(root))
        with recorder.on():
            anyio.run(Shop(recorder, synchronous, Random(seed)).live, ROUNDS, backend=backend)
    return recorder.tape


def recovered(image: Image) -> frozenset[object] | None:
    """What a restart delivers, or has among the dead letters; None where it finds damage."""
    delivered = set[object]()
    with scratch() as root:
        restart = Restart(laid_out(image, Path(root)), delivered.add)
        anyio.run(restart.run)
    return None if restart.wrong else frozenset(delivered | restart.letters)


@pytest.mark.contract("J04", "J01")
@pytest.mark.timeout(7_200 if LONG else 120)
def test_after_a_power_cut_a_restart_delivers_all_that_was_acknowledged(anyio_backend: str) -> None:
    """What `emit()`, or a response's first byte, has acknowledged is delivered, or a dead letter; the replayed too."""
    cuts = Cuts()
    for seed in SEEDS:
        cuts += cut(lived("FULL", anyio_backend, seed), recovered, random=Random(seed), moments=CUTS)
    figure(f"J04 restart, FULL, {anyio_backend}: {cuts}")
    assert (cuts.lost, cuts.damaged) == (0, 0), cuts.examples[0]
    assert cuts.acknowledged > 1_000


@pytest.mark.contract("J04")
def test_with_normal_a_restart_does_not_deliver_all() -> None:
    """The control: some of what was acknowledged is lost, but nothing is damaged."""
    cuts = cut(lived("NORMAL", "asyncio", 1), recovered, random=Random(1), moments=20)
    figure(f"J04 restart, NORMAL: {cuts}")
    assert cuts.lost > 0
    assert cuts.damaged == 0, cuts.examples[0]


@pytest.mark.contract("J04")
@pytest.mark.timeout(3_600 if LONG else 120)
def test_a_second_power_cut_during_the_restart_takes_nothing_either() -> None:
    """While it takes over, delivers and removes what is empty: cut anywhere, the next restart has it."""
    cuts = Cuts()
    for seed in SEEDS:
        random = Random(seed)
        tape = lived("FULL", "asyncio", seed)
        for _ in range(8 if LONG else 3):
            left, to_come = cut_once(tape, random)
            with scratch() as root:
                recorder = Recorder(laid_out(left, Path(root)))
                start_again(recorder, to_come)
            start = recorder.begun + len(to_come)
            cuts += cut(recorder.tape, recovered, random=random, start=start, moments=30 if LONG else 10)
    figure(f"J04 second cut, FULL: {cuts}")
    assert (cuts.lost, cuts.damaged) == (0, 0), cuts.examples[0]
    assert cuts.acknowledged > 100


@pytest.mark.contract("J04")
def test_a_power_cut_during_a_replay_leaves_each_letter_or_its_event() -> None:
    """After each step: it stands in the dead letters, or is delivered."""
    letters = {(number, "mail") for number in range(3)}
    with scratch() as root:
        anyio.run(refused, Path(root), range(3))
        recorder = Recorder(Path(root))
        start_again(recorder, letters, replays=True)
    assert {step.whom for step in recorder.tape if isinstance(step, Mark) and step.what == "delivered"} == letters
    cuts = cut(recorder.tape, recovered, random=Random(1), start=recorder.begun + len(letters))
    figure(f"J04 replay, FULL: {cuts}")
    assert (cuts.lost, cuts.damaged) == (0, 0), cuts.examples[0]


def start_again(recorder: Recorder, to_come: Iterable[object], *, replays: bool = False) -> None:
    """A start on what is there, on tape."""
    restart = Restart(recorder.root, partial(recorder.mark, "delivered"), replays=replays)
    with recorder.on():
        for whom in to_come:
            recorder.mark("acknowledged", whom)
        anyio.run(restart.run)
    assert restart.wrong == []


def cut_once(tape: list[Step], random: Random) -> tuple[Image, set[object]]:
    """What one cut leaves, and what was acknowledged and is still to come."""
    _, disk, to_come = next(moments_of(tape, {random.randrange(len(tape) // 3, len(tape))}))
    return disk.image(torn, random), to_come
