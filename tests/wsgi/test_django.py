"""Django: its signals around a request stay as they are, and its test client works.

In a process of its own: Django has one configuration a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json
from pathlib import Path
import sys
from sidefx import SideEffects, after
from sidefx.testing import capture
from sidefx.wsgi import SideEffectsMiddleware
from tests.asgi.probe import Happened, Probe
from tests.wsgi.by_hand import called, environ_of
from tests.wsgi.frameworks import django_app

probe = Probe()
app = django_app(probe.schedule, Path(__file__))
from django.core.signals import request_finished, request_started
from django.test import Client

told = {}
with capture() as captured:
    response = Client().get("/ok")
    told["test client"] = [response.status_code, [effect.args for effect in captured if effect.event is None]]

def around(app):
    order = []
    def started(**_): order.append("started")
    def finished(**_):
        order.append("finished")
        after(probe.note, "in request_finished")
    request_started.connect(started)
    request_finished.connect(finished)
    with fx.scope("the test's own"):
        response = called(app, environ_of("/stream"))
        order.append("called")
        order.append(b"".join(response.iterable).decode())
        order.append("read")
        response.close()
        order.append("closed")
    request_started.disconnect(started)
    request_finished.disconnect(finished)
    return order

with SideEffects({"sink": probe.sink}) as fx:
    told["without"] = around(app)
    fx.flush_blocking(10)
    probe.notes.clear()
    told["with"] = around(SideEffectsMiddleware(app, effects=fx))
    fx.flush_blocking(10)
    told["ran"] = probe.of("case")
    probe.notes.clear()
    Client().get("/ok")
    fx.flush_blocking(10)
    told["test client with a runtime"] = probe.notes
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """What the program has found."""
    program = tmp_path_factory.mktemp("django") / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, list[object]] = json.loads(done.stdout)
    return result


def test_what_django_does_around_a_request(told: dict[str, list[object]]) -> None:
    """Its signals come at the same times with the adapter as without."""
    assert told["with"] == told["without"] == ["started", "called", "onetwothree", "read", "finished", "closed"]


@pytest.mark.contract("X02", "S02")
def test_what_is_scheduled_as_a_request_finishes(told: dict[str, list[object]]) -> None:
    """`request_finished` is sent where the response is closed: that still belongs to the request."""
    assert told["ran"] == ["always", "success", "in request_finished"]


def test_djangos_test_client_under_capture(told: dict[str, list[object]]) -> None:
    """It calls the view past every WSGI middleware: what is scheduled belongs to no request, and is captured."""
    assert told["test client"] == [200, [["always"], ["success"]]]


def test_djangos_test_client_with_a_runtime(told: dict[str, list[object]]) -> None:
    """There what is scheduled starts at once."""
    assert told["test client with a runtime"] == [["", "always"], ["", "success"]]
