"""The distribution as a user gets it: built, installed into a fresh environment, and tried.

Needs the package index, so `make package` runs these and `make test` does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"

CORE = """
import sys

import anyio

from sidefx import Event, SideEffects, after

class Ping(Event, kind="ping"):
    number: int

numbers = []

async def record(event: Ping) -> None:
    numbers.append(event.number)

async def main() -> None:
    async with SideEffects({"record": record}) as fx:
        await fx.emit(Ping(number=1))
        after(Ping(number=2))
        after(numbers.append, 3)
        await fx.flush(timeout=10)

anyio.run(main)
assert sorted(numbers) == [1, 2, 3], numbers
foreign = {"aiosmtplib", "click", "httpx", "jinja2", "redis", "rich", "sidefx_sinks", "sqlalchemy"} & set(sys.modules)
assert not foreign, foreign
"""

EVERY_SINK = """
from importlib.metadata import entry_points

for point in entry_points(group="sidefx.sinks"):
    assert isinstance(point.load(), type), point
    print(point.name)
"""
EVERY_COMMAND = """
import click
from importlib.metadata import entry_points

for point in entry_points(group="sidefx.commands"):
    assert isinstance(point.load(), click.Command), point
    print(point.name)
"""


def run(*command: str | Path, succeed: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command outside the project's folder, so that only what is installed can be imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=Path(sys.prefix), env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not succeed or done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, which is built from the tree."""
    folder = tmp_path_factory.mktemp("dist")
    os.environ["PIP_CONSTRAINT"] = str(CONSTRAINTS)  # for the build's own environment
    try:
        run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    finally:
        del os.environ["PIP_CONSTRAINT"]
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(folder: Path, requirement: str) -> Path:
    """A fresh environment with that requirement in it, and nothing else; its folder of programs."""
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "--quiet")
    run(*pip, "install", "-c", CONSTRAINTS, requirement)
    return programs


@pytest.fixture(scope="module")
def bare(distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with sidefx, and no extra of it."""
    return install(tmp_path_factory.mktemp("bare"), str(distribution))


@pytest.fixture(scope="module")
def full(distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with sidefx and all its extras."""
    return install(tmp_path_factory.mktemp("full"), f"sidefx[all] @ {distribution.as_uri()}")


def test_the_wheel_holds_both_packages_their_types_and_the_licence(distribution: Path) -> None:
    """Users get `sidefx` and `sidefx_sinks`, typed, with the licence, and no tests."""
    names = zipfile.ZipFile(distribution).namelist()
    assert {"sidefx/__init__.py", "sidefx/py.typed", "sidefx_sinks/__init__.py", "sidefx_sinks/py.typed"} <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"sidefx", "sidefx_sinks"}
    assert [name for name in names if name.endswith("licenses/LICENSE")] != []


def test_the_core_works_without_extras(bare: Path) -> None:
    """Without any extra the core delivers to a user's own sink, and imports no sink's library."""
    run(bare / "python", "-W", "error", "-c", CORE)


@pytest.mark.contract("F05")
def test_the_command_says_what_it_lacks(bare: Path) -> None:
    """Without the extra `cli`, the command ends with the line that installs it, and no traceback."""
    done = run(bare / "sidefx", succeed=False)
    assert done.returncode == 2
    assert "pip install 'sidefx[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_sink_can_be_loaded_with_all_extras(full: Path) -> None:
    """`sidefx[all]` has what each published sink imports."""
    loaded = run(full / "python", "-W", "error", "-c", EVERY_SINK).stdout.split()
    assert sorted(loaded) == ["analytics", "audit_log", "cache", "email", "log", "webhook"]
    assert run(full / "python", "-W", "error", "-c", EVERY_COMMAND).stdout.split() == ["audit"]


def test_the_command_runs_with_all_extras(full: Path) -> None:
    """The installed command answers."""
    assert "Usage" in run(full / "sidefx", "--help").stdout
