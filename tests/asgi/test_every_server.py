"""Every line of the adapter's contract has a test that runs on every server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.asgi.servers import SERVERS

ROOT = Path(__file__).parents[2]

EVERYWHERE = [
    *(f"A{number:02}" for number in range(1, 18)),
    *("X01", "X02", "X03", "X04", "X05"),
    *("S01", "S02", "S06", "S07", "S12", "S13"),
    *("D03", "D04"),
    *("J01", "J09"),
]
"""The lines that a server could break; a server's end by a signal (D01, D02) is tested in processes of their own."""

EXCEPTIONS = {
    ("A14", "daphne"): "it tells of no start and of no end; A15 says what holds instead",
    ("D03", "daphne"): "it ends with its process, which is where `test_drain.py` ends it",
}


@pytest.mark.contract("A18")
def test_every_line_is_shown_on_every_server(tmp_path: Path) -> None:
    """For each line there is a test that runs on all servers, but for the exceptions, which are all needed."""
    program = [sys.executable, "-m", "tests.asgi.collected", "tests/asgi", str(tmp_path / "shown")]
    collecting = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert collecting.returncode == 0, collecting.stdout + collecting.stderr
    shown = json.loads((tmp_path / "shown").read_text(encoding="utf-8"))

    every: set[str] = set(SERVERS)
    missing: dict[str, set[str]] = {}
    for promise in EVERYWHERE:
        lacks = [every - set(servers) for servers in shown.get(promise, {}).values()]
        missing[promise] = min(lacks, key=len, default=every)
    expected: dict[str, set[str]] = {promise: set() for promise in EVERYWHERE}
    for promise, kind in EXCEPTIONS:
        expected[promise].add(kind)
    assert missing == expected
