"""Rollouts over REST: those of a step with their verdicts, one with its context and tokens, a problem over time.

Invariants: rows of artifacts meet by `rollout_id`; an expected answer is never read; what an artifact holds never
changes, so what was read of it is kept by its hash.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Depends, HTTPException, Path, Query
from pydantic import Field

from pmd.gateway.api import examples
from pmd.gateway.api.deps import RunId, TheParts
from pmd.gateway.api.rollout_views import (
    ContextShown,
    Drawn,
    ProblemHistory,
    ProblemStep,
    RolloutDetail,
    RolloutPage,
    RolloutRow,
    TokenView,
)
from pmd.gateway.loop.order import walk
from pmd.gateway.loop.state import PhaseName, RunState
from pmd.gateway.recipes.lengths import tokenizer_of
from pmd.services.common.app import known_query
from pmd.services.common.artifacts import (
    ArtifactError,
    arrow_table,
    load_messages,
    local_path,
    read_problems,
    read_table,
)
from pmd.services.common.strict import Strict
from pmd.services.common.wire import MAX_COUNT, Outcome, Ref, Slug, Split

PHASES: Mapping[Drawn, tuple[PhaseName, PhaseName]] = {
    "train": (PhaseName.ROLLOUT, PhaseName.VERIFY),
    "probe": (PhaseName.PROBE, PhaseName.PROBE_VERIFY),
    "evaluation": (PhaseName.EVALUATE, PhaseName.EVALUATE_VERIFY),
}
"""Who draws and who judges, by what rollouts were drawn for."""
RETRIEVES = (PhaseName.RETRIEVE, PhaseName.EVALUATE_RETRIEVE)
EXCERPT = 160
KEPT_BYTES = 64 << 20
"""Of joined rows, those used last: a page that filters asks for the same step again and again."""
_LISTED = ("rollout_id", "prompt_id", "problem_id", "split", "sample", "text", "finish_reason", "policy_version")
_JUDGED = ("rollout_id", "outcome", "reward", "feedback", "sandbox_tier", "cpu_ms", "error")

Row = Mapping[str, Any]
Sort = Literal["variance", "problem", "reward", "tokens"]

routes = APIRouter(dependencies=[Depends(known_query)], tags=["rollouts"])


class _Kept:
    """Tables by the hashes of what they were made from, the ones used last; thread-safe."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._tables: OrderedDict[tuple[str, ...], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...], make: Callable[[], pa.Table]) -> pa.Table:
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
        table = make()
        with self._lock:
            if key not in self._tables:
                self._tables[key] = table
                self._held += table.nbytes
            while self._held > self._most and len(self._tables) > 1:
                self._held -= self._tables.popitem(last=False)[1].nbytes
        return table


_KEPT = _Kept(KEPT_BYTES)


def _judged_rows(drawn: Ref, judged: Ref | None) -> pa.Table:
    """Rollouts with their verdicts, in the order they were drawn; tokens as a count."""

    def make() -> pa.Table:
        whole = arrow_table(drawn)
        rows = whole.select(_LISTED).append_column("tokens", pc.list_value_length(whole["token_ids"]))
        if judged is None:
            return rows
        ordered = rows.append_column("place", pa.array(range(rows.num_rows)))
        verdicts = arrow_table(judged).select(_JUDGED)
        return ordered.join(verdicts, "rollout_id").sort_by("place").drop_columns("place")

    return _KEPT.get((drawn.sha256, judged.sha256 if judged else ""), make)


def _refs(state: RunState, step: int, drawn: Drawn) -> tuple[Ref, Ref | None] | None:
    """Where the rollouts of a step and their verdicts are; None while there are none."""
    draws, judges = PHASES[drawn]
    made, judged = state.records.get((step, draws)), state.records.get((step, judges))
    if made is None:
        return None
    return Ref.model_validate(made.result["rollouts"]), Ref.model_validate(
        judged.result["verdicts"]
    ) if judged else None


def _table(state: RunState, step: int, drawn: Drawn) -> pa.Table:
    found = _refs(state, step, drawn)
    if found is None:
        have = _steps(state, drawn)
        told = f"steps {have[0]} to {have[-1]} have" if have else "no step has, so far"
        raise HTTPException(404, f"run {state.run!r} has no {drawn} rollouts of step {step}; {told}")
    return _read(lambda: _judged_rows(*found))


