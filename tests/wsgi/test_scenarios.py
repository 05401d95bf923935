"""One suite of scenarios, played in every framework on every server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.asgi.wire import Reply
from tests.wsgi.frameworks import FRAMEWORKS, Framework
from tests.wsgi.processes import COMMANDS, Process, serving
from tests.wsgi.record import Line

PLACES = [(kind, name) for kind in COMMANDS for name in FRAMEWORKS if kind != "wsgiref" or name == "bare"]

BARE = [place for place in PLACES if place[1] == "bare"]
WITH_FRAMEWORK = [place for place in PLACES if place[1] != "bare"]

WHOLE = [  # path, the response's status, whether it is a success
    ("/ok", 200, True),
    ("/redirect", 302, True),
    ("/bad", 400, False),
    ("/http-exception", 404, False),
    ("/down", 500, False),
    ("/empty", 204, True),
    ("/stream", 200, True),
]

FILE_SIZE = 30_000_000


@pytest.fixture(scope="module", params=PLACES, ids=", ".join)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The app of one framework on one server; at its end, all that was scheduled has run, and has run once."""
    kind, name = request.param
    folder = tmp_path_factory.mktemp(f"{kind}-{name}")
    file = folder / "file.bin"
    with file.open("wb") as output:
        output.truncate(FILE_SIZE)  # sparse
    with serving(kind, "tests.wsgi.played:app", folder, FRAMEWORK=name, FILE=str(file)) as server:
        yield Place(server, FRAMEWORKS[name])
        server.terminate()
        server.end()
    counts = {case: server.record.count(case) for case in server.asked}
    assert counts == {case: dict.fromkeys(whats, 1) for case, whats in server.asked.items()}


class Place:
    """A server and the app on it."""

    def __init__(self, server: Process, framework: Framework) -> None:
        self.server = server
        self.framework = framework

    def ran(self, case: str, *, success: bool) -> Line:
        """Waits for what is due of that request; the fixture sees to it that there is no more."""
        due = {"always", "event", "success" if success else "error"}
        self.server.asked[case] = due
        return self.server.record.has(case, "always", *due)

    def get(self, path: str, method: str = "GET") -> tuple[Reply, str]:
        """A whole response."""
        return self.server.get(path, method)


@pytest.mark.contract("S02", "S13", "W02")
@pytest.mark.parametrize(("path", "status", "success"), WHOLE, ids=[path for path, *_ in WHOLE])
def test_a_response_of_the_apps_own(place: Place, path: str, status: int, success: bool) -> None:
    """Whatever the status, every effect that is due runs once, and `when` goes by the status."""
    reply, case = place.get(path)

    assert reply.status == status
    line = place.ran(case, success=success)
    assert (line.status, line.outcome, line.bytes) == (status, "complete", len(reply.body))


@pytest.mark.contract("S02", "S13", "W02", "W03", "X02")
def test_an_unhandled_exception(place: Place) -> None:
    """It is an error, also where the framework has rendered a 500; the status is what the adapter saw."""
    reply, case = place.get("/boom")

    assert reply.status == 500
    line = place.ran(case, success=False)
    assert (line.status, line.outcome) == (place.framework.unhandled_status, place.framework.unhandled_outcome)


@pytest.mark.contract("S02", "S13", "W02", "W03")
def test_an_error_in_mid_stream(place: Place) -> None:
    """A stream that breaks is an error although its status was 200."""
    case = place.server.new_case()
    with place.server.wire() as wire:
        wire.ask(case, "/mid-stream")
        line = place.ran(case, success=False)

    assert (line.status, line.outcome) == (200, "errored")


@pytest.mark.contract("S02", "S13", "W02")
@pytest.mark.parametrize("path", ["/leave", "/file"])
def test_a_client_that_left(place: Place, path: str) -> None:
    """A client that resets a 200 in mid-stream, or in the middle of a file, is no error, and its leaving is told."""
    case = place.server.new_case()
    with place.server.wire() as wire:
        wire.ask(case, path)
        wire.until(b"first" if path == "/leave" else b"\0")
        wire.reset()

    line = place.ran(case, success=True)
    assert (line.status, line.outcome) == (200, "disconnected")


