"""Says which test shows which promise on which servers; run by itself, as a program.

It asks pytest what it would run, so that it does not matter how a test comes by its server.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest


class Collector:
    """A plugin that looks at what has been collected, and runs nothing."""

    def __init__(self) -> None:
        self.shown: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        """Of each promise, of each test that names it, the servers that it runs on."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            assert isinstance(item, pytest.Function)
            test = f"{item.path.name}::{item.originalname}"
            skipped = any(item.get_closest_marker(name) for name in ("skip", "skipif", "xfail"))
            for promise in [promise for marker in item.iter_markers("contract") for promise in marker.args]:
                self.shown[promise][test] += [] if skipped else _servers_of(item)


def _servers_of(item: pytest.Function) -> list[str]:
    from tests.asgi.servers import SERVERS  # not before pytest, which warns of what it comes too late for

    given = getattr(item, "callspec", None)
    values = [] if given is None else given.params.values()
    parts = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    return [part for part in parts if isinstance(part, str) and part in SERVERS]


if __name__ == "__main__":
    collector = Collector()
    code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", sys.argv[1]], plugins=[collector])
    Path(sys.argv[2]).write_text(json.dumps(collector.shown), encoding="utf-8")
    sys.exit(code)
