"""The verifier through the gateway: completions of anybody, and a run's own rollouts judged again.

Invariant: judging again changes nothing that was recorded.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from pmd.gateway.api import examples
from pmd.gateway.api.deps import RunId, Runs, Services
from pmd.gateway.loop.state import PhaseName, RunState
from pmd.services.common.app import known_query
from pmd.services.common.requests import GenerateResult, VerifyResult
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Slug

routes = APIRouter(dependencies=[Depends(known_query)])


class JudgeAgain(Strict):
    """Which rollouts of a run to judge again, and by what."""

    step: int | None = Field(default=None, ge=1)
    """The step; the last one that was judged unless given."""
    specs: dict[Slug, dict[str, Any]] = {}
    """Verifier specs by problem id that take the place of the run's."""


@routes.post(
    "/v1/verify",
    tags=["verify"],
    response_class=JSONResponse,
    responses=examples.refusals(429),
    openapi_extra=examples.VERIFY,
)
async def verify(request: Request, services: Services) -> Response:
    """Judge completions: the body is that of the verifier's own `POST /v1/verify`; see docs/verifier.md."""
    return await services.post("verifier", "/v1/verify", request)


@routes.post("/v1/runs/{run}:reverify", tags=["verify"], response_class=JSONResponse, responses=examples.REVERIFY)
async def reverify(run: RunId, body: JudgeAgain, registry: Runs, services: Services) -> Response:
    """Judge a step's rollouts by the verifier of today and say what changes; nothing recorded is touched."""
    await run_in_threadpool(registry.run, run)
    state, _ = await run_in_threadpool(registry.state, run)
    return await services.send("verifier", "/v1/reverify", _request(state, body))


def _request(state: RunState, body: JudgeAgain) -> dict[str, Any]:
    judged = sorted(step for step, name in state.records if name is PhaseName.VERIFY)
    step = judged[-1] if body.step is None and judged else body.step
    if step not in judged:
        told = f"steps {judged[0]} to {judged[-1]} are" if judged else "none is yet"
        raise HTTPException(404, f"run {state.run!r} has no judged rollouts of step {step}; {told}")
    references = {
        "rollouts": state.result(step, PhaseName.ROLLOUT, GenerateResult).rollouts,
        "verdicts": state.result(step, PhaseName.VERIFY, VerifyResult).verdicts,
        "problems": state.inputs.problems,
    }
    return {name: ref.model_dump(mode="json") for name, ref in references.items()} | {"specs": body.specs}
