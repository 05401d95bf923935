"""On every server: what a response is where the journal's disk has failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sidefx import after
from tests.asgi.kept import Kept, journaled, kept_of
from tests.asgi.probe import eventually
from tests.asgi.servers import SERVERS, Server, body, start, whole
from tests.disk import failing, held, rows_of


@pytest.fixture(scope="module", params=SERVERS)
def refusing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Every server, with a journal that is to be relied on."""
    with journaled(request.param, tmp_path_factory.mktemp("journal"), on_failure="refuse") as running:
        yield running


@pytest.fixture(scope="module", params=SERVERS)
def degrading(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Every server, with a journal that gives way after a quarter of a second."""
    with journaled(request.param, tmp_path_factory.mktemp("journal"), timeout=0.25) as running:
        yield running


def works(server: Server) -> None:
    """The journal has found out that its disk works again."""
    eventually(lambda: server.fx.stats().journal.state == "ok", "the disk")  # type: ignore[union-attr]


@pytest.mark.contract("J07", "S13")
def test_a_request_is_refused_whose_event_cannot_be_kept(refusing: Server) -> None:
    """503, nothing of the app's own, its event void; what else it scheduled goes as for any 503."""
    server = refusing
    works(server)
    before = server.fx.stats()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(Kept(what="void"))
        server.probe.schedule()
        await whole(scope, receive, send)

    with failing(server.fx):
        reply, case = server.get(case=server.play(app))
        assert (reply.status, reply.body) == (503, b"Service Unavailable")
        assert server.settled(case) == ["always", "error"]
        assert server.fx.health().status == "degraded"
    works(server)
    assert kept_of(server, case) == []
    now = server.fx.stats()
    assert now.journal is not None
    assert before.journal is not None
    assert now.journal.refused == before.journal.refused + 1
    assert now.sinks["kept"] == before.sinks["kept"], "it never reached a lane"
    assert now.dead_letters == before.dead_letters
    assert rows_of(server.fx) == 0


@pytest.mark.contract("J07")
def test_what_has_begun_is_not_refused(refusing: Server) -> None:
    """An event of a stream that is under way is delivered from memory, counted, and told of."""
    server = refusing
    works(server)
    degraded = server.fx.stats().journal.degraded  # type: ignore[union-attr]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, ("content-length", "4")))
        await send(body(b"on", more_body=True))
        after(Kept(what="late"))
        await send(body(b"ce"))

    with failing(server.fx):
        reply, case = server.get(case=server.play(app))
        assert (reply.status, reply.body) == (200, b"once")
        eventually(lambda: kept_of(server, case) == ["late"], "the delivery from memory")
    works(server)
    assert server.fx.stats().journal.degraded == degraded + 1  # type: ignore[union-attr]


@pytest.mark.contract("J07")
def test_where_it_gives_way_the_response_is_the_apps_own(degrading: Server) -> None:
    """The event is delivered from memory; it is counted, health tells of it, and both end with the failure."""
    server = degrading
    works(server)
    degraded = server.fx.stats().journal.degraded  # type: ignore[union-attr]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(Kept(what="in memory"))
        await whole(scope, receive, send)

    with failing(server.fx):
        reply, case = server.get(case=server.play(app))
        assert reply.status == 200
        eventually(lambda: kept_of(server, case) == ["in memory"], "the delivery from memory")
        assert server.fx.stats().journal.degraded == degraded + 1  # type: ignore[union-attr]
        assert any("disk I/O error" in reason for reason in server.fx.health().reasons)
    works(server)
    reply, case = server.get(case=server.play(app))
    eventually(lambda: kept_of(server, case) == ["in memory"], "the delivery from disk")
    assert server.fx.stats().journal.degraded == degraded + 1  # type: ignore[union-attr]
    assert not any("journal" in reason for reason in server.fx.health().reasons)


@pytest.mark.contract("J07")
def test_a_disk_that_hangs_holds_one_response_for_its_time_and_no_other(degrading: Server) -> None:
    """Later ones do not wait at all, and what is written late is not delivered a second time."""
    server = degrading
    works(server)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after(Kept(what="once"))
        await whole(scope, receive, send)

    with held(server.fx) as disk:
        first, case = server.get(case=server.play(app))
        second, later = server.get(case=server.play(app))
        assert (first.status, second.status) == (200, 200), "both without the disk, which is still held"
        eventually(lambda: kept_of(server, case) == ["once"] and kept_of(server, later) == ["once"], "both in memory")
        disk.open()
    works(server)
    eventually(lambda: rows_of(server.fx) == 0, "the end of the row that was written late")
    assert kept_of(server, case) == kept_of(server, later) == ["once"]
