"""Alarms: what people should hear of a run, read off what its phases recorded.

Invariants:
- Pure functions of the state, so that an alarm is raised once, with the record of the phase that shows it, whoever
  advances the run and however often that one dies.
- What was not recorded raises nothing: no number is taken for zero.
- An alarm pauses when what it says makes going on a waste. Of something that must last, it pauses at every full
  `*_steps` of it: a run that a person resumes goes on for as long again.
- A shut lead gate raises nothing while a run goes on: that memory has no more to teach is what it is there to say. A
  teacher whose context does harm is another matter (`health`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pmd.gateway.disk import GIB
from pmd.gateway.loop.health import RULES, crossings, full, signs, streak
from pmd.gateway.loop.plan import step_plan
from pmd.gateway.loop.requests import evaluated_versions, leads
from pmd.gateway.loop.state import PhaseName, RunState, last_step, version_at
from pmd.gateway.recipes.inputs import Inputs
from pmd.services.common.requests import GenerateResult, RetrieveResult, TrainResult, VerifyResult
from pmd.services.common.wire import Outcome


@dataclass(frozen=True)
class Alarm:
    """One thing that people should hear of."""

    kind: str
    """A word for filters and metrics; a later alarm of the same kind takes the place of an earlier one."""
    message: str
    pauses: bool = False


def at_creation(inputs: Inputs) -> list[Alarm]:
    """What is wrong with what a run starts with."""
    found = []
    if inputs.bad_records:
        found.append(Alarm("left_out", f"{inputs.bad_records} bad records left out; first: {inputs.bad_examples[0]}"))
    if inputs.too_long:
        said = f"{inputs.too_long} train problems are too long for max_prompt_tokens and are never trained on"
        found.append(Alarm("too_long", f"{said}; first: {inputs.long_examples[0]}"))
    found += [Alarm(f"model_{number}", said) for number, said in enumerate(inputs.warnings, 1)]
    return found


def alarms(state: RunState, step: int, name: PhaseName, *, free_bytes: int | None = None) -> list[Alarm]:
    """What the record of one phase, the newest of `state`, gives reason to say.

    Args:
        free_bytes: of the disk that holds the run; None when that is no disk of this machine.
    """
    found: list[Alarm] = []
    if name is step_plan(state.recipe, step)[0]:
        found += _disk(state, free_bytes)
    if name in {PhaseName.VERIFY, PhaseName.EVALUATE_VERIFY, PhaseName.PROBE_VERIFY}:
        found += _infra_errors(state, step, name)
    if name is PhaseName.VERIFY:
        found += _no_pass(state, step)
    if name in {PhaseName.RETRIEVE, PhaseName.EVALUATE_RETRIEVE}:
        found += _degraded(state, step, name)
    if name is PhaseName.TRAIN:
        found += [*_idle(state, step), *_skipped(state, step), *_mismatch(state, step), *_unhealthy(state, step)]
    return found


def at_the_end(state: RunState) -> list[Alarm]:
    """What a run that has done all its steps must not leave unsaid."""
    recipe, steps = state.recipe, last_step(state.recipe)
    if not steps:
        return []
    found = []
    if recipe.trains and all(_unmoved(_train(state, step)) for step in range(1, steps + 1)):
        found.append(Alarm("nothing_learnt", f"none of {steps} steps moved the weights: they are the base model's"))
    if all(_passed(state, step) == 0 for step in range(1, steps + 1)):
        found.append(Alarm("no_pass", f"no training rollout of {steps} steps ever passed"))
    if recipe.trains or recipe.levels:
        found += _no_rise(state, steps)
    return found


def _disk(state: RunState, free_bytes: int | None) -> Iterator[Alarm]:
    limit = state.recipe.alarms.free_gib
    if limit is not None and free_bytes is not None and free_bytes < limit * GIB:
        free = f"{free_bytes / GIB:.2f} GiB free where the run is kept (alarms.free_gib: {limit:g})"
        yield Alarm("disk", f"{free}; make room, or set schedule.keep_weights in the next recipe")


def _infra_errors(state: RunState, step: int, name: PhaseName) -> Iterator[Alarm]:
    outcomes = state.result(step, name, VerifyResult).outcomes
    failures, drawn = outcomes.get(Outcome.INFRA_ERROR, 0), sum(outcomes.values())
    if failures:
        limit = state.recipe.alarms.infra_error_share
        pauses = limit is not None and failures / drawn > limit
        hint = "; see `pmd status` and the verifier's log" if pauses else ""
        kind = "infra_error" if name is PhaseName.VERIFY else f"infra_error_{name.removesuffix('_verify')}"
        what = {PhaseName.VERIFY: "", PhaseName.PROBE_VERIFY: "probe ", PhaseName.EVALUATE_VERIFY: "evaluation "}[name]
        yield Alarm(kind, f"{failures} of {drawn} {what}rollouts could not be judged (infra_error){hint}", pauses)


def _no_pass(state: RunState, step: int) -> Iterator[Alarm]:
    patience = state.recipe.alarms.no_pass_steps
    if patience is None or step % patience:
        return
    if all(_passed(state, earlier) == 0 for earlier in range(1, step + 1)):
        hint = "is the task within the model's reach, and does its verifier read what the model writes?"
        yield Alarm("no_pass", f"no training rollout of {step} steps has passed; {hint}", pauses=True)


def _degraded(state: RunState, step: int, name: PhaseName) -> Iterator[Alarm]:
    if state.result(step, name, RetrieveResult).degraded:
        yield Alarm("index", "the configured index was out of reach; the embedded one answered in its place")


def _idle(state: RunState, step: int) -> Iterator[Alarm]:
    if not _is_idle(_train(state, step)):
        return
    if _all_passed(state, step):
        yield Alarm("idle", "every rollout passed: the step had nothing to learn from")
        return

    def idle(earlier: int) -> bool:
        return _is_idle(_train(state, earlier)) and not _all_passed(state, earlier)

    metrics = _train(state, step)
    masked = f" ({metrics.get('masked', 0):.0f} of {metrics.get('sequences', 0):.0f} rollouts masked)"
    lasted = streak(step, idle)
    yield Alarm(
        "idle",
        f"{_steps(lasted)} had nothing to learn from{masked}{_why_idle(state, step)}",
        full(lasted, state.recipe.alarms.idle_steps),
    )


def _why_idle(state: RunState, step: int) -> str:
    """Where no teacher knew more than its student: why, and what to look at."""
    if (step, PhaseName.RETRIEVE) not in state.records:
        return ""
    if state.result(step, PhaseName.RETRIEVE, RetrieveResult).with_context:
        return ""
    if step == 1 and state.inputs.start is None:
        return ": memory begins empty, and contexts show what earlier steps wrote"
    return ": no rollout had a teacher context; `pmd memory explain` says what was left out of one, and why"


def _skipped(state: RunState, step: int) -> Iterator[Alarm]:
    skipped = _train(state, step).get("skipped", 0.0)
    if not skipped:
        return
    lasted = streak(step, lambda earlier: _train(state, earlier).get("skipped", 0.0) > 0)
    yield Alarm(
        "skipped",
        f"{_steps(lasted)} skipped updates whose gradient was not finite ({skipped:.0f} of the last step's)",
        full(lasted, state.recipe.alarms.skipped_steps),
    )


FP32_GAP, BF16_GAP = 1e-4, 0.01
"""Nats a token that are no reason for an alarm, by precision; docs/serving.md says what was measured."""


def _mismatch(state: RunState, step: int) -> Iterator[Alarm]:
    """Law 13: the batch was drawn with weights that are not the trainer's, by all replicas or by some."""
    gap = _train(state, step).get("mismatch_kl")
    limit: float | Literal["auto"] | None = state.recipe.alarms.mismatch_kl
    if limit is None or gap is None:
        return
    drawn = state.result(step, PhaseName.ROLLOUT, GenerateResult)
    if limit == "auto":
        both_fp32 = state.recipe.hardware.precision == "fp32" and drawn.dtype in {"float32", ""}
        limit = FP32_GAP if both_fp32 else BF16_GAP
    by_problem = state.result(step, PhaseName.TRAIN, TrainResult).mismatch
    wrong = {}
    for replica, problems in drawn.replicas.items():
        gaps = [by_problem[problem] for problem in problems if problem in by_problem]
        if gaps and (mean := sum(gaps) / len(gaps)) > limit:
            wrong[replica] = mean
    if gap <= limit and not wrong:
        return
    worst = max([gap, *wrong.values()])
    named = ", ".join(f"{replica} ({mean:.2g})" for replica, mean in wrong.items()) or "the rollout service"
    said = f"sampler and trainer disagree by {worst:.2g} nats a token (alarms.mismatch_kl: {limit:g})"
    version = version_at(state.recipe, step)
    yield Alarm(
        "mismatch",
        f"{said}: the weights that {named} served as version {version} may not be the trainer's; restart that replica, "
        "and then resume",
        pauses=True,
    )


