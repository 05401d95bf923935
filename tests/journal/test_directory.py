"""The journal's directory: who may read it, where it may lie, and what a person reads where it cannot be used."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidefx import JournalError
from sidefx.journal import directory as module
from sidefx.journal.directory import Directory, file_system
from sidefx.journal.lock import FileLock
from sidefx.journal.segment import Segment
from sidefx.options import JournalOptions
from tests.asgi.processes import started
from tests.journal.remains import Counted, Sink, journaled, left_behind, names
from tests.waiting import until

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do that to a file system")
REMEDY = "name a directory on a local disk that this user may write"


# --- who may read it --------------------------------------------------------------------------------


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """What the process withholds of the modes of its files."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """The permissions of all that is in it, itself included."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


@pytest.mark.anyio
@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o177])
async def test_only_its_owner_may_read_what_is_journaled(mask: int, tmp_path: Path) -> None:
    """Directories are 0700, files 0600: the log, the locks, the status and the dead letters, whatever the umask."""
    with umask(mask):
        left_behind(tmp_path / "state" / "journal", Counted(n=1))
        sink = Sink(held=True)
        async with journaled(tmp_path / "state" / "journal", s=sink) as fx:
            await fx.emit(Counted(n=2))
            await until(lambda: list((tmp_path / "state").rglob("*.json")))
            found = modes(tmp_path / "state")
            sink.held = False
    assert {found.pop("state"), found.pop("journal")} == {0o700}
    assert {Path(name).suffix for name in found} == {".sqlite", ".sqlite-wal", ".lock", ".json"}
    assert set(found.values()) == {0o600}, found


@pytest.mark.anyio
async def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """A group that is meant to read the dead letters goes on doing so."""
    os.chmod(tmp_path, 0o750)  # noqa: PTH101, S103 - a group may; no coroutine waits for it
    async with journaled(tmp_path, s=Sink()):
        pass
    assert modes(tmp_path)[tmp_path.name] == 0o750


# --- where it cannot be written -----------------------------------------------------------------------


@contextmanager
def below_a_file(folder: Path) -> Iterator[Path]:
    """A path below a file."""
    (folder / "file").touch()
    yield folder / "file" / "deep" / "journal"


@contextmanager
def a_file(folder: Path) -> Iterator[Path]:
    """A file itself."""
    (folder / "file").touch()
    yield folder / "file"


@contextmanager
def a_link_to_nowhere(folder: Path) -> Iterator[Path]:
    """A link whose end is not there."""
    (folder / "link").symlink_to(folder / "nowhere" / "at all")
    yield folder / "link"


@contextmanager
def in_proc(_folder: Path) -> Iterator[Path]:
    """Where the kernel makes the files."""
    yield Path("/proc/sidefx/journal")


