"""Verdicts of our own trouble: no judgement of the answer was possible (Law 5)."""

from __future__ import annotations

import logging

from pmd.services.common.wire import Outcome, Verdict

log = logging.getLogger(__name__)
MAX_CHARS = 1000


def infra_error(cause: str, *, sandbox_tier: str = "", cpu_ms: float = 0.0) -> Verdict:
    """The verdict when judging failed for `cause`, which is logged and kept for the operator, not for a model."""
    log.warning("infra_error: %s", cause)
    said = cause[:MAX_CHARS].encode("utf-8", "backslashreplace").decode()
    return Verdict(outcome=Outcome.INFRA_ERROR, reward=0.0, error=said, sandbox_tier=sandbox_tier, cpu_ms=cpu_ms)
