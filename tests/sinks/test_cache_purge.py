"""The http store of the sink `cache`: against a server that records, and against real Varnish and nginx."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
import traceback
import urllib.request
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import SecretStr

from sidefx import PartialError, PermanentError, TransientError, invalidate
from sidefx_sinks.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

SHOP = "https://shop.example"


class Seen(NamedTuple):
    """A request as a node received it."""

    method: str
    target: str
    host: str
    xkey: str | None
    authorization: str | None


class Node(ThreadingHTTPServer):
    """A loopback server that writes down each request and answers with the status set for its target, else 200."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.statuses: dict[str, int] = {}
        self.headers: dict[str, str] = {}
        self.release: threading.Event | None = None
        """Where set, answers wait for it."""
        super().__init__(("127.0.0.1", 0), _Recorder)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def targets(self) -> list[str]:
        """The request targets so far, in order."""
        return [seen.target for seen in self.seen]


class _Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Node

    def _answer(self) -> None:
        headers = self.headers
        seen = Seen(self.command, self.path, headers["Host"], headers["xkey"], headers["Authorization"])
        self.server.seen.append(seen)
        if self.server.release is not None:
            self.server.release.wait(30)
        self.send_response(self.server.statuses.get(self.path, 200))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_PURGE = do_GET = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Silent."""


@contextmanager
def running() -> Iterator[Node]:
    """A node that serves in a thread."""
    with Node() as node:
        thread = threading.Thread(target=node.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield node
        finally:
            node.shutdown()
            thread.join()


@pytest.fixture
def node() -> Iterator[Node]:
    """One node."""
    with running() as one:
        yield one


def purging(*nodes: str, **settings: Any) -> Cache:
    """A sink that purges these nodes."""
    return Cache(store="http", nodes=nodes, **settings)


def free_port() -> int:
    """A port of the loopback at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- the requests


async def test_a_url_becomes_a_purge_of_its_path_with_its_host(node: Node) -> None:
    """Path and query go as they are, the host in its header, the fragment nowhere; a path alone has the node's host."""
    urls = [f"{SHOP}/products/1?size=m#reviews", "http://Shop.example:8080", f"{SHOP}:443/a%20b", "/bare?x=%2F"]
    async with purging(node.url) as sink:
        await sink.send_batch([invalidate(urls=urls)])
    own = node.url.removeprefix("http://")
    assert node.seen == [
        Seen("PURGE", "/products/1?size=m", "shop.example", None, None),
        Seen("PURGE", "/", "shop.example:8080", None, None),
        Seen("PURGE", "/a%20b", "shop.example", None, None),
        Seen("PURGE", "/bare?x=%2F", own, None, None),
    ]


async def test_tags_travel_together_in_one_header(node: Node) -> None:
    """The tags of a batch are one request, each once, separated by spaces as xkey has it."""
    async with purging(node.url) as sink:
        await sink.send_batch([invalidate(tags=["orders", "user:1"]), invalidate(tags=["orders", "user:2"])])
    assert [(seen.target, seen.xkey) for seen in node.seen] == [("/", "orders user:1 user:2")]


async def test_a_header_of_tags_is_bounded(node: Node) -> None:
    """More tags than a header line can carry become several requests, and none is left out."""
    tags = [f"product:{number:06}" for number in range(1_000)]
    async with purging(node.url) as sink:
        await sink.send_batch([invalidate(tags=tags)])
    headers = [seen.xkey or "" for seen in node.seen]
    assert [tag for header in headers for tag in header.split(" ")] == tags
    assert 1 < len(headers) < 10
    assert max(map(len, headers)) <= 4_000


async def test_every_node_is_purged(node: Node) -> None:
    """Each node hears of each thing once, however many events name it, and again when the batch is sent again."""
    batch = [invalidate(urls=[f"{SHOP}/a"], tags="t"), invalidate(urls=[f"{SHOP}/a"])]
    with running() as other:
        async with purging(node.url, f"{other.url}/") as sink:
            await sink.send_batch(batch)
            assert sorted(node.targets()) == sorted(other.targets()) == ["/", "/a"]
            await sink.send_batch(batch)
            assert len(node.seen) == len(other.seen) == 4


