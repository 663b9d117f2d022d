"""A server of `POST /v1/embeddings` on loopback, with the answers that a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint:
    """A server of `/v1/embeddings`; `answer` says what it does with each request."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], tuple[int, Any]] = self.right
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append(body | {"path": self.path, "auth": self.headers.get("Authorization")})
                status, answer = endpoint.answer(body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    @staticmethod
    def right(body: dict[str, Any]) -> tuple[int, Any]:
        dim = body.get("dimensions", 8)
        data = [
            {"index": i, "embedding": [len(text) + 1.0, *[0.5] * (dim - 1)]} for i, text in enumerate(body["input"])
        ]
        return 200, {"data": data[::-1]}  # the protocol promises an index, not an order


@contextmanager
def serving() -> Iterator[Endpoint]:
    """A running endpoint."""
    made = Endpoint()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
