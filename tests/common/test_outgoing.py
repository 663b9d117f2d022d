"""The environment does not leak in: what a shell sets for the internet decides nothing inside an installation."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from pmd.gateway.local.launcher import probe
from pmd.services.common import outgoing
from pmd.services.common.client import ServiceClient
from pmd.services.common.tokens import Tokens
from tests.hostile import HOSTILE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[str]:
    """Answers `{}` to everything, at the address that is yielded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("hostile")
def test_no_proxy_and_no_certificate_of_the_shell_stands_between_services(server: str) -> None:
    assert ServiceClient(server, Tokens("a-token-of-this-test")).call("GET", "/") == {}
    service = {"pid": 1, "url": server, "ready": "/readyz"}
    assert probe("memory", service).ready
    with outgoing.outside(server) as near:  # an embedder on this machine
        assert near.get("/").json() == {}


def test_an_endpoint_outside_is_reached_as_the_environment_says(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", server)
    with outgoing.outside("http://models.example/v1") as far:
        assert far.get("/models").json() == {}  # what answers is the proxy


def test_every_client_is_made_in_one_place() -> None:
    """A client that is made elsewhere reads the environment: httpx does so by default."""
    made = {"Client", "AsyncClient", "get", "post", "put", "patch", "delete", "head", "options", "request", "stream"}
    found = set()
    for room in ("services", "gateway"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"httpx.{name}" for name in made}:
                    found.add(str(path.relative_to(ROOT)))
                if isinstance(node, ast.ImportFrom | ast.Import):
                    module = getattr(node, "module", "") or ""
                    names = {alias.name for alias in node.names}
                    assert not (module == "httpx" and names & made), path
                    assert not ({module, *names} & {"urllib.request", "requests", "aiohttp"}), path
    assert found == {"services/common/outgoing.py"}


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("http://user:secret@host:8000/v1?key=secret#secret", "http://host:8000/v1"),
        (httpx.URL("https://:secret@host/v1/"), "https://host/v1/"),
        ("http://host:nine/", "(no URL)"),
    ],
)
def test_no_credential_of_a_url_is_printed(url: str, printed: str) -> None:
    assert outgoing.shown(url) == printed
