"""The text and the HTML of a mail, from Jinja2 templates in one directory."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateNotFound, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sidefx import PermanentError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Templates:
    """`NAME.txt` and `NAME.html` in `directory`, rendered in Jinja2's immutable sandbox.

    All but `.txt` is escaped as HTML. A name that the context lacks is an error. What is rendered
    is at most `max_characters` long.
    """

    def __init__(self, directory: Path, *, max_characters: int) -> None:
        self._directory = directory
        self._max_characters = max_characters
        self._environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(directory),
            autoescape=lambda name: name is None or not name.endswith(".txt"),
            undefined=StrictUndefined,
        )

    def render(self, name: str, context: Mapping[str, Any]) -> tuple[str | None, str | None]:
        """The text and the HTML; None for the one that has no template.

        Raises:
            PermanentError: there is neither, or one could not be rendered: which, and at what line,
                but not with which values.
        """
        if _NAME.fullmatch(name) is None:
            msg = (
                f"template {name!r} is refused: a name has letters, digits, '_', '-' and '.', and no path; "
                f"it is looked for in {self._directory}"
            )
            raise PermanentError(msg)
        text, html = self._render(f"{name}.txt", context), self._render(f"{name}.html", context)
        if text is None and html is None:
            msg = f"template {name!r}: there is neither {name}.txt nor {name}.html in {self._directory}"
            raise PermanentError(msg)
        return text, html

    def _render(self, filename: str, context: Mapping[str, Any]) -> str | None:
        try:
            chunks, left = [], self._max_characters
            for chunk in self._environment.get_template(filename).generate(context):
                chunks.append(chunk)
                left -= len(chunk)
                if left < 0:
                    break
        except TemplateNotFound as error:
            if error.name == filename:
                return None
            missing = ", ".join(map(str, error.templates)) if hasattr(error, "templates") else error.name
            msg = f"template {filename}: it uses {missing}, which is not in {self._directory}"
            raise PermanentError(msg) from None
        except TemplateSyntaxError as error:
            msg = f"template {error.name}, line {error.lineno}: {error.message}"
            raise PermanentError(msg) from None
        except Exception as error:  # noqa: BLE001 - a template can raise anything, and will raise it again
            msg = f"template {filename}: {type(error).__name__}{self._place(error)}"
            raise PermanentError(msg) from None  # the cause would show the context's values
        if left < 0:
            msg = f"template {filename}: it renders to more than {self._max_characters} characters (max_message_bytes)"
            raise PermanentError(msg)
        return "".join(chunks)

    def _place(self, error: Exception) -> str:
        """The innermost template on the way to the error, ` at FILE, line N`, from its rewritten traceback."""
        place = ""
        for frame, line in traceback.walk_tb(error.__traceback__):
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(self._directory):
                place = f" at {file.relative_to(self._directory)}, line {line}"
        return place
