"""Somebody else's verifier, asked over HTTP.

It is sent `{"completion": .., "payload": ..}` and answers `{"reward": number or null, "feedback": text}`: a reward is
clamped to [0, 1], 1 is `passed`, less is `failed`, null is `format`. Other keys of its answer are not looked at.

Invariants:
- Only URLs of `PMD_ALLOWED_URLS` are asked; a spec that names another one is refused.
- What gives no verdict (out of reach, too slow, another status, another answer) is asked again where that may help,
  and then `infra_error`, never a reward of zero (Law 5).
- What it says is somebody's text: feedback is bounded and inert like all feedback.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from pmd.services.common import extract
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier import feedback
from pmd.services.verifier.context import Context
from pmd.services.verifier.endpoints import EndpointError
from pmd.services.verifier.infra import infra_error


class Spec(Strict):
    """`{"kind": "http", "url": "https://judge.example/v1/verify", "payload": {"problem": "p-7"}}`"""

    kind: Literal["http"] = "http"
    url: str = Field(max_length=2000)
    """Where to post to; at or below an entry of `PMD_ALLOWED_URLS`."""
    payload: Any = None
    """JSON that goes along: the problem's id, the prompt, the expected answer, whatever the endpoint needs."""
    timeout_s: float = Field(default=30.0, gt=0.0, le=600.0)
    """Seconds for each attempt."""
    attempts: int = Field(default=4, ge=1, le=20)
    """How often it is asked when it is out of reach, too slow or overloaded, with growing pauses (.5 s, 1 s, ..)."""


def answer(spec: Spec, completion: str) -> str | None:  # noqa: ARG001 -- the signature of all kinds
    """All of the completion but its thinking."""
    return extract.without_thinking(completion)


def verify(spec: Spec, completion: str, context: Context) -> Verdict:
    """What the endpoint says; `infra_error` when it says nothing that can be understood."""
    body = {"completion": answer(spec, completion), "payload": spec.payload}
    try:
        said = context.endpoints.ask(
            spec.url, body, timeout_s=spec.timeout_s, attempts=spec.attempts, check=context.check
        )
    except EndpointError as error:
        return infra_error(str(error))
    reward, text = (said.get("reward", ...), said.get("feedback", "")) if isinstance(said, dict) else (..., "")
    if reward is None and isinstance(text, str):
        return Verdict(outcome=Outcome.FORMAT, reward=0.0, feedback=feedback.note(text))
    if not isinstance(reward, int | float) or not math.isfinite(reward) or not isinstance(text, str):
        return infra_error('the endpoint must answer {"reward": number or null, "feedback": text}')
    given = float(min(max(reward, 0), 1))
    outcome = Outcome.PASSED if given == 1.0 else Outcome.FAILED
    return Verdict(outcome=outcome, reward=given, feedback=feedback.note(text))


def prove(spec: Spec, context: Context) -> str | None:
    """Why the URL must not be asked."""
    refusal = context.endpoints.refusal(spec.url)
    return f"url: {refusal}" if refusal else None
