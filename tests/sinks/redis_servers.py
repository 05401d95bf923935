"""Redis servers of a test's own on the loopback: one, or a cluster."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis import Redis
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NODES = 3
_BUS = 10_000
_PATIENCE = 60.0


@contextmanager
def redis_server(path: Path, *options: str) -> Iterator[int]:
    """The port of a server with these options, its files below `path`; skips where Redis is not installed."""
    (port,) = _free_ports(1)
    with _running(path, port, *options):
        _wait(port, lambda client: client.ping())
        yield port


@contextmanager
def redis_cluster(path: Path) -> Iterator[list[int]]:
    """The ports of a cluster's nodes, three primaries; skips where Redis is not installed."""
    ports = _free_ports(_NODES)
    with ExitStack() as stack:
        for port in ports:
            bus = ("--cluster-port", str(port + _BUS))
            stack.enter_context(_running(path, port, "--cluster-enabled", "yes", *bus))
        for port in ports:
            _wait(port, lambda client: client.ping())
        addresses = [f"127.0.0.1:{port}" for port in ports]
        made = subprocess.run(
            ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        for port in ports:
            _wait(port, lambda client: (client.execute_command("CLUSTER INFO") or {})["cluster_state"] == "ok")
        yield ports


@contextmanager
def _running(path: Path, port: int, *options: str) -> Iterator[None]:
    if not shutil.which("redis-server") or not shutil.which("redis-cli"):
        pytest.skip("redis-server and redis-cli are not installed")
    home = path / str(port)
    home.mkdir()
    own = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning")
    with subprocess.Popen(["redis-server", *own, *options], cwd=home, stdout=subprocess.DEVNULL) as server:
        try:
            yield
        finally:
            server.kill()


def _free_ports(count: int) -> list[int]:
    """Ports whose bus port, by which the nodes of a cluster speak, is free as well."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            bus = held.enter_context(socket.socket())
            try:
                bus.bind(("127.0.0.1", port + _BUS))
            except (OSError, OverflowError):
                continue
            found.append(port)
    return found


def _wait(port: int, holds: Callable[[Redis], object]) -> None:
    until = time.monotonic() + _PATIENCE
    with Redis(host="127.0.0.1", port=port) as client:
        while True:
            try:
                if holds(client):
                    return
            except RedisError:
                pass
            assert time.monotonic() < until, f"the Redis at {port} is not ready"
            time.sleep(0.02)  # between two looks at whether it is
