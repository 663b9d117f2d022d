"""The request body of each phase, as a pure function of what is recorded.

Invariants:
- The student's prompt is the problem and nothing else; `memory_agent` is the one method that draws from contexts,
  and only a probe does besides (Law 1).
- Nothing depends on the method's name where the method does the same: `pmd` without memory levels sends what `sdpo`
  sends (Law 2).
- Seeds come from the recipe's seed, the step and the phase alone, so methods can be compared in pairs.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel

from pmd.gateway.loop.gate import OPEN, Lead, Tally, follow, masked_problems, pass_rates
from pmd.gateway.loop.order import step_problems
from pmd.gateway.loop.state import PhaseName, Records, RunState, version_after, version_at
from pmd.gateway.recipes.methods import METHODS
from pmd.services.common.artifacts import join
from pmd.services.common.requests import (
    AbstractRequest,
    GenerateRequest,
    GenerateResult,
    Generator,
    ImportRequest,
    PublishRequest,
    RecordRequest,
    ReflectRequest,
    RetrieveRequest,
    RetrieveResult,
    TrainRequest,
    TrainResult,
    VerifyRequest,
    VerifyResult,
)
from pmd.services.common.wire import Policy, Ref

MOST_BASE_PASS_RATE = 0.9
"""Where attempts of the base pass more often than this, notes still have room to show what they are worth."""


def phase_seed(seed: int, step: int, name: PhaseName) -> int:
    """The seed of one phase: independent of the method, so that methods can be compared in pairs."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()[:4]) >> 1


def leads(records: Records, last: int) -> list[Lead]:
    """The teacher-lead gate's reading after each step from 0 to `last`, from all steps so far that were probed."""
    readings = [OPEN]
    for step in range(1, last + 1):
        tallies = _tallies(records, step)
        rates = pass_rates(*tallies) if tallies else None
        readings.append(follow(readings[-1], *rates) if rates else readings[-1])
    return readings


def _tallies(records: Records, step: int) -> tuple[Tally, Tally] | None:
    """What the student and the probe of a step passed, by problem; None without a probe."""
    probe = records.get((step, PhaseName.PROBE_VERIFY))
    return (records[step, PhaseName.VERIFY].facts["tally"], probe.facts["tally"]) if probe else None


def request_body(state: RunState, step: int, name: PhaseName, out: str) -> BaseModel:  # noqa: PLR0911 -- one a phase
    """What to send for a phase whose predecessors are recorded; `out` is where its artifact goes."""
    P = PhaseName
    recipe, inputs = state.recipe, state.inputs
    match name:
        case P.ROLLOUT | P.PROBE | P.EVALUATE:
            return _generate(state, step, name, out)
        case P.VERIFY:
            return VerifyRequest(rollouts=_rollouts(state, step, P.ROLLOUT), problems=inputs.problems, out=out)
        case P.PROBE_VERIFY:
            return VerifyRequest(rollouts=_rollouts(state, step, P.PROBE), problems=inputs.problems, out=out)
        case P.EVALUATE_VERIFY:
            return VerifyRequest(rollouts=_rollouts(state, step, P.EVALUATE), problems=inputs.problems, out=out)
        case P.IMPORT:
            if inputs.start is None:
                raise ValueError(f"run {state.run!r} was created without a bank to begin with")
            return ImportRequest(bank=state.run, file=inputs.start.file)
        case P.RECORD:
            return RecordRequest(
                bank=state.run,
                step=step,
                rollouts=_rollouts(state, step, P.ROLLOUT),
                verdicts=_verdicts(state, step),
                problems=inputs.problems,
                keep_attempts=recipe.memory.keep_attempts,
                quality=recipe.memory.quality,
                **_outcomes(state, step),
            )
        case P.REFLECT:
            return ReflectRequest(
                bank=state.run,
                step=step,
                policy_version=version_at(recipe, step),
                problem_ids=list(drawn_problems(state, step)),
                base_pass_rate=_base_pass_rate(state),
                generator=_generator(state, step, name),
                settings=recipe.memory.reflect,
                evidence=recipe.memory.evidence,
                contradictions=recipe.memory.contradictions,
                quality=recipe.memory.quality,
                prompts=recipe.prompts,
            )
        case P.ABSTRACT:
            return AbstractRequest(
                bank=state.run,
                step=step,
                policy_version=version_at(recipe, step),
                generator=_generator(state, step, name),
                settings=recipe.memory.abstract.settings(),
                evidence=recipe.memory.evidence,
                excerpt_chars=recipe.memory.reflect.excerpt_chars,
                quality=recipe.memory.quality,
                prompts=recipe.prompts,
            )
        case P.RETRIEVE | P.EVALUATE_RETRIEVE:
            return _retrieve(state, step, name, out)
        case P.TRAIN:
            return _train(state, step)
        case P.PUBLISH:
            return PublishRequest(policy=_policy(state, version_after(recipe, step)))


