"""An event as it goes over the wire: the body, and the headers that are a part of it.

CloudEvents 1.0.2, its JSON format and its HTTP binding: https://github.com/cloudevents/spec
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from pydantic_core import to_json, to_jsonable_python

from sidefx import Event, PermanentError

Format: TypeAlias = Literal["cloudevents", "cloudevents-binary", "json"]

HEADER_PREFIX = "ce-"
"""Of the attributes in binary mode; a receiver takes a request with such a header for a CloudEvent in that mode."""

_MEDIA_TYPES: dict[Format, str] = {
    "cloudevents": "application/cloudevents+json",
    "cloudevents-binary": "application/json",
    "json": "application/json",
}
_ENVELOPE = {"id", "at", "request"}  # the fields of every event, which are not its data
_URI_REFERENCE = re.compile(r"[!-~]+")  # RFC 3986: ASCII without blanks
_TYPE_PREFIX = re.compile(r"[A-Za-z0-9._~:/-]*")
_SUBJECT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")  # the spec's String, and short enough for a header
_HEADER_SAFE = "!#$&'()*+,/:;<=>?@[\\]^`{|}"  # HTTP binding, 3.1.3.2: all of printable ASCII but blank, quote, percent


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """What is posted for one event."""

    body: bytes
    headers: dict[str, str]


class Writer:
    """Writes messages of one form.

    Raises:
        ValueError: a setting that cannot stand in it.
    """

    def __init__(self, form: Format, *, source: str, type_prefix: str, subject: str | None) -> None:
        if not _URI_REFERENCE.fullmatch(source):
            msg = "source: must be a URI reference, such as /shop or https://shop.example: ASCII without blanks"
            raise ValueError(msg)
        if not _TYPE_PREFIX.fullmatch(type_prefix):
            msg = "type_prefix: must be ASCII letters, digits and . _ ~ : / -, such as com.example."
            raise ValueError(msg)
        if subject is not None and form == "json":
            msg = "subject: is of CloudEvents, and format = 'json' has no place for it; remove one of them"
            raise ValueError(msg)
        if subject == "":
            msg = "subject: empty; name a field of the events, such as order_id, or leave it out"
            raise ValueError(msg)
        self._form = form
        self._source = source
        self._type_prefix = type_prefix
        self._subject = subject
        self.media_type = _MEDIA_TYPES[form]

    def write(self, event: Event) -> Message:
        """The event's message, the same at every attempt.

        Raises:
            PermanentError: it has no JSON form, or its subject cannot be one.
        """
        try:
            # The event writes its own JSON: a model's config and serializers hold only there.
            data = event.model_dump_json(exclude=_ENVELOPE).encode()
            if self._form == "json":  # the payload that Standard Webhooks recommends, and the id
                return Message(
                    _with_data({"id": str(event.id), "type": self._type(event), "timestamp": event.at}, data), {}
                )
            attributes = self._attributes(event)
        except ValueError as error:
            msg = f"an event of kind {event.kind} holds what JSON has no form for; give its field a serializer"
            raise PermanentError(msg) from error
        if self._form == "cloudevents":
            return Message(_with_data(attributes | {"datacontenttype": "application/json"}, data), {})
        headers = {f"{HEADER_PREFIX}{name}": quote(value, safe=_HEADER_SAFE) for name, value in attributes.items()}
        return Message(data, headers)

    def _attributes(self, event: Event) -> dict[str, str]:
        attributes = {
            "specversion": "1.0",
            "id": str(event.id),
            "source": self._source,
            "type": self._type(event),
            "time": to_jsonable_python(event.at),
        }
        if self._subject is not None and (subject := _subject(event, self._subject)):
            attributes["subject"] = subject
        if event.request is not None and event.request.traceparent is not None:
            attributes["traceparent"] = event.request.traceparent  # the extension "Distributed Tracing"
        return attributes

    def _type(self, event: Event) -> str:
        return self._type_prefix + event.kind


def _with_data(attributes: dict[str, Any], data: bytes) -> bytes:
    return to_json(attributes)[:-1] + b',"data":' + data + b"}"


def _subject(event: Event, path: str) -> str | None:
    """The value at a dotted path into the event's JSON; None where there is none."""
    names = path.split(".")
    value: Any = event.model_dump(mode="json", include={names[0]})
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    if value is None or value == "":
        return None
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if not _SUBJECT.fullmatch(text):
        msg = (
            f"subject: {path} of this event of kind {event.kind} is not a number, nor a text of one line "
            "and at most 256 characters; name another field"
        )
        raise PermanentError(msg)
    return text
