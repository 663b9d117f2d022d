"""Kind `reasoning_gym`: its scorers judge in the sandbox, and no answer is executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pmd.services.common import values
from pmd.services.verifier.verification import Submission
from tests.verifier.conftest import Sandbox

gym = pytest.importorskip("reasoning_gym")
pytestmark = pytest.mark.timeout(300)

EVALUATING = {
    "string_insertion.py",
    "spiral_matrix.py",
    "binary_matrix.py",
    "n_queens.py",
    "simple_integration.py",
    "intermediate_integration.py",
    "polynomial_multiplication.py",
    "puzzle24.py",
    "countdown.py",
}
OF_THEIR_OWN = {
    "codeio.py",
    "number_sorting.py",
    "generators_50_99.py",
    "generators_00_49.py",
    "bitwise_arithmetic.py",
    "basic_arithmetic.py",
    "propositional_logic.py",
}
"""They evaluate what they generate, or have a parser of that name."""


def spec_of(name: str, **over: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    entry = gym.create_dataset(name, size=1, seed=3)[0]
    return {"kind": "reasoning_gym", "dataset": name, "entry": values.encode(entry), **over}, entry


def judge(sandbox: Sandbox, spec: dict[str, Any], completion: str) -> Any:
    return sandbox.verifier.verify([Submission(spec, completion)])[0]


def test_every_scorer_that_evaluates_an_answer_is_known() -> None:
    """A new version of reasoning-gym must not bring another one unseen."""
    found = {
        path.name
        for path in Path(gym.__file__).parent.rglob("*.py")
        if re.search(
            r"\b(eval|exec|parse_expr|sympify|lambdify|__import__)\(|\byaml\.(unsafe_)?load\(|pickle", path.read_text()
        )
    }
    assert found == EVALUATING | OF_THEIR_OWN


@pytest.mark.parametrize("name", ["gcd", "countdown", "n_queens", "game_of_life"])
def test_the_own_answer_passes_and_another_does_not(name: str, sandbox: Sandbox) -> None:
    spec, entry = spec_of(name)
    assert judge(sandbox, spec, f"Well. <answer>{entry['answer']}</answer>").outcome == "passed"
    wrong = judge(sandbox, spec, "<answer>no such thing</answer>")
    assert wrong.outcome == "failed"
    assert wrong.reward < 0.1
    assert str(entry["answer"]) not in wrong.feedback


def test_where_the_answer_stands_is_an_option(sandbox: Sandbox) -> None:
    spec, entry = spec_of("gcd")
    bare = f"Let me see.\n{entry['answer']}\n"
    assert judge(sandbox, spec, bare).outcome == "format"
    assert judge(sandbox, {**spec, "extract": "last_line"}, bare).outcome == "passed"
    assert judge(sandbox, {**spec, "extract": "last_line"}, " \n").outcome == "format"


def test_a_partial_score_is_the_reward_and_passes_where_the_spec_says(sandbox: Sandbox) -> None:
    spec, entry = spec_of("n_queens")
    board = str([line.split() for line in entry["answer"].split("\n")])
    half = judge(sandbox, spec, f"<answer>{board}</answer>")
    assert (half.outcome, half.reward) == ("failed", 0.5)
    assert judge(sandbox, {**spec, "pass_at": 0.5}, f"<answer>{board}</answer>").outcome == "passed"


FORGE = "__import__('os').write(3, b'{\"value\": 1.0}.') and __import__('os')._exit(0)"
HOSTILE = [
    FORGE,
    "exec('import os')",
    "open('/etc/passwd').read()",
    "[c for c in ().__class__.__base__.__subclasses__()]",
    "(lambda: 1)()",
    "entry",
    "oracle_answer",
    "valid_solutions",
    "self.config",
    "9**9**9**9",
    "(" * 3000 + "1" + ")" * 3000,
    "factorial(10**8)",
    "S('__import__(\"os\").getpid()')",
    "x.__class__",
    "[" * 200,
    "\x00",
    "sin.__globals__",
    "1 if True else 2",
    "f'{1}'",
]


@pytest.mark.parametrize(
    "name",
    [
        "n_queens",
        "countdown",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in sorted(path.removesuffix(".py") for path in EVALUATING)
        ),
    ],
)
def test_a_hostile_answer_gains_nothing(name: str, sandbox: Sandbox) -> None:
    spec, _ = spec_of(name, cpu_s=0.5)
    verdicts = sandbox.verifier.verify([Submission(spec, f"<answer>{answer}</answer>") for answer in HOSTILE])
    got = {answer[:30]: (str(v.outcome), v.reward) for answer, v in zip(HOSTILE, verdicts, strict=True)}
    assert all(outcome in {"failed", "timeout", "memory"} and reward <= 0.05 for outcome, reward in got.values()), got


def test_a_sum_in_sympy_still_counts(sandbox: Sandbox) -> None:
    spec, entry = spec_of("polynomial_multiplication")
    turned = " + ".join(reversed(entry["answer"].replace(" - ", " + -1*").split(" + ")))
    assert judge(sandbox, spec, f"<answer>{turned}</answer>").outcome == "passed"


def test_a_spec_whose_scorer_cannot_be_used_is_refused(sandbox: Sandbox) -> None:
    spec, _ = spec_of("gcd")
    assert "no data set 'gdc'" in str(sandbox.verifier.refusals([{**spec, "dataset": "gdc"}])[0])
    assert "can't be used" in str(sandbox.verifier.refusals([{**spec, "settings": {"colour": 1}}])[0])
    assert "must hold answer and metadata" in str(sandbox.verifier.refusals([{**spec, "entry": {"answer": "1"}}])[0])
    assert "can't be read" in str(sandbox.verifier.refusals([{**spec, "entry": {"range": "x"}}])[0])
    assert judge(sandbox, {**spec, "settings": {"colour": 1}}, "<answer>1</answer>").outcome == "infra_error"
