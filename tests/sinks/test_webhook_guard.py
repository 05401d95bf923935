"""The sink `webhook`: `allow_private` keeps it away from addresses that are not public, whatever DNS says."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme

from sidefx import PermanentError, SideEffects, TransientError, audit
from sidefx_sinks.webhook import Webhook
from sidefx_sinks.webhook.guard import Guard
from tests.sinks.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyio.abc import SocketStream

pytestmark = pytest.mark.anyio

HERE = ["127.0.0.1/32"]
FORBIDDEN = [
    *("0.0.0.0", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
    *("239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:10.0.0.1", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:db8::1", "2002:7f00:1::"),
    *("2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::a9fe:a9fe", "fec0::1"),
    *("ff02::1", "ff0e::1"),
]
PERMITTED = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
    *("192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
    *("2000::1", "2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700:4700::1111", "2a00:1450:4001::1"),
]


class Names:
    """What DNS says: the answers for a name one after another, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def look_up(  # what `socket.getaddrinfo` takes
        self,
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002 - its name there
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Of the names known here; all else is the system's."""
        name = host.decode() if isinstance(host, bytes) else host
        if name not in self.answers:
            return self._real(host, port, family, type, proto, flags)
        if flags & socket.AI_NUMERICHOST:  # what trio asks first
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        self.asked.append(name)
        answers = self.answers[name]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [found for address in addresses for found in self._real(address, port or 0, type=socket.SOCK_STREAM)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """A resolver that can be told what to say."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    return names


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver on 127.0.0.1."""
    with Collector() as running:
        yield running


def _named(collector: Collector, host: str = "hooks.example", scheme: str = "http") -> str:
    return f"{scheme}://{host}:{collector.host.rpartition(':')[2]}"


async def test_a_name_of_a_forbidden_address_is_refused(names: Names) -> None:
    """Private, loopback, link-local, metadata, shared, reserved, and whatever wraps an IPv4 address."""
    async with Webhook(url="http://hooks.example/s3cret", allow_private=False) as sink:
        for address in FORBIDDEN:
            names.answers["hooks.example"] = [[address]]
            said = (
                rf"hooks\.example was not sent: hooks\.example is {ipaddress.ip_address(address)}, "
                r"which is not a public address; list its network in allow_private if it is meant$"
            )
            with pytest.raises(PermanentError, match=f"^POST {said}"):
                await sink.send(audit("a"))
            with pytest.raises(PermanentError, match=f"^HEAD {said}"):
                await sink.check()


@pytest.mark.parametrize("address", FORBIDDEN)
def test_a_forbidden_address_in_the_url_is_refused_at_once(address: str) -> None:
    """It is a mistake in the file like any other."""
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ValueError, match=r"^url: .* is not a public address"):
        Webhook(url=f"http://{host}/", allow_private=False)


@pytest.mark.parametrize("address", PERMITTED)
def test_public_addresses_are_permitted(address: str) -> None:
    """Up to the very neighbours of what is not."""
    assert Guard().permits(ipaddress.ip_address(address))
    Webhook(url=f"http://{f'[{address}]' if ':' in address else address}/", allow_private=False)


def test_a_list_adds_to_what_is_public() -> None:
    """Exactly its networks, of either family; one that wraps IPv4 has to be named as what it is."""
    guard = Guard(["10.20.0.0/16", "64:ff9b::/96"])
    addresses = ["10.20.0.1", "64:ff9b::808:808", "8.8.8.8", "10.21.0.1", "::ffff:10.20.0.1", "64:ff9b:1::1"]
    permitted = [guard.permits(ipaddress.ip_address(address)) for address in addresses]
    assert permitted == [True, True, True, False, False, False]


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1", "017700000001"])
async def test_other_spellings_of_the_loopback_address(collector: Collector, host: str) -> None:
    """The system's resolver takes them for addresses, and so they are looked at as such."""
    async with Webhook(url=_named(collector, host), allow_private=False) as sink:
        with pytest.raises(PermanentError, match="not a public address"):
            await sink.send(audit("a"))
    assert collector.connections == 0


async def test_without_the_setting_any_address_will_do(names: Names, collector: Collector) -> None:
    """It is an option: many receivers are at home."""
    names.answers["hooks.example"] = [["127.0.0.1"]]
    async with Webhook(url=_named(collector)) as sink:
        await sink.send(audit("a"))
    assert len(collector.received) == 1


async def test_a_network_that_is_listed_is_permitted(names: Names, collector: Collector) -> None:
    """The request names its receiver as ever; others at home stay forbidden."""
    names.answers |= {"hooks.example": [["127.0.0.1"]], "other.example": [["127.0.0.2"]]}
    async with Webhook(url=f"{_named(collector)}/hook?a=b", allow_private=HERE) as sink:
        await sink.check()
        await sink.send(audit("a"))
    assert [(request.method, request.path) for request in collector.received] == [("HEAD", "/"), ("POST", "/hook?a=b")]
    assert {request.headers["host"] for request in collector.received} == {_named(collector).removeprefix("http://")}
    async with Webhook(url=_named(collector, "other.example"), allow_private=HERE) as sink:
        with pytest.raises(PermanentError, match=r"other\.example is 127\.0\.0\.2"):
            await sink.send(audit("a"))


async def test_the_address_that_was_checked_is_the_one_connected_to(names: Names, collector: Collector) -> None:
    """One look-up for each request: a second one, which could say something else, does not happen."""
    names.answers["hooks.example"] = [["127.0.0.1"], ["127.0.0.2"]]
    async with Webhook(url=_named(collector), allow_private=[*HERE, "127.0.0.2/32"]) as sink:
        await sink.send(audit("a"))
        assert names.asked == ["hooks.example"]
    assert len(collector.received) == 1


async def test_a_name_that_changes_its_mind_is_refused_from_then_on(names: Names, collector: Collector) -> None:
    """DNS rebinding: good at first, then an address at home, where a connection is still open."""
    names.answers["hooks.example"] = [["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"]]
    async with Webhook(url=_named(collector), allow_private=HERE) as sink:
        await sink.send(audit("a"))
        with pytest.raises(PermanentError, match=r"is 10\.0\.0\.1"):
            await sink.send(audit("b"))
        await sink.send(audit("c"))
    assert len(collector.received) == 2
    assert collector.connections == 1


async def test_of_several_addresses_only_permitted_ones_are_used(names: Names, collector: Collector) -> None:
    """A forbidden one among them is passed over."""
    names.answers["hooks.example"] = [["10.0.0.1", "127.0.0.1", "::1"]]
    async with Webhook(url=_named(collector), allow_private=HERE) as sink:
        for _ in range(3):
            await sink.send(audit("a"))
    assert len(collector.received) == 3


async def test_the_next_attempt_tries_the_next_address(names: Names, collector: Collector) -> None:
    """One address that is down does not make the receiver unreachable."""
    names.answers["hooks.example"] = [["127.0.0.2", "127.0.0.1"]]
    async with Webhook(url=_named(collector), allow_private=[*HERE, "127.0.0.2/32"]) as sink:
        with pytest.raises(TransientError, match=rf"POST {_named(collector)[7:]} failed: Connection refused"):
            await sink.send(audit("a"))
        await sink.send(audit("a"))
        await sink.send(audit("b"))
    assert len(collector.received) == 2


async def test_an_attempt_that_runs_out_of_time_turns_to_the_next_address(names: Names, collector: Collector) -> None:
    """The lane's `timeout` cancels it: an address that swallows everything shows in no other way."""
    names.answers["hooks.example"] = [["127.0.0.2", "127.0.0.1"]]
    reached = anyio.Event()

    async def swallow(stream: SocketStream) -> None:
        async with stream:
            reached.set()
            await anyio.sleep_forever()

    port = int(collector.host.rpartition(":")[2])
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.2", local_port=port) as silent,
        anyio.create_task_group() as tasks,
        Webhook(url=_named(collector), allow_private=[*HERE, "127.0.0.2/32"]) as sink,
    ):
        tasks.start_soon(silent.serve, swallow)
        async with anyio.create_task_group() as attempt:
            attempt.start_soon(sink.send, audit("a"))
            with anyio.fail_after(5):
                await reached.wait()
            attempt.cancel_scope.cancel()
        with anyio.fail_after(5):
            await sink.send(audit("a"))
        tasks.cancel_scope.cancel()
    assert len(collector.received) == 1


