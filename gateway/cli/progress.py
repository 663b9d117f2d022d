"""What a person wants to know of a run while it goes on, reduced from its events and its recorded steps.

Invariant: `Progress` is a pure function of what it was given; giving it something again changes nothing and is no
news.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pmd.gateway.report.units import completions, duration, percent, training

LEVELS = ("experience", "insight", "behavior")
PAUSED = "paused; `pmd runs resume` goes on"


@dataclass
class Progress:
    """One run as it stands."""

    steps: int
    """Steps that the recipe asks for."""
    status: str = "queued"
    done: int = 0
    """Steps that are complete."""
    phase: str = ""
    """Service call in progress."""
    pass_rate: float | None = None
    lead: float | None = None
    """Pass rate with the teacher's context minus without: whether memory still knows better than the weights."""
    leads: dict[int, float] = field(default_factory=dict)
    """The same by step."""
    memory: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the last complete step, by phase."""
    accuracy: dict[str, dict[int, float]] = field(default_factory=dict)
    """Memory-free accuracy by split and step."""
    train: dict[str, float] = field(default_factory=dict)
    """Metrics of the last training step."""
    health: dict[str, float] = field(default_factory=dict)
    """Signs of the health of learning of the last step that has any."""
    notice: str = ""
    """What went wrong last and was not made good yet."""
    warnings: dict[str, str] = field(default_factory=dict)
    """What should be known of the run: the newest of each kind."""
    _recorded: set[int] = field(default_factory=set)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in one event of the run's log."""
        payload = event["payload"]
        match event["type"]:
            case "run.status" | "run.ended":
                self.status = payload["status"]
                self.notice = payload.get("error") or (PAUSED if self.status == "paused" else "")
                self.phase = ""
            case "run.alarm":
                at = "" if payload["step"] is None else f"step {payload['step']}: "
                self.warnings[payload["kind"]] = at + payload["message"]
            case "problems.left_out" | "problems.too_long":
                what = "bad records left out" if event["type"].endswith("out") else "train problems too long to train"
                first = f"; first: {payload['examples'][0]}" if payload["examples"] else ""
                self.warnings[event["type"]] = f"{payload['count']} {what}{first}"
            case "run.waiting":
                self.notice = payload["reason"]
            case "phase.submitted":
                self.phase = payload["name"]
            case "phase.succeeded" | "run.waited":
                self.notice = ""
            case "phase.failed":
                self.notice = f"{payload['name']} failed and is tried again: {payload['error']}"

    def record(self, steps: Iterable[Mapping[str, Any]]) -> list[str]:
        """Take in recorded steps; returns a line for each step, and each evaluation, that is new."""
        news = []
        for step in steps:
            number = step["step"]
            known = number in self._recorded
            self._recorded.add(number)
            if (lead := _lead(step)) is not None:
                self.leads[number] = lead
            scored = [split for split in step["evaluation"] if number not in self.accuracy.get(split, {})]
            for split in scored:
                self.accuracy.setdefault(split, {})[number] = step["evaluation"][split]["pass_rate"]
            if not known and number >= self.done:
                self._advance(step)
            if not known or scored:
                news.append(self._line(step, scored, only_scores=known))
        return news

    def _advance(self, step: Mapping[str, Any]) -> None:
        self.done = step["step"]
        if step["pass_rate"] is not None:
            self.pass_rate = step["pass_rate"]
            self.lead = _lead(step)
        if step["memory"]:
            self.memory = {level: step["memory"][level] for level in LEVELS}
        self.seconds = dict(step["seconds"])
        self.train = dict(step["train"]) or self.train
        self.health = dict(step["health"]) or self.health

    def _line(self, step: Mapping[str, Any], scored: Iterable[str], *, only_scores: bool) -> str:
        """A step in one line, for logs."""
        parts = [f"step {step['step']}/{self.steps}"]
        if not only_scores:
            if step["pass_rate"] is not None:
                parts.append(f"train {percent(step['pass_rate'])}")
            if (lead := _lead(step)) is not None:
                parts.append(f"lead {100 * lead:+.0f}")
            if step["memory"]:
                parts.append("memory " + "/".join(str(step["memory"][level]) for level in LEVELS))
            if step["train"]:
                parts.append(training(step["train"]))
            if told := completions(step["health"]):
                parts.append(told)
            if step["seconds"]:
                parts.append(duration(sum(step["seconds"].values())))
        parts += [f"{split} {percent(self.accuracy[split][step['step']])}" for split in scored]
        return "  ".join(parts)


def _lead(step: Mapping[str, Any]) -> float | None:
    """How much better the policy was in this step with its teacher context than without.

    The gate's own reading is a mean that begins at a full lead: in a run's first steps it says nothing.
    """
    if step["probe_pass_rate"] is None or step["pass_rate"] is None:
        return None
    return float(step["probe_pass_rate"] - step["pass_rate"])
