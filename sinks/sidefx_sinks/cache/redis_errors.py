"""What the lane is to do about an error of Redis, in words that hold neither the password nor a key."""

from __future__ import annotations

import re
from contextlib import suppress
from urllib.parse import urlsplit

from pydantic import SecretStr
from redis import exceptions

from sidefx import PermanentError, TransientError

REDIS_ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
"""What a client raises; the second is no kind of the first."""

_REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError)
_LATER = (
    exceptions.ReadOnlyError,  # a replica, until the failover is over
    exceptions.OutOfMemoryError,
    exceptions.ClusterDownError,  # MASTERDOWN too
    exceptions.TryAgainError,
    exceptions.AskError,  # and MOVED: slots are on their way
)
_LATER_CODES = frozenset({"BUSY", "MISCONF", "MOVED"})  # a script is running; a snapshot failed
_DENIED_TO_A_SCRIPT = "The user executing the script can't"  # Redis 7.0 has no code for it
_CODE = re.compile(r"(?:.*caused error: \(['\"])?([A-Z]{3,})\b", re.DOTALL)  # redis-py puts the command before it


def told(error: Exception, where: str) -> Exception:  # noqa: PLR0911 - a table of errors
    """The error that the sink raises for one of the client's; `where` is the server."""
    if isinstance(error, _REFUSED):
        return PermanentError(f"cache: Redis at {where} refuses the login; check user and password in `url`")
    found = _CODE.match(str(error))
    code = found[1] if found else type(error).__name__
    if isinstance(error, exceptions.NoPermissionError) or code == "NOPERM" or _DENIED_TO_A_SCRIPT in str(error):
        return PermanentError(
            f"cache: Redis at {where} denies the command or the key (NOPERM); grant the user UNLINK, SCAN, EVAL, "
            "SPOP, SADD and the hash commands on the cache's keys, and PUBLISH on its channel"
        )
    if isinstance(error, exceptions.ResponseError):
        if isinstance(error, _LATER) or code in _LATER_CODES:
            return TransientError(f"cache: Redis at {where} cannot write at present ({code})")
        hint = "; something other than a set has the name of the tag's set" if code == "WRONGTYPE" else ""
        return PermanentError(f"cache: Redis at {where} refuses the command ({code}){hint}")
    if isinstance(error, exceptions.RedisClusterException):  # without its text, in which redis-py quotes what it sent
        if "not enabled" in str(error):
            return PermanentError(f"cache: Redis at {where} is no cluster; remove cluster = true")
        return TransientError(f"cache: no answer from the Redis cluster at {where} ({type(error).__name__})")
    reason = " ".join(str(error).split()) or type(error).__name__
    return TransientError(f"cache: no answer from Redis at {where}: {reason}")


def place(url: SecretStr) -> str:
    """Where the server is, for messages: the URL without user, password and options.

    Raises:
        ValueError: it is no URL of a Redis; the message does not repeat it.
    """
    found = None
    with suppress(ValueError):  # of urlsplit: it quotes what stands where the port should, perhaps half a password
        parts = urlsplit(url.get_secret_value())
        # A password with / ? or # in it ends the part that it stands in: half of it would pass for host, port or path.
        torn = "@" in parts.path + parts.query + parts.fragment
        if parts.scheme in {"redis", "rediss"} and not torn:
            found = f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
        elif parts.scheme == "unix" and (not torn or parts.netloc[-1:] in {"", "@"}):
            found = parts.path
    if found is None:
        msg = (
            "url must be redis://HOST:PORT/DB, rediss://... (TLS) or unix:///SOCKET; "
            "in a password write special characters as %XX"
        )
        raise ValueError(msg)
    return found