async def test_a_name_that_is_not_found_is_transient(names: Names) -> None:
    """It can be for a while."""
    async with Webhook(url="http://nowhere.invalid/", allow_private=False) as sink:
        with pytest.raises(TransientError, match=r"POST nowhere\.invalid failed: \w+"):
            await sink.send(audit("a"))


async def test_errors_name_the_host_and_not_the_address(names: Names, collector: Collector) -> None:
    """As they do without the setting."""
    names.answers["hooks.example"] = [["127.0.0.1"]]
    collector.answer(503)
    collector.answer(404)
    collector.answer(302, {"Location": "/x"})
    collector.answer(410)
    async with Webhook(url=_named(collector), allow_private=HERE) as sink:
        for status in (503, 404, 302, 410):
            with pytest.raises((TransientError, PermanentError), match=rf"^POST hooks\.example:\d+ answered {status}"):
                await sink.send(audit("a"))


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
async def test_a_proxy_is_not_a_way_around(
    names: Names, collector: Collector, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """It would look the name up by itself, so it is not asked; without the setting it is."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    names.answers |= {"hooks.example": [["127.0.0.1"]], "inside.example": [["10.0.0.1"]]}
    with Collector() as proxy:
        monkeypatch.setenv(variable, proxy.url)
        async with Webhook(url=_named(collector)) as unguarded:
            await unguarded.send(audit("a"))
        assert (len(proxy.received), len(collector.received)) == (1, 0)
        async with Webhook(url=_named(collector), allow_private=HERE) as guarded:
            await guarded.send(audit("b"))
        assert (len(proxy.received), len(collector.received)) == (1, 1)
        async with Webhook(url=_named(collector, "inside.example"), allow_private=HERE) as guarded:
            with pytest.raises(PermanentError, match="not a public address"):
                await guarded.send(audit("c"))
        assert proxy.connections == 1


@contextmanager
def _over_tls(authority: trustme.CA, certified: str) -> Iterator[tuple[Collector, list[str | None]]]:
    """A receiver with a certificate for that name, and the names that its visitors asked for (SNI)."""
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    authority.issue_cert(certified).configure_cert(context)
    collector = Collector()
    collector._server.socket = context.wrap_socket(collector._server.socket, server_side=True)
    with collector:
        yield collector, asked


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """The only certificate authority that the process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


async def test_tls_goes_by_the_name(names: Names, authority: trustme.CA) -> None:
    """Server name and certificate are those of the URL, though the connection is to an address."""
    names.answers["hooks.example"] = [["127.0.0.1"]]
    with _over_tls(authority, "hooks.example") as (collector, asked):
        async with Webhook(url=_named(collector, scheme="https"), allow_private=HERE) as sink:
            await sink.send(audit("a"))
    assert len(collector.received) == 1
    assert asked == ["hooks.example"]


@pytest.mark.parametrize("certified", ["other.example", "127.0.0.1"])
async def test_a_certificate_for_another_name_is_refused(names: Names, authority: trustme.CA, certified: str) -> None:
    """One for the address is one for another name."""
    names.answers["hooks.example"] = [["127.0.0.1"]]
    with _over_tls(authority, certified) as (collector, _):
        async with Webhook(url=_named(collector, scheme="https"), allow_private=HERE) as sink:
            with pytest.raises(TransientError, match=r"POST hooks\.example:\d+ failed: .*certificate"):
                await sink.send(audit("a"))
    assert collector.received == []


async def test_in_a_runtime_what_is_refused_is_a_dead_letter(names: Names, collector: Collector) -> None:
    """Rejected, not tried again."""
    names.answers["hooks.example"] = [["127.0.0.1"]]
    async with SideEffects({"partner": Webhook(url=_named(collector), allow_private=False)}) as fx:
        await fx.emit(audit("a"))
        await fx.flush(10)
        stats = fx.stats().sinks["partner"]
    assert (stats.delivered, stats.rejected, stats.retried) == (0, 1, 0)
    assert collector.connections == 0


@pytest.mark.parametrize("networks", [["10.0.0.0/33"], ["10.0.0.1/8"], ["home"], ["10.0.0.0/8", ""]])
def test_what_is_no_network_is_refused(networks: list[str]) -> None:
    """At construction, with the setting's name."""
    with pytest.raises(ValueError, match=r"^allow_private: .*; write it as 10\.20\.0\.0/16$"):
        Webhook(url="https://hooks.example/", allow_private=networks)
