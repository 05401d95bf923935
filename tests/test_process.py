"""The end of a process: a runtime that nobody has stopped is drained by the interpreter's exit, and by signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each program schedules: it goes on after the program's end, resolves a name (which asyncio does in an executor),
# starts a thread, and schedules once more.
_EFFECT = """
import asyncio, os, signal, threading
import sidefx
from sidefx import RuntimeOptions, SideEffects, after

ended = threading.Event()

def say(what):
    os.write(1, f"{what}\\n".encode())  # at once: threads say something too

def in_a_thread():
    ended.wait()
    say("thread")

async def effect(more=True):
    while not ended.is_set():
        await asyncio.sleep(0.001)
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)
    say(f"effect {more}")
    after(in_a_thread)
    if more:
        after(effect, False)

async def hang():
    await asyncio.Event().wait()
"""
_DRAINED = ["effect False", "effect True", "thread", "thread"]


def _run(program: str, expected: int = 0) -> tuple[list[str], str]:
    """Runs it on its own; what it printed, sorted, and what it logged."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", _EFFECT + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == expected, done.stderr
    return sorted(done.stdout.splitlines()), done.stderr


@pytest.mark.contract("D01", "S05")
def test_a_runtime_in_a_thread_is_drained_by_the_exit() -> None:
    """Names are resolved and threads started as ever, though the program has come to its end."""
    printed, logged = _run("""
SideEffects().start_blocking()
after(effect)
threading._register_atexit(ended.set)  # before sidefx's own: the program has come to its end
""")
    assert printed == _DRAINED
    assert logged == ""


@pytest.mark.contract("D02")
def test_what_the_exit_cannot_wait_for_is_listed() -> None:
    """After `drain_timeout` the process ends and says what it leaves."""
    printed, logged = _run("""
SideEffects(runtime=RuntimeOptions(drain_timeout=0.05)).start_blocking()
after(hang, name="the one that hangs")
""")
    assert printed == []
    assert "1 effect(s) were not finished at shutdown and are lost: callables: the one that hangs × 1" in logged


@pytest.mark.contract("D02")
def test_ctrl_c_cuts_the_drain_at_the_exit_short() -> None:
    """What is left is listed then, and the process ends."""
    _printed, logged = _run("""
SideEffects(runtime=RuntimeOptions(drain_timeout=60)).start_blocking()

async def press():
    while not leaving.is_set():
        await asyncio.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
    await hang()

leaving = threading.Event()
after(press, name="the one that hangs", timeout=90)
threading._register_atexit(leaving.set)
""")
    assert "interrupted: the exit does not wait for effects any longer" in logged
    assert "1 effect(s) were not finished at shutdown and are lost: callables: the one that hangs × 1" in logged
    assert "Traceback" not in logged


_TOLD_AGAIN = """
async def told_again():
    while not leaving.is_set():
        await asyncio.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)
    ended.set()

leaving = threading.Event()
after(effect)
after(told_again)
threading._register_atexit(leaving.set)
"""


@pytest.mark.contract("D01")
def test_where_nobody_handles_sigterm_the_exit_drains_and_another_one_does_not_cut_it_short() -> None:
    """As a WSGI server without a handler of its own is ended; whoever is impatient has SIGINT, or SIGKILL."""
    printed, logged = _run(
        f"""
from sidefx.signals import exit_on_sigterm

exit_on_sigterm()
SideEffects().start_blocking()

{_TOLD_AGAIN}os.kill(os.getpid(), signal.SIGTERM)
""",
        expected=128 + 15,
    )
    assert printed == _DRAINED
    assert logged == ""


@pytest.mark.contract("D01")
def test_a_handler_that_exits_once_more_does_not_cut_the_drain_short() -> None:
    """Gunicorn's does, when its worker is told again."""
    printed, logged = _run(f"""
def handle(*_): raise SystemExit(3)

signal.signal(signal.SIGTERM, handle)
SideEffects().start_blocking()

{_TOLD_AGAIN}""")
    assert printed == _DRAINED
    assert logged == ""


@pytest.mark.contract("D01", "A15")
def test_a_loop_that_was_stopped_and_not_closed_goes_on_for_the_drain() -> None:
    """Twisted leaves its asyncio loop so; the exit runs it again until all has settled."""
    printed, logged = _run("""
loop = asyncio.new_event_loop()

async def main():
    await SideEffects().start()
    after(effect)

loop.run_until_complete(main())
threading._register_atexit(ended.set)
""")
    assert printed == _DRAINED
    assert "lost" not in logged


