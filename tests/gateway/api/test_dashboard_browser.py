"""The dashboard in a real browser: every view at two widths, light and dark, without an error in its console or a
serious fault by axe; and what people decide and type, which no key, conflict or lost connection may lose.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from tests.gateway.fakes import TOKEN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SOURCES = Path(__file__).parents[3] / "dashboard"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
VIEWS = ("runs", "system", "curves", "timeline", "recipe", "log", "rollouts", "rollout", "problem")
"""Those of a memory need a memory service; `scripts/look.mjs` looks at them on a running installation."""


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


def in_browser(script: str, *args: str) -> None:
    """Run a script of `dashboard/scripts`; skips where there is no browser, or no Node to drive it."""
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium to open the page in; apt-get install chromium runs this")
    if shutil.which("node") is None or not (SOURCES / "node_modules").exists():
        pytest.skip("no Node, or what it drives the browser with is not there; `npm --prefix dashboard ci` runs this")
    command = ["node", f"scripts/{script}", *args]
    ran = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, timeout=800, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_view_is_without_fault(app: FastAPI, finished: str, tmp_path: Path) -> None:
    with served(app) as url:
        in_browser("look.mjs", url, TOKEN, str(tmp_path), finished, *VIEWS)
    assert len(list(tmp_path.glob("*.png"))) == 4 * len(VIEWS)


def test_what_people_decide_and_type_is_not_lost(app: FastAPI) -> None:
    with served(app) as url:
        in_browser("act.mjs", url)
