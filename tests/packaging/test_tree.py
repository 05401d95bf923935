"""What is true of the tree as a whole, and of no single module."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# Written so that this file does not match itself.
STRANGERS = re.compile(
    r"files\.pythonhosted\b|pypi\.org/simpl[e]|registry\.npmjs\b|deb\.debian\b|--(?:extra-)?index-ur[l]|--hash=sha\d"
    r"|/wor[k]/(?:main|shared)|/tmp/[w]/|/roo[t]/|/hom[e]/\w+|/User[s]/\w+"
)


def tracked() -> list[Path]:
    """The files under version control, and those that are about to be."""
    command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.decode().strip()}")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def navigation(entries: list[Any]) -> set[str]:
    """The pages that a navigation names, at any depth."""
    pages: set[str] = set()
    for entry in entries:
        for target in entry.values() if isinstance(entry, dict) else (entry,):
            pages |= navigation(target) if isinstance(target, list) else {target}
    return pages


def test_no_file_names_a_machine_or_a_registry() -> None:
    """What is installed, and from where, is the reader's: no registry's host, no path of somebody's machine."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in tracked()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if (match := STRANGERS.search(line))
    ]
    assert found == []


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    """`constraints.txt` says `name==version`, once a name, and not where it comes from."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line) is None] == []
    names = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in pins]
    assert sorted(set(names)) == sorted(names)


def test_every_page_is_in_the_navigation() -> None:
    """A page of the documentation that no navigation leads to is not found by anybody."""
    project = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert navigation(project["nav"]) == pages
