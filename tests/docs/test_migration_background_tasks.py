"""From Starlette's and FastAPI's BackgroundTasks: what runs, and how; each sentence of the page shown on both sides."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import BackgroundTasks, Depends, HTTPException, Request
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse

import sidefx
from sidefx import CallableOptions, RuntimeOptions, SideEffects, after
from tests.asgi.probe import eventually, until
from tests.asgi.servers import staged
from tests.docs.sides import KIND, Side, fastapi_app

variable: ContextVar[str] = ContextVar("variable", default="as it was")


class Bug(Exception):
    pass


def fail() -> None:
    """A task, or an effect, that raises."""
    raise Bug


# --- what runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Bug, HTTPException(404)], ids=["a bug", "an HTTPException"])
def test_an_endpoint_that_raises(there: Side, here: Side, error: Any) -> None:
    """An endpoint that raises has its effects."""
    ran: list[str] = []

    def before(tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.append, "task")
        raise error

    def now() -> None:
        after(ran.append, "effect")
        after(ran.append, "effect of a success", when="success")
        raise error

    there.get(fastapi_app(before))
    assert ran == []
    here.get(fastapi_app(now))
    assert ran == ["effect"]


def test_a_request_that_is_not_valid(there: Side, here: Side) -> None:
    """An endpoint that raises has its effects: so has a dependency before the 422 of another parameter."""
    ran: list[str] = []

    def before(tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.append, "task")

    def now() -> None:
        after(ran.append, "effect")

    def endpoint(number: int) -> None: ...

    assert there.get(fastapi_app(endpoint, dependencies=[Depends(before)])).status == 422
    assert ran == []
    assert here.get(fastapi_app(endpoint, dependencies=[Depends(now)])).status == 422
    assert ran == ["effect"]


def test_a_returned_error(there: Side, here: Side) -> None:
    """A returned 4xx or 5xx is no success."""
    ran: list[str] = []

    def before(tasks: BackgroundTasks) -> Any:
        tasks.add_task(ran.append, "task")
        return PlainTextResponse("no", 404)

    def now() -> Any:
        after(ran.append, "effect of a success", when="success")
        after(ran.append, "effect")
        return PlainTextResponse("no", 404)

    there.get(fastapi_app(before))
    assert ran == ["task"]
    here.get(fastapi_app(now))
    assert ran == ["task", "effect"]


def test_a_response_with_a_background_of_its_own(there: Side, here: Side) -> None:
    """Nothing displaces an effect: a response with a `background` of its own."""
    ran: list[str] = []

    def before(tasks: BackgroundTasks) -> Any:
        tasks.add_task(ran.append, "injected")
        return PlainTextResponse("ok", background=BackgroundTask(ran.append, "the response's"))

    def now() -> Any:
        after(ran.append, "effect")
        return PlainTextResponse("ok", background=BackgroundTask(ran.append, "the response's"))

    there.get(fastapi_app(before))
    assert ran == ["the response's"]
    here.get(fastapi_app(now))
    assert ran == ["the response's", "the response's", "effect"]


def test_after_a_dependency_s_yield(there: Side, here: Side) -> None:
    """Nothing displaces an effect: what a dependency schedules after its `yield`."""
    ran: list[str] = []

    async def before(tasks: BackgroundTasks) -> Any:
        yield
        tasks.add_task(ran.append, "task")

    async def now() -> Any:
        yield
        after(ran.append, "effect")

    async def endpoint() -> None: ...

    there.get(fastapi_app(endpoint, dependencies=[Depends(before)]))
    assert ran == []
    here.get(fastapi_app(endpoint, dependencies=[Depends(now)]))
    assert ran == ["effect"]


def test_a_task_of_the_handler_that_is_late(there: Side, here: Side) -> None:
    """Nothing displaces an effect: what a task of the handler schedules once the response has gone."""
    ran: list[str] = []
    late: list[anyio.Event] = []
    held: list[Any] = []
    kept: list[BackgroundTasks] = []

    async def before(tasks: BackgroundTasks) -> None:
        kept.append(tasks)

    async def add_late() -> None:
        kept[0].add_task(ran.append, "task")

    there.get(fastapi_app(before))
    there.server.run(add_late)
    there.get(fastapi_app(before))
    assert ran == []

    async def outliving() -> None:
        await late[0].wait()
        after(ran.append, "effect")

    async def now() -> None:
        import asyncio

        late.append(anyio.Event())
        held.append(asyncio.get_running_loop().create_task(outliving()))

    async def let_go() -> None:
        late[0].set()
        await held[0]

    here.get(fastapi_app(now))
    here.server.run(let_go)
    here.get(fastapi_app(endpoint=lambda: None))
    assert ran == ["effect"]


# --- how it runs ----------------------------------------------------------------------------------------------------


def test_effects_run_at_the_same_time(there: Side, here: Side) -> None:
    """Effects run at the same time."""
    ran: list[str] = []

    def tasks_of_two() -> tuple[Any, Any]:
        second_runs = anyio.Event()

        async def first(wait: bool) -> None:
            ran.append("first starts")
            if wait:
                await second_runs.wait()
            await anyio.lowlevel.checkpoint()
            ran.append("first ends")

        async def second() -> None:
            ran.append("second")
            second_runs.set()

        return first, second

    async def before(tasks: BackgroundTasks) -> None:
        first, second = tasks_of_two()
        tasks.add_task(first, wait=False)
        tasks.add_task(second)

    async def now() -> None:
        first, second = tasks_of_two()
        after(first, True)
        after(second)

    there.get(fastapi_app(before))
    assert ran == ["first starts", "first ends", "second"]
    ran.clear()
    here.get(fastapi_app(now))
    assert ran == ["first starts", "second", "first ends"]


def test_one_at_a_time_where_asked_for() -> None:
    """Effects run at the same time: with `callables.concurrency = 1`, one after another."""
    ran: list[str] = []

    async def step(number: int) -> None:
        ran.append(f"{number} starts")
        await anyio.sleep(0.001)
        ran.append(f"{number} ends")

    async def now() -> None:
        after(step, 1)
        after(step, 2)

    options = RuntimeOptions(callables=CallableOptions(concurrency=1))
    with staged(KIND, lambda probe: SideEffects(runtime=options)) as server:
        Side(server).get(fastapi_app(now))
    assert ran == ["1 starts", "1 ends", "2 starts", "2 ends"]


def test_one_that_fails(there: Side, here: Side) -> None:
    """One that fails stops no other."""
    ran: list[str] = []

    def before(tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.append, "first")
        tasks.add_task(fail)
        tasks.add_task(ran.append, "last")

    async def finish_after(failures: int) -> None:
        await until(lambda: here.server.fx.stats().callables.rejected == failures)
        ran.append("runs meanwhile")

    def now() -> None:
        after(finish_after, here.server.fx.stats().callables.rejected + 1)
        after(fail)
        after(ran.append, "starts later")

    there.get(fastapi_app(before))
    assert ran == ["first"]
    ran.clear()
    here.get(fastapi_app(now))
    assert sorted(ran) == ["runs meanwhile", "starts later"]


def test_where_a_failure_shows(there: Side, here: Side, caplog: pytest.LogCaptureFixture) -> None:
    """A failure shows in the logger `sidefx` and in `fx.stats()`."""

    def before(tasks: BackgroundTasks) -> None:
        tasks.add_task(fail)

    def now() -> None:
        after(fail)

    with there.server.wire() as wire:
        wire.ask(there.server.play(fastapi_app(before)))
        assert wire.reply().status == 200
        wire.ends()
    assert isinstance(there.error(fastapi_app(before)), Bug)
    eventually(lambda: [record.name for record in caplog.records] == ["uvicorn.error"] * 2)

    caplog.clear()
    rejected = here.server.fx.stats().callables.rejected
    with here.server.wire() as wire:
        for _ in range(2):
            case = here.server.play(fastapi_app(now))
            wire.ask(case)
            assert wire.reply().status == 200
            here.over(case)
            assert here.server.over(case).error is None
    assert [record.name for record in caplog.records] == ["sidefx"] * 2
    assert here.server.fx.stats().callables.rejected == rejected + 2


def test_an_http_exception_in_a_task(there: Side) -> None:
    """A failure shows in the logger `sidefx` and in `fx.stats()`: there, an HTTPException becomes a RuntimeError."""

    def refuse() -> None:
        raise HTTPException(400)

    def before(tasks: BackgroundTasks) -> None:
        tasks.add_task(refuse)

    assert str(there.error(fastapi_app(before))) == "Caught handled exception, but response already started."


def test_a_deadline(there: Side, here: Side) -> None:
    """Each effect has a deadline of 30 seconds."""
    given: list[Any] = []

    def before(tasks: BackgroundTasks) -> None:
        tasks.add_task(lambda **options: given.append(options), timeout=0.01)

    def now() -> None:
        after(anyio.sleep_forever, timeout=0.01)

    there.get(fastapi_app(before))
    assert given == [{"timeout": 0.01}]
    expired = here.server.fx.stats().callables.expired
    here.get(fastapi_app(now))
    assert here.server.fx.stats().callables.expired == expired + 1
    assert CallableOptions().timeout == 30


def test_keyword_arguments(here: Side) -> None:
    """Keyword arguments go into `functools.partial`."""
    given: list[Any] = []

    def take(*args: Any, **options: Any) -> None:
        given.append((args, options))

    def now() -> None:
        after(partial(take, timeout=5), "positional")
        with pytest.raises(TypeError, match="colour"):
            after(take, colour="red")  # type: ignore[call-arg]  # that is the mistake

    here.get(fastapi_app(now))
    assert given == [(("positional",), {"timeout": 5})]


def test_context_variables(there: Side, here: Side) -> None:
    """Context variables are those of the `after()` call."""
    seen: list[Any] = []

    async def look(who: str) -> None:
        seen.append((who, variable.get()))

    def look_sync(who: str) -> None:
        seen.append((who, variable.get()))

    async def before(tasks: BackgroundTasks) -> None:
        variable.set("at the call")
        tasks.add_task(look, "async")
        tasks.add_task(look_sync, "sync")
        variable.set("later")

    def before_sync(tasks: BackgroundTasks) -> None:
        variable.set("at the call")
        tasks.add_task(look, "async, of a sync endpoint")

    async def now() -> None:
        variable.set("at the call")
        after(look, "async")
        after(look_sync, "sync")
        variable.set("later")

    def now_sync() -> None:
        variable.set("at the call")
        after(look, "async, of a sync endpoint")

    there.get(fastapi_app(before))
    there.get(fastapi_app(before_sync))
    assert seen == [("async", "later"), ("sync", "later"), ("async, of a sync endpoint", "as it was")]
    seen.clear()
    here.get(fastapi_app(now))
    here.get(fastapi_app(now_sync))
    assert sorted(seen) == [
        ("async", "at the call"),
        ("async, of a sync endpoint", "at the call"),
        ("sync", "at the call"),
    ]


def test_request_state(there: Side, here: Side) -> None:
    """`request.state` is not in `sidefx.request()`."""
    seen: list[Any] = []

    def look(request: Request) -> None:
        seen.append(request.state.user)

    def look_for_state() -> None:
        seen.append(hasattr(sidefx.request(), "state"))

    def before(request: Request, tasks: BackgroundTasks) -> None:
        request.state.user = "ann"
        tasks.add_task(look, request)

    async def now(request: Request) -> None:
        request.state.user = "ann"
        after(seen.append, request.state.user)

    def now_without(request: Request) -> None:
        request.state.user = "ann"
        after(look_for_state)

    there.get(fastapi_app(before))
    here.get(fastapi_app(now))
    here.get(fastapi_app(now_without))
    assert seen == ["ann", "ann", False]
