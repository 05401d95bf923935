"""The demo as a process of its own, run from the checkout as `make demo` does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


class Demo:
    """A running demo: its address, and its end."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url

    def interrupt(self, timeout: float = 60.0) -> tuple[int, str]:
        """Ctrl-C: its exit code, and what it wrote to standard error; after `timeout` seconds `TimeoutExpired`."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        _, errors = self._process.communicate(timeout=timeout)
        return self._process.returncode, errors

    def kill(self) -> None:
        """Whatever state it is in."""
        self._process.kill()
        self._process.communicate()


def start(*arguments: str, temporary: Path, **environment: str) -> subprocess.Popen[str]:
    """The command, with its temporary files in a directory of the test's, where warnings are errors."""
    return subprocess.Popen(
        (sys.executable, "-W", "error", "-m", "sidefx.demo", "--port", "0", *arguments),
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs the command to its end: the exit code, standard output and standard error."""

    def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
        process = start(*arguments, temporary=tmp_path, **environment)
        output, errors = process.communicate(timeout=100)
        return process.returncode, output, errors

    return run


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """The demo, with its page served."""
    process = start(temporary=tmp_path)
    assert process.stdout is not None
    first = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", first)
    if found is None:
        process.kill()
        pytest.fail(f"it does not say where it is: {first!r} {process.communicate()[1]}")
    running = Demo(process, found[0])
    yield running
    running.kill()