def _outcomes(state: RunState, step: int) -> dict[str, Any]:
    """What the newest contexts led to: an agent's own attempts, else the probe of the step before. The probe of step 0
    is of evaluation problems, from which a bank learns nothing (Law 3)."""
    if METHODS[state.recipe.method].prompts_with_memory:
        return {"outcomes": _verdicts(state, step), "outcomes_step": step}
    if step == 1 or (step - 1, PhaseName.PROBE_VERIFY) not in state.records:
        return {}
    probed = state.result(step - 1, PhaseName.PROBE_VERIFY, VerifyResult)
    return {"outcomes": probed.verdicts, "outcomes_step": step - 1}


def _base_pass_rate(state: RunState) -> float:
    """How often attempts pass that nothing has taught yet: the pass rate of the first step."""
    if (1, PhaseName.VERIFY) not in state.records:
        return 0.0
    score = state.result(1, PhaseName.VERIFY, VerifyResult).splits.get("train")
    return min(score.pass_rate, MOST_BASE_PASS_RATE) if score else 0.0


def _generate(state: RunState, step: int, name: PhaseName, out: str) -> GenerateRequest:
    recipe, inputs = state.recipe, state.inputs
    agent = METHODS[recipe.method].prompts_with_memory
    # The probe of step 0 is an evaluation of the teacher: the same problems, drawn as often and in the same way.
    evaluating = name is PhaseName.EVALUATE or (name is PhaseName.PROBE and step == 0)
    ids: list[str] | None = None  # an agent's contexts hold exactly the problems that were asked for
    if name is PhaseName.PROBE and evaluating:
        prompts = _contexts(state, step, PhaseName.EVALUATE_RETRIEVE)
    elif name is PhaseName.PROBE:
        prompts = _contexts(state, step, PhaseName.RETRIEVE)
        ids = list(state.records[step, PhaseName.RETRIEVE].facts["probe"])
    elif agent:
        prompts = _contexts(state, step, PhaseName.EVALUATE_RETRIEVE if evaluating else PhaseName.RETRIEVE)
    else:
        prompts = inputs.prompts
        ids = list(inputs.evaluation if evaluating else drawn_problems(state, step))
    samples = recipe.schedule.rollouts_per_problem
    if evaluating:
        samples = recipe.evaluation.samples
    elif name is PhaseName.PROBE:
        samples = 1
    version = version_after(recipe, step) if evaluating else version_at(recipe, step)
    return GenerateRequest(
        policy=_policy(state, version),
        prompts=prompts,
        ids=ids,
        n=samples,
        sampling=recipe.evaluation.sampling if evaluating else recipe.sampling,
        thinking=recipe.thinking == "on",
        seed=phase_seed(recipe.seed, step, name),
        out=out,
    )


def _retrieve(state: RunState, step: int, name: PhaseName, out: str) -> RetrieveRequest:
    recipe = state.recipe
    agent, evaluating = METHODS[recipe.method].prompts_with_memory, name is PhaseName.EVALUATE_RETRIEVE
    common = {
        "bank": state.run if recipe.levels else None,
        "problems": state.inputs.problems,
        "step": step,
        "base_pass_rate": _base_pass_rate(state) if recipe.levels else 0.0,
        "settings": recipe.context_settings(),
        "evidence": recipe.memory.evidence,
        "quality": recipe.memory.quality,
        "trial": agent or not evaluating,
        "prompts": recipe.prompts,
        "out": out,
    }
    if agent or evaluating:
        asked = state.inputs.evaluation if evaluating else drawn_problems(state, step)
        return RetrieveRequest(problem_ids=list(asked), **common)
    return RetrieveRequest(
        rollouts=_rollouts(state, step, PhaseName.ROLLOUT), verdicts=_verdicts(state, step), **common
    )


