"""What a person reads where sidefx cannot start: one page, once, from whichever server it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
from starlette.applications import Starlette

from sidefx import ConfigError, SideEffects
from sidefx.asgi import SideEffectsMiddleware
from tests.asgi.probe import eventually
from tests.asgi.processes import GUNICORN_WITH_UVICORN, LIFESPAN, serving, started
from tests.asgi.servers import WITH_LIFESPAN
from tests.asgi.servers import serving as serving_here

APP = "tests.asgi.failing:app"
SECRET = "hunter2-and-more"

MISTAKES = f"""
[runtime]
drain_timeout = "soon"

[sinks.audit]
type = "audit_logg"
url = "sqlite:///audit.db"

[sinks.mail]
type = "email"
host = "localhost"
sender = "shop@example.com"
timout = 3
username = "shop"
password = "{SECRET}"

[sinks.ops]
type = "tests.asgi.failing:Refusing"
token = "${{TOKEN_NOT_SET}}"
"""
PAGE = (
    "sidefx could not start: 4 mistakes in sidefx.toml",
    "sinks.ops.token: the environment variable TOKEN_NOT_SET is not set; set it, or write a default",
    "runtime.drain_timeout: Input should be a valid number",
    "sinks.audit.type: no installed package publishes a sink type of that name; did you mean 'audit_log'?",
    "sinks.mail.timout: unknown key; did you mean 'timeout'?",
)

REFUSING = f"""
[sinks.mail]
type = "tests.asgi.failing:Refusing"
token = "{SECRET}"
"""
REFUSED = "sinks.mail: Refusing could not be opened: ConnectionRefusedError: nobody answers at 127.0.0.1:1"
HANGING = REFUSING.replace("Refusing", "Hanging") + "timeout = 0.2\n"
AUDITING = """
[sinks.audit]
type = "audit_log"
url = "sqlite:///audit.db"
"""

CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "mistakes": (MISTAKES, PAGE),
    "refused": (REFUSING, (f"sidefx could not start: {REFUSED}",)),
    "hanging": (
        HANGING,
        ("sidefx could not start: sinks.mail: Hanging could not be opened within 0.2 s, its timeout",),
    ),
    "extra": (AUDITING, ("sidefx could not start: 1 mistake in sidefx.toml", "pip install 'sidefx[audit]'")),
}
HYPERCORNS = "hypercorn.utils.LifespanFailureError: "
STATUSES = {"uvicorn": 3, "granian": 1, "gunicorn": 3, "gunicorn-uvicorn": 3}
"""What they exit with. Hypercorn has 0 for every app that cannot start, unless it runs without workers."""


@pytest.mark.contract("A14", "F01", "F03", "F05")
@pytest.mark.parametrize(
    ("kind", "case"),
    [
        *((kind, case) for kind in LIFESPAN for case in ("mistakes", "refused")),
        *((kind, case) for kind in ("uvicorn", "hypercorn-trio") for case in ("hanging", "extra")),
        pytest.param(*GUNICORN_WITH_UVICORN.values, "refused", marks=GUNICORN_WITH_UVICORN.marks),
    ],
)
def test_the_server_prints_one_page_and_exits(kind: str, case: str, tmp_path: Path) -> None:
    """Every mistake with its path and remedy, each once; no secret, and no traceback but the server's own."""
    toml, page = CASES[case]
    (tmp_path / "sidefx.toml").write_text(toml, encoding="utf-8")
    environment = {"NOT_INSTALLED": "sqlalchemy"} if case == "extra" else {}
    with started(kind, APP, tmp_path, environment=environment) as process:
        printed = process.end()

    for line in page:
        assert printed.count(line) == 1, printed
    assert SECRET not in printed
    if kind in STATUSES:
        assert process.popen.returncode == STATUSES[kind]
        assert "Traceback" not in printed
    else:  # Hypercorn ends by an exception, and prints that; the page stands at its end
        assert printed.count(HYPERCORNS) == 1
        assert printed.index(HYPERCORNS) < printed.index(page[0])
        assert "another exception" not in printed
    assert len(printed.splitlines()) < 60


@pytest.mark.contract("A14")
@pytest.mark.parametrize("kind", ["hypercorn-asyncio", "hypercorn-trio"])
def test_hypercorn_without_workers_exits_with_a_status(kind: str, tmp_path: Path) -> None:
    """With `--workers 0`, where its one process serves, its failure is the process's."""
    (tmp_path / "sidefx.toml").write_text(REFUSING, encoding="utf-8")
    with started(kind, APP, tmp_path, "--workers", "0") as process:
        printed = process.end()
    assert process.popen.returncode == 1
    assert printed.count("nobody answers") == 1


@pytest.mark.contract("A14")
@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn-asyncio", "granian", "gunicorn"])
def test_several_workers_do_not_start_again_and_again(kind: str, tmp_path: Path) -> None:
    """Each says at most once what is wrong, and the server exits."""
    (tmp_path / "sidefx.toml").write_text(REFUSING, encoding="utf-8")
    with started(kind, APP, tmp_path, "--workers", "2") as process:
        printed = process.end()
    assert 1 <= printed.count("sidefx could not start") <= 2, printed


@pytest.mark.contract("A14", "A15")
@pytest.mark.parametrize(("kind", "options"), [("daphne", ()), ("uvicorn", ("--lifespan", "off"))])
def test_a_server_without_lifespan_answers_with_500(kind: str, options: tuple[str, ...], tmp_path: Path) -> None:
    """It starts with the first request, which fails; the log has the page, and the client none of it."""
    (tmp_path / "sidefx.toml").write_text(MISTAKES, encoding="utf-8")
    with serving(kind, APP, tmp_path, *options) as process:
        with process.ask("/") as wire:
            reply = wire.reply()
        eventually(lambda: all(line.removeprefix("sidefx could not start: ") in process.printed for line in PAGE))
        printed = process.printed
    assert reply.status == 500
    assert b"mistake" not in reply.body
    assert b"sinks." not in reply.body
    assert SECRET not in printed


@pytest.mark.contract("A14")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")
def test_a_test_client_raises_what_is_wrong(backend: Any, tmp_path: Path) -> None:
    """Entering its lifespan raises the error itself, and leaves nothing to hang on."""
    from starlette.testclient import TestClient

    (tmp_path / "sidefx.toml").write_text(MISTAKES, encoding="utf-8")
    app = SideEffectsMiddleware(Starlette(), config=tmp_path / "sidefx.toml")
    with pytest.raises(ConfigError) as caught, TestClient(app, backend=backend):
        pass
    assert len(caught.value.problems) == 4


class Broken(SideEffects):
    """A runtime with a defect."""

    async def start(self) -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("of ours")


@pytest.mark.contract("A14")
@pytest.mark.parametrize("kind", WITH_LIFESPAN)
def test_a_defect_has_its_traceback_in_the_log(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody can mend by reading a page is told with the place where it happened."""
    with serving_here(kind, SideEffectsMiddleware(Starlette(), effects=Broken()), fails=True) as server:
        eventually(lambda: server.witness.lifespan)
    assert server.witness.lifespan == ["lifespan.startup.failed"]
    assert server.witness.reason == "sidefx could not start: LookupError: of ours"
    assert "in start" in caplog.text
