"""From a task queue: what sidefx is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidefx import ConfigError, SideEffects, after

pytestmark = pytest.mark.anyio


async def test_a_function_is_called_once() -> None:
    """A function is called once."""
    calls: list[str] = []

    async def fail() -> None:
        calls.append("called")
        raise LookupError

    async with SideEffects() as fx:
        after(fail)
        await fx.flush()
    assert calls == ["called"]
    assert fx.stats().callables.retried == 0


async def test_nothing_comes_back() -> None:
    """Nothing comes back."""
    async with SideEffects():
        assert after(lambda: "a result") is None  # type: ignore[func-returns-value]  # that is what is said


def test_durability(tmp_path: Path) -> None:
    """Only what can be lost in a crash belongs here."""
    file = tmp_path / "sidefx.toml"
    file.write_text('[sinks.log]\ntype = "log"\ndelivery = "journal"\n')
    with pytest.raises(ConfigError, match=r"sinks\.log\.delivery"):
        SideEffects.from_toml(file)
    file.write_text('[sinks.log]\ntype = "log"\ndelivery = "memory"\n')
    assert SideEffects.from_toml(file)


async def test_no_delay() -> None:
    """There is no delay and no schedule."""
    async with SideEffects():
        with pytest.raises(TypeError, match="countdown"):
            after(print, countdown=60)  # type: ignore[call-arg]  # that is the mistake
