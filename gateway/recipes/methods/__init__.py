"""Methods: one file each, and the recipe's words for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pmd.gateway.recipes.methods import base, grpo, memory_agent, pmd, sdpo, ssd
from pmd.gateway.recipes.methods.method import Method

MethodName = Literal["base", "grpo", "sdpo", "memory_agent", "pmd", "ssd"]

METHODS: Mapping[MethodName, Method] = {
    "base": base.METHOD,
    "grpo": grpo.METHOD,
    "sdpo": sdpo.METHOD,
    "memory_agent": memory_agent.METHOD,
    "pmd": pmd.METHOD,
    "ssd": ssd.METHOD,
}

__all__ = ["METHODS", "Method", "MethodName"]
