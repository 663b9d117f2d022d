"""What verifying needs besides a spec and a completion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pmd.services.verifier.endpoints import Endpoints
from pmd.services.verifier.library import Library
from pmd.services.verifier.sandbox.pool import Pool


@dataclass(frozen=True)
class Context:
    """The sandboxes, and the way to learn that nobody wants the verdict any more."""

    pool: Pool
    """Runs programs."""
    scorers: Pool
    """Runs functions of specs; `pool`, unless they may import more than programs."""
    library: Library
    """Runs judges that need third-party libraries."""
    gym: Library
    """Runs the scorers of reasoning-gym."""
    endpoints: Endpoints
    """Asks verifiers of other people."""
    tier: str
    """Name of the isolation in force, for verdicts on programs."""
    check: Callable[[], None]
    """Called between tests; raises when the work was cancelled."""
