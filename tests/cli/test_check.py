"""`sidefx check`, as a person meets it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidefx import Event
from sidefx.cli.app import app

Run = Callable[..., Result]

HERE = __name__


class Shipped(Event, kind="cli.shipped"):
    parcel: str


class Healthy:
    async def send(self, event: Shipped) -> None: ...
    async def check(self) -> None: ...


class NoCheck:
    async def send_batch(self, events: Sequence[Shipped]) -> None: ...


class Down:
    backend = "asyncio"

    async def send(self, event: Shipped) -> None: ...

    async def check(self) -> None:
        asyncio.get_running_loop()
        msg = "connection refused\nby \x1b[31mthe receiver"
        raise OSError(msg)


class DoesNotOpen:
    def __enter__(self) -> None:
        msg = "no such database"
        raise OSError(msg)

    def __exit__(self, *_: object) -> None: ...
    def send(self, event: Shipped) -> None: ...
    def check(self) -> None: ...


class Recorded:
    """Writes down what is called, in a thread."""

    calls: list[str] = []  # noqa: RUF012 - every instance's

    def __enter__(self) -> None:
        self.calls.append("enter")

    def __exit__(self, *_: object) -> None:
        self.calls.append("exit")

    def send(self, event: Shipped) -> None: ...

    def check(self) -> None:
        self.calls.append("check" if threading.current_thread() is not threading.main_thread() else "blocked")


class Hung:
    released = threading.Event()

    def __init__(self, *, synchronous: bool) -> None:
        self.check = self._block if synchronous else self._wait

    async def send(self, event: Shipped) -> None: ...

    def _block(self) -> None:
        self.released.wait()

    async def _wait(self) -> None:
        await asyncio.Event().wait()


class Meeting:
    """Two of these answer only if they are asked at the same time."""

    arrived: list[asyncio.Event] = []  # noqa: RUF012 - every instance's

    async def send(self, event: Shipped) -> None: ...

    async def check(self) -> None:
        mine = asyncio.Event()
        self.arrived.append(mine)
        if len(self.arrived) == 2:
            for event in self.arrived:
                event.set()
        await mine.wait()


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    Hung.released.clear()
    Recorded.calls.clear()
    Meeting.arrived.clear()
    yield
    Hung.released.set()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `sidefx` in a folder of its own, with `text` as its sidefx.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDEFX_CONFIG", raising=False)

    def run_command(*arguments: str, text: str | None = None) -> Result:
        if text is not None:
            (tmp_path / "sidefx.toml").write_text(text, encoding="utf-8")
        return CliRunner().invoke(app, arguments)

    return run_command


def sinks(**types: str) -> str:
    """A file with these sinks."""
    return "".join(f'[sinks.{name}]\ntype = "{HERE}:{kind}"\n' for name, kind in types.items())


def test_it_prints_what_goes_where(run: Run) -> None:
    """Every kind with its sinks, and every sink with how its lane works."""
    result = run(
        "check",
        text=sinks(one="Healthy", two="NoCheck")
        + 'timeout = 2.5\ndeadline = 60\nbatch = { max_events = 5, linger = 0.1 }\nrate_limit = "5/min"\n'
        + 'redact = ["parcel"]\nfallback = "one"\n',
    )
    assert result.exit_code == 0
    assert "sidefx.toml: no mistakes, 2 sinks" in result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "cli.shipped one, two" in lines
    assert "audit no sink" in lines
    described = " ".join(lines)
    assert f"two {HERE}:NoCheck memory 2.5 s 60 s redact parcel; buffer 10,000 drop_newest; batch 5, 0.1 s" in described
    assert "at most 5/min; breaker 5 failures, 30 s; retry 5 attempts, 0.2 to 30 s; fallback one" in described


@pytest.mark.contract("F01")
def test_mistakes_are_printed_a_line_each(run: Run) -> None:
    """Nothing but the problems, and exit code 2."""
    result = run("check", text='[sinks.a]\ntype = "lg"\n[sinks.b]\ntype = "log"\nstrem = "stdout"\n[runtme]\n')
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        "sinks.a.type: no installed package publishes a sink type of that name; did you mean 'log'?",
        "sinks.b.strem: unknown key; did you mean 'stream'?",
        "runtme: unknown table; did you mean 'runtime'?",
    ]


@pytest.mark.contract("F01")
def test_mistakes_as_json_lines(run: Run) -> None:
    """`--json` says the same to a program."""
    result = run("check", "--json", text="[runtme]\n")
    assert result.exit_code == 2
    assert [json.loads(line) for line in result.output.splitlines()] == [
        {"record": "problem", "path": "runtme", "reason": "unknown table", "suggestion": "did you mean 'runtime'?"}
    ]


def test_the_configuration_as_json_lines(run: Run) -> None:
    """Sinks with their options, then kinds with their sinks, then what each sink answered."""
    result = run("check", "--json", "--connect", text=sinks(one="Healthy", two="NoCheck") + "deadline = inf\n")
    assert result.exit_code == 0
    records = [json.loads(line) for line in result.output.splitlines()]
    by_record = {kind: [each for each in records if each["record"] == kind] for kind in ("sink", "route", "connection")}
    assert [(each["name"], each["type"]) for each in by_record["sink"]] == [
        ("one", f"{HERE}:Healthy"),
        ("two", f"{HERE}:NoCheck"),
    ]
    assert by_record["sink"][0]["options"]["retry"] == {"attempts": 5, "initial": 0.2, "max": 30.0}
    assert by_record["sink"][1]["options"]["deadline"] is None  # JSON has no infinity; None is "no limit"
    assert {"record": "route", "event": "cli.shipped", "sinks": ["one", "two"]} in by_record["route"]
    assert by_record["connection"] == [
        {"record": "connection", "sink": "one", "status": "ok", "reason": ""},
        {"record": "connection", "sink": "two", "status": "has no check", "reason": ""},
    ]


def test_connect_says_of_each_sink_what_came_of_it(run: Run) -> None:
    """One that does not answer makes the exit code 1; its reason is one line that steers no terminal."""
    result = run("check", "--connect", text=sinks(up="Healthy", plain="NoCheck", down="Down", closed="DoesNotOpen"))
    assert result.exit_code == 1
    answers = [" ".join(line.split()) for line in result.output.splitlines()][-4:]
    assert answers == [
        "up ok",
        "plain has no check",
        "down failed OSError: connection refused\\nby \\x1b[31mthe receiver",
        "closed failed OSError: no such database",
    ]


def test_connect_opens_checks_and_closes(run: Run) -> None:
    """A synchronous sink is asked in a thread, and closed again."""
    assert run("check", "--connect", text=sinks(a="Recorded")).exit_code == 0
    assert Recorded.calls == ["enter", "check", "exit"]


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_connect_gives_each_sink_its_own_timeout(run: Run, synchronous: str) -> None:
    """A hung one fails after its `timeout`, blocking or not; the others answer."""
    text = sinks(up="Healthy", hung="Hung") + f"synchronous = {synchronous}\ntimeout = 0.05\n"
    result = run("check", "--connect", text=text)
    assert result.exit_code == 1
    answers = [" ".join(line.split()) for line in result.output.splitlines()][-2:]
    assert answers == ["up ok", "hung failed no answer within its timeout of 0.05 s"]


def test_connect_asks_all_at_the_same_time(run: Run) -> None:
    """Two sinks that wait for each other both answer."""
    assert run("check", "--connect", text=sinks(a="Meeting", b="Meeting")).exit_code == 0


def test_check_alone_opens_nothing(run: Run) -> None:
    """Without --connect no sink is touched."""
    assert run("check", text=sinks(a="Recorded", b="DoesNotOpen")).exit_code == 0
    assert Recorded.calls == []


def test_where_the_file_is(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config or the argument, else SIDEFX_CONFIG, else ./sidefx.toml."""
    for name in ("named", "variable", "sidefx"):
        (tmp_path / f"{name}.toml").write_text("")
    assert run("check").output.startswith("sidefx.toml: ")
    monkeypatch.setenv("SIDEFX_CONFIG", "variable.toml")
    assert run("check").output.startswith("variable.toml: ")
    assert run("check", "named.toml").output.startswith("named.toml: ")
    assert run("--config", "named.toml", "check").output.startswith("named.toml: ")
    assert run("--config", "named.toml", "check", "named.toml").exit_code == 0
    both = run("--config", "named.toml", "check", "sidefx.toml")
    assert (both.exit_code, "give one of them" in both.output) == (2, True)
    missing = run("check", "none.toml")
    assert missing.exit_code == 2
    assert missing.output.startswith("none.toml: there is no such file; create it")


