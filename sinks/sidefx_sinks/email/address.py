"""Addresses and other values of headers: what may stand in a mail's head, and what is refused."""

from __future__ import annotations

import re
import unicodedata
from binascii import Error as Base64Error
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header

import idna

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LOCAL_PART = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
"""RFC 5321's Dot-string, with RFC 6531's characters; the quoted form (`"a b"@example.org`) is refused."""
_NAMED = re.compile(r'(?P<name>"(?:[^"\\]|\\.)*"|[^"<>@,:;]*?)\s*<(?P<address>[^<>]*)>')
_MAX_CHARACTERS = 8192
"""Of one header's value. The RFCs know no limit; the time that it takes to look for encoded words does."""
_LABEL = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
)  # `_`: in names that only a network's own DNS knows


@dataclass(frozen=True, slots=True, repr=False)
class Mailbox:
    """One address, with the name that is shown for it."""

    name: str
    local_part: str
    domain: str
    """In ASCII: an internationalised domain is in its IDNA form."""

    @property
    def address(self) -> str:
        """As the envelope has it."""
        return f"{self.local_part}@{self.domain}"


def mailbox(value: str) -> Mailbox:
    """The one address in `ann@example.org`, `Ann <ann@example.org>` or `"Ann" <ann@example.org>`.

    Raises:
        ValueError: why it is none. The message does not repeat the value: addresses are personal data.
    """
    forbid_control_characters(value)
    value = value.strip()
    named = _NAMED.fullmatch(value)
    name, address = (named["name"], named["address"].strip()) if named else ("", value)
    if name.startswith('"'):
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
        forbid_control_characters(name)  # taking out the backslashes can complete an encoded word
    local_part, at, domain = address.rpartition("@")
    if not at or not is_local_part(local_part) or "?=" in address:
        msg = "it is not one e-mail address, such as 'ann@example.org' or 'Ann <ann@example.org>'"
        raise ValueError(msg)
    return Mailbox(name.strip(), local_part, ascii_domain(domain))


def is_local_part(text: str) -> bool:
    """Whether it can stand before the `@`; no kind of blank can, which a server or client would take for an end."""
    return _LOCAL_PART.fullmatch(text) is not None and len(text.encode()) <= 64 and not any(map(str.isspace, text))


def ascii_domain(domain: str) -> str:
    """The domain's ASCII form (IDNA 2008: the older rules of Python's own codec send `ß` elsewhere).

    Raises:
        ValueError: it is no host name.
    """
    try:
        encoded = domain if domain.isascii() else idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        encoded = ""
    if len(encoded) > 253 or not all(_LABEL.fullmatch(label) for label in encoded.split(".")):
        msg = "its domain is no host name"
        raise ValueError(msg)
    return encoded.lower()


def forbid_control_characters(value: str) -> None:
    """Refuse what could end a header line, as it stands and behind RFC 2047's encoded words.

    The second matters because libraries decode `=?utf-8?q?=0D=0ABcc:...?=` before they write a
    header, or after they read one (Python 3.11's `EmailMessage` does both).

    Raises:
        ValueError: there is such a character; the message does not repeat the value.
    """
    if len(value) > _MAX_CHARACTERS:
        msg = f"it is longer than {_MAX_CHARACTERS} characters"
        raise ValueError(msg)
    if _has_control_characters(value):
        msg = "it contains a line break or another control character"
        raise ValueError(msg)
    for _ in range(8):  # an encoded word can hold another
        if "=?" not in value:
            return
        decoded = _decoded(value)
        if _has_control_characters(decoded):
            msg = "it contains an encoded line break or another control character"
            raise ValueError(msg)
        if decoded == value:
            return
        value = decoded
    msg = "it contains encoded words in encoded words"
    raise ValueError(msg)


def _has_control_characters(value: str) -> bool:
    # Cc: controls, CR, LF, NUL, NEL. Zl, Zp: Unicode's own line ends. Cs: halves of a surrogate pair.
    return any(unicodedata.category(character) in {"Cc", "Zl", "Zp", "Cs"} for character in value)


def _decoded(value: str) -> str:
    try:
        words = decode_header(value)
    except (HeaderParseError, Base64Error, ValueError):
        return "\0"  # malformed: what others make of it is anybody's guess, so it is refused
    return "".join(word if isinstance(word, str) else _text(word, charset) for word, charset in words)


def _text(word: bytes, charset: str | None) -> str:
    octets = word.decode("latin-1")
    if any(octet < 32 or octet == 127 for octet in word):
        return octets
    try:
        return word.decode((charset or "latin-1").partition("*")[0])  # RFC 2231 appends a language: utf-8*en
    except (LookupError, UnicodeError):
        return octets


def masked(address: str) -> str:
    """The address as it may stand in a log: `a***@example.org`."""
    local_part, _, domain = address.rpartition("@")
    return f"{local_part[:1]}***@{domain}"
