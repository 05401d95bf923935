"""`fx.scope()`: a unit of work of one's own."""

from __future__ import annotations

import pytest

from sidefx import NotRunningError, SideEffects, after, request

pytestmark = pytest.mark.anyio


@pytest.mark.contract("S13")
@pytest.mark.parametrize(("fails", "expected"), [(False, ["always", "success"]), (True, ["always", "error"])])
async def test_a_scope_succeeds_where_its_body_does_not_raise(fails: bool, expected: list[str]) -> None:
    """`when` decides accordingly; what is scheduled later goes by the same outcome."""
    ran: list[str] = []
    async with SideEffects() as fx:
        try:
            async with fx.scope("job"):
                for when in ("always", "success", "error"):
                    after(ran.append, when, when=when)  # type: ignore[arg-type]
                late = fx.bind(after)
                if fails:
                    raise LookupError
        except LookupError:
            pass
        late(ran.append, "late", when="success")
        await fx.flush(5)
    assert sorted(ran) == sorted(expected + ([] if fails else ["late"]))  # in threads, side by side


async def test_scopes_nest() -> None:
    """The inner one lets its effects go when it ends, the outer one keeps its own."""
    ran: list[str] = []
    async with SideEffects() as fx:
        async with fx.scope("outer"):
            after(ran.append, "outer")
            with fx.scope("inner"):
                after(ran.append, "inner")
            await fx.flush(5)
            assert ran == ["inner"]
        await fx.flush(5)
    assert ran == ["inner", "outer"]


async def test_there_is_no_request_outside_of_one() -> None:
    """`request()` says so with None."""
    async with SideEffects():
        assert request() is None
    assert request() is None


async def test_a_scope_of_a_runtime_that_does_not_run_is_refused() -> None:
    """Before its block begins, and not when it is too late."""
    fx = SideEffects()
    with pytest.raises(NotRunningError, match="not running"):
        async with fx.scope("job"):
            pytest.fail("the block has begun")
