"""A run's record as people read it: the rows of the registry as views. Pure functions.

Invariant: what a view says was recorded; nothing is guessed for a phase that has not succeeded.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pmd.gateway.loop.gate import Lead
from pmd.gateway.loop.health import signs
from pmd.gateway.loop.plan import open_phases
from pmd.gateway.loop.requests import leads, superseded
from pmd.gateway.loop.state import PhaseName, Record, RunState, version_at
from pmd.gateway.views import (
    CheckpointView,
    EventView,
    LatestView,
    MemoryEvent,
    PhaseTime,
    PhaseView,
    RunCurve,
    RunStatus,
    RunView,
    StepView,
)
from pmd.services.common.requests import (
    GenerateResult,
    MemoryCounts,
    RetrieveResult,
    SplitScore,
    TrainResult,
    VerifyResult,
    WriteResult,
)
from pmd.services.common.wire import Outcome, Weights

Row = Mapping[Any, Any]


def run_view(
    run: Row,
    phases: Iterable[Row] = (),
    *,
    alarms: Iterable[Row] = (),
    latest: LatestView | None = None,
) -> RunView:
    """A run as it stands: its row, the newest attempt of each phase of its open steps, and its alarms."""
    newest = {(row["step"], row["name"]): row for row in phases}
    inputs = json.loads(run["inputs"])
    return RunView(
        id=run["id"],
        name=run["name"],
        method=run["method"],
        model=inputs.get("model"),
        dataset=inputs.get("source") or None,
        parent=inputs.get("parent"),
        status=RunStatus(run["status"]),
        step=run["step"],
        steps=run["steps"],
        version=run["version"],
        created=run["created"],
        updated=run["updated"],
        error=run["error"],
        warnings=[_said(alarm) for alarm in alarms],
        latest=latest,
        phases=[
            PhaseView(
                name=row["name"],
                status=row["status"],
                attempt=row["attempt"],
                seconds=row["seconds"],
                error=row["error"],
            )
            for row in newest.values()
        ],
    )


def _said(alarm: Row) -> str:
    """An alarm with when it was raised last, and how often."""
    if alarm["step"] is None:
        return str(alarm["message"])
    often = f", {alarm['count']} times so far" if alarm["count"] > 1 else ""
    return f"step {alarm['step']}{often}: {alarm['message']}"


def latest_view(records: Mapping[PhaseName, tuple[int, Mapping[str, Any]]]) -> LatestView:
    """The newest numbers of a run, from the newest record of each of its phases."""
    view: dict[str, Any] = {}
    if PhaseName.VERIFY in records:
        step, result = records[PhaseName.VERIFY]
        verdicts = VerifyResult.model_validate(result)
        drawn = sum(verdicts.outcomes.values())
        view["pass_rate"] = _pass_rate(verdicts.splits)
        view["reward"] = verdicts.splits["train"].reward if "train" in verdicts.splits else None
        view["infra_error_share"] = verdicts.outcomes.get(Outcome.INFRA_ERROR, 0) / drawn if drawn else None
        probed, probe = records.get(PhaseName.PROBE_VERIFY, (None, {}))
        if probed == step:
            rate = _pass_rate(VerifyResult.model_validate(probe).splits)
            if rate is not None and view["pass_rate"] is not None:
                view["lead"] = rate - view["pass_rate"]
    if PhaseName.TRAIN in records:
        view["train"] = TrainResult.model_validate(records[PhaseName.TRAIN][1]).metrics
    view["health"] = signs({name: result for name, (_, result) in records.items()})
    if PhaseName.EVALUATE_VERIFY in records:
        splits = VerifyResult.model_validate(records[PhaseName.EVALUATE_VERIFY][1]).splits
        view["accuracy"] = {split: score.pass_rate for split, score in splits.items()}
    return LatestView(**view)


def step_views(state: RunState) -> list[StepView]:
    """What each step recorded, oldest first; a step is told once nothing but its scores may still be missing."""
    by_step: dict[int, dict[PhaseName, Record]] = {}
    for (step, name), record in state.records.items():
        by_step.setdefault(step, {})[name] = record
    newest = max(by_step, default=0)
    told = (s for s in sorted(by_step) if s < newest or set(open_phases(state, s)) <= {PhaseName.EVALUATE_VERIFY})
    gate = leads(state.records, newest) if state.recipe.lead_gate else None
    return [_step_view(state, step, by_step[step], gate[step] if gate else None) for step in told]


def _step_view(state: RunState, step: int, records: Mapping[PhaseName, Record], gate: Lead | None) -> StepView:
    recipe = state.recipe
    view: dict[str, Any] = {}
    if drawn := records.get(PhaseName.ROLLOUT):
        rollouts = GenerateResult.model_validate(drawn.result)
        view |= {"tokens": rollouts.tokens, "truncated": rollouts.truncated}
    if verify := records.get(PhaseName.VERIFY):
        verdicts = VerifyResult.model_validate(verify.result)
        view["reward"] = verdicts.splits["train"].reward if "train" in verdicts.splits else None
        view["outcomes"] = {str(outcome): count for outcome, count in verdicts.outcomes.items()}
        view["pass_rate"] = _pass_rate(verdicts.splits)
    if step and (probe := records.get(PhaseName.PROBE_VERIFY)):
        view["probe_pass_rate"] = _pass_rate(VerifyResult.model_validate(probe.result).splits)
    probed = gate if step and PhaseName.PROBE_VERIFY in records else None
    if probed:
        view["lead"] = probed.teacher - probed.student
    view["health"] = signs({name: record.result for name, record in records.items()}, probed)
    if gate and PhaseName.TRAIN in records:
        view["lr_scale"] = gate.lr_scale
    for name in (PhaseName.ABSTRACT, PhaseName.REFLECT, PhaseName.RECORD, PhaseName.IMPORT):  # the last write counts
        if name in records:
            result = records[name].result  # of a job that asked for notes it says more
            view["memory"] = MemoryCounts(**{key: result[key] for key in MemoryCounts.model_fields if key in result})
            break
    told = [records[name].result for name in (PhaseName.REFLECT, PhaseName.ABSTRACT) if name in records]
    view["notes"] = _notes([WriteResult.model_validate(result) for result in told])
    if retrieve := records.get(PhaseName.RETRIEVE):
        contexts = RetrieveResult.model_validate(retrieve.result)
        view["contexts"] = {"with_context": contexts.with_context, **contexts.items_used}
        if contexts.left_out:
            view["contexts"]["left_out"] = contexts.left_out
    if train := records.get(PhaseName.TRAIN):
        view["train"] = TrainResult.model_validate(train.result).metrics
    return StepView(
        step=step,
        version=version_at(recipe, step),
        evaluation=_scores(records.get(PhaseName.EVALUATE_VERIFY)),
        with_memory=_scores(None if step else records.get(PhaseName.PROBE_VERIFY)),
        seconds={str(name): record.seconds for name, record in records.items()},
        **view,
    )


def phase_times(rows: Iterable[Row]) -> list[PhaseTime]:
    """All attempts of phases, in the order of `rows`."""
    return [PhaseTime(**{name: row[name] for name in PhaseTime.model_fields}) for row in rows]


def run_curve(run: str, results: Iterable[tuple[int, PhaseName, Mapping[str, Any]]]) -> RunCurve:
    """The scores of a run, from the results of its verify phases in the order of steps."""
    trained: list[tuple[int, float]] = []
    evaluated: dict[str, list[tuple[int, float]]] = {}
    for step, name, result in results:
        splits = VerifyResult.model_validate(result).splits
        if name is PhaseName.EVALUATE_VERIFY:
            for split, score in splits.items():
                evaluated.setdefault(split, []).append((step, score.pass_rate))
        elif (rate := _pass_rate(splits)) is not None:
            trained.append((step, rate))
    return RunCurve(run=run, pass_rate=trained, accuracy=evaluated)


def memory_events(events: Iterable[EventView]) -> list[MemoryEvent]:
    """What the log of a run says of people's acts on its memory."""
    found = []
    for event in events:
        told = event.payload
        if event.type == "memory.edited":
            found.append(MemoryEvent(ts=event.ts, step=told["step"], edits=told["edits"]))
        elif event.type == "memory.deleted":
            status = RunStatus(told["status"])
            deleted = MemoryEvent(ts=event.ts, step=None, edits=0, deleted_by=told["actor"], while_status=status)
            found.append(deleted)
    return found


