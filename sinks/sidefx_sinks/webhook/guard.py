"""Keeps a client away from addresses that are not public, whatever the name of its receiver resolves to.

Each request is sent to an address that was looked up and checked for it: there is no second look-up
that could be answered otherwise (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import anyio

from sidefx import PermanentError
from sidefx_sinks import _http

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special-purpose registries, by value: what `ipaddress` calls global differs between releases of Python.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all else of IPv6 is refused, what wraps an IPv4 address included
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 is this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, from inside of a machine there
        "169.254.0.0/16",  # link-local; the metadata of AWS, Azure, Google
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
        "2001::/23",  # protocol assignments: Teredo, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


class Guard:
    """Public addresses and those of some networks may be connected to, no others.

    Raises:
        ValueError: what is to be allowed is no network.
    """

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = [_network(text) for text in allowed]
        self._turn = 0

    def check(self, url: str) -> None:
        """Refuse a URL that has a forbidden address for its host already now; a name is looked up later.

        Raises:
            ValueError: it has one.
        """
        address = _literal(urlsplit(url).hostname or "")
        if address is not None and not self.permits(address):
            msg = f"url: {address} is not a public address, and allow_private does not list its network"
            raise ValueError(msg)

    def permits(self, address: _Address) -> bool:
        """Whether that address may be connected to."""
        if any(address in network for network in self._allowed):
            return True
        if address.version == 6 and address not in _GLOBAL_UNICAST:
            return False
        return not any(address in network for network in _SPECIAL)

    def watch(self, client: _http.Client) -> None:
        """Have each of its requests go through here; it is one without proxies."""
        hooks = client.event_hooks
        client.event_hooks = {"request": [*hooks["request"], self._pin], "response": [_unpin, *hooks["response"]]}

    def turn(self) -> None:
        """Let the next attempt begin at the next of the receiver's addresses: this one did not do."""
        self._turn += 1

    async def _pin(self, request: Any) -> None:  # an httpx.Request
        """Put a checked address in place of the name, which stays in `Host`, in the TLS handshake and its check."""
        url = request.url
        host = url.raw_host.decode("ascii")
        answers = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found = [ipaddress.ip_address(sockaddr[0]) for *_, sockaddr in answers]
        usable = [address for address in found if self.permits(address)]
        if not usable:
            msg = (
                f"{request.method} {url.netloc.decode()} was not sent: {host} is {found[0] if found else 'nowhere'}, "
                "which is not a public address; list its network in allow_private if it is meant"
            )
            raise PermanentError(msg)
        request.url = url.copy_with(host=str(usable[self._turn % len(usable)]))
        request.extensions |= {"sni_hostname": host, "sidefx_url": url}


async def _unpin(response: _http.Response) -> None:
    """Errors name the host, not the address."""
    response.request.url = response.request.extensions["sidefx_url"]


def _literal(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        msg = f"allow_private: {error}; write it as 10.20.0.0/16"
        raise ValueError(msg) from None
