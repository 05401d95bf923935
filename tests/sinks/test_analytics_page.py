"""`docs/sinks/analytics.md` says what is so."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

import pytest

from sidefx import SideEffects
from sidefx_sinks.analytics import Analytics
from sidefx_sinks.analytics.target import PresetName

PAGE = (Path(__file__).parents[2] / "docs" / "sinks" / "analytics.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_every_setting_is_on_the_page() -> None:
    """In the order of the constructor, and no other; and every preset."""
    table = PAGE.partition("## Settings")[2].partition("## What is sent")[0]
    settings = inspect.signature(Analytics).parameters
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(settings)
    assert re.findall(r'"(\w+)"', table.partition("| `preset` |")[2].partition("|")[0]) == list(get_args(PresetName))


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_a_configuration(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found right as it stands, with its variables set."""
    for name in re.findall(r"\$\{(\w+)\}", example):
        monkeypatch.setenv(name, "s3cret")
    path = tmp_path / "sidefx.toml"
    path.write_text(example, encoding="utf-8")
    SideEffects.from_toml(path)
