"""An app that runs beside the command line: `python -m tests.cli.shop FOLDER`, told by lines on its standard input.

`order N` has that many orders placed. Its sinks do as the files in its folder say: while `broken` exists they refuse
everything, while `held` exists they keep everything waiting; what they take, they write into `delivered`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from sidefx import Event, JournalOptions, PermanentError, RetryOptions, RuntimeOptions, SideEffects, SinkOptions, after


class Ordered(Event, kind="cli_test.ordered"):
    """What the shop's sinks take."""

    number: int
    password: str = "hunter2"


class Returned(Event, kind="cli_test.returned"):
    """What goes to the branch by itself."""

    password: str = "hunter2"


def main(folder: Path) -> None:
    """Runs until its standard input ends."""

    async def take(sink: str, event: Event) -> None:
        while (folder / "held").exists():  # noqa: ASYNC110 - a file of the test's
            await anyio.sleep(0.01)
        if (folder / "broken").exists():
            raise PermanentError("the warehouse has burnt \x1b[31mdown\nentirely")
        with (folder / "delivered").open("a") as file:
            file.write(f"{sink} {event.id}\n")

    async def warehouse(event: Ordered) -> None:
        await take("warehouse", event)

    async def branch(event: Ordered | Returned) -> None:
        await take("branch", event)

    options = SinkOptions(delivery="journal", retry=RetryOptions(attempts=5, initial=0.01), redact=("password",))
    effects = SideEffects(
        {"warehouse": warehouse, "branch": branch},
        {"warehouse": options, "branch": options.model_copy(update={"events": ("cli_test.returned",)})},
        journal=JournalOptions(path=folder / "journal"),
        runtime=RuntimeOptions(drain_timeout=0.2),
        name="shop",
    )
    with effects:
        sys.stdout.write("open\n")
        sys.stdout.flush()
        for line in sys.stdin:
            for number in range(int(line.split()[1])):
                after(Ordered(number=number))
            sys.stdout.write("ordered\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
