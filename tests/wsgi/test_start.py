"""How the runtime starts: with the first request, once; and what is read before that."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

import sidefx.wsgi.middleware
from sidefx import BufferOptions, ConfigError, SideEffects, SinkOptions, SinkStartError, after
from sidefx.testing import capture
from sidefx.wsgi import SideEffectsMiddleware
from tests.asgi.probe import Gate, Happened, Probe, eventually
from tests.wsgi.by_hand import called, environ_of, served
from tests.wsgi.processes import serving, started

ROOT = Path(__file__).parents[2]


class Door:
    """A sink whose opening and closing the test holds up, and whose opening it lets fail."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.way_out = Gate()
        self.error: Exception | None = None
        self.opened = 0

    async def __aenter__(self) -> None:
        self.opened += 1
        await self.gate.passed()
        if self.error is not None:
            raise self.error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.way_out.passed()

    async def send(self, event: Happened) -> None: ...


@pytest.fixture
def door() -> Iterator[Door]:
    """Opened in any case."""
    door = Door()
    with door.gate, door.way_out:
        yield door


def adapted(effects: SideEffects | None, probe: Probe) -> SideEffectsMiddleware:
    """An app that schedules one effect."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        after(probe.note, "ran", environ["HTTP_X_REQUEST_ID"])
        start_response("204 No Content", [])
        return []

    return SideEffectsMiddleware(app, effects=effects)


def at_once(middleware: SideEffectsMiddleware, count: int) -> tuple[list[threading.Thread], list[str | Exception]]:
    """So many requests in threads, and, as they come, the status of each or what it raised."""
    results: list[str | Exception] = []

    def ask(case: str) -> None:
        try:
            response = called(middleware, environ_of(HTTP_X_REQUEST_ID=case))
            response.send()
            results.append(response.status)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results.append(error)

    threads = [threading.Thread(target=ask, args=(f"case-{number}",), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


@pytest.mark.contract("W04")
def test_nothing_starts_before_the_first_request(probe: Probe, door: Door) -> None:
    """Making the adapter opens no sink, and starts no thread that a fork would lose."""
    threads = threading.active_count()
    effects = SideEffects({"door": door})
    middleware = adapted(effects, probe)
    assert (effects.running, door.opened, threading.active_count()) == (False, 0, threads)

    door.gate.open()
    served(middleware)
    assert effects.running
    effects.flush_blocking(10)
    door.way_out.open()
    effects.stop_blocking()
    assert probe.of("case") == ["ran"]


@pytest.mark.contract("W04")
def test_requests_that_are_first_at_once_start_one_runtime(probe: Probe, door: Door) -> None:
    """All of them wait for the same start, and each has its effects."""
    effects = SideEffects({"door": door})
    middleware = adapted(effects, probe)
    threads, results = at_once(middleware, 8)
    door.gate.reached()
    assert results == []
    door.gate.open()
    for thread in threads:
        thread.join(10)
    effects.flush_blocking(10)
    door.way_out.open()
    effects.stop_blocking()

    assert results == ["204 No Content"] * 8
    assert door.opened == 1
    assert sorted(case for case, _ in probe.notes) == sorted(f"case-{number}" for number in range(8))


@pytest.mark.contract("W04", "S08")
def test_a_start_that_fails(
    probe: Probe, door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that waited for it fail with the reason, which the log has once; the next request tries again."""
    waiting: list[str] = []

    class Told(Future[None]):
        def result(self, timeout: float | None = None) -> None:
            waiting.append("one more")
            super().result(timeout)

    monkeypatch.setattr(sidefx.wsgi.middleware, "Future", Told)
    effects = SideEffects({"door": door})
    middleware = adapted(effects, probe)
    door.error = ConnectionRefusedError("nobody is there")
    threads, results = at_once(middleware, 8)
    door.gate.reached()
    eventually(lambda: len(waiting) == 7)
    door.gate.open()
    for thread in threads:
        thread.join(10)

    assert {type(result) for result in results} == {SinkStartError}
    assert {str(result) for result in results} == {
        "sinks.door: Door could not be opened: ConnectionRefusedError: nobody is there"
    }
    assert (len(results), door.opened) == (8, 1)
    [page] = [record for record in caplog.records if record.name.startswith("sidefx")]
    assert "nobody is there" in page.getMessage()
    assert page.levelno == logging.ERROR

    door.error = None
    assert served(middleware).status == "204 No Content"
    effects.flush_blocking(10)
    door.way_out.open()
    effects.stop_blocking()
    assert probe.of("case") == ["ran"]


