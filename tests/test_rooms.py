"""Rooms: a service imports what is common and itself, and nothing heavy is imported where a laptop starts without."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVICES = ("rollout", "verifier", "memory", "trainer")
HEAVY = ("torch", "transformers", "vllm", "deepspeed", "peft", "weaviate", "safetensors")
LIGHT_ROOMS = {"services/common": (*HEAVY, "tokenizers"), "gateway": HEAVY}
"""The gateway counts the tokens of prompts when a run is created: `tokenizers` is a few megabytes and needs none of
the others."""


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere, with the line."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*package[: len(package) - node.level + 1], node.module or "")) if node.level else ""
            module = base.strip(".") if node.level else str(node.module)
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def top_level(room: str) -> list[str]:
    """Imports by a name that is not installed; `services` and `gateway` are `pmd.services` and `pmd.gateway`."""
    names = ("services", "gateway", "examples", "recipes")
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in modules(room)
        for module, line in imports(path)
        if module.partition(".")[0] in names
    ]


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def offences(room: str, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in modules(room)
        for module, line in imports(path)
        if any(within(module, name) or within(module, f"pmd.{name}") for name in forbidden)
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other_room(service: str) -> None:
    others = tuple(f"services.{name}" for name in SERVICES if name != service)
    assert offences(f"services/{service}", (*others, "gateway", "examples", "celery")) == []


def test_what_is_common_imports_no_room() -> None:
    rooms = (*(f"services.{name}" for name in SERVICES), "gateway", "examples", "celery")
    assert offences("services/common", rooms) == []


def test_the_gateway_imports_no_service() -> None:
    assert offences("gateway", tuple(f"services.{name}" for name in SERVICES)) == []


WALLS = {
    "gateway/loop": ("registry", "controller", "api", "report", "local", "cli"),
    "gateway/recipes": ("loop", "registry", "controller", "api", "report", "local", "cli"),
    "gateway/registry": ("controller", "api", "report", "local", "cli"),
    "gateway/controller": ("api", "report", "local", "cli", "recipes"),
    "gateway/api": ("local", "cli"),
    "gateway/report": ("registry", "controller", "api", "local", "cli"),
    "gateway/local": ("loop", "registry", "api", "report", "recipes", "cli"),
    "gateway/cli": ("registry", "controller", "api"),
    "services/memory/ledger": ("evidence", "leak", "write", "retrieve", "index", "curate", "api"),
    "services/memory/evidence": ("leak", "write", "retrieve", "index", "curate", "api"),
    "services/memory/leak": ("evidence", "write", "retrieve", "index", "curate", "api"),
    "services/memory/index": ("leak", "write", "retrieve", "curate", "api"),
    "services/memory/write": ("retrieve", "curate", "api"),
    "services/memory/retrieve": ("write", "curate", "api"),
    "services/memory/curate": ("leak", "write", "retrieve", "api"),
    "services/memory/api": ("leak", "write", "retrieve"),
}
"""For each room, the rooms of the same house that it may not look into: data flows one way."""


@pytest.mark.parametrize("room", WALLS)
def test_a_room_looks_one_way(room: str) -> None:
    house = room.rpartition("/")[0].replace("/", ".")
    assert offences(room, tuple(f"{house}.{name}" for name in WALLS[room])) == []


@pytest.mark.parametrize("room", ["services", "gateway", "examples", "tests", "bench"])
def test_every_import_is_by_an_installed_name(room: str) -> None:
    assert top_level(room) == []


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_light_rooms_import_nothing_heavy(room: str) -> None:
    assert offences(room, LIGHT_ROOMS[room]) == []


def test_law_11_no_model_has_a_rule_of_its_own_for_unknown_keys() -> None:
    """Whatever is received is a `Strict`; only the environment, which holds others' variables too, is not."""
    loose = set()
    for path in (*modules("services"), *modules("gateway")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base) for base in node.bases}
                names = {ast.unparse(part.targets[0]) for part in node.body if isinstance(part, ast.Assign)}
                if "model_config" in names or bases & {"BaseModel", "BaseSettings", "TypedDict"}:
                    loose.add(f"{path.relative_to(ROOT)}:{node.name}")
    assert loose == {"services/common/strict.py:Strict", "services/common/settings.py:ServiceSettings"}


def test_celery_is_the_controllers_alone() -> None:
    users = {o.split(":")[0] for o in offences("gateway", ("celery", "kombu"))}
    assert users == {"gateway/controller/tasks.py"}


def test_the_gateway_starts_without_anything_heavy() -> None:
    """Not by reading but by running: what its imports import counts too."""
    code = (
        "import sys, pmd.gateway.api.app, pmd.gateway.controller.tasks; "
        "print([m for m in sys.modules if m in sys.argv[1:]])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *HEAVY], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
