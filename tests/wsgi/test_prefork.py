"""Servers that load the app before they fork: the runtime is the workers'."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wsgi.processes import serving

APP = "tests.wsgi.drained:app"


@pytest.mark.contract("W04", "W02")
def test_the_runtime_starts_in_the_workers_alone(tmp_path: Path) -> None:
    """Each worker opens the sinks for itself, once, and runs the effects of the requests that it has answered."""
    answered: dict[str, int] = {}
    with serving("gunicorn-preload", APP, tmp_path) as server:
        server.allow("effects")
        while len(set(answered.values())) < 2 or len(answered) < 20:
            reply, case = server.get("/nested")
            answered[case] = int(reply.body.split()[0])
        for case in answered:
            server.record.has(case, "effect 0 done", "delivered nested 1")
        threads_of_master = len(list(Path(f"/proc/{server.popen.pid}/task").glob("*")))
        server.terminate()
        server.end()
        lines = server.record.lines()

    workers = set(answered.values())
    assert server.popen.pid not in workers
    assert sorted(line.process for line in lines if line.what == "sink opens") == sorted(workers)
    assert sorted(line.process for line in lines if line.what == "sink closed") == sorted(workers)
    ran = [(line.case, line.process) for line in lines if line.what == "effect 0 done"]
    assert sorted(ran) == sorted(answered.items())
    if Path("/proc/self/task").exists():
        assert threads_of_master == 1
