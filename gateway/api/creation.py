"""Making runs: what a recipe is checked against, what is written for it, and the id that it gets.

Invariants: the same request under the same key is the same run; what services are asked on the way changes nothing.
For routes that run in a thread.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from anyio import from_thread
from fastapi import HTTPException, Response

from pmd.gateway.api.deps import Parts
from pmd.gateway.api.forward import Forwarder
from pmd.gateway.recipes import specs
from pmd.gateway.recipes.inputs import Parent
from pmd.gateway.recipes.models import resolve
from pmd.gateway.recipes.problems import Base, Refused, check_allowed, find_base, find_data, materialise, parse_recipe
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.recipes.start import Banks, WrongStart
from pmd.gateway.registry.deletion import is_deleted
from pmd.gateway.registry.registry import IdempotencyConflict, Registry, UnknownRun


def refusing(services: Forwarder) -> Refused:
    """What the verifier says of specs."""

    def ask(body: Mapping[str, Any]) -> tuple[int, Any]:
        try:
            answer = from_thread.run(services.send, "verifier", "/v1/specs:validate", body, specs.CHECK_S)
            return answer.status_code, json.loads(bytes(answer.body))
        except HTTPException as away:
            return away.status_code, None
        except ValueError:
            return 502, None

    return lambda problems: specs.refused(problems, ask)


def banks_of(parts: Parts) -> Banks:
    """What the installation knows of banks."""

    def export(run: str, moment: str | None) -> tuple[bytes, str | None]:
        try:
            model = json.loads(parts.registry.run(run)["inputs"]).get("model")
        except UnknownRun:
            raise WrongStart(f"no run {run!r}; GET /v1/runs lists them") from None
        answer = from_thread.run(parts.services.get, "memory", f"/v1/banks/{run}/export", {"seq": moment})
        if answer.status_code >= 400:
            raise WrongStart(f"the bank of run {run!r}: {_told(answer)}")
        return bytes(answer.body), model

    def objection(content: bytes) -> str:
        path = "/v1/banks/start-from:import?dry_run=true"
        answer = from_thread.run(parts.services.send_file, "memory", path, content)
        return _told(answer) if answer.status_code >= 400 else ""

    return Banks(export, objection)


def _told(refusal: Response) -> str:
    """What a service says of what it refuses."""
    try:
        said = json.loads(bytes(refusal.body))
        return "; ".join([f"{each['field']}: {each['message']}" for each in said.get("errors", [])] or [said["title"]])
    except (ValueError, LookupError, TypeError):
        return f"HTTP {refusal.status_code}"


def _new_id(registry: Registry, recipe: Recipe, key: str | None) -> str:
    """The id of a new run: of a key always the same, until that run is deleted."""
    mark = key or uuid.uuid4().hex
    while True:
        mark = hashlib.sha256(mark.encode()).hexdigest()
        run = f"{recipe.name[:80]}-{mark[:8]}"
        if not is_deleted(registry, run):
            return run


def create(parts: Parts, tree: dict[str, Any], key: str | None) -> tuple[str, bool | None]:
    """The run of a recipe, and whether this call created it; None when it was known before.

    Raises:
        IdempotencyConflict: `key` names a run of another recipe.
        InvalidRecipe: it can't be carried out.
    """
    recipe = parse_recipe(tree)
    if (known := known_by(parts.registry, key, recipe)) is not None:
        return known, None
    check_allowed(recipe, parts.settings.allowed())
    base = find_base(recipe, lambda model: resolve.require(model, parts.downloads.require))
    return begin(parts, recipe, base, key)


def known_by(registry: Registry, key: str | None, recipe: Recipe) -> str | None:
    """The run that `key` has made of `recipe` before.

    Raises:
        IdempotencyConflict: it has made one of another.
    """
    known = registry.find_key(key) if key else None
    if known and known[1] != recipe:
        raise IdempotencyConflict(f"Idempotency-Key names run {known[0]!r} with another recipe; use a new key")
    return known[0] if known else None


def begin(parts: Parts, recipe: Recipe, base: Base, key: str | None, parent: Parent | None = None) -> tuple[str, bool]:
    """A new run of `recipe` on `base`, and whether this call created it."""
    frozen = find_data(recipe, parts.downloads.require)
    run = _new_id(parts.registry, recipe, key)
    uri, refused = parts.settings.runs_uri(), refusing(parts.services)
    inputs = materialise(frozen, run, uri, refused, base, banks_of(parts)).model_copy(update={"parent": parent})
    return run, parts.registry.create(run, recipe, inputs, key=key)