@pytest.mark.contract("D02")
def test_effects_of_a_loop_that_was_closed_under_them_are_listed() -> None:
    """Nothing can run them any more; nothing is lost in silence."""
    _, logged = _run("""
loop = asyncio.new_event_loop()

async def main():
    await SideEffects().start()
    after(hang, name="of the closed loop")
    await asyncio.sleep(0)

loop.run_until_complete(main())
loop.close()
""")
    assert "of the closed loop × 1" in logged


_WITHOUT_LIFESPAN = """
from sidefx.asgi import SideEffectsMiddleware

async def app(scope, receive, send):
    after(effect)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})

adapter = SideEffectsMiddleware(app, effects=SideEffects(runtime=RuntimeOptions(drain_timeout=30)))
scope = {"type": "http", "path": "/", "headers": [], "method": "GET"}

async def receive(): ...
async def send(message): ...
heard = []

async def main(number):
    request = asyncio.ensure_future(adapter(scope, receive, send))
    while not adapter.effects.engine.busy:
        await asyncio.sleep(0.001)
    os.kill(os.getpid(), number)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not heard, "the server hears of it before the drain"
    ended.set()
    while not heard:
        await asyncio.sleep(0.001)
    say("heard")
    assert not adapter.effects.engine.busy
    await request
"""


@pytest.mark.contract("D01", "A15")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_without_a_lifespan_a_signal_drains_first_and_reaches_its_handler_then(name: str) -> None:
    """The handler that the server has set hears of it when all has settled."""
    printed, _ = _run(f"""{_WITHOUT_LIFESPAN}
signal.signal(signal.{name}, lambda *_: heard.append(1))
asyncio.run(main(signal.{name}))
""")
    assert printed == sorted([*_DRAINED, "heard"])


@pytest.mark.contract("D01", "A15")
def test_a_second_signal_goes_straight_to_its_handler() -> None:
    """Who presses Ctrl-C again will not wait for a drain."""
    printed, _ = _run(f"""{_WITHOUT_LIFESPAN}
signal.signal(signal.SIGINT, lambda *_: heard.append(1))

async def twice():
    request = asyncio.ensure_future(adapter(scope, receive, send))
    while not adapter.effects.engine.busy:
        await asyncio.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
    assert not heard
    os.kill(os.getpid(), signal.SIGINT)
    assert heard and adapter.effects.engine.busy
    say("heard")
    ended.set()
    await request

asyncio.run(twice())
""")
    assert printed == sorted([*_DRAINED, "heard"])


@pytest.mark.contract("A15")
def test_a_signal_that_nobody_handles_still_ends_the_process() -> None:
    """After the drain, as it would have without sidefx."""
    printed, _ = _run(
        f"""{_WITHOUT_LIFESPAN}
async def forever():
    request = asyncio.ensure_future(adapter(scope, receive, send))
    while not adapter.effects.engine.busy:
        await asyncio.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)
    ended.set()
    await asyncio.Event().wait()

asyncio.run(forever())
""",
        expected=-15,
    )
    assert printed == _DRAINED


@pytest.mark.contract("A15")
def test_a_signal_with_nothing_to_drain_is_as_without_sidefx() -> None:
    """SIGINT in a program of asyncio's own: `KeyboardInterrupt`, at once."""
    _, logged = _run(
        f"""{_WITHOUT_LIFESPAN}
ended.set()

async def idle():
    await adapter(scope, receive, send)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.Event().wait()

asyncio.run(idle())
""",
        expected=-2,
    )
    assert "KeyboardInterrupt" in logged


@pytest.mark.contract("A15")
def test_a_runtime_that_has_ended_gives_the_signals_back() -> None:
    """What handled them before does so again, as `asyncio.run` has it for the next loop."""
    printed, _ = _run(f"""{_WITHOUT_LIFESPAN}
ended.set()

async def once():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    await adapter(scope, receive, send)
    assert signal.getsignal(signal.SIGINT) != before[0]
    await adapter.effects.stop()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

for _ in range(2):
    asyncio.run(once())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
say("given back")
""")
    assert "given back" in printed
