"""The public names and their signatures, frozen in `public_api.txt`.

A change of the public API is made on purpose: write the file anew, and let the difference be part of the change.

    .venv/bin/python tests/packaging/test_public_api.py > tests/packaging/public_api.txt
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

import sidefx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

FROZEN = Path(__file__).with_name("public_api.txt")
MODULES = ("sidefx", "sidefx.asgi", "sidefx.testing", "sidefx.wsgi")
SPECIAL = {"__init__", "__init_subclass__", "__call__", "__aenter__", "__enter__"}

NOT_IN_THE_CORE = {
    "aiosmtplib", "click", "django", "fastapi", "httpx", "jinja2", "pydantic_settings", "redis", "rich",
    "opentelemetry", "sidefx_sinks", "sqlalchemy", "starlette", "trio", "twisted", "uvicorn",
}  # fmt: skip


def test_the_public_names_are_sorted_and_exist() -> None:
    """`sidefx.__all__` is sorted, without repetition, and every name in it is there."""
    assert sidefx.__all__ == sorted(set(sidefx.__all__))
    assert [name for name in sidefx.__all__ if not hasattr(sidefx, name)] == []


def test_the_public_api_is_frozen() -> None:
    """No public name appears, goes or changes its signature unless `public_api.txt` says so too."""
    assert "\n".join(describe_all()).splitlines() == FROZEN.read_text(encoding="utf-8").splitlines(), (
        "the public API has changed; where that is meant, write it down: see the top of this test"
    )


def test_importing_sidefx_imports_no_sink_and_no_library_of_one() -> None:
    """`import sidefx` costs anyio, pydantic and the standard library, and nothing else."""
    program = "import sidefx, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert "sidefx" in loaded.split()
    assert NOT_IN_THE_CORE & set(loaded.split()) == set()


def describe_all() -> Iterator[str]:
    """The lines of `public_api.txt`: each public module with its names, in order."""
    for module_name in MODULES:
        if importlib.util.find_spec(module_name) is None:
            continue  # if it was frozen, its lines are missed
        module = importlib.import_module(module_name)
        yield f"[{module_name}]"
        for name in _public_names(module):
            yield from _describe(name, getattr(module, name))
        yield ""


def _public_names(module: ModuleType) -> list[str]:
    if (listed := getattr(module, "__all__", None)) is not None:
        return sorted(listed)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )


def _describe(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield f"class {name}({', '.join(base.__name__ for base in value.__bases__)})"
        yield from (f"    {member}" for member in _members(value))
    elif callable(value):
        yield f"{'async ' if inspect.iscoroutinefunction(value) else ''}def {name}{_signature(value)}"
    else:
        yield f"{name} = {_plain(repr(value))}"


def _members(cls: type) -> Iterator[str]:
    """The fields, and the methods that a class itself defines; what it inherits stands at its base."""
    annotations = inspect.get_annotations(cls)
    required = _required(cls)
    for name, annotation in annotations.items():
        if not name.startswith("_") and name != "model_config":
            yield f"{name}: {annotation}{'' if name in required else ' = ...'}"
    for name, raw in vars(cls).items():
        if name in annotations or (name.startswith("_") and name not in SPECIAL):
            continue
        if name == "__init__" and dataclasses.is_dataclass(cls):
            continue  # its fields say it
        member = raw.__func__ if isinstance(raw, (classmethod, staticmethod)) else raw
        if isinstance(member, property):
            yield f"property {name}: {inspect.get_annotations(member.fget).get('return') if member.fget else None}"
        elif inspect.isfunction(member) and member.__module__.partition(".")[0] == "sidefx":
            yield f"{'async ' if inspect.iscoroutinefunction(member) else ''}def {name}{_signature(member)}"


def _required(cls: type) -> set[str]:
    """The fields without a default."""
    if issubclass(cls, BaseModel):
        return {name for name, field in cls.model_fields.items() if field.is_required()}
    if dataclasses.is_dataclass(cls):
        missing = dataclasses.MISSING
        return {field.name for field in dataclasses.fields(cls) if field.default is field.default_factory is missing}
    return set(inspect.get_annotations(cls)) - set(vars(cls))


def _signature(function: Any) -> str:
    try:
        return _plain(str(inspect.signature(function)))
    except (TypeError, ValueError):  # a special form, such as an alias of Literal
        return f" = {_plain(repr(function))}"


def _plain(text: str) -> str:
    """Without quotes around annotations and without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", re.sub(r"(?<=[:>] )'([^']*)'", r"\1", text))


if __name__ == "__main__":
    sys.stdout.write("\n".join(describe_all()).rstrip() + "\n")
