"""A run that learns, as the gateway would report it: for tests and for looking at pages."""

from __future__ import annotations

import math
import random
from typing import Any

from pmd.gateway.views import ReportView, RunStatus, RunView, StepView
from pmd.services.common.requests import MemoryCounts, SplitScore

CREATED = 1_790_000_000.0


def score(rate: float, samples: int = 8, problems: int = 64) -> SplitScore:
    """Scores of one split, with a plausible pass@k."""
    pass_at = {k: 1 - (1 - rate) ** (0.4 + 0.6 * k) for k in (1, 2, 4, 8)}
    return SplitScore(problems=problems, rollouts=problems * samples, pass_rate=rate, pass_at=pass_at | {1: rate})


def report(
    method: str = "pmd", *, steps: int = 60, middle: float = 26.0, top: float = 0.95, seed: int = 0, **run: Any
) -> ReportView:
    """A run whose accuracy follows a logistic curve around step `middle`."""
    rng = random.Random(seed)

    def rate(step: float, ceiling: float) -> float:
        return 0.02 + (ceiling - 0.02) / (1 + math.exp(-(step - middle) / 6))

    def scores(step: int) -> dict[str, SplitScore]:
        return {"test": score(rate(step, top)), "unseen": score(rate(step, top - 0.08))}

    views = [StepView(step=0, version=0, evaluation=scores(0), seconds={"evaluate": 6.2, "evaluate_verify": 4.1})]
    behaviors = 0
    for step in range(1, steps + 1):
        passing = min(0.99, max(0.01, rate(step, top) + rng.gauss(0, 0.03)))
        helped = min(0.99, rate(step + 12, 0.97) + rng.gauss(0, 0.02))
        passed = round(256 * passing)
        timeout, infra = rng.choice([0, 0, 1, 2]), int(step == 17)
        behaviors = min(17, behaviors + (step % 4 == 0) * rng.randrange(3))
        seconds = {"rollout": 2.1, "verify": 1.4, "record": 0.1, "reflect": 1.2, "retrieve": 0.2, "probe": 0.5}
        seconds |= {"probe_verify": 0.3, "train": 2.6, "publish": 0.1} | ({"abstract": 0.6} if step % 4 == 0 else {})
        evaluated = step % 10 == 0 or step == steps
        seconds |= {"evaluate": 2.6, "evaluate_verify": 1.9} if evaluated else {}
        views.append(
            StepView(
                step=step,
                version=step - 1,
                pass_rate=passing,
                probe_pass_rate=helped if method == "pmd" else None,
                lr_scale=min(1.0, max(0.0, 3 * (helped - passing))),
                outcomes={"passed": passed, "failed": 250 - passed - timeout - infra, "format": 6}
                | ({"timeout": timeout} if timeout else {})
                | ({"infra_error": infra} if infra else {}),
                memory=MemoryCounts(
                    seq=step * 9, experience=min(step * 256, 4096), insight=min(step * 31, 412), behavior=behaviors
                )
                if method in {"pmd", "memory_agent"}
                else None,
                health={"length": 40 + step / 9, "repetition": 0.1, "truncated_share": 0.0, "entropy": 1 / step},
                evaluation=scores(step) if evaluated else {},
                seconds={phase: spent * rng.uniform(0.85, 1.2) for phase, spent in seconds.items()},
            )
        )
    about = RunView(
        id=f"pocket-{method}-7f3a",
        name="pocket",
        method=method,
        status=RunStatus.SUCCEEDED,
        step=steps,
        steps=steps,
        version=steps,
        created=CREATED,
        updated=CREATED + 9.4 * steps,
    ).model_copy(update=run)
    return ReportView(run=about, recipe=recipe(method, seed), steps=views, memory_samples=samples(method))


def recipe(method: str, seed: int) -> dict[str, Any]:
    """The recipe of a synthetic run."""
    return {
        "name": "pocket",
        "method": method,
        "problems": {"source": "pocket", "kind": "code", "world": "hard", "world_seed": seed},
        "teacher": {"ema": 0.02, "lead_gate": method == "pmd"},
        "objective": {"divergence_alpha": 0.5},
        "optimizer": {"lr": 5e-4},
        "prompts": {"teacher": "{{ problem }}\nNow solve it.", "reflect": "Reflect.", "abstract": "Find <rules>."},
    }


def samples(method: str) -> dict[str, list[str]]:
    """Memories as the pocket model words them."""
    if method not in {"pmd", "memory_agent"}:
        return {}
    program = (
        "```python\ndef solve(a):\n    a = [(a[i] + 5) % 10 for i in (3, 1, 2, 0)]\n    return [-x for x in a]\n```"
    )
    return {
        "behavior": ["every zor-? begins with flip.", "every ?-mil ends with add 5.", "every tav-? begins with weave."],
        "insight": ["zor-mil is flip then add 5.", "not halve then add 3 for kel-rak.", "vim-jun is twist then add 1."],
        "experience": [f"Plan: flip then add 5.\n{program}", "Plan: <keep> & add 3."],
    }
