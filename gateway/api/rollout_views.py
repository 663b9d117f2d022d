"""What the gateway answers about rollouts and problems."""

from __future__ import annotations

from typing import Any, Literal

from pmd.services.common.strict import Strict
from pmd.services.common.wire import Message, Outcome, Split

Drawn = Literal["train", "probe", "evaluation"]
"""What rollouts were drawn for. train: by the student, to learn from. probe: with the teacher's context, to see its
lead. evaluation: to score a version."""


class RolloutRow(Strict):
    """One rollout in a list, with how its group fared."""

    id: str
    """`<prompt>#<sample>`, unique among the rollouts of one step and purpose."""
    problem_id: str
    split: Split
    sample: int
    outcome: Outcome | None
    """None: not judged yet."""
    reward: float | None
    tokens: int
    finish_reason: str
    policy_version: int
    excerpt: str
    """Head of the text."""
    group_passed: int
    """Rollouts of the same problem that passed."""
    group_judged: int
    """Rollouts of the same problem, those with `infra_error` left out."""
    group_variance: float
    """Of the rewards of the same problem's rollouts, as a population; 0: all alike, nothing to learn from."""


class RolloutPage(Strict):
    """Rollouts of one step in the order that was asked for."""

    step: int
    drawn: Drawn
    steps: list[int]
    """Steps that have rollouts of this kind."""
    total: int
    """Rollouts that match."""
    offset: int
    rollouts: list[RolloutRow]


class TokenView(Strict):
    """One token of a completion."""

    id: int
    text: str
    """Empty while it is part of a character that a later token completes."""
    logprob: float
    """Of the policy that drew it, in nats, at the temperature of the sampler."""
    teacher_logprob: float | None
    """Of the teacher behind its context, likewise; what is above `logprob` is what the student was taught. None: no
    teacher taught it, or not yet."""


class ContextShown(Strict):
    """What a prompt held beyond the problem, exactly."""

    messages: list[Message]
    has_context: bool
    """False: the messages are the student's own, and the rollout is masked from distillation."""
    items: list[dict[str, Any]]
    """Memories that are shown: id, version, level, text, score, credibility, reason, sources."""
    left_out: list[dict[str, Any]]
    """Memories that were found and are not shown: id, version, level, reason, cause."""
    demonstration: str | None
    """Rollout whose text is shown as a solution."""
    feedback: bool
    """Whether the rollout's own feedback is shown."""
    seq: int
    """Of the bank when it was read."""


class RolloutDetail(Strict):
    """All that is recorded of one rollout."""

    row: RolloutRow
    step: int
    drawn: Drawn
    problem: list[Message]
    """What the problem asks."""
    text: str
    feedback: str
    error: str
    """Cause of an `infra_error`."""
    sandbox_tier: str
    cpu_ms: float | None
    tokens: list[TokenView] | None
    """None where the tokenizer of the run's model can't be read here."""
    context: ContextShown | None
    """The teacher's context for it; of a probe, or of a `memory_agent`, what it was drawn from. None: there is none."""


class ProblemStep(Strict):
    """How one problem fared in one step."""

    step: int
    drawn: Drawn
    policy_version: int
    passed: int
    judged: int
    reward: float | None
    """Mean over the judged rollouts."""


class ProblemHistory(Strict):
    """A problem of a run, and all attempts at it by step."""

    id: str
    split: Split
    domain: str
    messages: list[Message]
    history: list[ProblemStep]
    """Oldest first."""