def _unhealthy(state: RunState, step: int) -> Iterator[Alarm]:
    """Learning that collapses. What was good of it is kept: the best version that was evaluated is never removed."""
    settings = state.recipe.alarms
    if settings.lasting_steps is None or all(getattr(settings, rule.key) is None for rule in RULES):
        return  # no rule is on, and signs are read off all that was recorded
    history = health(state, step)
    for crossing in crossings(history, step, settings):
        if crossing.rule.key == "entropy_floor" and _all_passed(state, step):
            continue  # there is nothing left to try
        yield Alarm(crossing.rule.key, f"{crossing.told}{_best(state, step)}", pauses=True)


def health(state: RunState, last: int) -> dict[int, dict[str, float]]:
    """Signs of the health of each step from 1 to `last`."""
    gate = leads(state.records, last) if state.recipe.lead_gate else None
    by_step: dict[int, dict[PhaseName, Mapping[str, Any]]] = {}
    for (at, name), record in state.records.items():
        by_step.setdefault(at, {})[name] = record.result
    found = {}
    for step in range(1, last + 1):
        results = by_step.get(step, {})
        probed = gate is not None and PhaseName.PROBE_VERIFY in results
        found[step] = signs(results, gate[step] if gate and probed else None)
    return found


def _best(state: RunState, step: int) -> str:
    """The version to go back to, in a sentence; empty where none was evaluated."""
    scores = evaluated_versions(state, step)
    if not scores:
        return ""
    best = max(scores, key=lambda version: (scores[version], version))
    export = f"`pmd export {state.run} --step {best} --to FOLDER`"
    return f". The best version that was evaluated is {best} ({scores[best]:.1%}): {export}"


