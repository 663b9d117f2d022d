"""Judging again: past completions under specs of today, and what changes by it, for scorers that were repaired.

Invariant: nothing that was recorded is touched; the new verdicts are an artifact of their own, where asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from pmd.services.common.artifacts import read_problems, read_table, write_table
from pmd.services.common.columns import PROBLEMS, VERDICTS
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Ref, Slug, Verdict
from pmd.services.verifier.verification import Submission

MAX_CHANGES = 1000
"""Changed verdicts that an answer lists; all of them are counted."""

Verify = Callable[[list[Submission]], list[Verdict]]


class JudgedItem(Strict):
    """A completion, the verdict that it once got, and the spec to judge it by now."""

    verifier: dict[str, Any]
    completion: str
    verdict: Verdict


class ReverifyRequest(Strict):
    """What to judge again: `items`, or a run's artifacts (`rollouts`, `verdicts`, `problems`)."""

    items: list[JudgedItem] = Field(default=[], max_length=4096)
    rollouts: Ref | None = None
    verdicts: Ref | None = None
    """The old verdicts of these rollouts."""
    problems: Ref | None = None
    """Specs to judge by."""
    specs: dict[Slug, dict[str, Any]] = {}
    """Specs by problem id that take the place of those in `problems`."""
    out: str | None = None
    """URI of an artifact to write the new verdicts to (schema `VERDICTS`); with artifacts only."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        refs = [self.rollouts, self.verdicts, self.problems]
        if bool(self.items) == any(refs) or (any(refs) and not all(refs)):
            raise ValueError("give items, or all of rollouts, verdicts and problems")
        if self.items and (self.specs or self.out):
            raise ValueError("specs and out go with rollouts; items carry their specs, and their verdicts are answered")
        return self


class Change(Strict):
    """A completion whose outcome, reward or feedback is another one now."""

    index: int
    """Of the item, or of the rollout in its artifact."""
    rollout_id: str = ""
    problem_id: str = ""
    old: Verdict
    new: Verdict


class ReverifyResult(Strict):
    judged: int
    changed: int
    """Other outcome, reward or feedback. CPU time and tier do not count."""
    transitions: dict[str, int]
    """How often each pair of outcomes occurred, as `failed -> passed`; equal pairs too."""
    mean_reward_old: float
    mean_reward_new: float
    """Over the completions that both times got a judgement, which `infra_error` is not."""
    changes: list[Change]
    """The first changes, up to 1000."""
    verdicts: Ref | None = None
    """All new verdicts, where `out` asked for them."""


def reverify(request: ReverifyRequest, verify: Verify) -> ReverifyResult:
    """Judge again and compare.

    Raises:
        ArtifactError: an artifact is missing or not what its reference says.
        SpecError: a spec is not valid.
        ValueError: rollouts, verdicts, problems and specs do not belong together.
    """
    rows: list[dict[str, Any]] = []
    if request.rollouts and request.verdicts and request.problems:
        rows, submissions, old = _read(request.rollouts, request.verdicts, request.problems, request.specs)
    else:
        submissions = [Submission(item.verifier, item.completion) for item in request.items]
        old = [item.verdict for item in request.items]
    new = verify(submissions)
    result = _compare(old, new, [(row["rollout_id"], row["problem_id"]) for row in rows])
    if request.out is None:
        return result
    facts = ("rollout_id", "problem_id", "split")
    judged = ({name: row[name] for name in facts} | v.model_dump(mode="json") for row, v in zip(rows, new, strict=True))
    return result.model_copy(update={"verdicts": write_table(request.out, judged, VERDICTS)})


def _read(
    rollouts: Ref, verdicts: Ref, problems: Ref, specs: dict[str, dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[Submission], list[Verdict]]:
    rows = _table("rollouts", rollouts, ("rollout_id", "problem_id", "split", "text"))
    judged = {row["rollout_id"]: row for row in _table("verdicts", verdicts, ("rollout_id", "outcome", "reward"))}
    _table("problems", problems, tuple(PROBLEMS.names))
    known = read_problems(problems)
    if strange := sorted(specs.keys() - known.keys()):
        raise ValueError(f"specs of problems that the problems artifact does not hold: {', '.join(strange[:5])}")
    if strange := sorted({row["problem_id"] for row in rows} - known.keys()):
        raise ValueError(f"rollouts of problems that the problems artifact does not hold: {', '.join(strange[:5])}")
    if strange := sorted({row["rollout_id"] for row in rows} - judged.keys()):
        raise ValueError(f"rollouts without an old verdict: {', '.join(strange[:5])}")
    submissions = [Submission(specs.get(r["problem_id"], known[r["problem_id"]].verifier), r["text"]) for r in rows]
    fields = Verdict.model_fields
    old = [
        Verdict(**{k: v for k, v in judged[row["rollout_id"]].items() if k in fields and v is not None}) for row in rows
    ]
    return rows, submissions, old


def _table(field: str, ref: Ref, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = read_table(ref)
    for number, row in enumerate(rows):
        for name in columns:
            if name not in row:
                raise ValueError(f"{field}: the artifact has no column {name!r}; is it another artifact?")
            if name != "reward" and not isinstance(row[name], str):
                raise ValueError(f"{field}: {name!r} of row {number} is no text; is it another artifact?")
    return rows


def _compare(old: Sequence[Verdict], new: Sequence[Verdict], ids: Sequence[tuple[str, str]]) -> ReverifyResult:
    changes = []
    for index, (before, after) in enumerate(zip(old, new, strict=True)):
        # Stored rewards are 32-bit floats.
        same_reward = abs(before.reward - after.reward) < 1e-6
        if before.outcome is after.outcome and same_reward and before.feedback == after.feedback:
            continue
        rollout, problem = ids[index] if ids else ("", "")
        changes.append(Change(index=index, rollout_id=rollout, problem_id=problem, old=before, new=after))
    pairs = list(zip(old, new, strict=True))
    both = [(a, b) for a, b in pairs if Outcome.INFRA_ERROR not in (a.outcome, b.outcome)]
    return ReverifyResult(
        judged=len(new),
        changed=len(changes),
        transitions=dict(sorted(Counter(f"{a.outcome} -> {b.outcome}" for a, b in pairs).items())),
        mean_reward_old=sum(a.reward for a, _ in both) / max(1, len(both)),
        mean_reward_new=sum(b.reward for _, b in both) / max(1, len(both)),
        changes=changes[:MAX_CHANGES],
    )
