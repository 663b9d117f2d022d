"""`POST /v1/verify` for a few completions now, and what is asked about specs and past verdicts."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import Field

from pmd.services.common.app import NotReady, known_query
from pmd.services.common.artifacts import ArtifactError
from pmd.services.common.strict import Strict
from pmd.services.common.waiting import away
from pmd.services.common.wire import Verdict
from pmd.services.verifier.kinds import SpecError
from pmd.services.verifier.reverify import ReverifyRequest, ReverifyResult, reverify
from pmd.services.verifier.service import RefusedSpec, Verifier
from pmd.services.verifier.verification import Submission

REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "no token, or a wrong one"},
    408: {"description": "the body does not arrive"},
    413: {"description": "the body is too large"},
    422: {"description": "a spec or an artifact is not valid; `errors` names the field"},
    429: {"description": "too much is under way; see Retry-After"},
    503: {"description": "the sandbox is not open, or the service stops"},
}

routes = APIRouter(dependencies=[Depends(known_query)])


class VerifyItem(Strict):
    """A completion and the spec that judges it."""

    verifier: dict[str, Any]
    """A problem's verifier spec: `kind` (code, unit_tests, choice, exact, regex, math, json_schema, python,
    reasoning_gym, http, or an installed one) and what that kind needs."""
    completion: str


class VerifyBatch(Strict):
    """Completions to judge now."""

    items: list[VerifyItem] = Field(min_length=1, max_length=4096)


class VerifyBatchResult(Strict):
    verdicts: list[Verdict]
    """In the order of the items."""


class SpecBatch(Strict):
    """Verifier specs to check."""

    specs: list[dict[str, Any]] = Field(min_length=1, max_length=4096)


class SpecBatchResult(Strict):
    refused: list[RefusedSpec]


async def _verifier(request: Request) -> Verifier:
    verifier: Verifier = request.app.state.verifier
    return verifier


TheVerifier = Annotated[Verifier, Depends(_verifier)]


def _bad_specs(error: SpecError) -> HTTPException:
    fields = [{**field, "field": f"items.{field['field']}"} for field in error.fields]
    return HTTPException(422, fields)


@routes.post("/v1/verify", tags=["verify"], responses=REFUSALS)
async def verify(batch: VerifyBatch, request: Request, verifier: TheVerifier) -> VerifyBatchResult:
    """Judge completions now. Equal programs of an equal spec are run once."""
    submissions = [Submission(item.verifier, item.completion) for item in batch.items]
    try:
        verdicts = await verifier.answer(lambda verify: verify(submissions), request)
    except SpecError as error:
        raise _bad_specs(error) from error
    except NotReady as error:
        raise HTTPException(503, str(error)) from error
    return VerifyBatchResult(verdicts=verdicts)


@routes.post("/v1/specs:validate", tags=["verify"], responses=REFUSALS)
def validate_specs(batch: SpecBatch, verifier: TheVerifier) -> SpecBatchResult:
    """Check specs: those that `/v1/verify` would refuse, whose function can't be loaded, or whose own `solution`
    (a completion that must pass) does not; and why."""
    try:
        return SpecBatchResult(refused=verifier.refusals(batch.specs))
    except NotReady as error:
        raise HTTPException(503, str(error)) from error


@routes.post("/v1/reverify", tags=["verify"], responses=REFUSALS)
async def judge_again(what: ReverifyRequest, request: Request, verifier: TheVerifier) -> ReverifyResult:
    """Judge past completions by specs of today and say what changes. For many, submit it as a job `reverify`."""
    try:
        return await verifier.answer(lambda verify: reverify(what, verify), request)
    except SpecError as error:
        raise _bad_specs(error) from error
    except NotReady as error:
        raise HTTPException(503, str(error)) from error
    except (ArtifactError, ValueError, OSError) as error:
        if away(error) is not None:
            raise
        raise HTTPException(422, str(error)) from error