async def test_a_nodes_path_and_headers_are_used(node: Node) -> None:
    """A node may have a path, as nginx's separate purge location does; configured headers go with every request."""
    async with purging(f"{node.url}/purge", headers={"Authorization": SecretStr("Bearer hunter2")}) as sink:
        await sink.send_batch([invalidate(urls=f"{SHOP}/a")])
    assert node.seen == [Seen("PURGE", "/purge/a", "shop.example", None, "Bearer hunter2")]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("tags", ["a\r\nX-Evil: 1", "in two", "a,b", "tab\t", "größe", "", "x" * 4_001, "\x00"]),
        (
            "urls",
            [
                f"{SHOP}/a\r\nX-Evil: 1",
                f"{SHOP}/in two",
                "https://shop.example\\@evil/",
                "https://user:password@shop.example/",
                "//shop.example/",
                "shop.example/a",
                "ftp://shop.example/a",
                "https://",
                "https://[::1",
                "https://shop.example:port/",
                f"{SHOP}/größe",
            ],
        ),
    ],
)
async def test_what_could_break_out_of_a_request_is_refused(node: Node, kind: str, values: list[str]) -> None:
    """No line break, blank or odd host reaches a node; each is a permanent error that does not quote it."""
    async with purging(node.url) as sink:
        for value in values:
            with pytest.raises(PermanentError) as caught:
                await sink.send_batch([invalidate(**{kind: [value]})])
            assert not value or value not in "".join(traceback.format_exception(caught.value))
    assert node.seen == []


async def test_one_bad_tag_fails_its_event_alone(node: Node) -> None:
    """The other tags of the batch are purged."""
    bad = invalidate(tags=["fine", "not fine"])
    async with purging(node.url) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([bad, invalidate(tags="good")])
    assert list(caught.value.failures) == [bad.id]
    assert [seen.xkey for seen in node.seen] == ["fine good"]


async def test_nginx_takes_no_tags_and_no_star(node: Node) -> None:
    """A star at a URL's end, which nginx reads as "all that begins so", is not sent; tags are what it lacks."""
    async with purging(node.url, dialect="nginx") as sink:
        for url in (f"{SHOP}/*", "/a?b*", f"{SHOP}/%2a"):
            with pytest.raises(PermanentError, match=r"ends in \*"):
                await sink.send_batch([invalidate(urls=url)])
        with pytest.raises(PermanentError, match="a http store clears urls; the event names only tags"):
            await sink.send_batch([invalidate(tags="t")])
    assert node.seen == []


# ---- the answers


@pytest.mark.parametrize(("dialect", "status"), [("varnish", 404), ("varnish", 204), ("nginx", 404), ("nginx", 412)])
async def test_what_is_not_cached_counts_as_cleared(node: Node, dialect: Any, status: int) -> None:
    """404 is what a cache answers that has nothing there, and 412 what ngx_cache_purge does."""
    node.statuses["/a"] = status
    async with purging(node.url, dialect=dialect) as sink:
        await sink.send_batch([invalidate(urls=f"{SHOP}/a")])
    assert node.targets() == ["/a"]


@pytest.mark.parametrize("status", [400, 403, 405, 412, 501])
async def test_a_refusal_is_permanent_and_the_rest_goes_on(node: Node, status: int) -> None:
    """One URL that is refused for good fails its event, and the next is purged."""
    node.statuses["/a"] = status
    bad = invalidate(urls=f"{SHOP}/a")
    async with purging(node.url) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch([bad, invalidate(urls=f"{SHOP}/b")])
    assert list(caught.value.failures) == [bad.id]
    assert isinstance(caught.value.failures[bad.id], PermanentError)
    assert str(status) in str(caught.value.failures[bad.id])
    assert node.targets() == ["/a", "/b"]


