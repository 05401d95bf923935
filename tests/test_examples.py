"""The example does what it says, on a real uvicorn."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_example_shop(tmp_path: Path) -> None:
    """Orders are answered, audited, counted by the custom sink, and drained by SIGTERM."""
    environment = {**os.environ, "SHOP_AUDIT_URL": f"sqlite:///{tmp_path / 'audit.db'}"}
    check = subprocess.run(
        [sys.executable, "-m", "sidefx", "check", "sidefx.toml"],
        cwd=EXAMPLES,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stdout + check.stderr
    assert "order.placed" in check.stdout
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--port", "0", "shop:app"],
        cwd=EXAMPLES,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    lines: list[str] = []
    for line in server.stderr:
        lines.append(line)
        if "running on" in line:
            break
    url = lines[-1].split()[4]
    for sku, status in (("tea", 201), ("tea", 201), ("coal", 404)):
        assert httpx.post(f"{url}/orders", params={"sku": sku}).status_code == status
    server.terminate()
    _, rest = server.communicate(timeout=30)
    assert "in the till: 25.00 EUR" in rest, [*lines, rest]
    assert "1 × tea left" in rest
    with closing(sqlite3.connect(tmp_path / "audit.db")) as database:
        rows = database.execute("SELECT target, outcome FROM audit_log ORDER BY seq").fetchall()
    assert rows == [("tea", "success"), ("tea", "success"), ("coal", "failure")]
