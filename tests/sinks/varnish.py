"""Real HTTP caches before a `Node`: Varnish and nginx, each with a configuration of its own on a loopback port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.sinks.nodes import Node, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


class Proxy(NamedTuple):
    """A real cache before a `Node` that counts what it has to serve."""

    url: str
    origin: Node

    def get(self, path: str, host: str = "shop.example") -> str:
        """Fetch through the cache; the body says which of the origin's answers it is."""
        request = urllib.request.Request(self.url + path, headers={"Host": host})  # noqa: S310 - the loopback
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            assert answer.status == 200
            return answer.read().decode()


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


PURGING = """
sub vcl_recv {
    if (req.method == "PURGE" || req.method == "BAN") {
        if (client.ip !~ purgers) { return (synth(403)); }
    }
    if (req.method == "PURGE") {
        if (req.http.xkey) {
            set req.http.n-gone = xkey.purge(req.http.xkey);
            return (synth(200, "Invalidated " + req.http.n-gone));
        }
        if (req.http.xkey-softpurge) {
            set req.http.n-gone = xkey.softpurge(req.http.xkey-softpurge);
            return (synth(200, "Invalidated " + req.http.n-gone));
        }
        if (req.http.Soft-Purge) { return (hash); }
        return (purge);
    }
    if (req.method == "BAN") {
        if (req.http.X-Cache-Tags) {
            ban("obj.http.X-Host ~ " + req.http.X-Host + " && obj.http.X-Url ~ " + req.http.X-Url
                + " && obj.http.X-Cache-Tags ~ " + req.http.X-Cache-Tags);
        } else {
            ban("obj.http.X-Host ~ " + req.http.X-Host + " && obj.http.X-Url ~ " + req.http.X-Url);
        }
        return (synth(200, "Banned"));
    }
}
sub vcl_hit {
    if (req.method == "PURGE") { purge.soft(0s); return (synth(200)); }
}
sub vcl_miss {
    if (req.method == "PURGE") { purge.soft(0s); return (synth(404)); }
}
sub vcl_backend_response {
    set beresp.http.X-Host = bereq.http.Host;
    set beresp.http.X-Url = bereq.url;
}
sub vcl_deliver {
    unset resp.http.X-Host;
    unset resp.http.X-Url;
}
"""
"""What the sink's page tells people to put into their VCL; a test holds the two together."""

_VCL = """
vcl 4.1;
import purge;
import xkey;
acl purgers {{ "127.0.0.1"/32; }}
backend default {{ .host = "127.0.0.1"; .port = "{port}"; }}
"""


@contextmanager
def varnish(node: Node, path: Path) -> Iterator[Proxy]:
    """Varnish with vmod_xkey before the node, its files below `path`; skips where it is not installed."""
    if not shutil.which("varnishd") or not list(Path("/usr/lib").glob("*/varnish/vmods/libvmod_xkey.so")):
        pytest.skip("varnishd with vmod_xkey is not installed (Debian: varnish, varnish-modules)")
    port = free_port()
    vcl, work = path / "test.vcl", path / "varnish"
    vcl.write_text(_VCL.format(port=node.server_port) + PURGING)
    node.headers.setdefault("Cache-Control", "max-age=600")
    command = ["varnishd", "-j", "none", "-F", "-f", str(vcl), "-a", f"127.0.0.1:{port}", "-n", str(work)]
    with process([*command, "-s", "malloc,10m"], port):
        yield Proxy(f"http://127.0.0.1:{port}", node)


_NGINX = """
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


@contextmanager
def nginx(node: Node, path: Path) -> Iterator[Proxy]:
    """An nginx with ngx_cache_purge before the node; skips where it is not installed."""
    module = Path("/usr/lib/nginx/modules/ngx_http_cache_purge_module.so")
    if not shutil.which("nginx") or not module.exists():
        pytest.skip("nginx with ngx_cache_purge is not installed (Debian: nginx-light, libnginx-mod-http-cache-purge)")
    port = free_port()
    config = path / "nginx.conf"
    config.write_text(_NGINX.format(module=module, path=path, port=port, origin=node.server_port))
    node.headers["Cache-Control"] = "max-age=600"
    with process(["nginx", "-c", str(config), "-e", str(path / "error.log")], port):
        yield Proxy(f"http://127.0.0.1:{port}", node)
