"""One model over OpenAI's protocol, without a run: `python -m pmd.services.rollout.endpoint FOLDER --name NAME`.

Invariants:
- It answers with the folder's weights and nothing else: no jobs, no memory; the weights are loaded before it listens.
- With a key in the environment (`KEY`) every route of the model wants it; without one anybody may ask.
- What it needs on disk is temporary, and the folder is only read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI

from pmd.services.common.adapters import ADAPTER_OF
from pmd.services.common.app import NotReady, create_service
from pmd.services.common.artifacts import MANIFEST, ArtifactError, seal_weights
from pmd.services.common.serve import run
from pmd.services.common.settings import SettingsError, load_settings
from pmd.services.common.telemetry import configure_logging
from pmd.services.common.wire import Policy
from pmd.services.rollout.routes import routes
from pmd.services.rollout.service import Replica
from pmd.services.rollout.settings import RolloutSettings

KEY = "PMD_TOKEN"
"""Environment variable with the key that clients send as their bearer token."""
MODEL_ROUTES = frozenset({"/v1/models", "/v1/chat/completions"})


def create_endpoint(
    settings: RolloutSettings, folder: Path, name: str, *, is_open: bool, base: Path | None = None
) -> FastAPI:
    """Chat with the model in `folder`, loaded, as an ASGI application; its state lives in `<state_dir>`.

    Args:
        name: what clients call the model.
        is_open: no route wants the token.
        base: the model that `folder` holds an adapter of; None where it holds a model.

    Raises:
        ArtifactError: the folder changed while it was read.
        NotReady: there is no engine.
        OSError: it holds no model that transformers loads.
    """
    replica = Replica(settings)
    replica.start()
    facts = {}
    if base is not None:
        facts[ADAPTER_OF] = seal_weights(_linked(base, settings.service_dir("base")), 0, {}).model_dump()
    policy = Policy(run=name, weights=seal_weights(_linked(folder, settings.service_dir("model")), 0, facts))
    replica.engine().load(policy)
    replica.published.publish(policy)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        queue = asyncio.create_task(replica.batcher.run())
        yield
        queue.cancel()

    public = MODEL_ROUTES if is_open else frozenset()
    app = create_service("endpoint", settings, ready=replica.ready, lifespan=lifespan, public=public)
    app.state.replica = replica
    app.include_router(routes)
    return app


def _linked(folder: Path, place: Path) -> Path:
    """A folder below `place` with links to the files of `folder`, where a manifest can be written."""
    for path in folder.resolve().iterdir():
        if path.is_file() and path.name != MANIFEST:
            (place / path.name).symlink_to(path)
    return place


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="pmd.services.rollout.endpoint", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--base", type=Path, help="the model that FOLDER holds an adapter of")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # or what is temporary stays behind
    is_open = not os.environ.get(KEY)
    if is_open:
        os.environ[KEY] = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="pmd-serve-") as state_dir, contextlib.suppress(KeyboardInterrupt):
        os.environ["PMD_STATE_DIR"] = state_dir
        configure_logging("endpoint", "WARNING")
        try:
            settings = load_settings(RolloutSettings)
            app = create_endpoint(settings, given.folder, given.name, is_open=is_open, base=given.base)
        except (SettingsError, ArtifactError, NotReady, OSError, ValueError) as error:
            sys.exit(f"{given.folder} can't be served: {error}")
        where = f"[{given.host}]" if ":" in given.host else given.host
        print(f"{given.name} is served at http://{where}:{given.port}/v1; Ctrl-C ends", flush=True)
        run(app, given.host, given.port)


if __name__ == "__main__":
    main()
