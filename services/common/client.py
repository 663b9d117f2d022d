"""HTTP between services: bounded attempts, bounded waits, retries only where they are safe.

A call ends when a service has been silent for `ANSWER_TIMEOUT_S`, all attempts together: the controller has to record
that a service hangs while it holds the run. One that hangs is told from one that is slow by `/healthz`, which answers
whatever else the service does: without that sign of life nobody waits so long.
A token that is refused is waited for as a service is: during a rotation one side sees the change before the other.
Every call that changes something is an idempotent PUT or DELETE of the job protocol, so a retry after a lost
answer is safe. Other 4xx are never retried: the same request would be refused again.
"""

from __future__ import annotations

import time
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from pmd.services.common import alive, outgoing
from pmd.services.common.jobs import ENDS, Job, JobSubmission
from pmd.services.common.tokens import REFUSED, Bearer, Tokens
from pmd.services.common.waiting import Away

ATTEMPTS = 3
BACKOFF_S = 0.3
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 20.0
LONG_POLL_S = 20.0
MAX_REASON = 2000


class ServiceUnavailable(Away):
    """A service can't be reached, refuses the token, answers 5xx or not as a service of ours; try again later. The
    message is the same whatever it was asked."""


class ServiceRefused(RuntimeError):
    """A service answered 4xx: the request itself is wrong. `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def reason(response: httpx.Response) -> str:
    """What a refusal says: its status, and the sentences of a service of ours. Nothing else of a body is repeated."""
    try:
        body = response.json()
        said = [body["title"], *(f"{each['field']}: {each['message']}" for each in body.get("errors", ()))]
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"HTTP {response.status_code}"
    return f"HTTP {response.status_code} {'; '.join(map(str, said))}"[:MAX_REASON]


class ServiceClient:
    """A client of one service; thread-safe."""

    def __init__(self, base_url: str, tokens: Tokens, *, transport: httpx.BaseTransport | None = None) -> None:
        self._http = outgoing.inside(
            base_url=base_url,
            auth=Bearer(tokens),
            transport=transport,
        )
        self.base_url = outgoing.shown(base_url)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, *, json: Any = None, wait: float | None = None) -> Any:
        """One request, answered JSON.

        Args:
            wait: seconds that the service is asked to wait before it answers.

        Raises:
            ServiceUnavailable: after `ATTEMPTS` connection failures or answers that are no JSON or 5xx, when the
                service shows no sign of life, when time is up, or when the token is refused.
            ServiceRefused: on other 4xx.
        """
        params = None if wait is None else {"wait": wait}
        deadline = time.monotonic() + ANSWER_TIMEOUT_S + (wait or 0.0)
        patience = alive.SILENCE_S + (wait or 0.0)
        cause = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(BACKOFF_S * 2**attempt)
            left = deadline - time.monotonic()
            if left <= 0:
                break
            timeout = httpx.Timeout(min(left, patience), connect=min(left, CONNECT_TIMEOUT_S))
            try:
                response = self._http.request(method, path, json=json, params=params, timeout=timeout)
            except httpx.ConnectTimeout:
                cause = f"no connection after {timeout.connect:.0f} s"
                break
            except httpx.TimeoutException:
                cause = "it does not answer"
                if not alive.lives(self._http, "/healthz"):
                    break
                patience = ANSWER_TIMEOUT_S + (wait or 0.0)  # it works on something: it gets all the time that is left
                continue
            except httpx.TransportError as error:
                cause = f"{type(error).__name__}: {error}"
                continue
            if response.is_success:
                try:
                    return response.json()
                except ValueError:
                    cause = f"HTTP {response.status_code} with a body that is none of ours"
                    continue
            if response.status_code == httpx.codes.UNAUTHORIZED:
                cause = REFUSED
                break
            if response.is_client_error and response.status_code != 429:
                raise ServiceRefused(response.status_code, f"{method} {self.base_url}{path}: {reason(response)}")
            cause = reason(response)
        raise ServiceUnavailable(f"{self.base_url} can't serve now: {cause}")

    def submit(self, key: str, kind: str, request: BaseModel) -> Job:
        """Start (or find) the job `key`."""
        body = JobSubmission(kind=kind, request=request.model_dump(mode="json")).model_dump(mode="json")
        return self._job(self.call("PUT", f"/v1/jobs/{key}", json=body))

    def poll(self, key: str, wait: float = LONG_POLL_S) -> Job:
        """The job `key`, after at most `wait` seconds."""
        return self._job(self.call("GET", f"/v1/jobs/{key}", wait=wait))

    def cancel(self, key: str) -> Job:
        """Cancel the job `key`."""
        return self._job(self.call("DELETE", f"/v1/jobs/{key}"))

    def _job(self, answer: Any) -> Job:
        """What a service says of a job; a proxy or another program in its place says anything."""
        try:
            return Job.model_validate(answer)
        except ValidationError:
            raise ServiceUnavailable(f"{self.base_url} can't serve now: its answer is no job") from None

    def release(self, run: str) -> None:
        """Free what the service holds for a run that has ended or pauses."""
        self.call("PUT", f"/v1/runs/{run}/release")

    def forget(self, run: str) -> None:
        """Remove what the service keeps on disk for a run that is deleted."""
        self.call("DELETE", f"/v1/runs/{run}")

    def prepare(self, run: str) -> None:
        """Let the service begin to load what a run that starts will need."""
        self.call("PUT", f"/v1/runs/{run}/prepare")

    def run(self, key: str, kind: str, request: BaseModel, timeout: float) -> Job:
        """Submit and wait for the end: for scripts and tests; the controller polls instead.

        Raises:
            TimeoutError: when the job has not ended after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        job = self.submit(key, kind, request)
        while job.status not in ENDS:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"job {key} at {self.base_url} has not ended after {timeout} s")
            job = self.poll(key, min(LONG_POLL_S, left))
        return job
