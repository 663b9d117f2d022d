"""Fixtures: a base model of one file, a small recipe, a registry, the services."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pmd.gateway.controller.advance import advance
from pmd.gateway.controller.releases import release
from pmd.gateway.recipes.files import merge
from pmd.gateway.recipes.problems import materialise, parse_recipe
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.registry import Registry
from pmd.gateway.registry.schema import REGISTRY
from pmd.gateway.registry.status import ACTIVE
from pmd.gateway.registry.tables import METADATA
from pmd.services.common.sql import Database
from tests.gateway.fakes import Fakes

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test here asks a hub

TRAIN = 6
PER_STEP = 4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 4}
    ends = {"eos_token_id": 1, "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", **sizes, **ends}))
    words = {"type": "WordLevel", "vocab": {"word": 0, "<end>": 1}, "unk_token": "word"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": words}))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}<end>")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    """Six problems to practise, two of each evaluation split."""
    sizes = {"train": TRAIN, "test": 2, "unseen": 2}
    lines = [
        {
            "id": f"{split}-{number}",
            "messages": [{"role": "user", "content": f"question {split} {number}"}],
            "verifier": {"kind": "exact", "answer": "secret-answer"},
            "split": split,
        }
        for split, size in sizes.items()
        for number in range(size)
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def recipe_tree(model: Path, problem_file: Path) -> Callable[..., dict[str, Any]]:
    """A valid recipe as data, with keys laid on top."""

    def build(**over: Any) -> dict[str, Any]:
        tree = {
            "name": "demo",
            "model": str(model),
            "problems": {"source": "jsonl", "files": [str(problem_file)]},
            "schedule": {"steps": 3, "problems_per_step": PER_STEP, "rollouts_per_problem": 8},
            "memory": {"abstract": {"every": 2, "warmup": 1}},
            "optimizer": {"lr": 0.001},
            "evaluation": {"every": 2, "samples": 2},
            "prompts": {"teacher": "t", "reflect": "r", "abstract": "a"},
            "seed": 7,
        }
        return merge(tree, over)

    return build


@pytest.fixture
def recipe(recipe_tree: Callable[..., dict[str, Any]]) -> Callable[..., Recipe]:
    return lambda **over: parse_recipe(recipe_tree(**over))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """SQLite; with `PMD_TEST_POSTGRES=postgresql+psycopg://..` the same claims are made of Postgres."""
    url = os.environ.get("PMD_TEST_POSTGRES")
    opened = REGISTRY.open(url or f"sqlite:///{tmp_path / 'registry.db'}")
    yield opened
    if url:
        METADATA.drop_all(opened.engine)
        with opened.write() as db:
            db.exec_driver_sql(f"DROP TABLE {REGISTRY.version_table}")
    opened.close()


@pytest.fixture
def registry(database: Database) -> Registry:
    return Registry(database)


@pytest.fixture
def fakes(tmp_path: Path) -> Iterator[Fakes]:
    services = Fakes(tmp_path)
    yield services
    services.close()


@pytest.fixture
def start(registry: Registry, tmp_path: Path) -> Callable[..., str]:
    """Create a run of a recipe; returns its id."""

    def begin(recipe: Recipe, run: str = "demo-1") -> str:
        inputs = materialise(recipe, run, f"file://{tmp_path / 'runs'}")
        registry.create(run, recipe, inputs)
        return run

    return begin


@pytest.fixture
def drive(registry: Registry, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Advance a run until it wants nothing more: Celery without the broker. Returns how often it was called."""
    monkeypatch.setattr("pmd.gateway.controller.advance.RETRY_S", 0.001)
    monkeypatch.setattr("pmd.services.common.client.BACKOFF_S", 0.0)

    def loop(run: str, *, budget_s: float = 20.0, at_most: int = 1000) -> int:
        clients = fakes.clients()
        for call in range(1, at_most + 1):
            waits = advance(registry, clients, run, f"owner-{call}", budget_s) is None
            if registry.run(run)["status"] not in ACTIVE and run not in registry.due():
                release(registry, clients, run)
                return call
            time.sleep(0.002 if waits else 0.0)
        return at_most

    return loop
