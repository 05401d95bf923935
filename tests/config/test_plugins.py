"""Plug-ins: from a type's name to its class, and every way in which that fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from sidefx import ConfigError, MissingExtraError
from sidefx.config import load
from sidefx.plugins import GROUP, PluginError, find, published

SINK = "from sidefx import AuditEvent\nclass Carrier:\n    async def send(self, event: AuditEvent) -> None: ...\n"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a distribution, as pip leaves it, on the path: its modules and its entry points."""
    monkeypatch.syspath_prepend(tmp_path)

    def install_distribution(name: str, entry_points: dict[str, str], **modules: str) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "".join(f"{key} = {value}\n" for key, value in entry_points.items())
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
        for module, text in modules.items():
            (tmp_path / f"{module}.py").write_text(text)

    return install_distribution


def refused(name: str) -> str:
    """The message with which a type is refused."""
    with pytest.raises(PluginError) as raised:
        find(name)
    return str(raised.value)


def test_the_built_in_sinks_are_published_as_any_other() -> None:
    """They are found through the entry-point group, and every one can be imported."""
    names = {entry.name for entry in entry_points(group=GROUP)}
    assert {"audit_log", "analytics", "webhook", "email", "cache", "log"} <= names
    for name in names:
        assert isinstance(find(name).target, type)


def test_a_distribution_publishes_a_short_name(install: Install) -> None:
    """A type of another package needs no `module:Name`."""
    install("carriers", {"pigeon": "sidefx_test_pigeon:Carrier"}, sidefx_test_pigeon=SINK)
    assert find("pigeon").target.__name__ == "Carrier"
    assert find("pigeon").target is find("sidefx_test_pigeon:Carrier").target
    assert list(published()) == sorted(published())


@pytest.mark.contract("F05")
def test_two_distributions_that_publish_one_name_are_both_named(install: Install, tmp_path: Path) -> None:
    """Neither is taken silently; the way out is to write the module."""
    install("carriers", {"raven": "sidefx_test_raven:Carrier"})
    install("other-carriers", {"raven": "sidefx_test_other:Carrier"})
    message = refused("raven")
    assert "several packages publish this sink type" in message
    assert "carriers (sidefx_test_raven:Carrier)" in message
    assert "other-carriers (sidefx_test_other:Carrier)" in message
    path = tmp_path / "sidefx.toml"
    path.write_text('[sinks.post]\ntype = "raven"\n')
    with pytest.raises(ConfigError, match=r"sinks\.post\.type: several packages publish this sink type"):
        load(path)


@pytest.mark.contract("F05")
def test_a_missing_library_names_the_command_that_installs_it(install: Install, tmp_path: Path) -> None:
    """The distribution and the extras are those of the entry point."""
    install(
        "carriers",
        {"owl": "sidefx_test_owl:Carrier [birds,night]", "crow": "sidefx_test_owl:Carrier"},
        sidefx_test_owl="import sidefx_test_no_such_library.part\n",
    )
    with pytest.raises(MissingExtraError) as raised:
        find("owl")
    assert str(raised.value) == (
        "needs sidefx_test_no_such_library, which is not installed; run: pip install 'carriers[birds,night]'"
    )
    path = tmp_path / "sidefx.toml"
    path.write_text('[sinks.post]\ntype = "owl"\n[sinks.more]\ntype = "crow"\n')
    with pytest.raises(ConfigError) as error:
        load(path)
    assert [str(problem) for problem in error.value.problems] == [
        f"sinks.post: {raised.value}",
        "sinks.more: needs sidefx_test_no_such_library, which is not installed; install it",
    ]


@pytest.mark.contract("F05")
def test_a_library_that_the_constructor_imports_may_be_missing_too(install: Install, tmp_path: Path) -> None:
    """A sink that imports late has the same message."""
    late = SINK + "    def __init__(self) -> None:\n        import sidefx_test_no_such_library\n"
    install("carriers", {"stork": "sidefx_test_stork:Carrier [birds]"}, sidefx_test_stork=late)
    path = tmp_path / "sidefx.toml"
    path.write_text('[sinks.post]\ntype = "stork"\n')
    with pytest.raises(ConfigError, match=r"sinks\.post: needs sidefx_test_no_such_library, .*'carriers\[birds\]'"):
        load(path)


