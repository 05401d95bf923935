"""URLs, hosts and tags of events, found fit to travel in a request; no error repeats one."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from sidefx_sinks._http import checked_url, goes_as_it_is

_URL = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[a-z0-9_-][a-z0-9._-]*|\[[0-9a-f:.]+\]")
_TAG = re.compile(r"[\x21-\x2b\x2d-\x7e]+")  # visible ASCII without the comma: caches separate by blanks and commas
_DOTS = re.compile(r"/\.\.?(/|$)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Url(NamedTuple):
    """A URL without its scheme, for caches mostly have none in their keys."""

    host: str
    """With its port where that is not the scheme's own; empty where the URL was a path alone."""
    path: str
    """With the query; the fragment is the browser's alone."""


def parse_url(url: str) -> Url:
    """The URL's host and path.

    Raises:
        ValueError: it is no URL of http, https or a path.
    """
    msg = "give http(s)://HOST/PATH or /PATH, percent-encoded"
    if not _URL.fullmatch(url):
        raise ValueError(msg)
    if url.startswith("/") and not url.startswith("//"):
        return Url("", url.partition("#")[0])
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(msg) from None
    host = f"[{host}]" if ":" in host else host
    if parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(host) or "@" in parts.netloc:
        raise ValueError(msg)
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        host += f":{port}"
    asked = "?" if "?" in url.partition("#")[0] else ""  # urlsplit drops an empty query, and a cache's key does not
    return Url(host, (parts.path or "/") + asked + parts.query)


def parse_sent_url(url: str) -> Url:
    """The URL's host and path, where the path is to stand in a request's own, perhaps behind another.

    Raises:
        ValueError: it is no URL, or its path would go out as another; `/../` would climb out of what it is put behind,
            encoded as well.
    """
    found = parse_url(url)
    if not goes_as_it_is(found.path) or _DOTS.search(unquote(found.path.partition("?")[0])):
        msg = "its path has `.` or `..` between slashes, or a character that has to be percent-encoded"
        raise ValueError(msg)
    return found


def parse_host(host: str) -> str:
    """The host in lower case, with its port if any.

    Raises:
        ValueError: it is none.
    """
    msg = "give a host name alone, such as shop.example"
    if "/" in host:
        raise ValueError(msg)
    try:
        found = parse_url(f"http://{host}").host
    except ValueError:
        raise ValueError(msg) from None
    if not found or found.removesuffix(":80") != host.lower().removesuffix(":80"):
        raise ValueError(msg)
    return found


def check_tag(tag: str, longest: int) -> None:
    """Silent where the tag can stand in a header between others.

    Raises:
        ValueError: it cannot.
    """
    if len(tag) > longest or not _TAG.fullmatch(tag):
        msg = (
            f"it is empty, longer than {longest} bytes, or holds a blank, a comma, a control character "
            "or one outside ASCII; rename it where responses are tagged"
        )
        raise ValueError(msg)


def checked_node(node: str, setting: str) -> str:
    """The base URL of a node or an API, without a slash at its end.

    Raises:
        ValueError: it is none, or holds credentials, which belong where they stay secret.
    """
    try:
        parts = urlsplit(checked_url(node))
    except ValueError as error:
        msg = f"{setting}: {str(error).removeprefix('url: ')}"
        raise ValueError(msg) from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        msg = (
            f"{setting}: give scheme, host, port and perhaps a path; credentials belong in headers or a token, "
            "where they stay secret"
        )
        raise ValueError(msg)
    return node.rstrip("/")