@pytest.mark.contract("S02", "W02")
@pytest.mark.parametrize("path", ["/ok", "/stream", "/file"])
def test_a_head_request(place: Place, path: str) -> None:
    """It is complete without a body."""
    reply, case = place.get(path, "HEAD")

    assert (reply.status, reply.body) == (200, b"")
    line = place.ran(case, success=True)
    assert (line.status, line.outcome) == (200, "complete")


@pytest.mark.contract("S02", "W05")
def test_a_file_that_the_server_sends_by_itself(place: Place) -> None:
    """It arrives whole, and its effects know its length."""
    reply, case = place.get("/file")

    assert len(reply.body) == FILE_SIZE
    line = place.ran(case, success=True)
    assert (line.status, line.outcome, line.bytes) == (200, "complete", FILE_SIZE)


@pytest.mark.parametrize("place", WITH_FRAMEWORK, indirect=True, ids=", ".join, scope="module")
@pytest.mark.contract("S02", "X01")
def test_an_asynchronous_view(place: Place) -> None:
    """Frameworks run it on an event loop of their own, in another thread, and the scope is there as well."""
    reply, case = place.get("/async")

    assert reply.body == b"whole"
    assert place.ran(case, success=True).outcome == "complete"


@pytest.mark.parametrize("place", WITH_FRAMEWORK, indirect=True, ids=", ".join, scope="module")
@pytest.mark.contract("X02")
def test_the_route(place: Place) -> None:
    """Flask tells the route's template; the others do not."""
    _, case = place.get("/items/7")

    assert place.ran(case, success=True).route == place.framework.route


@pytest.mark.parametrize("place", BARE, indirect=True, ids=", ".join, scope="module")
@pytest.mark.contract("S02")
@pytest.mark.parametrize("path", ["/write", "/unsized", "/file-unsized"])
def test_other_ways_to_give_a_body(place: Place, path: str) -> None:
    """`write()`, a list whose length the server makes a header of, and a file of which it finds out the length."""
    reply, case = place.get(path)

    assert len(reply.body) == (FILE_SIZE if path == "/file-unsized" else 5)
    line = place.ran(case, success=True)
    assert (line.status, line.outcome) == (200, "complete")
    assert line.bytes == (0 if path == "/file-unsized" else 5)


@pytest.mark.parametrize("place", BARE, indirect=True, ids=", ".join, scope="module")
@pytest.mark.contract("W05")
def test_a_server_still_finds_the_length_of_a_list(place: Place) -> None:
    """The adapter takes nothing from the server: the one piece of a list has its `Content-Length`, as without it."""
    reply, case = place.get("/unsized")
    place.ran(case, success=True)

    finds = place.server.kind in {"waitress", "wsgiref"}
    assert ("content-length" in reply.headers) is finds


@pytest.mark.contract("S02")
def test_requests_in_a_row_and_at_once(place: Place) -> None:
    """Of many requests, all open at a time, each has its own effects once."""
    cases = []
    for _ in range(4):
        wires = [place.server.wire() for _ in range(5)]
        for wire in wires:
            cases.append(place.server.new_case())
            wire.ask(cases[-1], "/ok", Connection="close")
        for wire in wires:
            assert wire.reply().status == 200
            wire.socket.close()

    for case in cases:
        place.ran(case, success=True)


@pytest.mark.contract("W04")
def test_the_effects_run_in_the_worker_that_answered(place: Place) -> None:
    """No runtime is started in the master of forked workers."""
    _, case = place.get("/ok")

    processes = {line.process for line in [place.ran(case, success=True), *place.server.record.lines()]}
    if place.server.kind.startswith("gunicorn"):
        assert place.server.popen.pid not in processes
