"""The spec examples of docs/verifier.md are valid and judge a right and a wrong completion as they should."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pmd.services.verifier.verification import Submission
from tests.verifier.conftest import Sandbox, fenced

TEXT = (Path(__file__).parents[2] / "docs" / "verifier.md").read_text()
SPECS = [spec for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL) if "kind" in (spec := json.loads(block))]

RIGHT_AND_WRONG = [
    (fenced("print(sum(map(int, input().split())))"), fenced("print(3)")),
    (fenced("def total(a, b): return sum(a) + b"), fenced("def total(a, b): return 6.0")),
    (fenced("n = int(input())\nprint(next(d for d in range(2, n) if n % d == 0))"), fenced("print(5)")),
    (fenced("total = sum"), fenced("def total(a): return len(a)")),
    ("<answer>(B)</answer>", "<answer>C</answer>"),
    ("<answer>42 KM</answer>", "<answer>42 m</answer>"),
    ("AB-12", "AB-12 or CD-34"),
    (r"\boxed{0.5}", r"\boxed{2}"),
    ('{"name": "Ada"}', '{"name": 1}'),
    ("three little words", "two words"),
    ("<answer>6</answer>", "<answer>12</answer>"),
    (r"\boxed{0.5\pi}", r"\boxed{\pi}"),
]


def test_every_kind_has_an_example() -> None:
    kinds = [spec["kind"] for spec in SPECS]
    first = ["code", "code", "code", "unit_tests", "choice", "exact", "regex", "math", "json_schema", "python"]
    assert kinds == [*first, "reasoning_gym", "math"]


@pytest.mark.parametrize(("spec", "pair"), list(zip(SPECS, RIGHT_AND_WRONG, strict=True)))
def test_examples(spec: dict[str, Any], pair: tuple[str, str], sandbox: Sandbox) -> None:
    right, wrong = sandbox.verifier.verify([Submission(spec, completion) for completion in pair])
    assert (right.outcome, right.reward) == ("passed", 1.0), right
    assert (wrong.outcome, wrong.reward) == ("failed", 0.0), wrong


def test_no_example_is_refused(sandbox: Sandbox) -> None:
    assert sum("solution" in spec for spec in SPECS) == 1
    assert sandbox.verifier.refusals(SPECS) == {}
