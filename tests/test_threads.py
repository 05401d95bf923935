"""Worker threads that hang, and those that cannot be had."""

from __future__ import annotations

import threading

import pytest

from sidefx import BreakerOptions, RetryOptions, SideEffects, SinkOptions, after
from sidefx.threads import DaemonThreads
from tests.hostile import ONCE, Made, sync_noop

pytestmark = pytest.mark.anyio


@pytest.mark.contract("L01")
async def test_a_synchronous_sink_that_hangs_uses_up_no_threads_of_another() -> None:
    """Abandoned threads are bounded for each sink by itself."""
    gate = threading.Event()
    got: list[Made] = []

    class Hung:
        def send(self, event: Made) -> None:
            gate.wait(30)

    class Healthy:
        def send(self, event: Made) -> None:
            got.append(event)

    hung = SinkOptions(
        timeout=0.05, concurrency=80, retry=RetryOptions(attempts=1), breaker=BreakerOptions(failures=1_000)
    )
    try:
        async with SideEffects({"hung": Hung(), "ok": Healthy()}, {"hung": hung, "ok": ONCE}) as fx:
            for n in range(80):
                after(Made(n=n))
            await fx.flush(10)
            assert fx.stats().abandoned_threads >= 64
            after(Made(n=-1))
            after(sync_noop)
            await fx.flush(10)
            assert len(got) == 81
            assert fx.stats().callables.delivered == 1
    finally:
        gate.set()


async def test_where_no_thread_can_be_started_no_job_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that failed does not run later, in place of another."""
    threads = DaemonThreads()
    ran: list[int] = []

    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            await threads.run(ran.append, 1)
    await threads.run(ran.append, 2)
    assert ran == [2]
