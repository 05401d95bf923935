"""Runtimes that live, crash and share one journal, with sinks and a disk that do as they are told."""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import anyio
import anyio.lowlevel
import pytest

from sidefx import (
    JournalError,
    NotRunningError,
)
from sidefx import entry as entry_module
from sidefx.journal import dead, directory, keeper, writer
from sidefx.journal.dead import DeadStore
from sidefx.journal.segment import Segment
from sidefx.scope import withdraw
from tests.journal.faults import Disk, claimed_for
from tests.journal.life import Life
from tests.journal.model import KINDS, Key, Model, made, sink_options
from tests.journal.stepped import Loop, SteppedQueue

PATIENCE = 8.0
SETTLES_WITHIN = 900.0
ADOPTS_WITHIN = 4.0


class World:
    """All that there is, on one event loop."""

    def __init__(self, backend: str, *, room: int, batch: int, on_failure: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "journal"
        self.loop = Loop(backend).__enter__()
        self.patch = pytest.MonkeyPatch()
        self.model = Model()
        self.disk = Disk(self.patch, self._sleep, lambda: getattr(self.loop.pace.current(), "owner", None))
        self.lives: list[Life] = []
        self.fails: Counter[int] = Counter()
        self.failed_at: dict[int, float] = {}
        self.crashing = False
        self.scripts: dict[str, deque[str]] = {}
        self.hung: list[anyio.Event] = []
        self.options = sink_options(room, batch)
        self.on_failure: Any = on_failure
        self.numbers = itertools.count(1)
        self.broken = False
        self._take_the_place_of_threads()
        self._alarm = _Alarm(self)

    @property
    def living(self) -> list[Life]:
        """The runtimes that take events."""
        return [life for life in self.lives if life.accepts]

    # --- its making and its end -----------------------------------------------------------------------

    def do(self, operation: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Does something, and looks whether all that must hold does."""

        async def did() -> None:
            await operation(*args)
            self.check()

        try:
            self.loop.run(did)
        except BaseException:
            self.broken = True
            raise

    def close(self) -> None:
        """Ends whatever is there."""

        async def kill_all() -> None:
            for life in self.lives:
                if life.fx.running:
                    await self.crash(life)

        try:
            self.loop.run(kill_all)
        finally:
            self.loop.__exit__()
            self._alarm.leave()
            self.patch.undo()
            self.folder.cleanup()

    def _take_the_place_of_threads(self) -> None:
        pace = self.loop.pace
        for module in (entry_module, dead, keeper, writer):
            self.patch.setattr(module, "threading", pace.as_module())
        for module in (keeper, writer):
            self.patch.setattr(module, "SimpleQueue", lambda: SteppedQueue(pace))
        clock = SimpleNamespace(**vars(time) | {"monotonic": pace.now})
        for module in (keeper, writer):
            self.patch.setattr(module, "time", clock)
        names = itertools.count(1)
        self.patch.setattr(directory, "uuid7", lambda: UUID(int=next(names)))
        fail = writer.Writer._fail

        def counted(self_: writer.Writer, segment: Segment, reason: str) -> None:
            self.fails[id(self_._options)] += 1
            self.failed_at[id(self_._options)] = pace.now()
            fail(self_, segment, reason)

        self.patch.setattr(writer.Writer, "_fail", counted)
        self.disk.when_left = lambda life, rows: self.model.is_left(
            rows, crashed=False, excused=self.fails[id(life.options)] > 0
        )

        claim = DeadStore.claim

        def claimed(store: DeadStore, segment: str, **which: Any) -> int:
            count = claim(store, segment, **which)
            self.model.is_replayed(claimed_for(store.path, segment))
            return count

        self.patch.setattr(DeadStore, "claim", claimed)

    def _sleep(self, seconds: float) -> None:
        if self.loop.pace.current() is not None:
            self.loop.pace.park(None, seconds)

    # --- what happens -----------------------------------------------------------------------------------

    async def start(self, without: str | None = None) -> None:
        """A process starts; where the disk does not let it, it says so."""
        life = Life(self, without)
        self.lives.append(life)
        try:
            await life.fx.start()
        except JournalError:
            self.model.says(not self.disk.healthy, "it did not start, on a disk that works")
            self.lives.remove(life)

    async def start_again(self, life: Life) -> None:
        """A runtime that has been stopped is started once more."""
        life.acknowledged.clear()  # what is left of it is found again, after a while
        try:
            await life.fx.start()
        except JournalError:
            self.model.says(not self.disk.healthy, "it did not start again, on a disk that works")
        else:
            life.stopping = False

    async def stop(self, life: Life, *, wait: bool) -> None:
        """A process is told to end, and drains."""
        life.stopping = True

        async def stop() -> None:
            await life.fx.stop()
            if not life.crashed and self.disk.segments.get(life):  # a disk that has not answered in time
                await self.crash(life)

        await self._have_done(life, stop, wait=wait)

    async def crash(self, life: Life) -> None:
        """A process is killed: nothing of it does anything any more."""
        life.crashed = True
        engine, journal = life.fx.engine, life.fx.engine.journal
        assert journal is not None
        journal._writer = journal._keeper = None
        rows = self.disk.crash(life, lambda: self.loop.pace.kill(life))
        self.model.is_left(rows, crashed=True, excused=self.fails[id(life.options)] > 0)
        for bounds in life.doing:
            bounds.cancel()
        engine._accepting = False
        withdraw(engine)
        if (main := engine._main_task) is not None:
            self.crashing = True  # what it still says of itself, nobody hears
            engine._opening.cancel()
            engine._stopping.set()
            await main.finished()
            self.crashing = False

    async def keep(
        self, life: Life, way: str, plan: Sequence[tuple[str, Any]], *, early: bool, fails: bool, wait: bool
    ) -> None:
        """Something happens there that is to have effects."""
        events = [(made(KINDS[kind], next(self.numbers)), when) for kind, when in plan]
        ways = {"emit": life.emit, "scope": life.scope, "after": life.after, "with": life.with_}
        await self._have_done(life, lambda: ways[way](events, early=early, fails=fails), wait=wait)

    async def flush(self, life: Life, seconds: float, *, wait: bool) -> None:
        """Somebody waits until what there is has settled."""

        async def flush() -> None:
            before = set(life.acknowledged)
            try:
                await life.fx.flush(seconds)
            except TimeoutError:
                return
            open_ = [key for key in before if not life.settled[key]]
            self.model.says(
                not open_ or not life.accepts, f"flush() returned, and {len(open_)} event(s) have not settled"
            )

        await self._have_done(life, flush, wait=wait)

    async def replay(self, life: Life, sink: str | None, to: str | None) -> None:
        """Dead letters are sent again."""

        async def replay() -> None:
            try:
                await life.fx.replay(sink=sink, to=to)
            except (JournalError, NotRunningError):
                self.model.says(not self.disk.healthy or not life.accepts, "replay() failed, on a disk that works")

        await self._have_done(life, replay, wait=True)

    async def purge(self, sink: str | None) -> None:
        """Dead letters are thrown away."""
        letters = [letter for letter in self.letters() if sink in {None, letter[1]}]
        from datetime import UTC, datetime

        try:
            count = self.dead.purge(before=datetime.max.replace(tzinfo=UTC), sink=sink)
        except Exception:
            assert not self.disk.healthy
            raise
        assert count == len(letters)
        self.model.is_purged(letters)

    async def release(self) -> None:
        """Sinks that hang go on."""
        hung, self.hung = self.hung, []
        for event in hung:
            event.set()

    async def _have_done(self, life: Life, function: Callable[[], Coroutine[Any, Any, None]], *, wait: bool) -> None:
        """Has it done in a task of its own, that ends with the process; waits for it a while, or not at all."""
        done = anyio.Event()

        async def do() -> None:
            with anyio.CancelScope() as bounds:
                life.doing.append(bounds)
                try:
                    if not life.crashed:
                        await function()
                except NotRunningError as error:
                    self.model.says(not life.accepts, f"{life} is running, and said: {error}")
                except Exception as error:  # noqa: BLE001 - what none of them is to raise
                    self.model.says(False, f"{type(error).__name__}: {error}")
            life.doing.remove(bounds)
            done.set()

        self.loop.tasks.start_soon(do)
        if wait:
            with anyio.move_on_after(PATIENCE):
                await done.wait()

    # --- what must hold ------------------------------------------------------------------------------------

    @property
    def dead(self) -> DeadStore:
        """The dead letters, as the command line sees them."""
        return DeadStore(self.path / "dead.sqlite")

    def letters(self) -> list[Key]:
        """The dead letters that are on disk."""
        broken, self.disk.broken = self.disk.broken, {}
        uses, self.disk.uses_left = self.disk.uses_left, None
        try:
            return [(letter.event_id, letter.sink) for letter in self.dead.letters()]
        finally:
            self.disk.broken, self.disk.uses_left = broken, uses

    def check(self) -> None:
        """Looks whether all that must hold at every moment does."""
        for life in self.lives:
            life.check()
        assert not self.model.wrong, "\n".join(self.model.wrong)

    async def end(self) -> None:
        """All works again: everything settles, and nothing is left behind."""
        self.disk.mend()
        self.scripts.clear()
        await self.release()
        await anyio.sleep(PATIENCE)  # a disk that was slow is done by then
        for life in [each for each in self.lives if each.stopping and each.fx.running]:
            await self.stop(life, wait=True)
        await self._all_settle()
        left = sorted(path.name for path in self.path.iterdir() if path.name != "dead.sqlite")
        self.model.says(not left, f"left behind: {left}")
        lost = self.model.lost(set(self.letters()))
        self.model.says(not lost, f"lost: {sorted((id_.int >> 64, sink) for id_, sink in lost)}")

    async def _all_settle(self) -> None:
        """Those that live take over what is left, bring it to its end, and stop."""
        if not any(life.complete for life in self.living):
            await self.start()
        await anyio.sleep(ADOPTS_WITHIN)
        owned = {segment.path for life in self.living for segment in self.disk.segments[life]}
        unowned = set(directory.Directory(self.path).segments()) - owned
        self.model.says(not unowned, f"nobody has taken over {[path.name[-10:] for path in unowned]}")
        for life in self.living:
            await self._settles(life)
        self.check()
        for life in self.living:
            await life.fx.stop()

    async def _settles(self, life: Life) -> None:
        engine = life.fx.engine
        try:
            await life.fx.flush(SETTLES_WITHIN)
        except TimeoutError as error:
            self.model.says(False, f"it does not settle: {error}")
        self.model.says(not engine.busy, f"{life} is busy after a flush")
        await anyio.sleep(ADOPTS_WITHIN)
        for segment in self.disk.segments[life]:
            self.model.says(segment.empty, f"{life}: rows are left of which nobody knows: {segment.pending()}")
        leaks = [name for name, lane in engine.lanes.items() if lane.intake._originals]
        self.model.says(not leaks, f"{life}: what fell back is remembered for ever: {leaks}")


class _Alarm(logging.Handler):
    """Hears what sidefx says of itself: while the disk works, nothing of its own fails."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world
        self._log = logging.getLogger("sidefx")
        self._log.addHandler(self)
        self._propagates, self._log.propagate = self._log.propagate, False

    def leave(self) -> None:
        """Hears no more."""
        self._log.removeHandler(self)
        self._log.propagate = self._propagates

    def emit(self, record: logging.LogRecord) -> None:
        world = self._world
        if (
            world.disk.healthy
            and not world.crashing
            and ("keeper failed" in record.msg or record.msg.startswith("%s failed: "))
        ):
            world.model.says(False, record.getMessage())
