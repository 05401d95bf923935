"""`BAN` requests for Varnish: all pages of a host, below a prefix, under a tag, or everything.

In the form that FOSHttpCache's VCL takes, so that either side can be replaced: regular expressions in `X-Host`,
`X-Url`, `X-Content-Type` and `X-Cache-Tags`, from which the VCL makes an expression for `ban()`.
https://foshttpcache.readthedocs.io/en/latest/varnish-configuration.html,
https://varnish-cache.org/docs/7.1/users-guide/purging.html#bans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from sidefx_sinks.cache.names import check_tag, parse_host, parse_url
from sidefx_sinks.cache.requests import Purge
from sidefx_sinks.cache.store import EVERYTHING, Target, names

BanKind: TypeAlias = Literal["tags", "prefixes", "hosts", "everything"]

MAX_PATTERN = 4_000
"""Bytes of one header; Varnish takes 8 KiB a header line (http_req_hdr_len)."""

_ANYTHING = ".*"
_BETWEEN = "[,\\x20]"  # a ban expression is split at blanks
_OUTSIDE = re.compile(r"[^A-Za-z0-9_/:=-]")


def bans(targets: Iterable[Target], failures: dict[Target, ValueError]) -> list[Purge]:
    """The requests, as few as the header's bound allows: every ban costs Varnish a look at each object.

    What cannot be one goes into `failures`, with an error that does not repeat it.
    """
    targets = list(targets)
    fit = _fit(names(targets, "hosts"), "hosts", lambda host: _literal(parse_host(host)), failures)
    requests = [_ban(f"^({'|'.join(found.values())})$", _ANYTHING, "", found) for found in fit]
    fit = _fit(names(targets, "tags"), "tags", _tag, failures)
    requests += [
        _ban(_ANYTHING, _ANYTHING, f"(^|{_BETWEEN})({'|'.join(found.values())})({_BETWEEN}|$)", found) for found in fit
    ]
    for found in _fit(names(targets, "prefixes"), "prefixes", _prefix, failures, together=False):
        host, _, path = next(iter(found.values())).partition(" ")
        requests.append(_ban(host, path, "", found))
    if EVERYTHING in targets:
        requests.append(_ban(_ANYTHING, _ANYTHING, "", {EVERYTHING: ""}))
    return requests


def _fit(
    wanted: Iterable[str],
    kind: BanKind,
    pattern_of: Callable[[str], str],
    failures: dict[Target, ValueError],
    *,
    together: bool = True,
) -> list[dict[Target, str]]:
    """The patterns by target, in portions of which each fits into one header."""
    portions: list[dict[Target, str]] = []
    size = MAX_PATTERN
    for name in wanted:
        target = Target(kind, name)
        try:
            pattern = pattern_of(name)
        except ValueError as error:
            failures[target] = error
            continue
        size += len(pattern) + 1
        if size > MAX_PATTERN - 100 or not together:  # the rest of the expression, with room to spare
            portions.append({})
            size = len(pattern)
        portions[-1][target] = pattern
    return portions


def _tag(tag: str) -> str:
    check_tag(tag, 900)
    return _literal(tag)


def _prefix(prefix: str) -> str:
    """The patterns of host and path, with a blank between them."""
    if len(prefix) > 900:
        msg = "it is longer than 900 bytes"
        raise ValueError(msg)
    host, path = parse_url(prefix)
    return f"{f'^{_literal(host)}$' if host else _ANYTHING} ^{_literal(path)}"


def _literal(text: str) -> str:
    """A pattern for just that, without a character that means something to the VCL or the ban expression."""
    return _OUTSIDE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _ban(host: str, path: str, tags: str, targets: Iterable[Target]) -> Purge:
    headers = {"X-Host": host, "X-Url": path, "X-Content-Type": _ANYTHING} | ({"X-Cache-Tags": tags} if tags else {})
    return Purge("BAN", "/", headers, targets=tuple(targets))
