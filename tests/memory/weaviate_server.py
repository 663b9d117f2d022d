"""A real Weaviate for tests: the one at WEAVIATE_URL, or the one that `make weaviate` built."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from pmd.gateway.local import weaviate
from pmd.gateway.local.programs import choose_ports
from pmd.services.memory.index.weaviate import WeaviateIndex

KEY = "a-key-of-these-tests"
START_S = 120.0


@dataclass
class Server:
    """A server, and how to reach it."""

    url: str
    grpc: str
    key: str
    made: list[WeaviateIndex] = field(default_factory=list)

    def index(self, embedder_id: str, key: str | None = None) -> WeaviateIndex:
        """A fresh index on this server, closed with it."""
        self.made.append(WeaviateIndex(self.url, self.grpc, self.key if key is None else key, embedder_id))
        return self.made[-1]

    def close(self) -> None:
        for index in self.made:
            index.close()


@dataclass
class OwnServer(Server):
    """A server that the tests started and may kill."""

    data: Path = Path()
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls, folder: Path) -> OwnServer:
        ports = choose_ports(base=21500 + os.getpid() % 800 * 10, names=weaviate.LISTENERS)
        return cls(f"http://127.0.0.1:{ports['http']}", f"127.0.0.1:{ports['grpc']}", KEY, data=folder, ports=ports)

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        environment = {"PATH": os.environ["PATH"], **weaviate.environment(self.data, self.ports, KEY)}
        with (self.data.parent / "weaviate.log").open("ab") as log:
            self.process = subprocess.Popen(weaviate.argv(self.ports), env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            try:
                if httpx.get(f"{self.url}{weaviate.READY}", timeout=2.0).is_success:
                    return
            except httpx.TransportError:
                pass
            tail = (self.data.parent / "weaviate.log").read_text(errors="replace")[-2000:]
            assert self.process.poll() is None, f"Weaviate ended: {tail}"
            assert time.monotonic() < deadline, f"Weaviate is not ready after {START_S} s: {tail}"
            time.sleep(0.2)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        super().close()
        if self.process is not None and self.process.poll() is None:
            self.kill()


def own_server(folder: Path) -> OwnServer:
    """A server of our own, not started yet; skips where there is none."""
    if not weaviate.BINARY.exists():
        pytest.skip("no Weaviate server: `make weaviate` builds one (needs Go, about 5 minutes, once)")
    return OwnServer.create(folder / "data")


def any_server(folder: Path) -> Server:
    """The caller's server, else a started one of our own; skips where there is neither."""
    if url := os.environ.get("WEAVIATE_URL"):
        return Server(url, os.environ["WEAVIATE_GRPC"], os.environ.get("WEAVIATE_API_KEY", ""))
    server = own_server(folder)
    server.start()
    return server
