"""What a process says of its segments, for whoever looks from outside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sidefx.journal import status
from sidefx.journal.status import SegmentStatus, SinkRows, Status


def word(count: int = 1, **values: Any) -> Status:
    """What a process may say of so many segments."""
    segments = [
        SegmentStatus(name=f"{i:032}", bytes=1, oldest=None, sinks={"audit": SinkRows(pending=1, leased=0)})
        for i in range(count)
    ]
    return Status(**{"pid": 1, "runtime": "r", "at": 1.0, "state": "ok", "reason": "", "segments": segments, **values})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """It is for its owner alone, and the next word replaces it."""
    path = tmp_path / "one.json"
    for each in (word(), word(100), word(pid=2)):
        each.write(path)
        assert Status.read(path) == each
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["one.json"]


@pytest.mark.parametrize("text", [b"", b'{"pid": 1', b"\xff", b"[]"])
def test_a_torn_word_is_none(tmp_path: Path, text: bytes) -> None:
    """Nor is one that is not there."""
    assert Status.read(tmp_path / "one.json") is None
    (tmp_path / "one.json").write_bytes(text)
    assert Status.read(tmp_path / "one.json") is None


def test_a_full_disk_can_be_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file can be made, the word takes the place of the one before, and no empty file stays."""
    path = tmp_path / "one.json"
    word().write(path)
    opened = os.open

    def full(path_: Any, flags: int, *mode: int, **how: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(28, "No space left on device")
        return opened(path_, flags, *mode, **how)

    monkeypatch.setattr(status.os, "open", full)
    failing = word(state="failing", reason="database or disk is full")
    failing.write(path)
    assert Status.read(path) == failing
    word().write(path)
    assert Status.read(path) == word()
    with pytest.raises(OSError, match="No space"):
        word(1_000).write(path)  # it has no room there
    assert Status.read(path) == word()
    assert [each.name for each in tmp_path.iterdir()] == ["one.json"]