@pytest.mark.contract("W04")
def test_a_request_that_comes_while_the_runtime_ends(
    probe: Probe, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """It is answered, and starts nothing anew: what it schedules is listed as lost."""
    effects = SideEffects({"door": door})
    middleware = adapted(effects, probe)
    door.gate.open()
    served(middleware)
    ending = threading.Thread(target=effects.stop_blocking, daemon=True)
    ending.start()
    door.way_out.reached()
    assert served(middleware).status == "204 No Content"
    door.way_out.open()
    ending.join(10)

    assert (door.opened, probe.of("case")) == (1, ["ran"])
    [lost] = [record.getMessage() for record in caplog.records if record.name.startswith("sidefx")]
    assert lost == "1 effect(s) were not finished at shutdown and are lost: callables: Probe.note × 1"


@pytest.mark.contract("W04")
def test_a_runtime_that_runs_is_used_as_it_is(probe: Probe) -> None:
    """A test's own `with SideEffects() as fx:` is neither started again nor stopped."""
    with SideEffects() as fx:
        middleware = adapted(fx, probe)
        for _ in range(2):
            served(middleware)
        fx.flush_blocking(10)
        assert (fx.running, probe.of("case")) == (True, ["ran", "ran"])


@pytest.mark.contract("W04")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_forks_while_a_request_starts_the_runtime(door: Door, probe: Probe) -> None:
    """The child waits for no start of its parent's: it has a start of its own."""
    effects = SideEffects({"door": door})
    middleware = adapted(effects, probe)
    threads, _ = at_once(middleware, 1)
    door.gate.reached()
    child = os.fork()
    if not child:
        door.gate.open()
        os._exit(0 if served(middleware).status == "204 No Content" else 1)
    waited = threading.Thread(target=os.waitpid, args=(child, 0), daemon=True)
    waited.start()
    waited.join(10)
    hung = waited.is_alive()
    if hung:
        os.kill(child, 9)
    door.gate.open()
    threads[0].join(10)
    door.way_out.open()
    effects.stop_blocking()
    assert not hung


@pytest.mark.contract("L08")
def test_a_lane_that_blocks_holds_no_response(probe: Probe) -> None:
    """The end of a WSGI response can wait for nothing: `block` means twice the size here, and then a counted drop."""
    with Gate() as gate:

        async def sink(event: Happened) -> None:
            await gate.passed()

        buffer = BufferOptions(max_events=2, when_full="block")
        with SideEffects({"slow": sink}, {"slow": SinkOptions(buffer=buffer)}) as fx:

            def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
                after(Happened(what="event"))
                start_response("204 No Content", [])
                return []

            middleware = SideEffectsMiddleware(app, effects=fx)
            served(middleware)
            gate.reached()
            for _ in range(6):
                assert served(middleware).status == "204 No Content"
            eventually(lambda: fx.stats().sinks["slow"].accepted == 7)
            stats = fx.stats().sinks["slow"]
            assert (stats.in_flight, stats.queued, stats.dropped) == (1, 4, {"full": 2})
            gate.open()


# --- the configuration -----------------------------------------------------------------------------------------------


@pytest.mark.contract("F01")
def test_a_file_with_mistakes_stops_the_constructor(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no start-up in WSGI: all of them are said where the app is made."""
    path = tmp_path / "mine.toml"
    path.write_text('[sinks.audit]\ntype = "audit_logg"\n[runtim]\n')
    for given in (path, str(path)):
        with pytest.raises(ConfigError) as raised:
            SideEffectsMiddleware(lambda *_: [], config=given)
        assert len(raised.value.problems) == 2
    monkeypatch.setenv("SIDEFX_CONFIG", str(path))
    with pytest.raises(ConfigError):
        SideEffectsMiddleware(lambda *_: [])
    monkeypatch.delenv("SIDEFX_CONFIG")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sidefx.toml").write_text("[runtime]\ndrain_timeout = 3.0\n")
    assert SideEffectsMiddleware(lambda *_: []).effects.options.drain_timeout == 3.0


def test_a_file_and_a_runtime() -> None:
    """It is one or the other."""
    with pytest.raises(TypeError, match="not both"):
        SideEffectsMiddleware(lambda *_: [], config="sidefx.toml", effects=SideEffects())


@pytest.mark.contract("F01")
def test_a_worker_does_not_boot_with_a_file_that_has_mistakes(tmp_path: Path) -> None:
    """Gunicorn ends, and every mistake is on the page."""
    config = tmp_path / "sidefx.toml"
    config.write_text('[sinks.audit]\ntype = "audit_logg"\n[sinks.log]\ntype = "log"\ntimeou = 3\n')
    with started("gunicorn-sync", "tests.wsgi.configured:app", tmp_path, SIDEFX_CONFIG=str(config)) as server:
        assert server.end() != 0
        printed = server.printed
    assert "sinks.audit" in printed
    assert "timeou" in printed


@pytest.mark.contract("W04", "S08")
@pytest.mark.parametrize("kind", ["gunicorn-sync", "waitress"])
def test_a_start_that_fails_on_a_server(kind: str, tmp_path: Path) -> None:
    """Requests are answered with 500 until the sink can be opened, and the log says what is missing, a page a time."""
    with serving(kind, "tests.wsgi.drained:app", tmp_path) as server:
        server.allow("failure")
        for asked in (1, 2):
            assert server.get("/")[0].status == 500
            pages = [line for line in server.printed.splitlines() if "sidefx could not start: sinks.sink: " in line]
            assert len(pages) == asked
            assert all(page.endswith("ConnectionRefusedError: nobody is there") for page in pages)
        Path(f"{server.record.path}.failure").unlink()
        assert server.get("/")[0].status == 200


# --- in tests ------------------------------------------------------------------------------------------------------


def test_under_capture_nothing_is_started_or_read(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was scheduled is there once the response is closed; no file is needed, and nothing runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDEFX_CONFIG", raising=False)
    threads = threading.active_count()
    with capture() as captured:
        middleware = adapted(None, probe)
        served(middleware)
        [effect] = captured
        assert effect.request is not None
        assert (effect.label, effect.request.status, effect.request.outcome) == ("Probe.note", 204, "complete")
        assert (probe.notes, threading.active_count()) == ([], threads)
        captured.run_blocking()
    assert probe.of("case") == ["ran"]

    with pytest.raises(ConfigError):
        served_or_raised(middleware)


def served_or_raised(middleware: SideEffectsMiddleware) -> None:
    """One request, of which the server passes on what it raises."""
    called(middleware).send()


def test_under_capture_a_client_need_not_close(probe: Probe) -> None:
    """Test clients often do not: what they have read to its end is captured, and what they have not is not."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        probe.schedule()
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one"
        after(probe.note, "late")
        yield b"two"

    with capture() as captured:
        response = called(SideEffectsMiddleware(app, effects=SideEffects()))
        pieces = iter(response.iterable)
        next(pieces)
        assert list(captured) == []
        assert list(pieces) == [b"two"]
        assert len(captured) == 4
        seen = captured[0].request
        assert seen is not None
        assert (seen.outcome, seen.bytes_sent) == ("complete", 6)
        response.close()
        assert len(captured) == 4


@pytest.mark.contract("X02")
def test_importing_the_adapter_imports_no_framework_and_no_server() -> None:
    """It is plain WSGI, and knows nothing of the ASGI adapter."""
    program = "import sidefx.wsgi, sys; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    )
    assert "sidefx.wsgi.middleware" in loaded
    assert loaded & {"flask", "werkzeug", "django", "gunicorn", "waitress", "sidefx.asgi", "pydantic_settings"} == set()
