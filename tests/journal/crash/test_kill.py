"""`kill -9` of real servers under load: every event whose response was seen is delivered."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from sidefx_sinks.audit_log import audit_table
from tests.asgi.probe import eventually
from tests.journal.crash.ledger import Ledger, Line
from tests.journal.crash.load import Load, events_of
from tests.journal.crash.servers import ATTEMPTS, Place, Server
from tests.journal.figures import figure

LONG = os.environ.get("SIDEFX_LONG_TESTS") == "1"
KILLS = 3_000 if LONG else 204
HOPE = 20.0
"""Seconds without any delivery, after which what has not been delivered is lost."""
IN_FLIGHT = 2.0
"""Seconds before a kill: what was delivered earlier, is not delivered again."""
SINKS = {"single": "crash_test.happened", "troublesome": "crash_test.troubled", "audited": "audit"}
"""Those that write down what they are given, and of which kind that is."""


@pytest.fixture
def audit_log(postgres_url: str) -> Iterator[tuple[sa.Engine, sa.Table]]:
    """An audit table that no other test uses; the first process to write to it makes it."""
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    table = audit_table(f"audit_{uuid4().hex[:12]}")
    yield engine, table
    table.metadata.drop_all(engine)


@pytest.mark.contract("J02", "J05")
@pytest.mark.timeout(7_200 if LONG else 480)
def test_nothing_seen_is_lost_by_kills(audit_log: tuple[sa.Engine, sa.Table], tmp_path: Path) -> None:
    """Workers and whole servers are killed, again and again: each event is delivered, and again only by such a kill."""
    engine, table = audit_log
    place = Place(tmp_path, audit=f"{engine.url.render_as_string(hide_password=False)} {table.name}")
    started = time.monotonic()
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(place, name, workers=2)) for name in ("one", "two")]
        with Load(lambda: [server.process.port for server in servers], "/all", clients=6) as load:
            kills = _kill(place, servers, KILLS)
        for server in servers:
            server.kill()
        took = time.monotonic() - started
        last = servers[0]
        last.start()
        assert _lost(place.ledger, load.seen) == {}
        eventually(
            lambda: len(place.living()) == len(place.segments) == 2, "the end of all segments but the living ones'"
        )
        assert json.loads(last.process.get("/dead")) == []
        last.process.terminate()
        printed = last.process.end()
    assert {path.name for path in place.journal.iterdir()} <= {"dead.sqlite", "dead.sqlite-journal"}, printed

    assert load.wrong == []
    assert len(load.seen["audit"]) == load.requests > 5 * KILLS
    with engine.connect() as connection:
        rows = Counter(str(id_) for id_ in connection.execute(sa.select(table.c.id)).scalars())
    assert set(rows.values()) == {1}
    assert load.seen["audit"] <= rows.keys()
    again = {sink: _delivered_again(place, sink) for sink in SINKS}
    figure(
        f"{kills.total()} kills ({kills['server']} of servers) of {len(place.killed)} processes in {took:.0f} s: "
        f"{load.requests} responses seen, {load.broken} broken off; nothing lost"
    )
    for sink, lines in again.items():
        figure(
            f"{sink}: {len(place.ledger.told(sink))} deliveries, {len(lines)} again, by {_crashes(lines)} crashes, "
            f"{_most(lines)} at most by one; first delivered at most {_oldest(place, lines) * 1000:.0f} ms before it"
        )


def _kill(place: Place, servers: list[Server], times: int) -> Counter[str]:
    """So many kills at random moments: most of them of a worker, some of a server, a few of all there are."""
    done: Counter[str] = Counter()
    while done.total() < times:
        time.sleep(random.uniform(0, 0.6))
        what = random.random()
        if what < 0.9:
            done["worker"] += 1
            place.kill(random.choice(sorted(eventually(place.living))))
        else:
            some = random.sample(servers, k=2 if what > 0.98 else 1)
            for server in some:
                done["server"] += 1
                server.kill()
            for server in some:
                server.start()
    return done


def _lost(ledger: Ledger, seen: dict[str, set[str]]) -> dict[str, set[str]]:
    """What has not come to a sink in the end, by sink: waits as long as anything comes."""
    missing, came = _missing(ledger, seen), time.monotonic()
    while missing and time.monotonic() - came < HOPE:
        time.sleep(0.1)
        before, missing = missing, _missing(ledger, seen)
        if missing != before:
            came = time.monotonic()
    return missing


def _missing(ledger: Ledger, seen: dict[str, set[str]]) -> dict[str, set[str]]:
    delivered = {sink: {line.about for line in ledger.told(sink)} for sink in SINKS}
    return {sink: ids for sink, kind in SINKS.items() if (ids := seen.get(kind, set()) - delivered[sink])}


def _delivered_again(place: Place, sink: str) -> list[Line]:
    """The first delivery of each pair: it was in flight when its process was killed; the second came after that."""
    lines: defaultdict[str, list[Line]] = defaultdict(list)
    for line in place.ledger.told(sink):
        lines[line.about].append(line)
    first = []
    for of_one in lines.values():
        for before, again in pairwise(of_one):
            assert again.process != before.process, f"twice by one process: {of_one}"
            assert before.process in place.killed, f"again, although its process lives: {of_one}"
            assert again.at > place.killed[before.process], f"again, although its process lived: {of_one}"
            assert place.killed[before.process] - before.at < IN_FLIGHT, f"again, long after: {of_one}"
            first.append(before)
    return first


def _crashes(lines: list[Line]) -> int:
    return len({line.process for line in lines})


def _most(lines: list[Line]) -> int:
    return max(Counter(line.process for line in lines).values(), default=0)


def _oldest(place: Place, lines: list[Line]) -> float:
    return max((place.killed[line.process] - line.at for line in lines), default=0)


@pytest.mark.contract("J05")
def test_the_living_adopt_what_a_killed_worker_has_left(tmp_path: Path) -> None:
    """Within seconds, once each; while they run, and without a new worker in its stead."""
    place = Place(tmp_path)
    with Server(place, "server", workers=4) as server:
        eventually(lambda: len(place.living()) == 4, "four workers")
        with server.process.ask("/hold") as wire:  # one connection is one worker's
            replies = [wire.reply().body]
            for _ in range(50):
                wire.ask("held", "/one")
                replies.append(wire.reply().body)
        held = {id_ for body in replies for _, id_ in events_of(body)}
        (victim,) = {int(body.split()[0]) for body in replies}
        assert not {line.about for line in place.ledger.told("single")} & held
        os.kill(server.group, signal.SIGSTOP)  # the one that would start a new worker
        place.kill(victim)
        _waits(lambda: {line.about for line in place.ledger.told("single")} >= held, "their delivery", within=10)
        eventually(lambda: len(place.segments) == 3, "the end of its segment")

    lines = [line for line in place.ledger.told("single") if line.about in held]
    assert len(lines) == len(held) == 51
    assert {line.process for line in lines} < place.living()
    took = lines[-1].at - place.killed[victim]
    figure(f"{len(held)} events of a killed worker were adopted, and all delivered {took:.1f} s after the kill")


@pytest.mark.contract("J06")
def test_a_poison_event_ends_in_the_dead_letters(tmp_path: Path) -> None:
    """One that kills its process is tried alone after that, so that nothing else is charged; then it is given up."""
    place = Place(tmp_path)
    with Server(place, "server", workers=2) as server:
        eventually(lambda: len(place.living()) == 2, "two workers")
        (*mates, poison) = _poisoned(server)
        with Load(lambda: [server.process.port], "/touchy", clients=2) as load:
            _waits(lambda: _dead(server), "a dead letter", within=30)
        others = {*mates, *load.seen["crash_test.touchy"]}
        eventually(lambda: {line.about for line in place.ledger.told("touchy")} >= others, "the delivery of the others")
        ((sink, dead, attempts, reason),) = _dead(server)

    assert (sink, dead, attempts) == ("touchy", poison, ATTEMPTS)
    assert "the process ended" in reason
    crashes = [int(line.about) for line in place.ledger.told("poisoned")]
    assert crashes[0] > 1, "it had no batch mates"
    assert crashes[1:] == [1] * (ATTEMPTS - 1), "it was not tried alone"
    deliveries = Counter(line.about for line in place.ledger.told("touchy"))
    assert poison not in deliveries
    assert max(deliveries.values()) <= 1 + ATTEMPTS
    figure(
        f"a poison event killed {len(crashes)} processes, then was a dead letter; {len(others)} others were delivered"
    )


def _poisoned(server: Server) -> list[str]:
    """Sends a batch with a poison event, which is named last, to one worker."""
    with server.process.ask("/poison") as wire:
        ids = [id_ for _, id_ in events_of(wire.reply().body)]
    return [*ids[:2], *ids[3:], ids[2]]


def _dead(server: Server) -> list[list[str]]:
    """The dead letters, as some worker tells them; nothing where it is just being killed."""
    try:
        return list(json.loads(server.process.get("/dead")))
    except (OSError, AssertionError):
        return []


def _waits(condition: Callable[[], object], what: str, within: float) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about within {within:g} s"
        time.sleep(0.02)
