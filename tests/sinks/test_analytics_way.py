"""The way to the receiver: proxies, private authorities, client certificates, and what happens without."""

from __future__ import annotations

import base64
import logging
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme

from sidefx import PermanentError, SideEffects, SinkStartError, TransientError, track
from sidefx_sinks.analytics import Analytics
from tests.sinks.collector import Collector

pytestmark = pytest.mark.anyio

CREDENTIALS = "ann:pr0xy-s3cret"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """One that no system knows."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """Its certificate, as a setting names it."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@contextmanager
def _receiver(authority: trustme.CA, *, asks_for_certificate: bool = False) -> Iterator[Collector]:
    """A collector behind TLS, at a URL of https."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if asks_for_certificate:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    collector = Collector()
    collector._server.socket = context.wrap_socket(collector._server.socket, server_side=True)
    collector.url = f"https://{collector.host}"
    with collector:
        yield collector


class Proxy(socketserver.ThreadingTCPServer):
    """A real one: it tunnels by CONNECT, for whoever knows the password, and notes where to."""

    request_queue_size = 64
    daemon_threads = False

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.asked: list[str] = []
        self.port = self.server_address[1]
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy  # pyright: ignore[reportIncompatibleVariableOverride] - it is the one that made this
    wanted: ClassVar = b"basic " + base64.b64encode(CREDENTIALS.encode()).lower()

    def handle(self) -> None:
        line = self.rfile.readline().decode().strip()
        head = b""
        while (field := self.rfile.readline()) not in {b"\r\n", b""}:
            head += field.lower()
        method, target, _ = line.split()
        self.server.asked.append(f"{method} {target}")
        if self.wanted not in head:
            self.wfile.write(b"HTTP/1.1 407 forged\r\nContent-Length: 0\r\n\r\n")
            return
        host, _, port = target.partition(":")
        try:
            onward = socket.create_connection((host, int(port)), timeout=10)
        except OSError:
            self.wfile.write(b"HTTP/1.1 502 nobody there\r\nContent-Length: 0\r\n\r\n")
            return
        with onward:
            self.wfile.write(b"HTTP/1.1 200 go on\r\n\r\n")
            self._relay(onward)

    def _relay(self, onward: socket.socket) -> None:
        ends = {self.connection: onward, onward: self.connection}
        while True:
            pending = isinstance(self.connection, ssl.SSLSocket) and self.connection.pending()
            readable = [self.connection] if pending else select.select(list(ends), [], [], 10)[0]
            if not readable:
                return
            for end in readable:
                try:
                    data = end.recv(65_536)
                    ends[end].sendall(data)
                except OSError:
                    return
                if not data:
                    return


@contextmanager
def _proxy(context: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    with Proxy(context) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


async def _deliver(url: str, **settings: Any) -> None:
    async with Analytics(url=url, **settings) as sink:
        await sink.send_batch([track("Seen", user_id=1)])


async def test_an_unknown_authority_is_not_trusted(authority: trustme.CA) -> None:
    """Nothing is sent to whoever shows its certificate; the message says which check failed."""
    with _receiver(authority) as receiver:
        with pytest.raises(TransientError, match=rf"POST {receiver.host} failed: .*(?i:certificate)"):
            await _deliver(receiver.url)
        assert receiver.received == []


async def test_ca_file_names_whom_to_trust(authority: trustme.CA, ca_file: Path) -> None:
    """And nobody else: another authority's certificate is refused."""
    with _receiver(authority) as receiver, _receiver(trustme.CA()) as stranger:
        await _deliver(receiver.url, ca_file=ca_file)
        assert len(receiver.received) == 1
        with pytest.raises(TransientError, match=r"(?i)certificate"):
            await _deliver(stranger.url, ca_file=ca_file)
        assert stranger.received == []


async def test_verify_false_is_loud(authority: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    """It trusts whoever answers, and says so each time that the sink is opened."""
    with _receiver(authority) as receiver:
        for _ in range(2):
            await _deliver(receiver.url, verify=False)
        assert len(receiver.received) == 2
    warnings = [record for record in caplog.records if record.name == "sidefx.sinks"]
    assert [record.levelno for record in warnings] == [logging.WARNING] * 2
    assert "certificates are not verified" in warnings[0].message


@pytest.mark.parametrize("files", ["one", "two", "encrypted"])
async def test_a_client_certificate_is_shown(authority: trustme.CA, ca_file: Path, tmp_path: Path, files: str) -> None:
    """With its key in the same file, in one of its own, or encrypted."""
    certificate = authority.issue_cert("shop.example")
    settings: dict[str, Any] = {"ca_file": ca_file, "client_cert": tmp_path / "client.pem"}
    if files == "one":
        certificate.private_key_and_cert_chain_pem.write_to_path(str(settings["client_cert"]))
    else:
        settings["client_key"] = tmp_path / "client.key"
        certificate.cert_chain_pems[0].write_to_path(str(settings["client_cert"]))
        settings["client_key"].write_bytes(_key(certificate, "k3y" if files == "encrypted" else None))
        settings |= {"client_key_password": "k3y"} if files == "encrypted" else {}
    with _receiver(authority, asks_for_certificate=True) as receiver:
        with pytest.raises(TransientError):
            await _deliver(receiver.url, ca_file=ca_file)
        await _deliver(receiver.url, **settings)
        assert len(receiver.received) == 1


def _key(certificate: trustme.LeafCert, password: str | None) -> bytes:
    from cryptography.hazmat.primitives import serialization as forms

    key = forms.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    cipher = forms.BestAvailableEncryption(password.encode()) if password else forms.NoEncryption()
    return key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, cipher)