@pytest.mark.contract("F05")
@pytest.mark.parametrize(
    ("sink", "library", "extra"),
    [
        ("audit_log", "sqlalchemy", "audit"),
        ("analytics", "httpx", "analytics"),
        ("webhook", "httpx", "webhook"),
        ("email", "aiosmtplib", "email"),
    ],
)
def test_the_extras_of_the_built_in_sinks(sink: str, library: str, extra: str) -> None:
    """Each built-in sink without its library says which extra of sidefx has it."""
    code = f"import sys; sys.modules[{library!r}] = None; from sidefx.plugins import find; find({sink!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.rstrip().endswith(f"needs {library}, which is not installed; run: pip install 'sidefx[{extra}]'")


def test_a_module_that_is_not_there() -> None:
    """It is told apart from a module that lacks a library."""
    assert refused("sidefx_test_nowhere.sinks:Carrier") == (
        "there is no module 'sidefx_test_nowhere'; "
        "install it, or run from the folder that holds it (PYTHONPATH names others)"
    )
    assert refused("json.nowhere:Carrier").startswith("there is no module 'json.nowhere'")


def test_a_published_module_that_is_not_there(install: Install) -> None:
    """A broken distribution is not taken for a missing extra."""
    install("carriers", {"dodo": "sidefx_test_dodo:Carrier [birds]"})
    assert refused("dodo").startswith("there is no module 'sidefx_test_dodo'")


def test_an_error_inside_the_module_says_where(install: Install, tmp_path: Path) -> None:
    """The kind of error, its message, and the file and line."""
    install("carriers", {"swan": "sidefx_test_swan:Carrier"}, sidefx_test_swan="x = 1\ny = x / 0\n")
    file = tmp_path / "sidefx_test_swan.py"
    assert refused("swan") == f"importing 'sidefx_test_swan' failed: ZeroDivisionError: division by zero ({file}:2)"


def test_a_module_that_exits_is_a_mistake(install: Install) -> None:
    """A script without a guard does not end the program that checks the configuration."""
    install("carriers", {"moth": "sidefx_test_moth:Carrier"}, sidefx_test_moth="raise SystemExit(0)\n")
    assert refused("moth").startswith("importing 'sidefx_test_moth' failed: SystemExit: 0")


def test_a_library_that_is_too_old(install: Install) -> None:
    """A name that a library lacks suggests the extra, whose versions fit."""
    install(
        "carriers", {"heron": "sidefx_test_heron:Carrier [birds]"}, sidefx_test_heron="from json import no_such_name\n"
    )
    message = refused("heron")
    assert message.startswith("importing 'sidefx_test_heron' failed: ImportError: cannot import name 'no_such_name'")
    assert message.endswith("its libraries may be too old; run: pip install 'carriers[birds]'")


@pytest.mark.contract("F01")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("audit_lg", "no installed package publishes a sink type of that name; did you mean 'audit_log'?"),
        ("Log", "no installed package publishes a sink type of that name; did you mean 'log'?"),
        ("json.JSONEncoder", "no installed package publishes a sink type of that name; write 'module:Name'"),
        ("json:JSONEncodr", "'json' has no 'JSONEncodr'; did you mean 'JSONEncoder'?"),
        ("json:JSONEncoder.encod", "'JSONEncoder' has no 'encod'; did you mean 'encode'?"),
        ("json:", "the part after ':' is empty; known: "),
        (":JSONEncoder", "the part before ':' is no module's name; write 'module:Name', as in 'myapp.sinks:Slack'"),
        ("my-app.sinks:Slack", "the part before ':' is no module's name"),
        (".sinks:Slack", "the part before ':' is no module's name"),
    ],
)  # fmt: skip
def test_a_name_that_is_wrong(name: str, message: str) -> None:
    """The nearest valid name is suggested, or the way to write one."""
    assert refused(name).startswith(message)
