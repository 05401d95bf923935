"""What docs/testing.md shows is run, as its reader would run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOPS = Path(__file__).parent / "shops"
BLOCK = re.compile(r'^```python(?: title="(?P<title>[\w.]+)")?\n(?P<code>.*?)^```$', re.MULTILINE | re.DOTALL)


@pytest.mark.contract("A15", "S13")
def test_the_page_on_testing(tmp_path: Path) -> None:
    """Each block is a file; the files with tests pass, in a folder of their own, with every warning an error."""
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    blocks = {match["title"]: match["code"] for match in BLOCK.finditer(page)}
    assert len(blocks) == page.count("```python"), "a block without a title, or two of one title, would not be run"
    for shop in SHOPS.glob("*.py"):
        shutil.copy(shop, tmp_path)
    for title, code in blocks.items():
        (tmp_path / title).write_text(code, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\nfilterwarnings =\n    error\n    ignore:Using `httpx` with `starlette.testclient`\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"(\d+) passed in", done.stdout)
    assert counted is not None, done.stdout
    assert int(counted[1]) >= sum(code.count("def test_") for code in blocks.values())
