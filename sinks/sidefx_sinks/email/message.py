"""A mail as it goes over the wire: envelope, head and MIME parts.

The head is written here, line by line, and not by `email.message`: that one decodes what it is
given before it encodes it again, and folds long URLs (`List-Unsubscribe`) into encoded words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import TYPE_CHECKING

from sidefx import PermanentError
from sidefx_sinks.email.address import Mailbox, forbid_control_characters, mailbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidefx import Attachment, EmailEvent

_POLICY = SMTP.clone(cte_type="7bit")  # passes every relay as it is, whether it offers 8BITMIME or not
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,76}")  # RFC 5322, 2.2, without what can be an encoded word
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"  # noqa: S105 - RFC 6838, 4.2; no password
_CONTENT_TYPE = re.compile(rf"(?P<main>{_TOKEN})/(?P<sub>{_TOKEN})(?P<parameters>(?:\s*;\s*{_TOKEN}={_TOKEN})*)")
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=^_`{|}~.@-]+")
_OURS = frozenset(
    {
        *("from", "to", "cc", "bcc", "reply-to", "sender", "subject", "date", "message-id", "mime-version"),
        *("auto-submitted", "x-tags", "return-path", "received", "delivered-to", "dkim-signature"),
    }
)
"""Header fields that the sink or a mail server writes, lower case; `Content-*`, `Resent-*` and `ARC-*` besides."""


@dataclass(frozen=True, slots=True, repr=False)
class Mail:
    """What one SMTP transaction needs; without a repr, for addresses are personal data."""

    sender: str
    recipients: tuple[str, ...]
    """Of to, cc and bcc, each once."""
    content: bytes
    international: bool
    """Whether a local part needs SMTPUTF8 (RFC 6531)."""


def compose(event: EmailEvent, sender: Mailbox, *, text: str | None, html: str | None, max_bytes: int) -> Mail:
    """The mail for that event.

    Raises:
        PermanentError: a value of the event cannot stand in a mail, or the whole is too large.
    """
    _forbid_size(sum(len(attachment.content) for attachment in event.attachments), max_bytes)
    to, cc, bcc, reply_to = (
        [_mailbox(field, value) for value in getattr(event, field)] for field in ("to", "cc", "bcc", "reply_to")
    )
    international = not all(box.local_part.isascii() for box in (sender, *to, *cc, *bcc, *reply_to))
    head = [
        _field("From", _addresses([sender])),
        _field("To", _addresses(to) if to else "undisclosed-recipients:;"),
        *([_field("Cc", _addresses(cc))] if cc else []),
        *([_field("Reply-To", _addresses(reply_to))] if reply_to else []),
        _field("Subject", _words("Subject", event.subject)),
        _field("Date", format_datetime(event.at)),
        _field("Message-ID", f"<{event.id}@{sender.domain}>"),
        _field("Auto-Submitted", "auto-generated"),  # RFC 3834: no out-of-office replies, please
        *([_field("X-Tags", _words("X-Tags", ", ".join(map(_tag, event.tags))))] if event.tags else []),
        *(_field(_free_name(name), _words(name, value)) for name, value in event.headers.items()),
    ]
    content = "".join(head).encode() + _body(text, html, event.attachments)
    _forbid_size(len(content), max_bytes)
    recipients = dict.fromkeys(box.address for box in (*to, *cc, *bcc))
    return Mail(sender.address, tuple(recipients), content, international)


def _forbid_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        msg = f"the mail is larger than max_message_bytes ({size} > {max_bytes}); send a link instead of the attachment"
        raise PermanentError(msg)


def _mailbox(field: str, value: str) -> Mailbox:
    try:
        return mailbox(value)
    except ValueError as error:
        msg = f"an address in {field!r} is refused: {error}"
        raise PermanentError(msg) from None


def _checked(what: str, value: str) -> str:
    try:
        forbid_control_characters(value)
    except ValueError as error:
        msg = f"{what} is refused: {error}"
        raise PermanentError(msg) from None
    return value.strip()


def _addresses(boxes: Iterable[Mailbox]) -> str:
    return ",\r\n ".join(f"{_phrase(box.name)} <{box.address}>" if box.name else box.address for box in boxes)


def _phrase(name: str) -> str:
    if name.isascii():
        return '"' + name.replace("\\", r"\\").replace('"', r"\"") + '"'
    return Header(name, "utf-8", maxlinelen=75).encode(linesep="\r\n")


def _words(name: str, value: str) -> str:
    value = _checked(f"header {name!r}", value)
    return Header(value, None if value.isascii() else "utf-8", maxlinelen=78, header_name=name).encode(linesep="\r\n")


def _field(name: str, value: str) -> str:
    """The header field, folded; whatever went before, it is one field and no more when it leaves here."""
    field = f"{name}: {value}"
    if _CONTROL.search(field.replace("\r\n ", " ")):
        msg = f"header {name!r} is refused: it contains a line break or another control character"
        raise PermanentError(msg)
    if max(len(line.encode()) for line in field.split("\r\n")) > 998:
        msg = f"header {name!r} has a line of more than 998 bytes that cannot be folded (RFC 5322, 2.1.1)"
        raise PermanentError(msg)
    return field + "\r\n"


def _free_name(name: str) -> str:
    if _FIELD_NAME.fullmatch(name) is None:
        msg = f"{name!r} is not the name of a header field (RFC 5322, 2.2)"
        raise PermanentError(msg)
    if name.lower() in _OURS or name.lower().startswith(("content-", "resent-", "arc-")):
        msg = f"header {name!r} is written by the sink or by mail servers; remove it from the event's headers"
        raise PermanentError(msg)
    return name


def _tag(tag: str) -> str:
    if "," in tag:
        msg = "a tag is refused: it contains a comma, which separates tags in X-Tags"
        raise PermanentError(msg)
    return tag


def _body(text: str | None, html: str | None, attachments: Iterable[Attachment]) -> bytes:
    message = EmailMessage(_POLICY)
    try:
        if text is not None:
            message.set_content(text)
        if html is not None and text is not None:
            message.add_alternative(html, subtype="html")
        elif html is not None:
            message.set_content(html, subtype="html")
    except UnicodeEncodeError:
        msg = "the mail's text or HTML contains half of a surrogate pair, which is no text"
        raise PermanentError(msg) from None
    page = message.get_body(("html",))
    attached = []
    for attachment in attachments:
        if page is not None and attachment.content_id is not None:
            _attach(page.add_related, attachment)  # before `add_attachment`, which moves the page
        else:
            attached.append(attachment)
    for attachment in attached:
        _attach(message.add_attachment, attachment)
    return message.as_bytes()


def _attach(add: Callable[..., None], attachment: Attachment) -> None:
    filename = _checked("an attachment's filename", attachment.filename)
    parts = _CONTENT_TYPE.fullmatch(attachment.content_type)
    if parts is None or parts["main"].lower() in {"multipart", "message"}:
        msg = (
            "an attachment's content type is refused: it is TYPE/SUBTYPE, such as 'application/pdf', "
            "and neither multipart/* nor message/*, which cannot travel in base64"
        )
        raise PermanentError(msg)
    cid = attachment.content_id
    if cid is not None and _CONTENT_ID.fullmatch(cid) is None:
        msg = "an attachment's content id is refused: it has letters, digits, '.', '-', '_' and '@'"
        raise PermanentError(msg)
    add(
        attachment.content,
        maintype=parts["main"],
        subtype=parts["sub"],
        params=dict(p.strip().split("=", 1) for p in parts["parameters"].split(";") if p.strip()),
        filename=filename,
        disposition="inline" if cid is not None else "attachment",
        cid=None if cid is None else f"<{cid}>",
    )
