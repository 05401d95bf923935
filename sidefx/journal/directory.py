"""`Directory`: where the processes of one app keep their segments."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from sidefx.errors import JournalError
from sidefx.events.ids import uuid7
from sidefx.journal import lock
from sidefx.journal.segment import SUFFIX, remove_logs, sync_directory

MOUNTS = Path("/proc/self/mountinfo")
"""https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html"""
_NETWORK = frozenset(
    {"9p", "afs", "ceph", "cifs", "davfs", "glusterfs", "gfs2", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2"}
)
_NETWORK |= {"beegfs", "gpfs", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs"}
_NETWORK |= {
    f"fuse.{name}" for name in ("sshfs", "glusterfs", "s3fs", "gcsfuse", "rclone", "davfs", "ceph", "cephfs", "juicefs")
}
_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")
"""A space, a tab, a line break or a backslash, in the name of a mount point."""
DEAD = f"dead{SUFFIX}"


class Directory:
    """The journal's directory."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link that is changed later

    def prepare(self) -> None:
        """Makes it where it is not there, and finds out whether it will do.

        Raises:
            JournalError: it will not; with what to do.
        """
        if not lock.AVAILABLE:
            msg = f'journal.path: {self.path}: the journal needs `flock`, which this system has not; use "memory" here'
            raise JournalError(msg)
        try:
            made = [each for each in (self.path, *self.path.parents) if not each.exists()]
            for each in reversed(made):
                _make(each)
            probe = self.path / ".probe"  # of one name: a process that is killed just here leaves no more than that
            os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            probe.unlink(missing_ok=True)  # another process may do the same
        except OSError as error:
            msg = (
                f"journal.path: {self.path} cannot be written: {error.strerror}; "
                "name a directory on a local disk that this user may write"
            )
            raise JournalError(msg) from error
        if (network := file_system(self.path)) in _NETWORK:
            msg = (
                f"journal.path: {self.path} is on a network file system ({network}), where locks and write-ahead logs "
                "are not safe; name a directory on a local disk"
            )
            raise JournalError(msg)

    def new_segment(self) -> Path:
        """The name of one that does not exist yet; later ones sort after earlier ones."""
        return self.path / f"{uuid7().hex}{SUFFIX}"

    def segments(self) -> list[Path]:
        """All that are there, the oldest first."""
        with suppress(FileNotFoundError):
            return sorted(path for path in self.path.glob(f"*{SUFFIX}") if path.name != DEAD)
        return []

    def clear(self) -> None:
        """Removes what was left of segments that are not there any more, or never came to be."""
        for path in self.path.glob("*.lock"):
            segment = path.with_suffix(SUFFIX)
            with suppress(OSError):  # another user's, say
                if not segment.exists() and (left := lock.FileLock.acquire(path)) is not None:
                    gone = not segment.exists()
                    if gone:
                        remove_logs(segment)
                    left.release(remove=gone)

    @property
    def dead(self) -> Path:
        """The file of dead letters."""
        return self.path / DEAD


def file_system(path: Path, mounts: Path | None = None) -> str | None:
    """The type of the file system that holds the path, as Linux calls it; None where that cannot be told."""
    try:
        lines = (mounts or MOUNTS).read_bytes().split(b"\n")
    except OSError:
        return None
    found, kind = b"", None
    real = os.fsencode(os.path.realpath(path))
    for line in lines:
        before, separator, after = line.partition(b" - ")
        fields = before.split(b" ")
        if not separator or len(fields) < 5:
            continue
        point = _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), fields[4])
        inside = point in {b"/", real} or real.startswith(point + b"/")
        if inside and len(point) >= len(found):  # the last of those at one point covers the others
            found, kind = point, after.split(b" ")[0].decode("ascii", "replace")
    return kind


def _make(path: Path) -> None:
    """Makes a directory for its owner alone, whatever the umask; it is there after a power cut, too."""
    with suppress(FileExistsError):  # another process makes it as well
        path.mkdir(mode=0o700)
        path.chmod(0o700)
    sync_directory(path.parent)
