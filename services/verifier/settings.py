"""Settings of the verifier."""

from __future__ import annotations

import os

from pydantic import Field

from pmd.services.common.allowed import Allowed
from pmd.services.common.settings import WorkerSettings
from pmd.services.verifier.endpoints import Endpoints


class VerifierSettings(WorkerSettings):
    """What the verifier needs to start."""

    sandbox_workers: int = Field(default=0, ge=0, le=1024)
    """Programs that run at the same time; 0 means one per core that this process may use."""
    sandbox_memory_mb: int = Field(default=8192, ge=512)
    """What all running programs and judges may take together, by their limits; more of them wait. Keep it below the
    container's memory limit less 512 MB and 64 MB per worker (200 MB where mathematics or JSON is judged)."""
    sandbox_libraries: tuple[str, ...] = ("numpy",)
    """Installed packages that programs may import besides the standard library (a JSON list). They are imported once,
    before any program runs, and their files can be read by every program."""
    sandbox_grader_libraries: tuple[str, ...] = ()
    """Installed packages that functions of specs (kind `python`) may import besides those; programs may not."""
    allowed_urls: str = ""
    """URLs that specs of kind `http` may name, and all below them, separated by commas."""
    verifier_http_keys: dict[str, str] = {}
    """By such a URL, the name of the environment variable that holds the bearer token for it and all below (JSON)."""
    sandbox_insecure: bool = False
    """Start even where programs can't be isolated. For development only."""
    max_request_mb: int = Field(default=64, ge=1)
    """Largest body of a request."""
    max_pending_mb: int = Field(default=256, ge=1)
    """Bodies of all requests that are being answered, together; more are refused with 429. In memory a body takes
    several times its size. `max_request_mb` where that is more."""

    def endpoints(self) -> Endpoints:
        """Where completions may be sent to."""
        return Endpoints(Allowed.of(self.allowed_urls), self.verifier_http_keys)

    def workers(self) -> int:
        """Programs that run at the same time."""
        return self.sandbox_workers or len(os.sched_getaffinity(0))
