"""Sizes of models that recipes of ours name, for estimates where no hub can be reached (their published configs)."""

from __future__ import annotations

from pmd.gateway.recipes.models.names import hub_name
from pmd.gateway.recipes.models.shape import Shape

KNOWN = {
    "Qwen/Qwen3-8B": Shape("qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960, tied=False),
    "allenai/Olmo-3-7B-Instruct": Shape("olmo3", 32, 4096, 32, 32, 128, 11008, 100278, 65536, tied=False),
}


def known_shape(model: str) -> Shape | None:
    """The sizes of a model by its name in the hub, whatever its revision; None of one that isn't known."""
    name = hub_name(model)
    return KNOWN.get(name.id) if name else None
