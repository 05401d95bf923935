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
    from collections.abc import Callable, Iterable, Sequence
    from uuid import UUID

    from sidefx import Attachment, EmailEvent

_POLICY = SMTP.clone(cte_type="7bit")  # passes every relay as it is, whether it offers 8BITMIME or not
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,76}")  # RFC 5322, 2.2, without what can be an encoded word
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"  # noqa: S105 - RFC 6838, 4.2; no password
_CONTENT_TYPE = re.compile(rf"(?P<main>{_TOKEN})/(?P<sub>{_TOKEN})(?P<parameters>(?:\s*;\s*{_TOKEN}={_TOKEN})*)")
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=^_`{|}~.@-]+")
_UNSUBSCRIBE = re.compile(r"(?:https://(?=[A-Za-z0-9\[])|mailto:)[!-+\--;=?-~]{1,900}")  # ASCII but "<", ">", ","
_OURS = frozenset(
    {
        *("from", "to", "cc", "bcc", "reply-to", "sender", "subject", "date", "message-id", "mime-version"),
        *("auto-submitted", "x-tags", "return-path", "received", "delivered-to", "dkim-signature"),
    }
)
"""Header fields that the sink or a mail server writes, lower case; `Content-*`, `Resent-*` and `ARC-*` besides."""
_ACTING = frozenset({"list-unsubscribe", "list-unsubscribe-post", "disposition-notification-to"})
"""Header fields, lower case, with which a reader acts for the true recipient, or writes to strangers."""


@dataclass(frozen=True, slots=True, repr=False)
class Mail:
    """What SMTP transactions need; without a repr, for addresses are personal data."""

    event_id: UUID
    sender: str
    recipients: tuple[str, ...]
    """Of to, cc and bcc, each once."""
    head: bytes
    plain_head: bytes | None
    """The head for a server without SMTPUTF8 (RFC 6531), in ASCII; None where the sender's own address needs it."""
    body: bytes

    @property
    def international(self) -> bool:
        """Whether a local part needs SMTPUTF8."""
        return self.plain_head is None or self.head != self.plain_head or not all(map(str.isascii, self.recipients))

    @property
    def content(self) -> bytes:
        """Head and body."""
        return self.head + self.body


def compose(
    event: EmailEvent,
    sender: Mailbox,
    *,
    text: str | None,
    html: str | None,
    max_bytes: int,
    redirect_to: Sequence[Mailbox] = (),
) -> Mail:
    """The mail for that event; with `redirect_to`, to nobody else, and with the true recipients in its head.

    Raises:
        PermanentError: a value of the event cannot stand in a mail, or the whole is too large.
    """
    _forbid_size(sum(len(attachment.content) for attachment in event.attachments), max_bytes)
    to, cc, bcc, reply_to = (
        [_mailbox(field, value) for value in getattr(event, field)] for field in ("to", "cc", "bcc", "reply_to")
    )
    unsubscribe = _unsubscribe(event, [*to, *cc, *bcc])
    originals: dict[str, list[Mailbox]] = {}
    if redirect_to:  # answers as well: a contact form's Reply-To is a customer
        originals = {"X-Original-To": to, "X-Original-Cc": cc, "X-Original-Bcc": bcc, "X-Original-Reply-To": reply_to}
        to, cc, bcc, reply_to = list(redirect_to), [], [], list(redirect_to) if reply_to else []

    def harmless(name: str) -> str:
        return f"X-Original-{name}" if redirect_to and name.lower() in _ACTING else name

    def head(write: Callable[[Iterable[Mailbox]], str]) -> bytes:
        fields = [
            _field("From", write([sender])),
            _field("To", write(to) if to else "undisclosed-recipients:;"),
            *([_field("Cc", write(cc))] if cc else []),
            *([_field("Reply-To", write(reply_to))] if reply_to else []),
            *(_field(name, write(boxes)) for name, boxes in originals.items() if boxes),
            _field("Subject", _words("Subject", event.subject)),
            _field("Date", format_datetime(event.at)),
            _field("Message-ID", f"<{event.id}@{sender.domain}>"),
            _field("Auto-Submitted", "auto-generated"),  # RFC 3834: no out-of-office replies, please
            *(_field(harmless(name), value) for name, value in unsubscribe),
            *([_field("X-Tags", _words("X-Tags", ", ".join(map(_tag, event.tags))))] if event.tags else []),
            *(_field(harmless(_free_name(name)), _words(name, value)) for name, value in event.headers.items()),
        ]
        return "".join(fields).encode()

    full = head(_addresses)
    plain = full if full.isascii() else head(_plain_addresses)
    mail = Mail(
        event_id=event.id,
        sender=sender.address,
        recipients=tuple(dict.fromkeys(box.address for box in (*to, *cc, *bcc))),
        head=full,
        plain_head=plain if sender.local_part.isascii() else None,
        body=_body(text, html, event.attachments),
    )
    _forbid_size(len(mail.head) + len(mail.body), max_bytes)
    return mail


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


def _plain_addresses(boxes: Iterable[Mailbox]) -> str:
    """For readers without SMTPUTF8: an address that needs it is a group without members, named for it (RFC 6857)."""
    return ",\r\n ".join(
        _addresses([box]) if box.local_part.isascii() else f"{_phrase(f'{box.name} {box.address}'.strip())}:;"
        for box in boxes
    )


def _unsubscribe(event: EmailEvent, recipients: Sequence[Mailbox]) -> list[tuple[str, str]]:
    """List-Unsubscribe (RFC 2369), and with an https URL the promise that a POST to it is enough (RFC 8058)."""
    if not event.unsubscribe:
        return []
    if any(name.lower().startswith("list-unsubscribe") for name in event.headers):
        msg = "List-Unsubscribe is both in headers and made of unsubscribe; give one of them"
        raise PermanentError(msg)
    urls = [_checked("a URL in 'unsubscribe'", url) for url in event.unsubscribe]
    if not all(map(_UNSUBSCRIBE.fullmatch, urls)):
        msg = (
            "a URL in 'unsubscribe' is refused: it is https://... or mailto:..., in ASCII (percent-encoded), "
            "of at most 900 characters and without '<', '>', ',' and blanks"
        )
        raise PermanentError(msg)
    one_click = [url for url in urls if url.startswith("https:")]
    if one_click and (len(one_click) > 1 or len({box.address for box in recipients}) > 1):
        msg = (
            "unsubscribe has an https URL, which a single click fetches for the one recipient that it is for "
            "(RFC 8058): give one such URL, and send each recipient a mail of their own"
        )
        raise PermanentError(msg)
    _checked("header 'List-Unsubscribe'", ", ".join(urls))  # two halves can make an encoded word
    fields = [("List-Unsubscribe", ",\r\n ".join(f"<{url}>" for url in urls))]
    return [*fields, ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")] if one_click else fields


def _phrase(name: str) -> str:
    if name.isascii() and "=?" not in name and "?=" not in name:  # two names can make an encoded word
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
    if "\0" in (text or "") or "\0" in (html or ""):
        msg = "the mail's text or HTML contains a NUL, which no mail may (RFC 5322, 4)"
        raise PermanentError(msg)
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
    if not filename:
        msg = "an attachment's filename is refused: it is empty"
        raise PermanentError(msg)
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
