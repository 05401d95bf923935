"""The events that the built-in sinks take, and the helpers that make them.

Mistakes of form are a `pydantic.ValidationError` at the call; values that only a receiver can judge
(an address, a header) are judged by the sink, so that they never cost the request its response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sidefx.events.event import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def _identifier(value: object) -> Any:
    if value is None or type(value) is str:
        return value
    return str(value) if isinstance(value, (int, UUID)) and not isinstance(value, bool) else value


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _none_if_empty(value: str | None) -> str | None:
    return value or None


Identifier = Annotated[str, BeforeValidator(_identifier)]
"""A string; whole numbers and UUIDs, which ids often are, become one."""
Several = Annotated[tuple[str, ...], BeforeValidator(_several)]
"""Strings; a single one may stand for itself."""

AuditOutcome = Literal["success", "failure", "denied", "unknown"]


class AuditEvent(Event, kind="audit"):
    """Who did what to what, with which outcome: one record of the audit log."""

    action: Annotated[str, Field(min_length=1)]
    """What was done, such as `order.create`."""
    actor: Identifier | None = None
    """Who did it; None where nobody was signed in."""
    target: Identifier | None = None
    """What it was done to, such as `order:17`."""
    outcome: AuditOutcome = "success"
    reason: str | None = None
    changes: dict[str, Any] | None = None
    """Field name to `[before, after]`."""
    tenant: Identifier | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class TrackEvent(Event, kind="track"):
    """A product-analytics event of a user or of an anonymous visitor."""

    event: Annotated[str, Field(min_length=1)]
    """The event's name, such as `Order Completed`."""
    user_id: Annotated[Identifier | None, AfterValidator(_none_if_empty)] = None
    anonymous_id: Annotated[Identifier | None, AfterValidator(_none_if_empty)] = None
    properties: dict[str, Any] = Field(default_factory=dict)
    context: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_somebody(self) -> Self:
        if self.user_id is None and self.anonymous_id is None:
            msg = "give user_id or anonymous_id: analytics cannot count an event of nobody"
            raise ValueError(msg)
        return self


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

    @model_validator(mode="after")
    def _has_readers_and_words(self) -> Self:
        if not (self.to or self.cc or self.bcc):
            msg = "give at least one recipient in to, cc or bcc"
            raise ValueError(msg)
        if self.text is None and self.html is None and self.template is None:
            msg = "give text, html or template: a mail needs a body"
            raise ValueError(msg)
        return self


class InvalidateEvent(Event, kind="invalidate"):
    """What caches have to forget."""

    keys: Several = ()
    tags: Several = ()
    prefixes: Several = ()
    urls: Several = ()
    everything: bool = False

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not (self.keys or self.tags or self.prefixes or self.urls or self.everything):
            msg = "give keys, tags, prefixes, urls or everything=True: there is nothing to invalidate"
            raise ValueError(msg)
        return self


def audit(
    action: str,
    *,
    actor: str | int | UUID | None = None,
    target: str | int | UUID | None = None,
    outcome: AuditOutcome = "success",
    reason: str | None = None,
    changes: Mapping[str, Any] | None = None,
    tenant: str | int | UUID | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> AuditEvent:
    """A record for the audit log: who (`actor`) did what (`action`) to what (`target`).

    Raises:
        pydantic.ValidationError: a value has the wrong form.
    """
    return AuditEvent(
        action=action,
        actor=_identifier(actor),
        target=_identifier(target),
        outcome=outcome,
        reason=reason,
        changes=None if changes is None else dict(changes),
        tenant=_identifier(tenant),
        metadata=dict(metadata or {}),
    )


def track(
    event: str,
    *,
    user_id: str | int | UUID | None = None,
    anonymous_id: str | int | UUID | None = None,
    properties: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
) -> TrackEvent:
    """An analytics event; one of `user_id` and `anonymous_id` is required.

    Raises:
        pydantic.ValidationError: a value has the wrong form, or neither id was given.
    """
    return TrackEvent(
        event=event,
        user_id=_identifier(user_id),
        anonymous_id=_identifier(anonymous_id),
        properties=dict(properties or {}),
        context=dict(context or {}),
    )


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
) -> EmailEvent:
    """A mail with a body of its own (`text`, `html`) or from a `template` with `context`.

    Raises:
        pydantic.ValidationError: a value has the wrong form, or there is no recipient or no body.
    """
    return EmailEvent(
        to=_strings(to),
        subject=subject,
        text=text,
        html=html,
        template=template,
        context=dict(context or {}),
        cc=_strings(cc),
        bcc=_strings(bcc),
        reply_to=_strings(reply_to),
        headers=dict(headers or {}),
        attachments=tuple(attachments),
        tags=_strings(tags),
    )


def invalidate(
    *,
    keys: str | Iterable[str] = (),
    tags: str | Iterable[str] = (),
    prefixes: str | Iterable[str] = (),
    urls: str | Iterable[str] = (),
    everything: bool = False,
) -> InvalidateEvent:
    """What caches have to forget: keys, everything under a tag or a prefix, URLs, or all.

    Raises:
        pydantic.ValidationError: a value has the wrong form, or nothing was named.
    """
    return InvalidateEvent(
        keys=_strings(keys),
        tags=_strings(tags),
        prefixes=_strings(prefixes),
        urls=_strings(urls),
        everything=everything,
    )


def _strings(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
