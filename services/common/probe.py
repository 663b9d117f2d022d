"""The probe: what a published model says about one short text; who loads the model can check by it that it is the one.

Invariants:
- The trainer writes it when it exports (`manifest.json`, key `probe`): the log-prob of each token of a fixed text, by
  its own forward pass on the weights that it writes. Whoever serves them asks the loaded model the same (Law 13).
- A difference beyond rounding is an error that names the replica, never a warning: an engine that serves a new model
  with some old matrices answers fluently, and everything after it is wrong.
- A version that no trainer made (the base) has none.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pmd.services.common.artifacts import MANIFEST, ArtifactError
from pmd.services.common.strict import Strict

LENGTH = 33
"""Tokens of the text; the first has no log-prob."""

BOUND = {"fp32": 1e-3, "bf16": 0.3}
"""Largest mean difference, in nats, that rounding explains, by the coarser precision of the two.

Measured: 1e-5 and less between vLLM and transformers in fp32; between bf16 and fp32 0.065 (pocket) and 0.092 (SmolLM2).
"""

Precision = Literal["fp32", "bf16"]


class Probe(Strict):
    """A text and its log-probs."""

    token_ids: list[int]
    logprobs: list[float]
    """In nats at temperature 1, of each token but the first."""
    precision: Precision
    """Of the forward pass that made them."""


class WrongWeights(ArtifactError):
    """The model in memory is not the one that its folder holds."""


def text(vocabulary: int, length: int = LENGTH) -> list[int]:
    """Token ids of the probe for a model with so many of them: always the same, from all over the vocabulary."""
    return random.Random(vocabulary).choices(range(vocabulary), k=length)


def read(folder: Path) -> Probe | None:
    """The probe of a weights folder whose manifest has been checked; None when nobody trained it."""
    found = json.loads((folder / MANIFEST).read_text()).get("probe")
    return None if found is None else Probe.model_validate(found)


def gap(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Mean absolute difference of log-probs, in nats."""
    return sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def check(probe: Probe, logprobs: Sequence[float], precision: Precision, *, replica: str, model: str) -> float:
    """The gap between the trainer's log-probs and those of the model in memory.

    Args:
        logprobs: of the loaded model.
        precision: that the loaded model computes in.
        replica: who has loaded it, for the message.

    Raises:
        WrongWeights: the gap is beyond what rounding explains.
    """
    bound = BOUND["bf16" if "bf16" in (precision, probe.precision) else "fp32"]
    found = gap(probe.logprobs, logprobs)
    if math.isfinite(found) and found <= bound:
        return found
    raise WrongWeights(
        f"replica {replica} does not serve what the trainer published as {model}: the log-probs of the probe differ by "
        f"{found:.3g} nats on average ({bound:g} is allowed in {precision}); the engine has not taken up all weights, "
        "so restart the replica, and report this with its log"
    )