@contextmanager
def immutable(folder: Path) -> Iterator[Path]:
    """A directory that not even root may change."""
    try:
        subprocess.run(["chattr", "+i", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this file system knows no immutable directories")
    try:
        yield folder
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)


@contextmanager
def mounted_for_reading(folder: Path) -> Iterator[Path]:
    """A disk that is mounted read-only."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], check=False).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield folder / "journal"
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def of_somebody_else(folder: Path) -> Iterator[Path]:
    """Below a directory of another user."""
    (folder / "theirs").mkdir()
    (folder / "theirs").chmod(0)
    with umask(0), as_nobody():
        yield folder / "theirs" / "journal"


@contextmanager
def as_nobody() -> Iterator[None]:
    """A user who may do nothing."""
    if (user := os.geteuid()) == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


UNWRITABLE = [
    below_a_file,
    a_file,
    a_link_to_nowhere,
    in_proc,
    of_somebody_else,
    pytest.param(immutable, marks=ROOT_ONLY),
    pytest.param(mounted_for_reading, marks=ROOT_ONLY),
]


@pytest.mark.anyio
@pytest.mark.contract("J07")
@pytest.mark.parametrize("place", UNWRITABLE)
async def test_a_directory_that_cannot_be_written_is_told_at_the_start(
    place: Callable[[Path], Iterator[Path]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line that names the key, the directory and the remedy; nothing has been opened, and nothing runs."""
    sink = Sink()
    with place(tmp_path) as path:  # type: ignore[attr-defined]
        fx = journaled(path, s=sink)
        with pytest.raises(JournalError) as caught:
            await fx.start()
    said = str(caught.value)
    assert said.startswith(f"journal.path: {path} cannot be written: ")
    assert said.endswith(REMEDY)
    assert "\n" not in said
    assert not fx.running
    assert caplog.text == ""


TOML = """
[journal]
path = "file/journal"

[sinks.audit]
type = "log"
delivery = "journal"
"""


@pytest.mark.contract("A14", "J07")
@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn-trio"])
def test_the_server_prints_one_page_of_it_and_exits(kind: str, tmp_path: Path) -> None:
    """Once, without a traceback of ours."""
    (tmp_path / "sidefx.toml").write_text(TOML, encoding="utf-8")
    (tmp_path / "file").touch()
    with started(kind, "tests.asgi.failing:app", tmp_path) as process:
        printed = process.end()
    page = f"sidefx could not start: journal.path: {tmp_path}/file/journal cannot be written: Not a directory; {REMEDY}"
    assert printed.count(page) == 1, printed
    assert "Traceback" not in printed[printed.index(page) :]
    if kind == "uvicorn":
        assert "Traceback" not in printed
        assert process.popen.returncode == 3


@pytest.mark.anyio
async def test_a_file_of_something_else_in_the_place_of_the_dead_letters_is_told_at_the_start(tmp_path: Path) -> None:
    """It is named, and left as it is."""
    for content in (b"no database" * 1_000, b"SQLite format 3\0" + b"\1" * 5_000):
        (tmp_path / "dead.sqlite").write_bytes(content)
        with pytest.raises(JournalError, match=rf"journal\.path: {tmp_path} cannot be used: "):
            await journaled(tmp_path, s=Sink()).start()
        assert (tmp_path / "dead.sqlite").read_bytes() == content
        assert names(tmp_path) == {"dead.sqlite"}


# --- network file systems -------------------------------------------------------------------------------

MOUNTS = (
    rb"""
22 28 0:20 / /proc rw,nosuid shared:12 - proc proc rw
28 1 8:1 / / rw,relatime - overlay overlay rw,lowerdir=/l - /m
30 28 0:41 / /mnt/nfs rw,relatime shared:1 master:2 - nfs4 server:/export rw,vers=4.2
31 28 0:42 / /mnt/smb rw - cifs //server/share rw
32 28 0:43 / /mnt/ssh rw - fuse.sshfs user@host:/ rw
33 30 8:1 / /mnt/nfs/local rw - ext4 /dev/sda1 rw
34 33 0:44 / /mnt/nfs/local/far rw - nfs server:/far rw
35 28 0:45 / /mnt/my\040share rw - nfs server:/my\040share rw
36 28 0:45 / /mnt/a\134b\011c rw - ceph x rw
37 28 0:46 / /mnt/caf\303\251\040x rw - 9p x rw
38 28 0:46 / /mnt/"""
    + "café\xa0\u2028".encode()
    + rb"""\040y rw - 9p x rw
39 28 0:46 / /mnt/"""
    + b"\xff"
    + rb"""\040z rw - afs x rw
40 28 0:47 /export/data /srv/bound rw - nfs4 server:/export rw
41 28 8:1 / /srv/covered rw - nfs server:/c rw
42 41 8:2 / /srv/covered rw - ext4 /dev/sdb rw
43 28 8:1 / /srv/covering rw - ext4 /dev/sdb rw
44 43 8:2 / /srv/covering rw - nfs server:/c rw
45 28 8:1 / /srv/tmp rw - tmpfs tmpfs rw
46 28 8:1
nonsense
""".replace(b"WIDE", "café\xa0\u2028".encode()).replace(b"BYTE", b"\xff")
)
ON = {
    "/": "overlay",
    "/var/lib/app/journal": "overlay",
    "/mnt/nfs": "nfs4",
    "/mnt/nfs/deep/journal": "nfs4",
    "/mnt/nfsx": "overlay",
    "/mnt/smb/journal": "cifs",
    "/mnt/ssh/journal": "fuse.sshfs",
    "/mnt/nfs/local/journal": "ext4",
    "/mnt/nfs/local/far/journal": "nfs",
    "/mnt/my share/journal": "nfs",
    "/mnt/my": "overlay",
    "/mnt/a\\b\tc/journal": "ceph",
    "/mnt/café x/journal": "9p",
    "/mnt/café\xa0\u2028 y/journal": "9p",
    os.fsdecode(b"/mnt/\xff z/journal"): "afs",
    "/srv/bound/journal": "nfs4",
    "/srv/covered/journal": "ext4",
    "/srv/covering/journal": "nfs",
    "/srv/tmp/journal": "tmpfs",
}
LOCAL = {"ext4", "overlay", "tmpfs"}


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel says is mounted where."""
    path = tmp_path / "mountinfo"
    path.write_bytes(MOUNTS)
    monkeypatch.setattr(module, "MOUNTS", path)
    return path


def mounted(mounts: Path, lines: str) -> None:
    """Has the kernel say this."""
    mounts.write_text(lines, encoding="utf-8")


@pytest.mark.parametrize(("path", "kind"), ON.items())
def test_the_deepest_mount_says_what_a_path_lies_on(path: str, kind: str, mounts: Path) -> None:
    """Of several at one place the last; names are compared as bytes, and whole."""
    assert file_system(Path(path)) == kind


def test_a_link_lies_where_it_leads(mounts: Path, tmp_path: Path) -> None:
    """A directory that is reached over a link is written where that ends."""
    (tmp_path / "link").symlink_to("/mnt/nfs")
    assert file_system(tmp_path / "link" / "journal") == "nfs4"


def test_where_nothing_says_what_is_mounted_nothing_is_refused(tmp_path: Path) -> None:
    """Other systems than Linux have no such file."""
    assert file_system(tmp_path, tmp_path / "nothing") is None
    (tmp_path / "empty").touch()
    assert file_system(tmp_path, tmp_path / "empty") is None


def test_this_system_says_what_its_root_lies_on() -> None:
    """Where there is such a file, it can be read."""
    assert (file_system(Path("/")) is not None) == Path("/proc/self/mountinfo").exists()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "9p", "ext4", "overlay", "btrfs"])
async def test_a_network_file_system_is_refused(kind: str, mounts: Path, tmp_path: Path) -> None:
    """Locks and logs are not safe there; what is local is taken, a container's own file system too."""
    mounted(mounts, f"22 1 8:1 / / rw - ext4 /dev/sda rw\n23 22 0:9 / {tmp_path}/far rw - {kind} x rw\n")
    fx = journaled(tmp_path / "far" / "journal", s=Sink())
    if kind in {"ext4", "overlay", "btrfs"}:
        async with fx:
            await fx.emit(Counted(n=1))
    else:
        with pytest.raises(JournalError) as caught:
            await fx.start()
        assert str(caught.value) == (
            f"journal.path: {tmp_path}/far/journal is on a network file system ({kind}), where locks and write-ahead "
            "logs are not safe; name a directory on a local disk"
        )


# --- what is in it ----------------------------------------------------------------------------------------


def test_later_segments_sort_after_earlier_ones(tmp_path: Path) -> None:
    """So that the oldest is adopted first; the dead letters, and what lies beside segments, are none."""
    directory = Directory(tmp_path)
    paths = [directory.new_segment() for _ in range(50)]
    for path in (*reversed(paths), directory.dead, tmp_path / "x.sqlite-wal", tmp_path / "x.json", tmp_path / "x.lock"):
        path.touch()
    assert directory.segments() == paths
    assert Directory(tmp_path / "nowhere").segments() == []


def test_a_relative_path_is_meant_from_where_the_program_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that goes elsewhere later keeps its journal."""
    monkeypatch.chdir(tmp_path)
    directory = Directory(Path("state"))
    monkeypatch.chdir("/")
    directory.prepare()
    assert (tmp_path / "state").is_dir()


def test_locks_of_segments_that_are_gone_are_cleared_away(tmp_path: Path) -> None:
    """A process that was killed between two steps leaves a lock alone; one that somebody holds stays."""
    directory = Directory(tmp_path)
    (tmp_path / "orphan.lock").touch()
    held = FileLock.acquire(tmp_path / "held.lock")
    segment = Segment.create(directory.new_segment(), JournalOptions(path=tmp_path))
    kept = left_behind(tmp_path, Counted(), killed=False)
    directory.clear()
    assert names(tmp_path) == {
        "held.lock",
        *(segment.path.stem + ending for ending in (".sqlite", ".sqlite-wal", ".lock")),
        *(kept.stem + ending for ending in (".sqlite", ".lock")),
    }
    assert held is not None
    held.release()
    segment.close()
