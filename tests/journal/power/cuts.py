"""Cuts the power at many moments of one tape, and counts what was acknowledged and is lost."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Self, TypeAlias

from tests.journal.power.disk import LOSSES, Disk, Image, Loss, Mark, Step

Found: TypeAlias = Callable[[Image], frozenset[object] | None]
"""Opens what a cut has left, and says what is not lost; None where it is damaged."""
_MEMORY = "/dev/shm"  # noqa: S108 - what is made in it has a name that nobody can guess


@dataclass(slots=True)
class Cuts:
    """What came of it: sums over all images."""

    moments: int = 0
    images: int = 0
    different: int = 0
    """Images, less those that are the same as another one."""
    damaged: int = 0
    acknowledged: int = 0
    """What was acknowledged and not delivered at the cut."""
    lost: int = 0
    examples: list[str] = field(default_factory=list)
    """Where something was lost, for whoever has to find out why."""

    def __str__(self) -> str:
        share = f", {self.lost / self.acknowledged:.1%}, in {len(self.examples):,} images" if self.lost else ""
        return (
            f"{self.moments:,} cuts, {self.images:,} images ({self.different:,} different, {self.damaged:,} damaged), "
            f"{self.acknowledged:,} acknowledged deliveries looked for, {self.lost:,} lost{share}"
        )

    def __iadd__(self, other: Cuts) -> Self:
        for name in ("moments", "images", "different", "damaged", "acknowledged", "lost", "examples"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


def cut(tape: Sequence[Step], found: Found, *, random: Random, moments: int | None = None, start: int = 0) -> Cuts:
    """Cuts after each step from `start` on, or after so many of them, chosen at random; five images each."""
    cuts, known = Cuts(), dict[bytes, frozenset[object] | None]()
    steps = range(start, len(tape))
    chosen = steps if moments is None or moments > len(steps) else set(random.sample(steps, moments))
    for after, disk, acknowledged in moments_of(tape, chosen):
        cuts.moments += 1
        for loss in LOSSES:
            image = disk.image(loss, random)
            key = _digest(image)
            if key not in known:
                known[key] = found(image)
            whole = known[key]
            lost = acknowledged - (whole or frozenset())
            cuts.images += 1
            cuts.acknowledged += len(acknowledged)
            cuts.lost += len(lost)
            cuts.damaged += whole is None
            if lost or whole is None:
                cuts.examples.append(_example(after, tape, loss, image, lost))
    cuts.different = len(known)
    return cuts


def moments_of(tape: Sequence[Step], chosen: Container[int]) -> Iterator[tuple[int, Disk, set[object]]]:
    """The disk, and what has been acknowledged and is still to come, after the steps that are chosen."""
    disk, acknowledged, delivered = Disk(), set[object](), set[object]()
    for after, step in enumerate(tape):
        disk.follow(step)
        match step:
            case Mark("acknowledged", whom):
                acknowledged.add(whom)
            case Mark("delivered", whom):
                delivered.add(whom)
        if after in chosen:
            yield after, disk, acknowledged - delivered


def _digest(image: Image) -> bytes:
    digest = hashlib.sha256()
    for path, content in sorted(image.items()):
        digest.update(f"{path} {len(content)} ".encode())
        digest.update(content)
    return digest.digest()


def _example(after: int, tape: Sequence[Step], loss: Loss, image: Image, lost: Iterable[object]) -> str:
    files = ", ".join(f"{path} {len(content):,}" for path, content in sorted(image.items()))
    steps = "\n".join(f"    {step!r:.110}" for step in tape[max(0, after - 12) : after + 1])
    return (
        f"after step {after}, {loss.__name__}: {files or 'no files'}; lost {list(lost)[:3]}; the last steps:\n{steps}"
    )


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory for the time of a block; in memory where that can be had: here the disk is played, not used."""
    return tempfile.TemporaryDirectory(dir=_MEMORY if Path(_MEMORY).is_dir() else None)


def laid_out(image: Image, root: Path) -> Path:
    """The image as files below `root`."""
    for path, content in image.items():
        (root / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root