async def test_a_node_that_asks_for_a_pause_gets_one(node: Node) -> None:
    """After a 503 that node is left alone, its `Retry-After` is handed on, and what it had taken is not sent again."""
    node.statuses["/b"] = 503
    node.headers["Retry-After"] = "7"
    events = [invalidate(urls=f"{SHOP}/{name}") for name in "abc"]
    async with purging(node.url) as sink:
        with pytest.raises(PartialError) as caught:
            await sink.send_batch(events)
    assert list(caught.value.failures) == [events[1].id, events[2].id]
    assert [error.retry_after for error in caught.value.failures.values()] == [7.0, 7.0]  # type: ignore[attr-defined]
    assert node.targets() == ["/a", "/b"]


async def test_a_node_that_is_down_does_not_keep_the_others_waiting(node: Node) -> None:
    """The living node is purged, and the batch is to be tried again, with the dead one named."""
    dead = free_port()
    async with purging(f"http://127.0.0.1:{dead}", node.url) as sink:
        with pytest.raises(TransientError, match=f"127.0.0.1:{dead}"):
            await sink.send_batch([invalidate(urls=f"{SHOP}/a"), invalidate(tags="t")])
    assert sorted(node.targets()) == ["/", "/a"]


async def test_a_node_that_hangs_does_not_keep_the_others_waiting(node: Node) -> None:
    """While one node holds its answer back the other has had everything; cancelling ends the wait."""
    node.release = threading.Event()
    with running() as other, anyio.fail_after(20):
        try:
            async with purging(node.url, other.url) as sink, anyio.create_task_group() as group:
                group.start_soon(sink.send_batch, [invalidate(urls=[f"{SHOP}/a", f"{SHOP}/b"])])
                while not (other.targets() == ["/a", "/b"] and node.targets() == ["/a"]):
                    await checkpoint()
                group.cancel_scope.cancel()
        finally:
            node.release.set()
    assert node.targets() == ["/a"]


@pytest.mark.contract("F03")
async def test_check_says_what_is_wrong(node: Node) -> None:
    """Silent where the node takes PURGE; one line where it forbids it or is away, never with a secret."""
    headers = {"Authorization": SecretStr("Bearer hunter2")}
    async with purging(node.url, headers=headers) as sink:
        await sink.check()
        node.statuses["/.sidefx-check"] = 403
        with pytest.raises(PermanentError, match="403") as caught:
            await sink.check()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value)) + repr(sink)
        assert "\n" not in str(caught.value)
    async with purging(f"http://127.0.0.1:{free_port()}", headers=headers) as sink:
        with pytest.raises(TransientError, match=r"127\.0\.0\.1"):
            await sink.check()


async def test_a_sink_that_was_not_opened_says_so(node: Node) -> None:
    """A mistake of the caller is no error of a node."""
    with pytest.raises(RuntimeError, match="async with"):
        await purging(node.url).check()


# ---- the real things


class Proxy(NamedTuple):
    """A real cache before a `Node` that counts what it has to serve."""

    url: str
    origin: Node

    def get(self, path: str, host: str = "shop.example") -> None:
        """Fetch through the cache."""
        request = urllib.request.Request(self.url + path, headers={"Host": host})  # noqa: S310 - the loopback
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            assert answer.status == 200


@contextmanager
def process(command: list[str], port: int) -> Iterator[None]:
    """The program, once it listens; stopped afterwards."""
    with ExitStack() as stack:
        program = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        stack.callback(program.terminate)
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if program.poll() is not None or time.monotonic() > until:
                    program.kill()
                    pytest.fail(f"{command[0]} did not start: {program.communicate()[0]}")
                time.sleep(0.02)  # between two looks at whether it listens
        yield


VCL = """
vcl 4.1;
import xkey;
backend default {{ .host = "127.0.0.1"; .port = "{port}"; }}
sub vcl_recv {{
    if (req.method == "PURGE") {{
        if (req.http.xkey) {{
            set req.http.n-gone = xkey.purge(req.http.xkey);
            return (synth(200, "Invalidated " + req.http.n-gone + " objects"));
        }}
        return (purge);
    }}
}}
"""


