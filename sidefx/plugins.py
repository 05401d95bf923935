"""Plug-ins: from the `type` of a sink in the configuration to the class or function that it names.

A type is a short name, published by an installed distribution under the entry-point group
`sidefx.sinks`, or `module:Name`.
"""

from __future__ import annotations

import importlib
import traceback
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from sidefx.errors import MissingExtraError, SidefxError
from sidefx.problems import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP = "sidefx.sinks"


class PluginError(SidefxError):
    """A sink's type cannot be loaded: the reason, and where there is one the remedy."""

    def __init__(self, reason: str, suggestion: str = "") -> None:
        super().__init__(f"{reason}; {suggestion}" if suggestion else reason)
        self.reason = reason
        self.suggestion = suggestion


@dataclass(frozen=True, slots=True)
class SinkType:
    """What a `type` stands for."""

    name: str
    """As it is written in the configuration."""
    target: Callable[..., Any]
    """A class, whose constructor's parameters are the settings; or a function of one event, which is a sink itself."""
    module: str
    install: str | None = None
    """The command that installs the libraries it needs, where its distribution has an extra for them."""

    def missing(self, error: ImportError) -> SidefxError:
        """The error to raise where importing or making the sink raised that one."""
        return _import_failed(error, self.module, self.install)


def published() -> dict[str, tuple[EntryPoint, ...]]:
    """The short names, each with the entry points that publish it: more than one is a conflict."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        # One distribution may stand on the path twice (an editable install beside a wheel); the first one counts.
        found.setdefault(entry.name, {}).setdefault(f"{_distribution(entry)} {entry.value}", entry)
    return {name: tuple(entries.values()) for name, entries in sorted(found.items())}


def find(name: str) -> SinkType:
    """The class or function that a sink's `type` names; its module is imported.

    Raises:
        PluginError: there is no such type, several claim the name, or its module fails.
        MissingExtraError: a library that it needs is not installed.
    """
    module, colon, attribute = name.partition(":")
    if colon:
        return SinkType(name, _attribute(_import(module, None), attribute), module)
    entries = published()
    if name not in entries:
        module, _, attribute = name.rpartition(".")
        reason = "no installed package publishes a sink type of that name"
        raise PluginError(
            reason, f"write 'module:Name', as in '{module}:{attribute}'" if module else nearest(name, entries)
        )
    if len(entries[name]) > 1:
        claims = " and ".join(f"{_distribution(entry)} ({entry.value})" for entry in entries[name])
        first = entries[name][0]
        reason = f"several packages publish this sink type: {claims}"
        raise PluginError(reason, f"uninstall one, or write 'module:Name', as in '{first.module}:{first.attr}'")
    entry = entries[name][0]
    install = f"pip install '{_distribution(entry)}[{','.join(entry.extras)}]'" if entry.extras else None
    return SinkType(name, _attribute(_import(entry.module, install), entry.attr), entry.module, install)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unnamed package"


def _import(module: str, install: str | None) -> Any:
    if not all(part.isidentifier() for part in module.split(".")):
        reason = "the part before ':' is no module's name"
        raise PluginError(reason, "write 'module:Name', as in 'myapp.sinks:Slack'")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _import_failed(error, module, install) from error
    except (Exception, SystemExit) as error:  # the module is the user's, and may be a script
        raise _module_failed(error, module) from error


def _import_failed(error: ImportError, module: str, install: str | None) -> SidefxError:
    """Tells a module that is not there from one that lacks a library, and both from one that is broken."""
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else None
    if missing is not None and (module == missing or module.startswith(f"{missing}.")):
        return PluginError(
            f"there is no module '{missing}'",
            "install it, or run from the folder that holds it (PYTHONPATH names others)",
        )
    if missing is not None and "." not in missing and missing != module.partition(".")[0]:
        remedy = f"run: {install}" if install else "install it"
        return MissingExtraError(f"needs {missing}, which is not installed; {remedy}", name=missing)
    return _module_failed(error, module, f"its libraries may be too old; run: {install}" if install else "")


def _module_failed(error: BaseException, module: str, suggestion: str = "") -> PluginError:
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return PluginError(f"importing '{module}' failed: {type(error).__name__}: {error}{at}", suggestion)


def _attribute(module: Any, path: str) -> Any:
    found = module
    for name in path.split("."):
        if not hasattr(found, name):
            public = [known for known in vars(found) if not known.startswith("_")] if hasattr(found, "__dict__") else []
            where = getattr(found, "__name__", path)
            reason = f"'{where}' has no '{name}'" if name else "the part after ':' is empty"
            raise PluginError(reason, nearest(name, public))
        found = getattr(found, name)
    return found
