"""What the answers and the silence of an SMTP server mean to the lane."""

from __future__ import annotations

import re
import ssl

from aiosmtplib import (
    SMTPAuthenticationError,
    SMTPConnectResponseError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

from sidefx import PermanentError, TransientError
from sidefx_sinks.email.address import masked

_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")  # RFC 3463
_ADDRESS = re.compile(r"[^\s<>@:,;\"'()]{1,64}@[^\s<>@:,;\"'()]+")


class StartTlsRefusedError(SMTPResponseException):
    """The server offers STARTTLS and refuses it."""


_BEFORE_THE_MAIL = (SMTPConnectResponseError, SMTPHeloError, StartTlsRefusedError)
_COMMANDS: dict[type[SMTPResponseException], str] = {
    SMTPConnectResponseError: "the connection",
    SMTPHeloError: "EHLO",
    StartTlsRefusedError: "STARTTLS",
    SMTPSenderRefused: "MAIL FROM",
    SMTPDataError: "DATA",
}


def is_permanent(reply: SMTPResponseException) -> bool:
    """RFC 5321, 4.2.1: 5yz is a refusal for good; 4yz, and what is no SMTP at all, may pass."""
    return 500 <= reply.code <= 599


def refuses_recipient(reply: SMTPResponseException) -> bool:
    """Whether the recipient is refused for good.

    552 that says nothing else means too many recipients at once, and the rest may come later
    (RFC 5321, 4.5.3.1.10).
    """
    return is_permanent(reply) and code(reply) not in {"552", "552 5.5.3"}


def code(reply: SMTPResponseException) -> str:
    """`550 5.1.1`, or `550` from a server without enhanced codes."""
    enhanced = _ENHANCED.match(reply.message)
    return f"{reply.code} {enhanced[0]}" if enhanced else str(reply.code)


def failure(error: SMTPException | OSError, server: str) -> PermanentError | TransientError:
    """The sidefx error for what went wrong with `server` (`host:port`): one line, without secret or address."""
    if isinstance(error, SMTPResponseException):
        # A server that greets with 5yz (busy, maintenance, a block list) has not seen the mail, and has judged none.
        for_good = is_permanent(error) and not isinstance(error, _BEFORE_THE_MAIL)
        return (PermanentError if for_good else TransientError)(_answer(error, server))
    if isinstance(error, OSError):  # aiosmtplib's own errors of connections and time are among them
        return TransientError(_silence(error, server))
    # What is left is the client's own refusal: the server offers no STARTTLS, or no AUTH that it knows.
    return PermanentError(f"{server} does not offer what is configured: {_words(str(error))}")


def _answer(reply: SMTPResponseException, server: str) -> str:
    if isinstance(reply, SMTPAuthenticationError):  # the server's words may repeat the user's name
        return f"{server} refused the login ({code(reply)}): check username and password, or the OAuth token"
    return f"{server} answered {reply.code} to {_COMMANDS.get(type(reply), 'a command')}: {_words(reply.message)}"


def _silence(error: OSError, server: str) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        problem = f"the certificate of {server} is not trusted ({cause.verify_message})"
        return f"{problem}: set ca_file to its authority, or host to the name that it is for"
    if isinstance(error, SMTPTimeoutError):
        return f"{server} did not answer in time"
    if isinstance(error, SMTPServerDisconnected):
        return f"{server} closed the connection"
    return f"cannot connect to {server}: {_words(str(cause))}"


def _words(text: str) -> str:
    """The first 200 characters, on one line, with addresses masked."""
    one_line = "".join(c if c.isprintable() else " " for c in text[:1000])
    return _ADDRESS.sub(lambda match: masked(match[0]), one_line)[:200].strip()
