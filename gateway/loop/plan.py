"""The plan of a run: which phases come next, as a pure function of the recipe and of what is recorded.

Invariants:
- `next_phases` reads nothing but its argument: no clock, no file, no database. Whoever calls it with the same
  record gets the same phases with the same bodies under the same keys.
- The student's prompt is the problem and nothing else, in training and in evaluation; `memory_agent` is the one
  method whose prompts are contexts (Law 1).
- `pmd` without memory levels plans what `sdpo` plans, body for body (Law 2).
- Step s draws with version s - 1 and publishes version s. Only the verification of an evaluation may still be
  open while the next step runs; it needs neither the policy nor the memory.
"""

from __future__ import annotations

from pmd.gateway.loop.requests import request_body
from pmd.gateway.loop.state import CALLS, Phase, PhaseName, RunState, Service, last_step
from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.recipes.recipe import Recipe
from pmd.services.common.artifacts import join


def step_plan(recipe: Recipe, step: int) -> tuple[PhaseName, ...]:
    """The phases of one step, in order. Step 0 serves the base model and evaluates it; where the run begins with a
    bank, it evaluates its teacher too, which reads that bank, so that the report says what the bank is worth.

    A probe is planned whenever the lead gate is on; `next_phases` passes over it in a step whose problems have
    no context.
    """
    P = PhaseName
    agent = METHODS[recipe.method].prompts_with_memory
    phases: list[PhaseName] = []
    if step == 0:
        phases += [P.IMPORT] if recipe.start_from else []
        phases.append(P.PUBLISH)
        if recipe.start_from and recipe.has_teacher:
            phases += [P.EVALUATE_RETRIEVE, P.PROBE, P.PROBE_VERIFY]
    else:
        phases += [P.RETRIEVE] if agent else []
        phases += [P.ROLLOUT, P.VERIFY]
        phases += _writes(recipe, step)
        if recipe.has_teacher:
            phases.append(P.RETRIEVE)
            phases += [P.PROBE, P.PROBE_VERIFY] if recipe.lead_gate else []
        phases += [P.TRAIN, P.PUBLISH] if recipe.trains else []
    if step in {0, last_step(recipe)} or step % recipe.evaluation.every == 0:
        phases += [P.EVALUATE_RETRIEVE] if agent else []
        phases += [P.EVALUATE, P.EVALUATE_VERIFY]
    return tuple(phases)


def first_of(recipe: Recipe, step: int, service: Service) -> PhaseName | None:
    """The first phase of a step that a service does."""
    return next((name for name in step_plan(recipe, step) if CALLS[name].service is service), None)


def _writes(recipe: Recipe, step: int) -> list[PhaseName]:
    """What is written to memory in one step: each level that is shown, and what it is made from."""
    frozen_at = recipe.memory.freeze_at_step
    if not recipe.levels or (frozen_at is not None and step >= frozen_at):
        return []
    writes = [PhaseName.RECORD]
    if {"insight", "behavior"} & set(recipe.levels):
        writes.append(PhaseName.REFLECT)
    clock = recipe.memory.abstract
    if "behavior" in recipe.levels and step > clock.warmup and step % clock.every == 0:
        writes.append(PhaseName.ABSTRACT)
    return writes


def open_phases(state: RunState, step: int) -> tuple[PhaseName, ...]:
    """Phases of `step` that are not recorded yet and are needed, in order."""
    plan = step_plan(state.recipe, step)
    if not state.inputs.evaluation:
        of_evaluation = (PhaseName.EVALUATE, PhaseName.PROBE) if step == 0 else (PhaseName.EVALUATE,)
        plan = tuple(name for name in plan if not name.startswith(of_evaluation))
    retrieved = state.records.get((step, PhaseName.RETRIEVE))
    if retrieved is not None and not retrieved.facts.get("probe"):
        plan = tuple(name for name in plan if not name.startswith(PhaseName.PROBE))
    return tuple(name for name in plan if (step, name) not in state.records)


def next_phases(state: RunState) -> list[Phase]:
    """The phases that can run now, oldest step first; empty when the run is complete."""
    newest = max((step for step, _ in state.records), default=0)
    ready: list[Phase] = []
    for step in range(max(0, newest - 1), min(newest + 1, last_step(state.recipe)) + 1):
        if ready and step > ready[0].step + 1:
            break
        todo = open_phases(state, step)
        if todo:
            ready.append(_build(state, step, todo[0]))
        if todo not in {(), (PhaseName.EVALUATE_VERIFY,)}:
            break
    return ready


def steps_complete(state: RunState) -> int:
    """How many steps are complete, step 0 included: steps 0 to n - 1 have nothing left to do."""
    if not state.records:
        return 0
    newest = max(step for step, _ in state.records)
    open_steps = (step for step in (newest - 1, newest) if step >= 0 and open_phases(state, step))
    return min(open_steps, default=newest + 1)


def _build(state: RunState, step: int, name: PhaseName) -> Phase:
    attempt = state.attempts.get((step, name), 1)
    # Each attempt writes its own artifact: a lost attempt that still runs can't overwrite what was recorded.
    out = join(state.inputs.root, "steps", f"{step:05d}", f"{name}.{attempt}.parquet")
    return Phase(
        step=step,
        name=name,
        attempt=attempt,
        key=f"{state.run}.s{step:04d}.{name}.{attempt}",
        request=request_body(state, step, name, out),
    )
