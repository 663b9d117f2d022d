"""Mathematical equality: exact at every size, no part of an answer ignored, plain expressions read as meant."""

from __future__ import annotations

import pytest

from pmd.services.common.wire import Outcome
from pmd.services.verifier.kinds import SpecError, parse_spec
from pmd.services.verifier.verification import Submission
from tests.verifier.conftest import Sandbox


def outcomes(sandbox: Sandbox, gold: str, answers: tuple[str, ...]) -> dict[str, Outcome]:
    spec = {"kind": "math", "answer": gold, "cpu_s": 20}
    verdicts = sandbox.verifier.verify([Submission(spec, f"<answer>{answer}</answer>") for answer in answers])
    return dict(zip(answers, (verdict.outcome for verdict in verdicts), strict=True))


SAME = {
    r"\frac{2^{2005}+1}{3\cdot 2^{2006}}": (r"\frac{1}{6} + \frac{1}{3\cdot 2^{2006}}",),
    r"\frac{1}{2004!}": (r"\frac{2005}{2005!}", r"\frac{1}{2004!}"),
    "10^{-400}": (r"\frac{1}{10^{400}}", r"0.1 \times 10^{-399}"),
    "10^{400}": (r"10 \cdot 10^{399}", r"1.0 \times 10^{400}"),
    r"\sqrt{2} \cdot 10^{-30}": (r"\frac{2 \cdot 10^{-30}}{\sqrt{2}}",),
    r"\sqrt{5+2\sqrt{6}}": (r"\sqrt{2}+\sqrt{3}",),
    r"\frac{1}{3}": ("0.333333", "0.3333333", "1/3"),
    "0.5": ("1/2", "0.5000001", r"50\%"),
    "50": (r"50\%", r"\$50", r"50\text{ dollars}", r"50 \text{ m/s}^2", "50 cm", r"50^\circ"),
    "(2, 1)": ("(2,1)",),
    "1, 2": (r"\{2, 1\}", "2 and 1", r"1 \text{ or } 2"),
    r"0 \le x < 1": ("[0, 1)", r"0 \leq x < 1"),
    "x < 5": ("5 > x",),
    "x = 5": ("5", "x = 5", "5 = x"),
    "y = 2x + 1": ("y = 1 + 2x",),
    "3 + 2i": ("2i + 3",),
    r"\text{blue}": ("blue", r"\text{ blue }"),
    "101_2": ("101_2", "101", "101_{2}"),
    r"1, 2, \ldots": (r"1,2,\dots", "1, 2, ..."),
    r"4 \iff 5": (r"4\iff5", r"4  \iff  5"),
    r"\begin{pmatrix}1\\2\end{pmatrix}": (r"\begin{bmatrix}1\\ \frac{4}{2}\end{bmatrix}",),
    # plain expressions
    "pi/2": (r"\frac{\pi}{2}", "pi / 2", r"\pi/2"),
    "-2*pi": (r"-2\pi", "-2 pi"),
    "x**2+1": ("x^2 + 1", "1 + x**2"),
    "x**10": ("x^{10}", "x^10"),
    "exp(16)": ("e^{16}", r"\exp(16)", "e^16"),
    "sqrt(x*(x+1))": (r"\sqrt{x^2+x}",),
    "sin(x)**2": (r"\sin^2(x)", r"\sin(x)^2"),
    "2*x*y": ("2xy",),
}
OTHER = {
    r"\frac{2^{2005}+1}{3\cdot 2^{2006}}": (r"\frac{1}{3\cdot 2^{2006}}", r"\frac{1}{6}"),
    r"\frac{1}{3\cdot 2^{2006}}": (r"\frac{2^{2005}+1}{3\cdot 2^{2006}}", r"\frac{1}{2^{2006}}", "0"),
    r"\frac{1}{2004!}": (r"\frac{1}{2006!}", "0"),
    "10^{-400}": ("10^{-500}", r"1.0 \times 10^{-500}", "0", "2 \\cdot 10^{-400}"),
    "0": ("10^{-400}", r"\frac{1}{2004!}", "10^{-20}"),
    "1": ("1 + 10^{-400}", "1 + 10^{-20}", "1 - 10^{-16}"),
    "10^{400}": ("10^{400} + 1", "10^{401}"),
    "10^{20}": ("10^{20}+1",),
    r"\sqrt{2}": (r"\sqrt{2} + 10^{-40}", r"\sqrt{2 + 10^{-30}}"),
    r"\sqrt{2} \cdot 10^{-30}": (r"\sqrt{3} \cdot 10^{-30}",),
    r"1, 10^{-400}": ("1, 10^{-500}",),
    r"(1, 10^{-400})": ("(1, 10^{-500})",),
    r"[0, 10^{-400})": ("[0, 10^{-500})",),
    r"x = 10^{-400}": ("x = 10^{-500}", "10^{-500}"),
    r"\frac{x}{2004!}": (r"\frac{x}{2006!}",),
    r"y = \frac{x}{2004!}": (r"y = \frac{x}{2006!}",),
    r"\frac{i}{2004!}": (r"\frac{i}{2006!}",),
    r"\begin{pmatrix}1\\10^{-400}\end{pmatrix}": (r"\begin{pmatrix}1\\10^{-500}\end{pmatrix}",),
    "42": (
        r"42 \text{ or 43}",
        r"42\text{ or something}",
        r"42\text{ if even, 8 if odd}",
        r"42 \text{ if } x",
        r"42\text{ (or 43)}",
        r"42\textbf{ or 43}",
        r"42\textit{ or 43}",
        r"42 \mathrm{ or 43}",
        r"42 \mbox{ or 43}",
        r"42\text{ not}",
        r"42\text{ and more}",
        r"42\text{ cm, 8 m}",
        r"42 \text{ cm} + 8\text{ cm}",
        r"42 \text{ m}\cdot 2\text{ s}",
        r"42, \ldots",
        r"42 \ldots",
        "42 or",
        "42t",
        "42 t",
        "42c",
        "42_7",
        "42 43",
        "42; 43",
        r"42 \quad 43",
    ),
    "(1,2)": (r"(1,2)\text{ or (3,4)}",),
    "12": ("1 2",),
    "5": ("5t", "5 more than x"),
    "101_2": ("101_3",),
    "pi/2": ("p*i/2", "pi/3"),
    "x**10": ("x^1 0",),
}


@pytest.mark.parametrize("gold", SAME)
def test_equal_answers_pass(gold: str, sandbox: Sandbox) -> None:
    assert outcomes(sandbox, gold, SAME[gold]) == dict.fromkeys(SAME[gold], Outcome.PASSED)


@pytest.mark.parametrize("gold", OTHER)
def test_other_answers_fail(gold: str, sandbox: Sandbox) -> None:
    assert outcomes(sandbox, gold, OTHER[gold]) == dict.fromkeys(OTHER[gold], Outcome.FAILED)


@pytest.mark.parametrize("gold", [".", " ", "$$", "$ . $", r"\frac{1}{", "}{", r"\boxed{5}", ", ;"])
def test_an_expected_answer_that_nothing_equals_is_refused(gold: str) -> None:
    with pytest.raises(SpecError, match=r"no answer equals it|inside it"):
        parse_spec({"kind": "math", "answer": gold})
