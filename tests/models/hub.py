"""A hub at the wire: as much of its API as downloads speak, with the faults that real ones have."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

NAME = "owner/tiny"
PIECE = 1 << 20


@dataclass
class LocalHub:
    """Serves one model or data set by its commits; listens on a port of its own."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    name: str = NAME
    kind: str = "model"
    """Or `dataset`."""
    gated: bool = False
    cut_after: int | None = None
    """Bytes of a file of weights after which the connection breaks; once."""
    slow: float = 0.0
    """Seconds between two pieces of a file."""
    asked: list[str] = field(default_factory=list)
    """Requests so far: method, path, and the range where one is asked for."""

    def __post_init__(self) -> None:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *_: object) -> None:
                """Says nothing."""

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.asked.append(" ".join([self.command, self.path, self.headers.get("Range", "")]).strip())
                path = unquote(self.path.partition("?")[0])
                files = f"/datasets/{hub.name}/resolve/" if hub.kind == "dataset" else f"/{hub.name}/resolve/"
                if path.startswith(f"/api/{hub.kind}s/{hub.name}/revision/"):
                    self._info(path.rsplit("/", 1)[1])
                elif path.startswith(f"/api/{hub.kind}s/{hub.name}/tree/"):
                    tree = [
                        {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324
                        for name, data in hub.files.items()
                    ]
                    self._answer(200, json.dumps(tree).encode())
                elif path.startswith(files):
                    self._file(path.removeprefix(files).partition("/")[2])
                else:
                    self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

            def _info(self, revision: str) -> None:
                if revision not in {"main", hub.commit}:
                    self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                    return
                siblings = [{"rfilename": name} for name in hub.files]
                self._answer(200, json.dumps({"id": hub.name, "sha": hub.commit, "siblings": siblings}).encode())

            def _file(self, name: str) -> None:
                if hub.gated:
                    self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
                    return
                data = hub.files.get(name)
                if data is None:
                    self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                    return
                head = {"X-Repo-Commit": hub.commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
                begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
                if begin:
                    head["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
                cut = hub.cut_after if self.command == "GET" and name.endswith(".safetensors") else None
                if cut is not None and not begin:
                    hub.cut_after = None
                    self._answer(200, data, head, cut=cut)
                    return
                self._answer(206 if begin else 200, data[begin:], head)

            def _answer(
                self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None
            ) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self._send(body[:cut])
                if cut is not None:
                    self.close_connection = True

            def _send(self, body: bytes) -> None:
                pieces = range(0, len(body), PIECE) if hub.slow else (0,)
                try:
                    for begin in pieces:
                        self.wfile.write(body[begin : begin + PIECE] if hub.slow else body)
                        time.sleep(hub.slow)
                except OSError:  # whoever asked has gone
                    self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @contextmanager
    def chosen(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
        """Until the end of the block this is the hub, with an empty cache below `home`."""
        monkeypatch.setenv("HF_ENDPOINT", self.url)
        monkeypatch.setenv("HF_HOME", str(home))
        for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Be away from now on: connections are refused."""
        self._server.shutdown()
        self._server.server_close()


def files_of(folder: Path) -> dict[str, bytes]:
    """What a hub would hold of a model folder, and what nobody needs besides."""
    held = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return held | {"pytorch_model.bin": b"again", "original/consolidated.safetensors": b"again", "README.md": b"#"}
