"""Law 12 on the real installation: what is away is waited for, with its name, and the run ends as undisturbed.

`python -m tests.gateway.local.outages` is the long form: every part in every phase, for minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.local.outages import NEEDED, PARTS, Installation, Outage

SECONDS = 15.0
"""Longer than it takes to tell that a service hangs."""
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800), pytest.mark.usefixtures("own_environment")]


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.close()


def test_law_12_every_part_hangs_and_dies_and_the_run_ends_as_undisturbed(installation: Installation) -> None:
    """Each part in the first and in the last phase that needs it, then all of them at once."""
    struck = [
        *((NEEDED[part][0], (part,), "hung") for part in PARTS),
        *((NEEDED[part][-1], (part,), "dead") for part in PARTS),
        *((NEEDED[part][0], (part,), "starting") for part in ("embedder", "generator")),
        (NEEDED["memory"][0], PARTS, "hung"),
        (NEEDED["trainer"][0], PARTS, "dead"),
    ]
    outages = [Outage(step, *where, SECONDS) for step, where in enumerate(struck, start=1)]
    undisturbed = installation.create("calm", len(outages), external=True)
    list(installation.play(undisturbed, []))
    run = installation.create("struck", len(outages), external=True)
    unnamed = [
        seen
        for seen in installation.play(run, outages)
        # A controller at work does without its broker for 20 s.
        if seen.named is None and seen.outage.parts != ("redis",)
    ]
    assert not unnamed
    assert installation.faults(run, undisturbed) == []
