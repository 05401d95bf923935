"""Each app that docs/frameworks.md shows does what the page says, on a real uvicorn."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "frameworks"
PAGE = ROOT / "docs" / "frameworks.md"

ROUTES = {
    "bare_app": None,
    "django_asgi": "/orders/<int:order_id>",
    "falcon_app": "/orders/{order_id:int}",
    "fastapi_app": "/orders/{order_id}",
    "litestar_app": "/orders/{order_id}",
    "litestar_middleware": "/orders/{order_id}",
    "mounted_app": "/orders/{order_id}",
    "quart_app": "/orders/<int:order_id>",
    "starlette_app": "/orders/{order_id}",
}


def test_the_page_shows_every_example() -> None:
    """What stands in the folder is on the page, and is run below."""
    shown = re.findall(r'^--8<-- "examples/frameworks/(.*)\.py"$', PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*shown, "django_site"}
    assert set(shown) == {*ROUTES, "django_middleware"}


@pytest.mark.parametrize(("module", "route"), ROUTES.items())
def test_an_example(module: str, route: str | None) -> None:
    """An order is audited after its response, `/stats` counts it, and nothing is warned of, not even at the end."""
    command = [sys.executable, "-m", "uvicorn", "--port", "0", f"{module}:app"]
    server = subprocess.Popen(command, cwd=EXAMPLES, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    lines: list[str] = []
    try:
        for line in server.stderr:
            lines.append(line)
            if "running on" in line:
                break
        url = next(match[0] for line in lines if (match := re.search(r"http://[\d.:]+", line)))
        path = "/shop/orders/7" if module == "mounted_app" else "/orders/7"
        assert httpx.post(url + path).status_code in {200, 201}
        deadline = time.monotonic() + 15
        while not re.search(r"^audit +1 +1 ", table := httpx.get(f"{url}/stats").text, re.MULTILINE):
            assert time.monotonic() < deadline, table
    finally:
        server.terminate()
        _, rest = server.communicate(timeout=30)
    lines += rest.splitlines()
    (record,) = [json.loads(line) for line in lines if line.startswith('{"kind":"audit"')]
    assert (record["target"], record["request"]["path"], record["request"]["route"]) == ("order:7", path, route)
    assert record["request"]["outcome"] == "complete"
    assert [line for line in lines if "WARNING" in line or "ERROR" in line] == []