@pytest.mark.parametrize("arguments", [("chek",), ("check", "--conect"), ("--config",), ("check", "a", "b")])
def test_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    """Exit code 2, and how it is meant."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output


def test_the_version(run: Run) -> None:
    """`sidefx --version` prints the installed one."""
    from importlib.metadata import version

    assert run("--version").output == f"sidefx, version {version('sidefx')}\n"


def test_the_schema(run: Run) -> None:
    """`sidefx schema` prints the JSON Schema that editors take."""
    from sidefx.config import json_schema

    result = run("schema")
    assert result.exit_code == 0
    assert json.loads(result.output) == json_schema()


def sidefx(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    import os

    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_folder_is_importable(tmp_path: Path) -> None:
    """`module:Name` finds the application in the current folder; mistakes go to standard error."""
    (tmp_path / "sidefx_test_shop.py").write_text(
        "from sidefx import AuditEvent\nasync def keep(event: AuditEvent) -> None: ...\n"
    )
    (tmp_path / "sidefx.toml").write_text('[sinks.keep]\ntype = "sidefx_test_shop:keep"\n')
    script = str(Path(sys.executable).with_name("sidefx"))
    assert sidefx(script, "check", cwd=tmp_path).returncode == 0
    assert sidefx("-m", "sidefx", "check", cwd=tmp_path).returncode == 0
    (tmp_path / "sidefx.toml").write_text('[sinks.keep]\ntype = "sidefx_test_shop:kept"\n')
    ran = sidefx("-m", "sidefx", "check", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "sinks.keep.type: 'sidefx_test_shop' has no 'kept'; did you mean 'keep'?\n"


def test_a_hung_sink_does_not_keep_the_command_alive(tmp_path: Path) -> None:
    """A blocking check that never returns is left behind when the command exits."""
    (tmp_path / "sidefx_test_stuck.py").write_text(
        "import threading\nfrom sidefx import AuditEvent\n"
        "class Stuck:\n"
        "    def send(self, event: AuditEvent) -> None: ...\n"
        "    def check(self) -> None:\n        threading.Event().wait()\n"
    )
    (tmp_path / "sidefx.toml").write_text('[sinks.s]\ntype = "sidefx_test_stuck:Stuck"\ntimeout = 0.05\n')
    assert sidefx("-m", "sidefx", "check", "--connect", cwd=tmp_path).returncode == 1


def test_an_output_that_cannot_say_it(tmp_path: Path) -> None:
    """Where the output's encoding lacks a character, it is escaped."""
    (tmp_path / "δ.toml").write_text("[sinks]\n")
    ran = sidefx("-m", "sidefx", "check", "δ.toml", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("\\u03b4.toml: no mistakes, 0 sinks")


@pytest.mark.contract("F05")
@pytest.mark.parametrize("library", ["click", "rich"])
def test_the_command_line_is_an_extra(tmp_path: Path, library: str) -> None:
    """Without its libraries the command says how to install them, and exits with 2."""
    code = f"import sys; sys.modules[{library!r}] = None; from sidefx.cli import main; main()"
    ran = sidefx("-c", code, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "sidefx: the command line needs click and rich; run: pip install 'sidefx[cli]'\n"