def _read(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ArtifactError as error:
        raise HTTPException(404, str(error)) from error


def _steps(state: RunState, drawn: Drawn) -> list[int]:
    return sorted(step for step, name in state.records if name is PHASES[drawn][0])


def _groups(table: pa.Table) -> dict[str, tuple[int, int, float]]:
    """Passed and judged rollouts, and the variance of their rewards, by problem."""
    rewards: dict[str, list[float]] = {}
    passed: dict[str, int] = {}
    wanted = [name for name in ("problem_id", "outcome", "reward") if name in table.column_names]
    for row in table.select(wanted).to_pylist():
        of = rewards.setdefault(row["problem_id"], [])
        if row.get("outcome") not in {None, Outcome.INFRA_ERROR}:
            of.append(row["reward"])
            passed[row["problem_id"]] = passed.get(row["problem_id"], 0) + (row["outcome"] == Outcome.PASSED)
    return {problem: (passed.get(problem, 0), len(of), _variance(of)) for problem, of in rewards.items()}


def _variance(values: list[float]) -> float:
    mean = sum(values) / len(values) if values else 0.0
    return sum((value - mean) ** 2 for value in values) / len(values) if values else 0.0


def _row(row: Row, group: tuple[int, int, float]) -> RolloutRow:
    passed, judged, variance = group
    return RolloutRow(
        id=row["rollout_id"],
        problem_id=row["problem_id"],
        split=row["split"],
        sample=row["sample"],
        outcome=row.get("outcome"),
        reward=row.get("reward"),
        tokens=row["tokens"],
        finish_reason=row["finish_reason"],
        policy_version=row["policy_version"],
        excerpt=row["text"][:EXCERPT],
        group_passed=passed,
        group_judged=judged,
        group_variance=variance,
    )


class RolloutQuery(Strict):
    """Which rollouts of a step to list, and in which order."""

    step: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    """The newest that has some, if missing."""
    drawn: Drawn = "train"
    split: Split | None = None
    outcome: Outcome | None = None
    problem_id: Slug | None = None
    min_reward: float | None = Field(default=None, ge=0.0, le=1.0)
    max_reward: float | None = Field(default=None, ge=0.0, le=1.0)
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    max_tokens: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    q: Annotated[str, Field(max_length=200)] | None = None
    """In the text, upper and lower case alike."""
    sort: Sort = "variance"
    """variance: problems whose attempts differ most first. problem: by its id. Both keep the attempts of a problem
    together. reward, tokens: most first."""
    offset: int = Field(default=0, ge=0, le=MAX_COUNT)
    limit: int = Field(default=100, ge=1, le=2000)

    def of(self, table: pa.Table) -> pa.Table:
        """The rows that are asked for."""
        bounds = (
            ("split", pc.equal, self.split),
            ("outcome", pc.equal, self.outcome),
            ("problem_id", pc.equal, self.problem_id),
            ("reward", pc.greater_equal, self.min_reward),
            ("reward", pc.less_equal, self.max_reward),
            ("tokens", pc.greater_equal, self.min_tokens),
            ("tokens", pc.less_equal, self.max_tokens),
        )
        for column, keeps, bound in bounds:
            if bound is None:
                continue
            if column not in table.column_names:
                return table.slice(0, 0)  # nothing is judged yet
            table = table.filter(keeps(table[column], bound))  # no value keeps no bound
        if self.q is not None:
            table = table.filter(pc.match_substring(table["text"], self.q, ignore_case=True))
        return table


def _order(sort: Sort, groups: Mapping[str, tuple[int, int, float]]) -> Callable[[Row], Any]:
    """Ties in the order of problems and samples, so that a page is the same each time."""

    def key(row: Row) -> Any:
        reward = row.get("reward")
        first = {
            "variance": -groups[row["problem_id"]][2],
            "problem": 0.0,
            "reward": -(reward if reward is not None else -1.0),
            "tokens": -row["tokens"],
        }[sort]
        return first, row["problem_id"], row["sample"]

    return key


@routes.get("/v1/runs/{run}/rollouts", responses=examples.ROLLOUTS)
async def list_rollouts(run: RunId, parts: TheParts, asked: Annotated[RolloutQuery, Query()]) -> RolloutPage:
    """Rollouts of a step with their verdicts: of training, of the probe, or of the evaluation."""
    return await parts.reading.run(lambda: _page(parts.registry.state(run)[0], asked))


def _page(state: RunState, asked: RolloutQuery) -> RolloutPage:
    steps = _steps(state, asked.drawn)
    if asked.step is None and not steps:
        return RolloutPage(step=0, drawn=asked.drawn, steps=[], total=0, offset=0, rollouts=[])
    step = steps[-1] if asked.step is None else asked.step
    table = _table(state, step, asked.drawn)
    groups = _groups(table)
    found = asked.of(table)
    sorted_by = [name for name in ("problem_id", "sample", "reward", "tokens") if name in found.column_names]
    keys = list(map(_order(asked.sort, groups), found.select(sorted_by).to_pylist()))
    places = sorted(range(found.num_rows), key=keys.__getitem__)[asked.offset : asked.offset + asked.limit]
    shown = found.take(pa.array(places, pa.int64())).to_pylist()  # texts of the page alone
    return RolloutPage(
        step=step,
        drawn=asked.drawn,
        steps=steps,
        total=found.num_rows,
        offset=asked.offset,
        rollouts=[_row(row, groups[row["problem_id"]]) for row in shown],
    )


Rollout = Annotated[str, Path(max_length=300, description="Its id; in a URL `#` is written `%23`.", examples=["p-3#1"])]
Step = Annotated[int, Path(ge=0, le=MAX_COUNT, description="The step.")]


@routes.get("/v1/runs/{run}/steps/{step}/rollouts/{rollout}", responses=examples.ROLLOUT)
async def get_rollout(
    run: RunId,
    step: Step,
    rollout: Rollout,
    parts: TheParts,
    drawn: Annotated[Drawn, Query(description="What it was drawn for.")] = "train",
) -> RolloutDetail:
    """One rollout: its text token by token, verdict and feedback, and the exact context of its teacher."""
    return await parts.reading.run(lambda: _detail(parts.registry.state(run)[0], step, rollout, drawn))


def _detail(state: RunState, step: int, rollout: str, drawn: Drawn) -> RolloutDetail:
    table = _table(state, step, drawn)
    row = next(iter(table.filter(pc.equal(table["rollout_id"], rollout)).to_pylist()), None)
    if row is None:
        raise HTTPException(
            404, f"no {drawn} rollout {rollout!r} in step {step}; GET /v1/runs/{state.run}/rollouts lists them"
        )
    problem = _read(lambda: read_problems(state.inputs.problems, [row["problem_id"]])).get(row["problem_id"])
    return RolloutDetail(
        row=_row(row, _groups(table)[row["problem_id"]]),
        step=step,
        drawn=drawn,
        problem=problem.messages if problem else [],
        text=row["text"],
        feedback=row.get("feedback") or "",
        error=row.get("error") or "",
        sandbox_tier=row.get("sandbox_tier") or "",
        cpu_ms=row.get("cpu_ms"),
        tokens=_tokens(state, step, drawn, rollout),
        context=_context(state, step, row),
    )


def _tokens(state: RunState, step: int, drawn: Drawn, rollout: str) -> list[TokenView] | None:
    found = _refs(state, step, drawn)
    tokenizer = _tokenizer(state.inputs.base.uri)
    if found is None or tokenizer is None:
        return None
    table = _read(lambda: arrow_table(found[0]))
    (row,) = table.filter(pc.equal(table["rollout_id"], rollout)).select(["token_ids", "logprobs"]).to_pylist()
    ids = row["token_ids"]
    held = _taught(state, step, rollout) if drawn == "train" else []
    return [
        TokenView(id=token, text=text, logprob=logprob, teacher_logprob=by_teacher)
        for token, text, logprob, by_teacher in itertools.zip_longest(
            ids, decoded(tokenizer, ids), row["logprobs"], held
        )
    ]


def _taught(state: RunState, step: int, rollout: str) -> list[float]:
    """What the teacher held of the tokens of a rollout; empty where it taught none, or its file is gone."""
    record = state.records.get((step, PhaseName.TRAIN))
    written = record.result.get("taught") if record else None
    if written is None:
        return []
    try:
        found = read_table(Ref.model_validate(written), ("rollout_id", [rollout]))
    except ArtifactError:
        return []
    return [logprob for row in found for logprob in row["teacher_logprobs"]]


@lru_cache(maxsize=8)
def _tokenizer(weights: str) -> Any:
    try:
        return tokenizer_of(local_path(weights))
    except ArtifactError:
        return None


def decoded(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text that each token adds, special tokens by their name; empty where a character is not complete yet."""
    from tokenizers.decoders import DecodeStream  # noqa: PLC0415 -- where there is a tokenizer, there is the package

    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer, token) or "" for token in ids]


def _context(state: RunState, step: int, row: Row) -> ContextShown | None:
    """The context of a rollout: for it, or what it was drawn from."""
    for name in RETRIEVES:
        if record := state.records.get((step, name)):
            ref = Ref.model_validate(record.result["contexts"])
            table = _read(partial(_KEPT.get, (ref.sha256,), partial(arrow_table, ref)))
            asked = pa.array([row["rollout_id"], row["prompt_id"]], pa.string())
            for found in table.filter(pc.is_in(table["prompt_id"], value_set=asked)).to_pylist():
                return ContextShown(
                    messages=load_messages(found["messages"]),
                    has_context=found["has_context"],
                    items=json.loads(found["items"]),
                    left_out=json.loads(found.get("left_out") or "[]"),
                    demonstration=found["demonstration"],
                    feedback=found["feedback"],
                    seq=found["seq"],
                )
    return None


@routes.get("/v1/runs/{run}/problems/{problem}", responses=examples.PROBLEM)
async def get_problem(
    run: RunId,
    problem: Annotated[Slug, Path(description="Id of the problem.", examples=["p-3"])],
    parts: TheParts,
) -> ProblemHistory:
    """A problem and how its attempts fared, step by step. Its expected answer is not told."""
    return await parts.reading.run(lambda: _history(parts.registry.state(run)[0], problem))


def _history(state: RunState, problem: str) -> ProblemHistory:
    known = _read(lambda: read_problems(state.inputs.problems, [problem])).get(problem)
    if known is None:
        raise HTTPException(404, f"run {state.run!r} has no problem {problem!r}")
    history: list[ProblemStep] = []
    steps = sorted({step for step, _ in state.records})
    evaluated, trained = problem in state.inputs.evaluation, _steps_of(state, problem, max(steps, default=0))
    for step in steps:
        for drawn in PHASES:
            may_hold = evaluated if drawn == "evaluation" or step == 0 else step in trained
            if may_hold and (found := _refs(state, step, drawn)) and found[1]:
                rows = _read(partial(_judged_rows, *found))
                mine = rows.filter(pc.equal(rows["problem_id"], problem)).to_pylist()
                history += [_fared(step, drawn, mine)] if mine else []
    return ProblemHistory(id=known.id, split=known.split, domain=known.domain, messages=known.messages, history=history)


def _steps_of(state: RunState, problem: str, last: int) -> set[int]:
    """The steps up to `last` that draw training rollouts of a problem."""
    if problem not in state.inputs.train:
        return set()
    order = walk(state.inputs.train, state.recipe.seed, state.recipe.schedule.problems_per_step)
    return {step for step, drawn in enumerate(itertools.islice(order, last), 1) if problem in drawn}


def _fared(step: int, drawn: Drawn, rows: list[dict[str, Any]]) -> ProblemStep:
    judged = [row for row in rows if row["outcome"] not in {None, Outcome.INFRA_ERROR}]
    return ProblemStep(
        step=step,
        drawn=drawn,
        policy_version=rows[0]["policy_version"],
        passed=sum(row["outcome"] == Outcome.PASSED for row in judged),
        judged=len(judged),
        reward=sum(row["reward"] for row in judged) / len(judged) if judged else None,
    )