@pytest.fixture
def varnish_proxy(tmp_path: Path, node: Node) -> Iterator[Proxy]:
    """Varnish with vmod_xkey before the node; skips where it is not installed."""
    if not shutil.which("varnishd") or not list(Path("/usr/lib").glob("*/varnish/vmods/libvmod_xkey.so")):
        pytest.skip("varnishd with vmod_xkey is not installed (Debian: varnish, varnish-modules)")
    port = free_port()
    (tmp_path / "test.vcl").write_text(VCL.format(port=node.server_port))
    node.headers |= {"Cache-Control": "max-age=600", "xkey": "orders user:1"}
    vcl, work = str(tmp_path / "test.vcl"), str(tmp_path / "varnish")
    with process(
        ["varnishd", "-j", "none", "-F", "-f", vcl, "-a", f"127.0.0.1:{port}", "-n", work, "-s", "malloc,10m"], port
    ):
        yield Proxy(f"http://127.0.0.1:{port}", node)


NGINX = """
load_module {module};
daemon off; pid {path}/pid; error_log {path}/error.log; worker_processes 1; user root;
events {{}}
http {{
    access_log off;
    client_body_temp_path {path}/body; fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
    proxy_temp_path {path}/temp;
    proxy_cache_path {path}/cache keys_zone=main:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{origin};
            proxy_cache main;
            proxy_cache_key "$host$uri$is_args$args";
        }}
        location ~ ^/purge(/.*) {{
            allow 127.0.0.1;
            deny all;
            proxy_cache_purge main "$host$1$is_args$args";
        }}
    }}
}}
"""


@pytest.fixture
def nginx_proxy(tmp_path: Path, node: Node) -> Iterator[Proxy]:
    """An nginx with ngx_cache_purge before the node; skips where it is not installed."""
    module = Path("/usr/lib/nginx/modules/ngx_http_cache_purge_module.so")
    if not shutil.which("nginx") or not module.exists():
        pytest.skip("nginx with ngx_cache_purge is not installed (Debian: nginx, libnginx-mod-http-cache-purge)")
    port = free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(module=module, path=tmp_path, port=port, origin=node.server_port))
    node.headers["Cache-Control"] = "max-age=600"
    with process(["nginx", "-c", str(config), "-e", str(tmp_path / "error.log")], port):
        yield Proxy(f"http://127.0.0.1:{port}", node)


async def test_varnish_forgets_urls_and_tags(varnish_proxy: Proxy) -> None:
    """What was purged by URL or by xkey is fetched from the origin again; another host's page stays."""
    proxy, origin = varnish_proxy, varnish_proxy.origin
    async with purging(proxy.url) as sink:
        await sink.check()
        for _ in range(2):
            proxy.get("/a?b=c")
            proxy.get("/a?b=c", host="other.example")
        assert len(origin.seen) == 2
        await sink.send_batch([invalidate(urls=f"{SHOP}/a?b=c")])
        proxy.get("/a?b=c", host="other.example")
        assert len(origin.seen) == 2
        proxy.get("/a?b=c")
        assert len(origin.seen) == 3
        await sink.send_batch([invalidate(tags=["user:1", "unknown"])])
        proxy.get("/a?b=c", host="other.example")
        proxy.get("/a?b=c")
        assert len(origin.seen) == 5


async def test_varnish_takes_the_longest_header_that_is_sent(varnish_proxy: Proxy) -> None:
    """The bound of the tag header lies below Varnish's own."""
    async with purging(varnish_proxy.url) as sink:
        await sink.send_batch([invalidate(tags=["x" * 4_000])])


async def test_nginx_forgets_urls(nginx_proxy: Proxy) -> None:
    """What was purged is fetched from the origin again, and what was not cached is no error."""
    proxy, origin = nginx_proxy, nginx_proxy.origin
    async with purging(f"{proxy.url}/purge", dialect="nginx") as sink:
        await sink.check()
        for _ in range(2):
            proxy.get("/a?b=c")
            proxy.get("/kept")
        assert len(origin.seen) == 2
        await sink.send_batch([invalidate(urls=[f"{SHOP}/a?b=c", f"{SHOP}/never-cached"])])
        proxy.get("/kept")
        assert len(origin.seen) == 2
        proxy.get("/a?b=c")
        assert len(origin.seen) == 3
