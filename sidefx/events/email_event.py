"""`EmailEvent`: a mail, and `Attachment`, which travels with it.

Mistakes of form are a `pydantic.ValidationError` at the call; values that only a receiver can judge
(an address, a header) are judged by the sink, so that they never cost the request its response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sidefx.events.event import Event
from sidefx.events.fields import Several, strings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Attachment(BaseModel):
    """A file that travels with an e-mail."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    filename: str
    content: bytes = Field(repr=False)
    content_type: str = "application/octet-stream"
    content_id: str | None = None
    """Set for an inline part: HTML refers to it as `cid:CONTENT_ID`."""


class EmailEvent(Event, kind="email"):
    """A mail to be sent; its text is given, or made from a template by the sink."""

    to: Several = ()
    subject: str
    text: str | None = Field(default=None, repr=False)
    html: str | None = Field(default=None, repr=False)
    template: str | None = None
    """The template's name without its ending: `receipt` stands for `receipt.txt` and `receipt.html`."""
    context: dict[str, Any] = Field(default_factory=dict, repr=False)
    """What the template may use."""
    cc: Several = ()
    bcc: Several = ()
    reply_to: Several = ()
    headers: dict[str, str] = Field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    tags: Several = ()
    unsubscribe: Several = ()
    """URLs for `List-Unsubscribe`: `https://...` of the one recipient (one click, RFC 8058), `mailto:...`."""

    @model_validator(mode="after")
    def _has_readers_and_words(self) -> Self:
        if not (self.to or self.cc or self.bcc):
            msg = "give at least one recipient in to, cc or bcc"
            raise ValueError(msg)
        if self.text is None and self.html is None and self.template is None:
            msg = "give text, html or template: a mail needs a body"
            raise ValueError(msg)
        return self


def email(
    *,
    to: str | Iterable[str] = (),
    subject: str,
    text: str | None = None,
    html: str | None = None,
    template: str | None = None,
    context: Mapping[str, Any] | None = None,
    cc: str | Iterable[str] = (),
    bcc: str | Iterable[str] = (),
    reply_to: str | Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    attachments: Iterable[Attachment] = (),
    tags: str | Iterable[str] = (),
    unsubscribe: str | Iterable[str] = (),
) -> EmailEvent:
    """A mail with a body of its own (`text`, `html`) or from a `template` with `context`.

    Raises:
        pydantic.ValidationError: a value has the wrong form, or there is no recipient or no body.
    """
    return EmailEvent(
        to=strings(to),
        subject=subject,
        text=text,
        html=html,
        template=template,
        context=dict(context or {}),
        cc=strings(cc),
        bcc=strings(bcc),
        reply_to=strings(reply_to),
        headers=dict(headers or {}),
        attachments=tuple(attachments),
        tags=strings(tags),
        unsubscribe=strings(unsubscribe),
    )
