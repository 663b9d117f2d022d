"""What counts as an answer, when two are equal, and what feedback says."""

from __future__ import annotations

import time

import pytest

from pmd.services.common import extract
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier import compare, feedback
from pmd.services.verifier.context import Context
from pmd.services.verifier.feedback import Case, Frame
from pmd.services.verifier.kinds import SpecError, parse_spec
from pmd.services.verifier.scores import pass_at_k, split_scores

NO_SANDBOX: Context = None  # type: ignore[assignment]  # text kinds run nothing


def judge(spec: dict[str, object], completion: str) -> Verdict:
    kind, typed = parse_spec(spec)
    verdict: Verdict = kind.verify(typed, completion, NO_SANDBOX)
    return verdict


PROGRAMS = {
    "one block": ("```python\nx\n```", "x\n"),
    "no language": ("```\nx\n```", "x\n"),
    "last of two": ("```python\na\n```\nthen\n```python\nb\n```", "b\n"),
    "other languages are skipped": ("```python\na\n```\n```json\n{}\n```", "a\n"),
    "unclosed": ("```python\nx", None),
    "closed, then unclosed": ("```python\na\n```\n```python\nb", None),
    "no fence": ("def solve(a): pass", None),
    "empty": ("", None),
    "tildes": ("~~~py\nx\n~~~", "x\n"),
    "longer fence holds a shorter one": ("````python\n'''\n```\n'''\n````", "'''\n```\n'''\n"),
    "fence of the other kind inside": ("```python\n~~~\n```", "~~~\n"),
    "crlf": ("```python\r\nx\r\ny\r\n```\r\n", "x\ny\n"),
    "in a list": ("1.  So:\n\n    ```python\n    if x:\n\n        y\n    ```", "if x:\n\n    y\n"),
    "only the fence is in a list": ("- So:\n  ```python\nif x:\n    y\n  ```", "if x:\n    y\n"),
    "in a list by tabs": ("-\tSo:\n\t```python\n\tx\n\t```", "x\n"),
    "a fence in a docstring": (
        "```python\n'''\n    ```\n    a\n    ```\n'''\n```",
        "'''\n    ```\n    a\n    ```\n'''\n",
    ),
    "inline backticks are no fence": ("use ```x``` here", None),
    "thinking is no answer": ("<think>```python\nx\n```</think>", None),
    "answer after thinking": ("<think>```python\na\n```</think>```python\nb\n```", "b\n"),
    "thinking opened in the prompt": ("```python\na\n```</think>\n```python\nb\n```", "b\n"),
    "thinking without end": ("```python\na\n```\n<think>```python\nb\n```", "a\n"),
    "upper case language": ("```Python\nx\n```", "x\n"),
    "language and version": ("```python3.11\nx\n```", "x\n"),
    "another interpreter": ("```pypy3\nx\n```", "x\n"),
    "language in braces": ("```{.python}\nx\n```", "x\n"),
    "language and file": ("```python:solution.py\nx\n```", "x\n"),
    "sample output in a bare block": ("```python\na\n```\nIt prints\n```\n42\n```", "a\n"),
    "sample output before it": ("```\n42\n```\n```python\na\n```", "a\n"),
    "a marked block between two bare ones": ("```\n1\n```\n```py\na\n```\n```\n42\n```", "a\n"),
    "the last of two bare ones": ("```\na\n```\n```\nb\n```", "b\n"),
    "how to run it": ("```python\na\n```\nRun it:\n```bash\npython a.py\n```\nOutput:\n```\n42\n```", "a\n"),
    "the prompt opened the block": ("import sys\nprint(1)\n```\nThis prints 1.", "import sys\nprint(1)\n"),
    "the prompt opened it, a line down": ("\ndef f(a):\n    return a\n```", "\ndef f(a):\n    return a\n"),
    "the prompt opened it, sample output": ("x = 1\nprint(x)\n```\nIt prints\n```\n1\n```\n", "x = 1\nprint(x)\n"),
    "the prompt opened it, a comment first": ("# add\nprint(1)\n```", None),
    "the prompt opened it, cut short": ("import sys\nprint(1)", None),
    "prose, then cut short": ("for example, this:\n```\nx", None),
    "prose and a bare block": ("Solution\n```\nx\n```", "x\n"),
    "in an answer block": ("<answer>\n```python\nx\n```\n</answer>", "x\n"),
    "in an answer block without lines of its own": ("<answer>```python\nx\n```</answer>", "x\n"),
    "behind reasoning": ("<reasoning>\nSort.\n</reasoning>\n<answer>```python\nx\n```</answer>", "x\n"),
    "a special token behind it": ("```python\nx\n```<|im_end|>", "x\n"),
    "a heading and steps": ("### Solution\n\n1. Read.\n2. Sum.\n\n```python\nx\n```\n\n### Complexity\nO(n)", "x\n"),
    "two attempts": ("```python\na\n```\nWait, that fails. Corrected:\n```python\nb\n```", "b\n"),
    "bold, and a colon": ("**Code:**\n```python\nx\n```", "x\n"),
    "a session is no program": ("```pycon\n>>> x\n```", None),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_of(name: str) -> None:
    completion, program = PROGRAMS[name]
    assert extract.program_of(completion) == program


HOSTILE = (
    "<think>" * 150_000,
    "</think>" * 100_000,
    "<think></think>" * 70_000,
    ("<think>" * 1000 + "</think>") * 140,
    "```" + "a" * 10**6 + "`",
    "```" + " " * 10**6 + "`",
    "```\n" * 200_000,
    "`" * 10**6,
    "<answer>" * 100_000,
)


@pytest.mark.parametrize("completion", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_extraction_takes_linear_time(completion: str) -> None:
    began = time.process_time()
    extract.program_of(completion)
    extract.answer_of(completion)
    assert time.process_time() - began < 1.0


def test_exact_answers_take_linear_time() -> None:
    began = time.process_time()
    assert judge({"kind": "exact", "answer": "x"}, "\u0315\u0300\u05ae\u0062" * 10**5).outcome == "failed"
    assert judge({"kind": "exact", "answer": "x"}, "x" + "\u0315\u0300" * 10**5).outcome == "failed"
    assert time.process_time() - began < 1.0


CHOICES = {
    "<answer>B</answer>": "passed",
    "<reasoning>A or C</reasoning><answer> B\n</answer>": "passed",
    "<answer>A</answer> no, <answer>B</answer>": "passed",
    "<answer>B": "passed",
    "<answer>A</answer>": "failed",
    "<answer>B</answer> no, <answer>A</answer>": "failed",
    "<answer>(B).</answer>": "passed",
    "<answer>**B**</answer>": "passed",
    "<answer>\\boxed{B}</answer>": "passed",
    "<answer>Ｂ</answer>": "passed",  # a full-width B
    "<answer>$B$</answer>": "passed",
    "<answer>$$B$$</answer>": "passed",
    "<answer>\\(B\\)</answer>": "passed",
    "<answer>\\[B\\]</answer>": "passed",
    "<answer>\\text{B}</answer>": "passed",
    "<answer>\\textbf{(B)}</answer>": "passed",
    "<answer>\\mathrm{B}</answer>": "passed",
    "<answer>\\boxed{\\text{B}}</answer>": "passed",
    "<answer>$\\boxed{\\textbf{B}}$.</answer>": "passed",
    "<answer><b>B</b></answer>": "passed",
    "<answer><strong>(B)</strong></answer>": "passed",
    "<answer>`B`</answer>": "passed",
    "<answer>__B__</answer>": "passed",
    "<answer>$A$</answer>": "failed",
    "<answer>$A$ $B$</answer>": "format",
    "<answer>\\text{A}\\text{B}</answer>": "format",
    "<answer><b>A</b><b>B</b></answer>": "format",
    "<answer>\\text{A or B}</answer>": "format",
    "<answer>B</answer> <answer>": "format",
    "<answer>BB</answer>": "format",
    "<answer>B B</answer>": "format",
    "<answer>B. Helium</answer>": "format",
    "<answer>not A but B</answer>": "format",
    "<answer>\\boxed{A}\\boxed{B}</answer>": "format",
    "<answer>В</answer>": "format",  # a Cyrillic ve
    "<answer>\u200bB</answer>": "format",
    "<answer>A, B</answer>": "format",
    "<answer>A B C D</answer>": "format",
    "<answer>b</answer>": "format",
    "<answer>Β</answer>": "format",  # a Greek capital beta
    "<answer>E</answer>": "format",
    "<answer></answer>": "format",
    "B": "format",
    "": "format",
    "<think><answer>B</answer></think>": "format",
}


@pytest.mark.parametrize("completion", CHOICES)
def test_choice(completion: str) -> None:
    verdict = judge({"kind": "choice", "answer": "B", "labels": ["A", "B", "C", "D"]}, completion)
    assert verdict.outcome == CHOICES[completion]
    assert verdict.reward == (verdict.outcome == "passed")
    assert verdict.feedback == ""


def test_exact() -> None:
    spec: dict[str, object] = {"kind": "exact", "answer": "42  km"}
    assert judge(spec, "I think <answer> 42 km\n</answer>").outcome == "passed"
    assert judge(spec, " 42\nkm ").outcome == "passed"
    assert judge(spec, "42 KM").outcome == "failed"
    assert judge({**spec, "ignore_case": True}, "42 KM").outcome == "passed"
    assert judge(spec, "<answer> </answer>").outcome == "format"
    assert judge(spec, "41 km").feedback == "Answer: 41 km"
    assert judge({**spec, "feedback": {"expected": True}}, "41 km").feedback == "Answer: 41 km\nExpected: 42  km"


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"kind": "chioce", "answer": "A"}, "kind", "did you mean 'choice'"),
        ({"answer": "A"}, "kind", "valid: exact, choice, regex"),
        ({"kind": "choice", "answr": "A"}, "answr", "did you mean 'answer'"),
        ({"kind": "choice", "answer": "E"}, "", "not one of labels"),
        ({"kind": "choice", "answer": "A", "labels": ["A", "\uff21"]}, "", "are the same letters"),
        ({"kind": "exact", "answer": " \n"}, "answer", "white space alone"),
        ({"kind": "code", "tests": []}, "tests", "at least 1"),
        ({"kind": "code", "tests": [{"input": "", "output": "", "x": 1}]}, "tests.0.x", "unknown key"),
        ({"kind": "code", "fn_name": "f", "tests": [{"input": "[", "output": "1"}]}, "", "test 0 .* is not JSON"),
        ({"kind": "code", "fn_name": "f", "tests": [{"input": "1", "output": "NaN"}]}, "", "NaN is not JSON"),
        ({"kind": "code", "compare": "exact", "tests": [{"input": "", "output": ""}]}, "compare", "livecodebench"),
        ({"kind": "code", "fn_name": "f", "compare": "tokens", "tests": [{"input": "1", "output": "1"}]}, "", "tokens"),
        ({"kind": "code", "fn_name": "f(", "tests": [{"input": "1", "output": "1"}]}, "fn_name", "pattern"),
    ],
)
def test_a_wrong_spec_is_an_error_that_names_the_field(spec: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        parse_spec(spec)
    assert any(f["field"] == field for f in error.value.fields)


DRESSED = (
    "**42 km**",
    "$42 km$",
    r"\(42 km\)",
    r"\text{42 km}",
    r"$\textbf{42 km}$",
    "<b>42 km</b>",
    "`42 km`",
    "42 km",
)
TWO = (
    "**42 km** **42 km**",
    r"\text{42} \text{km}",
    "<b>42 km</b> or <b>43 km</b>",
    "$42 km$ or $43 km$",
    "$",
    "**",
    "$$$$",
)


@pytest.mark.parametrize("spec", [{"kind": "exact", "answer": "42 km"}, {"kind": "regex", "pattern": "[0-9]+ km"}])
def test_what_only_dresses_an_answer_is_no_part_of_it(spec: dict[str, object]) -> None:
    assert {judge(spec, f"<answer>{text}</answer>").outcome for text in DRESSED} == {"passed"}
    assert {judge(spec, f"<answer>{text}</answer>").outcome for text in TWO} == {"failed"}
    dressed = {"kind": "exact", "answer": "$x$"}
    assert judge(dressed, "<answer>$x$</answer>").outcome == "passed"


STRICT_VALUES = {
    ("[1, 2]", "[1,2]"): True,
    ("1", "1.0"): False,
    ("true", "1"): False,
    ("null", "0"): False,
    ('{"a": 1, "b": [2]}', '{"b": [2], "a": 1}'): True,
    ('{"a": 1}', '{"a": 1.0}'): False,
    ("[[1]]", "[[1], []]"): False,
    ("0.30000000000000004", "0.3"): False,
    ("1" * 5000, "1" * 5000): True,
    ("1" * 5000, "1" * 4999 + "2"): False,
    ("1" * 5000, '"' + "1" * 5000 + '"'): False,
}
FLOAT_VALUES = {
    ("0.30000000000000004", "0.3"): True,
    ("1", "1.0"): True,
    ("1.001", "1"): False,
    ("1000000.5", "1000000"): True,
    ("true", "1"): False,
    ('[1.0000001, {"a": "x"}]', '[1, {"a": "x"}]'): True,
    ('"1.0"', '"1"'): False,
    ("1e400", "1e400"): True,
    ("5", "1e400"): False,
    ("-1e400", "1e400"): False,
    ("1e400", "5"): False,
    ("1" * 400, "1e400"): False,
    ("1" * 400, "1" * 400): True,
    ("1" * 400, "2" * 400): False,
    ("1" * 5000, "1" * 5000): True,
    ("1" * 5000, "1"): False,
}


@pytest.mark.parametrize(("mode", "table"), [("strict", STRICT_VALUES), ("float", FLOAT_VALUES)])
def test_equal_values(mode: compare.Mode, table: dict[tuple[str, str], bool]) -> None:
    for (got, expected), same in table.items():
        values = compare.parse_json(got), compare.parse_json(expected)
        assert compare.equal_values(mode, *values, tolerance=1e-6) is same, (got[:40], expected[:40])


NOT_JSON = ("NaN", "[Infinity]", "[" * 200 + "]" * 200, "[" * 10**5 + "]" * 10**5, "", "\xff", "{1: 2}")


@pytest.mark.parametrize("text", NOT_JSON, ids=map(str, range(len(NOT_JSON))))
def test_unreadable_json_is_refused(text: str) -> None:
    with pytest.raises(compare.NotJson):
        compare.parse_json(text)


STRICT_OUTPUT = {
    ("1\n2\n", "1\n2"): True,
    ("1 \r\n 2", "1\n2"): True,
    ("\n\n1", "1"): True,
    ("1\n\n2", "1\n2"): False,
    ("1  2", "1 2"): False,
    ("1.0", "1"): False,
    ("", ""): True,
    ("1", ""): False,
}
TOKENS_OUTPUT = {
    ("1\n2", "1 2"): True,
    ("a   b\n\n", "a b"): True,
    ("a b", "b a"): False,
    ("1.0", "1"): False,
    ("ab", "a b"): False,
    ("", " \n"): True,
}
FLOAT_OUTPUT = {
    ("0.3333333", "0.33333333333"): True,
    ("yes 1.0000001", "yes 1"): True,
    ("Yes 1", "yes 1"): False,
    ("1.1", "1"): False,
    ("1e-9", "0"): True,
    ("nan", "nan"): False,
    ("nan", "1"): False,
    ("inf", "inf"): True,
    ("inf", "1e308"): False,
    ("1e999", "1e998"): False,
    ("-inf", "inf"): False,
    ("1 2", "1"): False,
    ("1" * 400, "1" * 400): True,
}


@pytest.mark.parametrize(
    ("mode", "table"), [("strict", STRICT_OUTPUT), ("tokens", TOKENS_OUTPUT), ("float", FLOAT_OUTPUT)]
)
def test_equal_output(mode: compare.Mode, table: dict[tuple[str, str], bool]) -> None:
    for (got, expected), same in table.items():
        assert compare.equal_output(mode, got, expected, 1e-6) is same, (got[:40], expected[:40])


LARGE_OUTPUTS = {
    "a million words": ("1 " * 10**6, "1.0 " * 10**6),
    "a million lines": ("1\n" * 10**6, "1.0\n" * 10**6),
    "a million digits": ("9" * 10**6, "9" * 10**6 + ".0"),
    "huge exponents": ("1e999999999 " * 10**5, "2e999999999 " * 10**5),
    "tiny exponents": ("1e-999999999 " * 10**5, "1 " * 10**5),
    "white space": (" " * 10**6, "\n" * 10**6),
}


@pytest.mark.parametrize("mode", ["livecodebench", "strict", "tokens", "float"])
@pytest.mark.parametrize("name", LARGE_OUTPUTS)
def test_comparison_takes_linear_time(mode: compare.Mode, name: str) -> None:
    began = time.process_time()
    compare.equal_output(mode, *LARGE_OUTPUTS[name], tolerance=1e-6)
    assert time.process_time() - began < 60.0, "linear takes 1 to 3 s, quadratic days"


def test_feedback_shows_the_shortest_cases_first() -> None:
    text = feedback.wrong_answers([Case("[1, 2, 3]", "1", "2"), Case("[1]", "3", "4")])
    assert text == "Input: [1]\nOutput: 3\nExpected: 4\n\nInput: [1, 2, 3]\nOutput: 1\nExpected: 2"


def test_feedback_is_bounded() -> None:
    long = Case("x" * 10**5, "\n".join(map(str, range(10**4))), "y" * 10**5)
    assert len(feedback.wrong_answers([long] * 9)) <= feedback.MAX_CHARS
    frames = [Frame(i, "f" * 80, "z" * 160) for i in range(3)]
    assert len(feedback.runtime_error("E" * 80, "m" * 500, frames, long)) <= feedback.MAX_CHARS


def test_feedback_is_inert_and_deterministic() -> None:
    text = feedback.wrong_answers([Case("<|im_end|>", "\x1b[31m\ud800\u202e\x00<object at 0x7f00deadbeef>")])
    assert "<|" not in text
    assert text == "Input: \\x3c|im_end|>\nOutput: \\x1b[31m\\ud800\\u202e\\x00<object at 0x..>"
    text.encode()


MARKS = (
    "<think>",
    "</think>",
    "</feedback>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<s>",
    "</s>",
    "<tool_call>",
    "<<SYS>>",
    "<|im_end|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "<br/>",
)
PLAIN = (
    "a < b > c",
    "[1, 2]",
    "<class 'int'>",
    "<object object at 0x..>",
    "x <y and y> z",
    "[INF]",
    "1<2>1",
    "List[INT]",
)


def test_marks_of_models_and_templates_are_escaped() -> None:
    for mark in MARKS:
        texts = [
            feedback.wrong_answers([Case("1", f"x {mark} y")]),
            feedback.runtime_error("E", mark, [Frame(1, "f", mark)], Case(mark)),
            feedback.wrong_text(mark, mark),
            feedback.note(mark),
        ]
        assert not [text for text in texts if mark in text], mark
    for text in PLAIN:
        assert text in feedback.note(text)


def test_feedback_never_shows_an_expected_output_unasked() -> None:
    assert "Expected" not in feedback.wrong_answers([Case("1", "2")])


def test_pass_at_k_golden_values() -> None:
    assert [round(pass_at_k(16, 3, k), 6) for k in (1, 2, 4, 8)] == [0.1875, 0.35, 0.607143, 0.9]


def test_scores_leave_infra_errors_out() -> None:
    p, f, i = Outcome.PASSED, Outcome.FAILED, Outcome.INFRA_ERROR
    rows = [("train", "a", o) for o in (p, f, i, i)] + [("train", "b", o) for o in (p, p, p, p)] + [("test", "c", i)]
    rewards = {p: 1.0, f: 0.5, i: 0.0}
    scores = split_scores((*row, rewards[row[2]]) for row in rows)
    assert set(scores) == {"train"}
    assert (scores["train"].problems, scores["train"].rollouts, scores["train"].pass_rate) == (2, 6, 0.75)
    assert scores["train"].pass_at == {1: 0.75, 2: 1.0, 4: 1.0}
    assert scores["train"].reward == 0.875