async def test_a_file_that_cannot_be_used_is_named_at_the_start(
    authority: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    """Not there, no certificate, or a key that stays shut: nobody is asked for its password at the terminal."""
    certificate = authority.issue_cert("shop.example")
    shut = tmp_path / "shut.pem"
    shut.write_bytes(_key(certificate, "k3y") + certificate.cert_chain_pems[0].bytes())
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    for settings, said in (
        ({"ca_file": tmp_path / "gone.pem"}, r"ca_file: .*gone\.pem cannot be used: No such file"),
        ({"ca_file": nothing}, r"ca_file: .*nothing\.pem cannot be used"),
        ({"client_cert": tmp_path / "gone.pem"}, r"client_cert: .*gone\.pem cannot be used: No such file"),
        ({"client_cert": shut}, r"client_cert: .*shut\.pem cannot be used"),
        ({"client_cert": shut, "client_key_password": "wr0ng"}, r"client_cert: .*shut\.pem cannot be used"),
    ):
        sink = Analytics(url="https://127.0.0.1", **settings)  # type: ignore[arg-type]  # of several types
        with pytest.raises(SinkStartError) as caught:
            async with SideEffects({"clicks": sink}):
                pass
        assert caught.value.__cause__ is not None
        with pytest.raises(ValueError, match=said):
            raise caught.value.__cause__
        assert "wr0ng" not in f"{caught.value!r}{caught.value.__cause__!r}{vars(sink)}"


async def test_a_proxy_tunnels_to_the_receiver(authority: trustme.CA, ca_file: Path) -> None:
    """With its password; the receiver's certificate is verified as if there were no proxy."""
    with _receiver(authority) as receiver, _proxy() as proxy:
        settings = {"proxy": f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}"}
        await _deliver(receiver.url, ca_file=ca_file, **settings)
        assert proxy.asked == [f"CONNECT {receiver.host}"]
        assert len(receiver.received) == 1
        with pytest.raises(TransientError, match=r"(?i)certificate"):
            await _deliver(receiver.url, **settings)
        assert len(receiver.received) == 1


async def test_a_proxy_can_itself_be_behind_tls(authority: trustme.CA, ca_file: Path) -> None:
    """Its certificate is verified too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with _receiver(authority) as receiver, _proxy(context) as proxy:
        settings = {"proxy": f"https://{CREDENTIALS}@127.0.0.1:{proxy.port}"}
        await _deliver(receiver.url, ca_file=ca_file, **settings)
        assert proxy.asked == [f"CONNECT {receiver.host}"]
        with pytest.raises(TransientError, match=r"(?i)certificate"):
            await _deliver(receiver.url, verify=False, **settings)  # of the receiver, not of the proxy
    assert len(receiver.received) == 1


@pytest.mark.contract("F03")
async def test_a_proxy_that_refuses_is_named_without_its_password(
    authority: trustme.CA, ca_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor with its own words."""
    caplog.set_level(logging.DEBUG)
    with _receiver(authority) as receiver, _proxy() as proxy:
        sink = Analytics(url=receiver.url, ca_file=ca_file, proxy=f"http://ann:wr0ng-s3cret@127.0.0.1:{proxy.port}")
        async with sink:
            with pytest.raises(PermanentError, match=r"the proxy answered 407: check proxy, [a-z ]+$") as caught:
                await sink.send_batch([track("Seen", user_id=1)])
        assert receiver.received == []
    shown = f"{sink!r}{vars(sink)}{sink._way!r}{caught.value!r}{caplog.text}"
    assert "wr0ng-s3cret" not in shown
    assert "forged" not in str(caught.value)


async def test_a_proxy_that_reaches_nobody_is_tried_again() -> None:
    """It may reach them later."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with _proxy() as proxy:
        with pytest.raises(TransientError, match="the proxy answered 502"):
            await _deliver(f"https://127.0.0.1:{port}", proxy=f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}")
        proxy_url = f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}"
    with pytest.raises(TransientError, match="Connection refused"):
        await _deliver(f"https://127.0.0.1:{port}", proxy=proxy_url)


async def test_http_goes_through_the_proxy_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting holds where the environment makes an exception, and the environment where there is no setting."""
    with Collector() as proxy, Collector() as other:
        monkeypatch.setenv("HTTP_PROXY", other.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        await _deliver("http://127.0.0.1:9/in", proxy=proxy.url)
        await _deliver("http://receiver.invalid/in")
        assert [request.path for request in proxy.received] == ["http://127.0.0.1:9/in"]
        assert [request.path for request in other.received] == ["http://receiver.invalid/in"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"proxy": "socks5://ann:s3cret@127.0.0.1"}, "proxy: not an http"),
        ({"proxy": "s3cret"}, "proxy: not an http"),
        ({"client_key": "client.key"}, "client_cert: set the certificate"),
        ({"client_key_password": "s3cret"}, "client_cert: set the certificate"),
        ({"verify": False, "ca_file": "ca.pem"}, "verify: false trusts everybody"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], complaint: str) -> None:
    """By name, and without a secret."""
    with pytest.raises(ValueError, match=complaint) as caught:
        Analytics(url="https://c.example", **settings)
    assert "s3cret" not in str(caught.value)