def _no_rise(state: RunState, steps: int) -> Iterator[Alarm]:
    first, last = _scores(state, 0), _scores(state, steps)
    compared = [(split, first[split], last[split]) for split in last if split in first]
    if compared and all(after <= before for _, before, after in compared):
        told = ", ".join(f"{split} {before:.1%} to {after:.1%}" for split, before, after in compared)
        yield Alarm("no_rise", f"accuracy did not rise: {told}")


def _train(state: RunState, step: int) -> dict[str, float]:
    """Metrics of a training step; none where it has not been recorded."""
    if (step, PhaseName.TRAIN) not in state.records:
        return {}
    return state.result(step, PhaseName.TRAIN, TrainResult).metrics


def _is_idle(metrics: dict[str, float]) -> bool:
    """Whether there was a will to learn, and nothing to learn from."""
    if metrics.get("lr") == 0 or metrics.get("skipped"):
        return False
    return metrics.get("tokens") == 0 or metrics.get("grad_norm") == 0


def _unmoved(metrics: dict[str, float]) -> bool:
    """Whether no optimizer step can have been applied."""
    return metrics.get("tokens") == 0 or metrics.get("lr") == 0 or metrics.get("grad_norm") == 0


def _outcomes(state: RunState, step: int) -> dict[Any, int] | None:
    if (step, PhaseName.VERIFY) not in state.records:
        return None
    return state.result(step, PhaseName.VERIFY, VerifyResult).outcomes


def _passed(state: RunState, step: int) -> int | None:
    outcomes = _outcomes(state, step)
    return None if outcomes is None else outcomes.get(Outcome.PASSED, 0)


def _all_passed(state: RunState, step: int) -> bool:
    outcomes = _outcomes(state, step) or {}
    judged = sum(outcomes.values()) - outcomes.get(Outcome.INFRA_ERROR, 0)
    return bool(judged) and outcomes.get(Outcome.PASSED, 0) == judged


def _scores(state: RunState, step: int) -> dict[str, float]:
    if (step, PhaseName.EVALUATE_VERIFY) not in state.records:
        return {}
    splits = state.result(step, PhaseName.EVALUATE_VERIFY, VerifyResult).splits
    return {split: score.pass_rate for split, score in splits.items()}


def _steps(count: int) -> str:
    return "the step" if count == 1 else f"{count} steps in a row"
