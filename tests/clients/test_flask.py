"""Flask's `test_client()`: under WSGI a response is over when it is closed."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from sidefx import SideEffects
from sidefx.testing import Capture
from sidefx.wsgi import SideEffectsMiddleware
from tests.asgi.probe import PATIENCE, Probe

HEADERS = {"x-request-id": "r"}


@pytest.fixture
def probe() -> Probe:
    """What effects note."""
    return Probe()


def client_of(probe: Probe, effects: SideEffects) -> Any:
    """Of an app with one view."""
    app = Flask(__name__)
    app.wsgi_app = SideEffectsMiddleware(app.wsgi_app, effects=effects)  # type: ignore[method-assign]  # Flask's own way

    @app.get("/")
    def view() -> tuple[str, int]:
        probe.schedule()
        return "no", 400

    return app.test_client()


@pytest.mark.contract("S13", "X02")
def test_a_request_is_captured_with_its_facts(probe: Probe, sidefx_capture: Capture) -> None:
    """Whether or not the test closes the response."""
    client_of(probe, SideEffects()).get("/", headers=HEADERS)
    assert [effect.args[0] for effect in sidefx_capture if effect.args] == ["always", "error"]
    request = sidefx_capture[0].request
    assert request is not None
    assert (request.request_id, request.status, request.outcome) == ("r", 400, "complete")


@pytest.mark.parametrize("buffered", [True, False])
def test_with_a_runtime_effects_wait_for_the_closing(probe: Probe, buffered: bool) -> None:
    """Which a buffered response has behind it."""
    with SideEffects() as fx:
        response = client_of(probe, fx).get("/", headers=HEADERS, buffered=buffered)
        fx.flush_blocking(PATIENCE)
        assert probe.of("r") == (["always", "error"] if buffered else [])
        response.close()
        fx.flush_blocking(PATIENCE)
        assert probe.of("r") == ["always", "error"]


def test_the_first_request_starts_the_runtime(probe: Probe) -> None:
    """In a thread, so that a synchronous test can ask it."""
    effects = SideEffects()
    client_of(probe, effects).get("/", headers=HEADERS, buffered=True)
    effects.flush_blocking(PATIENCE)
    assert probe.of("r") == ["always", "error"]
    effects.stop_blocking()
