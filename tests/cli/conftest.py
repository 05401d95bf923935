"""What the tests of `sidefx dead` and `sidefx journal` share: a journal, an app beside it, and terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result

from sidefx.cli.app import app
from sidefx.journal.dead import DeadStore
from sidefx.journal.directory import Directory
from tests.asgi.probe import PATIENCE, eventually
from tests.cli.letters import now

ROOT = Path(__file__).parents[2]


@dataclass
class Shop:
    """`tests.cli.shop`, which runs in a process of its own."""

    folder: Path
    popen: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def delivered(self) -> list[str]:
        """What its sinks have taken: the ids of events, in order."""
        return [line.split()[1] for line in self._lines()]

    def taken_by(self, sink: str) -> list[str]:
        return [line.split()[1] for line in self._lines() if line.startswith(f"{sink} ")]

    def _lines(self) -> list[str]:
        file = self.folder / "delivered"
        return file.read_text().splitlines() if file.exists() else []

    def order(self, count: int) -> None:
        """Has so many orders placed."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(f"order {count}\n")
        self.popen.stdin.flush()
        assert self.popen.stdout.readline() == "ordered\n"

    def refuse(self, *, all_: bool = True) -> None:
        (self.folder / "broken").touch() if all_ else (self.folder / "broken").unlink()

    def hold(self, *, all_: bool = True) -> None:
        (self.folder / "held").touch() if all_ else (self.folder / "held").unlink()

    def letters(self, count: int) -> None:
        """Waits until there are that many dead letters."""
        eventually(lambda: sum(self.store.counts().values()) == count, f"{count} dead letters")

    @property
    def store(self) -> DeadStore:
        return DeadStore(self.folder / "journal" / "dead.sqlite")

    def kill(self) -> None:
        """`kill -9`."""
        self.popen.kill()
        self.popen.wait(PATIENCE)

    def __enter__(self) -> Self:
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == "open\n"
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()  # it ends with its input
        try:
            self.popen.wait(PATIENCE)
        finally:
            self.popen.kill()


Open = Callable[[], Shop]


@pytest.fixture
def open_shop(tmp_path: Path) -> Iterator[Open]:
    """Starts the app, in the test's folder."""
    with ExitStack() as stack:

        def opened() -> Shop:
            command = [sys.executable, "-m", "tests.cli.shop", str(tmp_path)]
            with (tmp_path / "log").open("ab") as log:
                popen = subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
                )
            return stack.enter_context(Shop(tmp_path, popen))

        yield opened


@pytest.fixture
def shop(open_shop: Open) -> Shop:
    """The app, running."""
    return open_shop()


@dataclass
class Ran:
    """A command that has ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """What it has printed as JSON Lines."""
        return [json.loads(line) for line in self.stdout.splitlines()]


def command(*arguments: str) -> list[str]:
    """`sidefx`, as a person calls it."""
    return [str(Path(sys.executable).with_name("sidefx")), *arguments]


def sidefx(folder: Path, *arguments: str) -> Ran:
    """The command, in a process of its own; the journal is the one in the folder."""
    line = command(*arguments, "--journal", str(folder / "journal"))
    ran = subprocess.run(line, capture_output=True, text=True, check=False, timeout=100, stdin=subprocess.DEVNULL)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@contextmanager
def begun(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The same, while it runs."""
    line = command(*arguments, "--journal", str(folder / "journal"))
    popen = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    try:
        yield popen
    finally:
        popen.kill()
        popen.communicate()


class Terminal:
    """A terminal with a command in it."""

    def __init__(self, *arguments: str, columns: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
        self.popen = subprocess.Popen(
            command(*arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""

    def answer(self, question: str, text: str) -> None:
        """Waits for the question, and types."""
        self._read(until=question)
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Waits until it is shown."""
        self._read(until=text)

    def end(self) -> int:
        """Reads until the command has ended; its exit code."""
        self._read()
        os.close(self._master)
        return self.popen.wait(PATIENCE)

    def _read(self, until: str | None = None) -> None:
        while until is None or until not in self.shown:
            try:
                read = os.read(self._master, 65_536)
            except OSError:  # the other end is closed
                read = b""
            self.shown += read.decode(errors="replace").replace("\r\n", "\n")
            if not read:
                assert until is None, self.shown
                return


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Calls `sidefx` on the folder's journal, in a terminal of that many columns."""
    opened: list[Terminal] = []

    def called(*arguments: str, columns: int = 80) -> Terminal:
        opened.append(Terminal(*arguments, "--journal", str(tmp_path / "journal"), columns=columns))
        return opened[-1]

    yield called
    for each in opened:
        if each.popen.poll() is None:
            os.killpg(each.popen.pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def _now() -> None:
    """Letters are as old as they say in each test."""
    now.cache_clear()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `sidefx` in this process and in a folder of its own, with `text` as its sidefx.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDEFX_CONFIG", raising=False)

    def run_command(*arguments: str, text: str = '[journal]\npath = "journal"\n') -> Result:
        (tmp_path / "sidefx.toml").write_text(text, encoding="utf-8")
        return CliRunner().invoke(app, arguments)

    return run_command


@pytest.fixture
def store(tmp_path: Path) -> DeadStore:
    """The dead letters of a journal that no process uses."""
    directory = Directory(tmp_path / "journal")
    directory.prepare()
    store = DeadStore(directory.dead)
    store.prepare()
    return store
