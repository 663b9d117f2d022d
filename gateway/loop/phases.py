"""Phases as people think of them: what shares a service and a purpose is one entry."""

from __future__ import annotations

from collections.abc import Mapping

PHASE_GROUPS: dict[str, tuple[str, ...]] = {
    "rollout": ("rollout", "publish"),
    "verify": ("verify",),
    "memory": ("import", "record", "reflect", "abstract", "retrieve"),
    "probe": ("probe", "probe_verify"),
    "train": ("train",),
    "evaluate": ("evaluate", "evaluate_retrieve", "evaluate_verify"),
}

_GROUP_OF = {phase: group for group, phases in PHASE_GROUPS.items() for phase in phases}


def group_seconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by group, in the order of a step; what ran no measurable time is left out."""
    spent = dict.fromkeys(PHASE_GROUPS, 0.0)
    for phase, value in seconds.items():
        group = _GROUP_OF.get(phase, phase)
        spent[group] = spent.get(group, 0.0) + value
    return {group: value for group, value in spent.items() if value > 0}
