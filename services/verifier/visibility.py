"""What of a spec may be told to the one who answers."""

from __future__ import annotations

from pmd.services.common.strict import Strict


class Visibility(Strict):
    """Which secrets feedback may quote."""

    expected: bool = False
    """Show the expected output of failed tests. Leave it off for tests that are also used to evaluate: feedback
    reaches teacher contexts and, through memory, later attempts."""
