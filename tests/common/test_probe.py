"""The probe: rounding passes, other weights don't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pmd.services.common import probe
from pmd.services.common.artifacts import MANIFEST, ArtifactError

SAID = probe.Probe(token_ids=probe.text(500), logprobs=[-float(i) for i in range(32)], precision="fp32")


def off_by(nats: float) -> list[float]:
    return [logprob + (-1) ** i * nats for i, logprob in enumerate(SAID.logprobs)]


def check(logprobs: list[float], precision: probe.Precision = "fp32", said: probe.Probe = SAID) -> float:
    return probe.check(said, logprobs, precision, replica="node-7", model="demo@3")


def test_the_text_is_always_the_same_and_fits_the_vocabulary() -> None:
    assert probe.text(500) == probe.text(500) != probe.text(501)
    assert len(probe.text(3)) == probe.LENGTH
    assert set(probe.text(3)) == {0, 1, 2}


def test_rounding_passes_in_the_coarser_precision_of_the_two() -> None:
    assert check(off_by(1e-4)) == pytest.approx(1e-4)
    with pytest.raises(probe.WrongWeights):
        check(off_by(0.05))
    check(off_by(0.05), "bf16")
    check(off_by(0.05), "fp32", SAID.model_copy(update={"precision": "bf16"}))


@pytest.mark.parametrize("logprobs", [off_by(0.5), [float("nan")] * 32, [float("-inf")] * 32])
def test_other_weights_are_an_error_that_names_the_replica_the_version_and_the_gap(logprobs: list[float]) -> None:
    with pytest.raises(
        ArtifactError, match=r"replica node-7 .* as demo@3: .* nats on average \(0\.3 is allowed"
    ) as said:
        check(logprobs, "bf16")
    assert "restart the replica" in str(said.value)


def test_a_version_that_nobody_trained_has_none(tmp_path: Path) -> None:
    for manifest, expected in (({}, None), ({"probe": None}, None), ({"probe": SAID.model_dump()}, SAID)):
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
        assert probe.read(tmp_path) == expected
