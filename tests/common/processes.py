"""Services as processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

TOKEN = "the-token-until-now"


class Process:
    """A service as a process, with a folder of secrets of its own: a cluster changes them one by one."""

    def __init__(self, folder: Path, module: str, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{module}.{self.port}.log"
        self.secrets = folder / f"{module}.{self.port}.secrets"
        self.secrets.mkdir(parents=True)
        self.holds(TOKEN)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PMD_")}
        environment |= {"PMD_SECRETS_DIR": str(self.secrets), "PMD_STATE_DIR": str(folder / module), **settings}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "--port", str(self.port)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def holds(self, *tokens: str) -> None:
        """Replace its file of tokens, as a whole."""
        part = self.secrets / "part"
        part.write_text("\n".join(tokens))
        part.replace(self.secrets / "PMD_TOKEN")

    def get(self, path: str) -> httpx.Response:
        """What it answers whoever has its token."""
        return httpx.get(f"{self.url}{path}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)

    def answers(self, path: str = "/healthz", wait_s: float = 120.0) -> None:
        """Wait until it answers `path` with success."""
        until = time.monotonic() + wait_s
        while True:
            try:
                if httpx.get(f"{self.url}{path}", timeout=10).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, f"it ended:\n{self.log.read_text()}"
            assert time.monotonic() < until, f"it never answers {path}:\n{self.log.read_text()}"
            time.sleep(0.1)

    def ready(self) -> None:
        """Wait until it can do its work."""
        self.answers("/readyz")
