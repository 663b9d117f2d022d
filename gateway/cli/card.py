"""The model card of an export: a README.md with the front-matter that model hubs read.

Invariants:
- It says what was recorded, and no path of the machine that exported it.
- Licence and language are the base's own, copied from its card; where it has none, the card says so and claims none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.report.units import percent

CARD = "README.md"
FROM_BASE = ("license", "license_name", "license_link", "language")
"""Front-matter that a model trained from another inherits."""
HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Form:
    """How an export holds what was trained."""

    kind: Literal["model", "adapter", "merged"]
    rank: int = 0
    """Of the adapter that was trained."""
    alpha: float = 0.0

    def __str__(self) -> str:
        lora = f"LoRA of rank {self.rank}, alpha {self.alpha:g}"
        return {
            "model": "the whole model",
            "adapter": f"an adapter of the base ({lora}), without it",
            "merged": f"the whole model, an adapter ({lora}) added to its base",
        }[self.kind]


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML between the first two `---` of a model card; empty when there is none that can be read."""
    try:
        _, head, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        found = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """sha256 of a resolved recipe as canonical JSON: equal recipes have equal hashes."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def model_card(
    recipe: Mapping[str, Any],
    run: str,
    checkpoint: Mapping[str, Any],
    dtype: str,
    base_card: Mapping[str, Any],
    form: Form,
) -> str:
    """The card of a checkpoint.

    Args:
        recipe: the run's, as its report gives it.
        dtype: of the exported weights, in config.json's words.
        base_card: front-matter of the base's card.
    """
    method, step = recipe["method"], checkpoint["step"]
    hub = HUB_ID.fullmatch(str(recipe["model"]))
    base = f"{hub['id']}" if hub else Path(str(recipe["model"]).removeprefix("file://")).name
    head: dict[str, Any] = {key: base_card[key] for key in FROM_BASE if key in base_card}
    if hub:
        head["base_model"] = hub["id"]
    head |= {
        "library_name": "peft" if form.kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pmd", "procedural-memory-distillation", method],
    }
    facts = {
        "base model": f"`{base}`" + (f", revision `{hub['revision']}`" if hub and hub["revision"] else ""),
        "method": f"`{method}`",
        "run": f"`{run}`, step {step} of {recipe['schedule']['steps']}, seed {recipe['seed']}",
        "policy version": str(checkpoint["weights"]["version"]),
        "weights": f"{dtype}, {form}",
        "data": _data(recipe["problems"]),
        "recipe": f"sha256 `{recipe_hash(recipe)}`",
    }
    scores = [
        f"| {split} | {percent(score['pass_rate'])} | {score['problems']} |"
        for split, score in sorted(checkpoint["evaluation"].items())
    ]
    licence = "" if "license" in head else "The base model's card names no licence; look at where it comes from.\n"
    with_memory = METHODS[method].prompts_with_memory
    said = {
        True: "The run's scores are with memory in the prompt; these weights are the base model's.",
        False: "Nothing is attached to a prompt: what was learnt is in the weights.",
    }[with_memory]
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {recipe['name']}, step {step}",
        "",
        f"Made from `{base}` by a run of PMD (Procedural Memory Distillation), method `{method}`. {said}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {fact} |" for what, fact in facts.items()),
        "",
    ]
    if scores:
        lines += ["| split | mean pass rate | problems |", "|---|---|---|", *scores, ""]
    lines += [licence] if licence else []
    vllm = "BASE --enable-lora --lora-modules NAME=FOLDER" if form.kind == "adapter" else "FOLDER"
    lines += [f"Serve it: `pmd serve FOLDER`, or `vllm serve {vllm}`.", ""]
    return "\n".join(lines)


def _data(problems: Mapping[str, Any]) -> str:
    """The problem sets in a recipe's words; of a path, its last part."""

    def bare(value: Any) -> Any:
        if isinstance(value, str):
            local = value.startswith(("/", "file://"))
            return value.rstrip("/").rpartition("/")[2] if local else value
        if isinstance(value, Mapping):
            return {key: bare(each) for key, each in value.items()}
        return [bare(each) for each in value] if isinstance(value, list | tuple) else value

    source = problems["source"]
    rest = {k: v for k, v in problems.items() if k != "source" and v is not None}
    return f"`{source}`: `{json.dumps(bare(rest), ensure_ascii=False)}`".replace("|", "\\|")
