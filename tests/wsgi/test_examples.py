"""The examples of docs/wsgi.md do what they say, on the servers that it names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.asgi.probe import eventually
from tests.wsgi.processes import ROOT, serving

EXAMPLES = ROOT / "examples" / "wsgi"


@pytest.mark.parametrize("kind", ["gunicorn-sync", "gunicorn-gthread", "waitress"])
@pytest.mark.parametrize("app", ["flask_app:app", "django_wsgi:application", "bare_app:app"])
def test_an_example(kind: str, app: str, tmp_path: Path) -> None:
    """An order is answered, and its audit record is delivered."""
    folder = tmp_path / "shop"
    shutil.copytree(EXAMPLES, folder)
    with serving(kind, app, folder) as server:
        reply, _ = server.get("/orders/7", "POST")
        assert b"placed" in reply.body
        eventually(lambda: re.search(rb"audit +1 +1 ", server.get("/stats")[0].body))