def _train(state: RunState, step: int) -> TrainRequest:
    recipe = state.recipe
    gate = leads(state.records, step)[step] if recipe.lead_gate else None
    tallies = _tallies(state.records, step) if recipe.lead_gate else None
    return TrainRequest(
        run=state.run,
        step=step,
        base=state.inputs.base,
        from_version=version_at(recipe, step),
        rollouts=_rollouts(state, step, PhaseName.ROLLOUT),
        verdicts=_verdicts(state, step),
        contexts=_contexts(state, step, PhaseName.RETRIEVE) if recipe.has_teacher else None,
        masked_problems=masked_problems(*tallies) if tallies else (),
        lr_scale=gate.lr_scale if gate else 1.0,
        settings=recipe.train_settings().model_copy(update={"entropy_bonus": _entropy_bonus(state, step)}),
        thinking=recipe.thinking == "on",
        seed=phase_seed(recipe.seed, step, PhaseName.TRAIN),
        last=step == recipe.schedule.steps,
        superseded=superseded(state, step),
        out=join(state.inputs.root, "weights"),
    )


def _entropy_bonus(state: RunState, step: int) -> float:
    """What a step is paid for its entropy: nothing, unless the newest that was measured is below the recipe's floor."""
    objective = state.recipe.objective
    if objective.entropy_floor is None:
        return 0.0
    for earlier in range(step - 1, 0, -1):
        metrics = state.result(earlier, PhaseName.TRAIN, TrainResult).metrics
        if metrics.get("tokens") and "entropy" in metrics:
            return objective.entropy_weight if metrics["entropy"] < objective.entropy_floor else 0.0
    return 0.0


def superseded(state: RunState, step: int) -> tuple[int, ...]:
    """The trained versions whose weights the training of `step` removes: all before the one that it begins with, but
    the best of those that were evaluated. The best one of all is never removed.

    Invariant: it follows from what is recorded when the step begins. Scores of the step before may come later, and
    its version is not judged yet.
    """
    recipe = state.recipe
    if recipe.schedule.keep_weights is None:
        return ()
    scores = evaluated_versions(state, step - 1)
    best = sorted(scores, key=lambda version: (scores[version], version), reverse=True)
    kept = best[: max(1, recipe.schedule.keep_weights)]
    return tuple(version for version in range(1, version_at(recipe, step)) if version not in kept)


def evaluated_versions(state: RunState, before: int) -> dict[int, float]:
    """Mean accuracy over splits of the trained versions that steps before `before` have evaluated."""
    scores = {}
    for step, name in state.records:
        if name is PhaseName.EVALUATE_VERIFY and 0 < step < before:
            splits = state.result(step, name, VerifyResult).splits.values()
            scores[version_after(state.recipe, step)] = sum(s.pass_rate for s in splits) / max(len(splits), 1)
    return scores


def _generator(state: RunState, step: int, name: PhaseName) -> Generator:
    settings = state.recipe.generator
    served = {"policy": version_at(state.recipe, step), "base": 0}
    own = settings.model in served
    return Generator(
        base_url=None if own else settings.base_url,
        model=f"{state.run}@{served[settings.model]}" if own else settings.model,
        sampling=settings.sampling,
        seed=phase_seed(state.recipe.seed, step, name),
        format=settings.format,
    )


def _policy(state: RunState, version: int) -> Policy:
    if version == 0:
        return Policy(run=state.run, weights=state.inputs.base)
    return Policy(run=state.run, weights=state.result(version, PhaseName.TRAIN, TrainResult).weights)


def drawn_problems(state: RunState, step: int) -> tuple[str, ...]:
    """The train problems that `step`, from 1 on, draws rollouts of: their ids, in the order they are drawn."""
    recipe = state.recipe
    return step_problems(state.inputs.train, recipe.seed, recipe.schedule.problems_per_step, step)


def _rollouts(state: RunState, step: int, name: PhaseName) -> Ref:
    return state.result(step, name, GenerateResult).rollouts


def _verdicts(state: RunState, step: int) -> Ref:
    return state.result(step, PhaseName.VERIFY, VerifyResult).verdicts


def _contexts(state: RunState, step: int, name: PhaseName) -> Ref:
    return state.result(step, name, RetrieveResult).contexts