def _notes(told: Sequence[WriteResult]) -> dict[str, int]:
    """What became of a model's answers, those numbers that are not zero."""
    counted = Counter({word: sum(getattr(each, word) for each in told) for word in ("asked", "refused", "unusable")})
    for each in told:
        counted.update({f"dropped: {why}": count for why, count in each.dropped.items()})
        if each.judged is not None:
            counted.update({"judged": each.judged.asked, "apart": each.judged.apart})
    return {word: count for word, count in counted.items() if count}


def _pass_rate(splits: Mapping[str, SplitScore]) -> float | None:
    return splits["train"].pass_rate if "train" in splits else None


def _scores(evaluated: Record | None) -> dict[str, SplitScore]:
    return VerifyResult.model_validate(evaluated.result).splits if evaluated else {}


def checkpoint_views(state: RunState) -> list[CheckpointView]:
    """The policy versions that were published and kept, oldest first, each with the scores of its evaluation."""
    trained = max((step for step, name in state.records if name is PhaseName.TRAIN), default=0)
    gone = superseded(state, trained)
    published = sorted(step for step, name in state.records if name is PhaseName.PUBLISH and step not in gone)
    return [
        CheckpointView(
            step=step,
            weights=Weights.model_validate(state.records[step, PhaseName.PUBLISH].result["weights"]),
            evaluation=_scores(state.records.get((step, PhaseName.EVALUATE_VERIFY))),
        )
        for step in published
    ]


def recipe_of(run: Row) -> dict[str, Any]:
    """The resolved recipe of a run, as data."""
    return dict(json.loads(run["recipe"]))
