"""Attempts of a step over REST: whole texts with verdict, feedback and, where asked for, what their teacher was shown.

Invariants: rows of artifacts meet by their ids; an expected answer is never read; nothing is told of a phase that is
not recorded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import Field

from pmd.gateway.api import examples
from pmd.gateway.api.deps import RunId, TheParts
from pmd.gateway.loop.state import PhaseName, RunState
from pmd.gateway.registry.registry import Registry
from pmd.services.common.app import known_query
from pmd.services.common.artifacts import ArtifactError, load_messages, read_bytes, read_problems
from pmd.services.common.strict import Strict
from pmd.services.common.wire import MAX_COUNT, Message, Outcome, Ref, Slug, Split

DRAWS = (
    (PhaseName.ROLLOUT, PhaseName.VERIFY, PhaseName.RETRIEVE),
    (PhaseName.EVALUATE, PhaseName.EVALUATE_VERIFY, PhaseName.EVALUATE_RETRIEVE),
)
"""Who draws attempts, who judges them, who renders their contexts."""
DRAWN = ("rollout_id", "prompt_id", "problem_id", "split", "sample", "text", "finish_reason", "policy_version")
JUDGED = ("outcome", "reward", "feedback", "error")

routes = APIRouter(dependencies=[Depends(known_query)], tags=["runs"])

Row = dict[str, Any]


class Sample(Strict):
    """One attempt at a problem."""

    rollout_id: str
    problem_id: str
    split: Split
    sample: int
    """Its number among the attempts at the problem in this step."""
    policy_version: int
    text: str
    tokens: int
    finish_reason: str
    """stop, or length: it was cut off."""
    outcome: Outcome | None = None
    """None while it is not judged."""
    reward: float | None = None
    feedback: str = ""
    error: str = ""
    """Cause of an `infra_error`."""
    context: list[Message] | None = None
    """What the teacher was asked, where `context` was given and it was shown more than the problem; of a run that
    prompts with memory, what the attempt itself was asked."""


class SamplePage(Strict):
    """Attempts of one step, those at one problem together."""

    step: int
    total: int
    """Attempts that match, on all pages."""
    problems: dict[str, list[Message]]
    """What was asked, by id of the problems on this page."""
    samples: list[Sample]


class SampleQuery(Strict):
    """Which attempts."""

    step: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    """The newest that has judged attempts, if missing."""
    split: Split | None = None
    """train: those that were trained on. The others: those of the step's evaluation. All if missing."""
    outcome: Outcome | None = None
    problem: Slug | None = None
    context: bool = False
    """With the teacher context of each."""
    offset: int = Field(default=0, ge=0, le=MAX_COUNT)
    limit: int = Field(default=20, ge=1, le=500)


@routes.get("/v1/runs/{run}/samples", responses=examples.SAMPLES)
async def get_samples(run: RunId, asked: Annotated[SampleQuery, Query()], parts: TheParts) -> SamplePage:
    """Attempts of a step with verdict and feedback, in the order in which they were drawn."""
    return await parts.reading.run(lambda: samples(parts.registry, run, asked))


def samples(registry: Registry, run: str, asked: SampleQuery) -> SamplePage:
    """A page of attempts.

    Raises:
        HTTPException: 404 when the step has none, or their artifact is gone.
    """
    registry.run(run)
    state, _ = registry.state(run)
    step = _step(state, asked.step)
    try:
        found = [(row, contexts) for row, contexts in _attempts(state, step, asked.split) if _matches(row, asked)]
        page = found[asked.offset : asked.offset + asked.limit]
        shown = _contexts(page) if asked.context else {}
        known = read_problems(state.inputs.problems, sorted({row["problem_id"] for row, _ in page}))
    except ArtifactError as error:
        raise HTTPException(404, str(error)) from error
    return SamplePage(
        step=step,
        total=len(found),
        problems={id_: problem.messages for id_, problem in known.items()},
        samples=[
            Sample(
                **{name: value for name, value in row.items() if name in Sample.model_fields},
                context=shown.get(row["rollout_id"]) or shown.get(row["prompt_id"]),
            )
            for row, _ in page
        ],
    )


def _step(state: RunState, asked: int | None) -> int:
    drawn = sorted({step for step, name in state.records if name in {draws for draws, _, _ in DRAWS}})
    judged = sorted({step for step, name in state.records if name in {judges for _, judges, _ in DRAWS}})
    step = judged[-1] if asked is None and judged else asked
    if step is None:
        raise HTTPException(404, f"run {state.run!r} has no judged attempts yet")
    if step not in drawn:
        told = f"steps {drawn[0]} to {drawn[-1]} have" if drawn else "none has yet"
        raise HTTPException(404, f"run {state.run!r} has no attempts of step {step}; {told}")
    return step


def _attempts(state: RunState, step: int, split: Split | None) -> Iterator[tuple[Row, Ref | None]]:
    """Attempts of a step with their verdicts, and where their contexts are."""
    for draws, judges, renders in DRAWS:
        drawn, judged, rendered = (state.records.get((step, name)) for name in (draws, judges, renders))
        if drawn is None or (split is not None and (split == "train") != (draws is PhaseName.ROLLOUT)):
            continue
        verdicts: dict[str, Row] = {}
        if judged is not None:
            verdicts = {row["rollout_id"]: row for row in _rows(judged.result["verdicts"], ("rollout_id", *JUDGED))}
        contexts = Ref.model_validate(rendered.result["contexts"]) if rendered else None
        for row in _rows(drawn.result["rollouts"], DRAWN, count="token_ids"):
            verdict = {name: value for name in JUDGED if (value := verdicts.get(row["rollout_id"], {}).get(name))}
            if row["rollout_id"] in verdicts:
                verdict["reward"] = verdicts[row["rollout_id"]]["reward"]
            yield row | verdict, contexts


def _rows(ref: Any, columns: Sequence[str], count: str = "") -> list[Row]:
    """Some columns of an artifact; of `count`, a list, the length as `tokens`."""
    data = read_bytes(Ref.model_validate(ref))
    there = set(pq.read_schema(io.BytesIO(data)).names)
    table = pq.read_table(io.BytesIO(data), columns=[name for name in (*columns, count) if name in there])
    if count:
        table = table.append_column("tokens", pc.list_value_length(table[count])).drop_columns(count)
    rows: list[Row] = table.to_pylist()
    return rows


def _matches(row: Row, asked: SampleQuery) -> bool:
    return (
        asked.split in {None, row["split"]}
        and asked.outcome in {None, row.get("outcome")}
        and asked.problem in {None, row["problem_id"]}
    )


def _contexts(page: Sequence[tuple[Row, Ref | None]]) -> dict[str, list[Message]]:
    """What was shown besides the problem, by the rollout or the problem that it is for."""
    shown: dict[str, list[Message]] = {}
    for ref in {ref.uri: ref for _, ref in page if ref is not None}.values():
        for row in _rows(ref, ("prompt_id", "messages", "has_context")):
            if row["has_context"]:
                shown[row["prompt_id"]] = load_messages(row["messages"])
    return shown
