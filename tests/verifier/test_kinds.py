"""The kinds `math`, `json_schema`, `regex` and `python`, on honest and on hostile answers; kinds of other packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pmd.services.common.wire import Verdict
from pmd.services.verifier.kinds import SpecError, parse_spec
from pmd.services.verifier.sandbox.job import SandboxError
from pmd.services.verifier.sandbox.tier import open_sandbox
from pmd.services.verifier.verification import BatchVerifier, Submission
from tests.verifier.conftest import Sandbox


def judge(sandbox: Sandbox, completion: str, **spec: Any) -> Verdict:
    return sandbox.verifier.verify([Submission(spec, completion)])[0]


HALF = {"kind": "math", "answer": r"\frac{1}{2}", "cpu_s": 0.5}
MATH: dict[str, tuple[dict[str, Any], str, str]] = {
    "the same text": (HALF, r"so \boxed{\frac{1}{2}}", "passed"),
    "another form": (HALF, r"\boxed{0.5}", "passed"),
    "in an answer block": (HALF, "<answer>1/2</answer>", "passed"),
    "boxed in an answer block": (HALF, r"<answer>$\boxed{\dfrac12}$</answer>", "passed"),
    "an equation": (HALF, r"\boxed{x = \frac{2}{4}}", "passed"),
    "the last box counts": (HALF, r"\boxed{3} no, \boxed{0.5}", "passed"),
    "the last box counts, wrong": (HALF, r"\boxed{0.5} no, \boxed{3}", "failed"),
    "two boxes in one answer": (HALF, r"<answer>\boxed{0.5} \boxed{3}</answer>", "format"),
    "a list names no single answer": (HALF, r"\boxed{0.5, 3}", "failed"),
    "alternatives": (HALF, r"\boxed{0.5 \text{ or } 3}", "failed"),
    "an interval that holds it": (HALF, r"\boxed{[0, 1]}", "failed"),
    "another number": (HALF, r"\boxed{0.51}", "failed"),
    "nothing": (HALF, "I do not know", "format"),
    "an empty box": (HALF, r"\boxed{}", "format"),
    "an open box": (HALF, r"\boxed{0.5", "format"),
    "only thought": (HALF, r"<think>\boxed{0.5}</think> done", "format"),
    "far too long": (HALF, r"\boxed{" + "(" * 3000 + "}", "format"),
    "parentheses": (HALF, r"\boxed{" + "(" * 900 + "1" + ")" * 900 + "}", "failed|format|timeout|memory"),
    "power tower": (HALF, r"\boxed{9^{9^{9^{9}}}}", "timeout"),
    "code": (HALF, r"<answer>__import__('os')._exit(0)</answer>", "failed|format"),
    "code that forges": (HALF, """<answer>__import__('os').write(3,b'{"value":"equal"}')</answer>""", "failed|format"),
    "a set": ({"kind": "math", "answer": "1, 2"}, r"\boxed{\{2, 1\}}", "passed"),
    "a polynomial": ({"kind": "math", "answer": "(x+1)^2"}, r"\boxed{x^2 + 2x + 1}", "passed"),
    "the spec's own bomb": ({"kind": "math", "answer": "9^{9^{9^{9}}}", "cpu_s": 0.3}, r"\boxed{1}", "infra_error"),
}


@pytest.mark.parametrize("name", MATH)
def test_math(name: str, sandbox: Sandbox) -> None:
    spec, completion, outcomes = MATH[name]
    verdict = judge(sandbox, completion, **spec)
    assert verdict.outcome in outcomes.split("|"), verdict
    assert verdict.reward == float(verdict.outcome == "passed")
    assert bool(verdict.error) == (verdict.outcome == "infra_error")
    assert r"\frac{1}{2}" not in verdict.feedback, "the expected answer is not shown unasked"


PERSON = {
    "kind": "json_schema",
    "cpu_s": 0.5,
    "json_schema": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "pattern": "^(a+)+$"}, "role": {"enum": ["secret"]}},
    },
}
JSON: dict[str, tuple[dict[str, Any], str, str]] = {
    "valid": (PERSON, '{"name": "a"}', "passed"),
    "in a fence": (PERSON, 'Here:\n```json\n{"name": "a"}\n```', "passed"),
    "in an answer block": (PERSON, '<answer>{"name": "a"}</answer>', "passed"),
    "invalid": (PERSON, '{"nome": "a"}', "failed"),
    "no JSON": (PERSON, "name: a", "format"),
    "nothing": (PERSON, "", "format"),
    "a key twice": (PERSON, '{"name": 1, "name": "a"}', "format"),
    "NaN": (PERSON, "NaN", "format"),
    "beyond every float": (PERSON, "1e400", "format"),
    "very many digits": (PERSON, "1" * 9000, "format"),
    "very deep": (PERSON, "[" * 10**5, "format"),
    "deep and closed": (PERSON, "[" * 500 + "]" * 500, "format"),
    "a pattern that backtracks": (PERSON, '{"name": "' + "a" * 50 + '!"}', "timeout"),
    "a remote reference": ({**PERSON, "json_schema": {"$ref": "http://127.0.0.1:9/s.json"}}, "1", "infra_error"),
    "a file reference": ({**PERSON, "json_schema": {"$ref": "file:///etc/passwd"}}, "1", "infra_error"),
    "a loop of references": ({**PERSON, "json_schema": {"$ref": "#"}}, "1", "infra_error"),
    "references that double": (
        {
            **PERSON,
            "json_schema": {
                "$ref": "#/$defs/0",
                "$defs": {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)} | {"40": {}},
            },
        },
        "1",
        "infra_error",
    ),
}


@pytest.mark.parametrize("name", JSON)
def test_json_schema(name: str, sandbox: Sandbox) -> None:
    spec, completion, outcome = JSON[name]
    verdict = judge(sandbox, completion, **spec)
    assert verdict.outcome == outcome, verdict
    assert verdict.reward == float(outcome == "passed")


def test_json_schema_says_where_and_only_if_asked_what(sandbox: Sandbox) -> None:
    wrong = '{"name": "a", "role": "x"}'
    assert judge(sandbox, wrong, **PERSON).feedback == "$.role: enum"
    asked = judge(sandbox, wrong, **PERSON, feedback={"expected": True})
    assert asked.feedback == "$.role: 'x' is not one of ['secret']"


REGEX = {
    "AB-12": "passed",
    "so <answer> AB-12 </answer>": "passed",
    "AB-12 or CD-3": "failed",
    "ab-12": "failed",
    "AB-12\n.": "failed",
    "\ud800": "failed",
    "": "format",
    "<think>AB-12</think>": "format",
}


@pytest.mark.parametrize("completion", REGEX)
def test_regex(completion: str, sandbox: Sandbox) -> None:
    assert judge(sandbox, completion, kind="regex", pattern="[A-Z]{2}-[0-9]+").outcome == REGEX[completion]


def test_regex_takes_linear_time(sandbox: Sandbox) -> None:
    began = time.process_time()
    for pattern in ("(a+)+b", "(a|a)*b", "(a*)*b", "(.*)(.*)(.*)(.*)b", "(?:a?){500}a{500}"):
        assert judge(sandbox, "a" * 10**5, kind="regex", pattern=pattern).outcome == "failed"
    assert time.process_time() - began < 2.0


PYTHON: dict[str, tuple[str, str, float, str]] = {
    "true": ("return reference in completion", "passed", 1.0, ""),
    "false": ("return False", "failed", 0.0, ""),
    "part": ("return 0.25", "failed", 0.25, ""),
    "too much": ("return 7", "passed", 1.0, ""),
    "less than nothing": ("return -1e300", "failed", 0.0, ""),
    "more than every float": ("return 10**400", "passed", 1.0, ""),
    "less than every float": ("return -(10**400)", "failed", 0.0, ""),
    "no answer": ("return None", "format", 0.0, ""),
    "with feedback": ("return {'reward': 0.5, 'feedback': 'half <|x|>'}", "failed", 0.5, ""),
    "raises": ("return 1 / 0", "infra_error", 0.0, "raised ZeroDivisionError: division by zero (line 2)"),
    "no number": ("return 'yes'", "infra_error", 0.0, "must return a number"),
    "not a number": ("return float('nan')", "infra_error", 0.0, "raised ValueError"),
    "infinite": ("return float('inf')", "infra_error", 0.0, "raised ValueError"),
    "unknown keys": ("return {'reward': 1, 'passed': True}", "infra_error", 0.0, "must return a number"),
    "no text": ("return {'reward': 1, 'feedback': 3}", "infra_error", 0.0, "must return a number"),
    "never ends": ("while True: pass", "infra_error", 0.0, "exceeded its time limit"),
    "ends the process": ("import os; os._exit(0)", "infra_error", 0.0, "ended its process"),
    "floods": ("print('x' * 3 * 10**7)", "infra_error", 0.0, "exceeded its output limit"),
    "reads files": ("return open('/etc/passwd').read() != ''", "infra_error", 0.0, "/etc/passwd"),
    "syntax": ("return (", "infra_error", 0.0, "raised SyntaxError"),
    "sees no thinking": ("return 'secret thought' in completion", "failed", 0.0, ""),
}


@pytest.mark.parametrize("name", PYTHON)
def test_python(name: str, sandbox: Sandbox) -> None:
    body, outcome, reward, error = PYTHON[name]
    source = f"def verify(completion, reference):\n    {body}\n"
    spec = {"kind": "python", "source": source, "reference": "42", "limits": {"cpu_s": 0.3}}
    verdict = judge(sandbox, "<think>secret thought</think>It is 42.", **spec)
    assert (verdict.outcome, verdict.reward) == (outcome, reward), verdict
    assert error in verdict.error
    assert "<|" not in verdict.feedback
    assert verdict.feedback == ("half \\x3c|x|>" if name == "with feedback" else "")


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"kind": "regex", "pattern": "("}, "pattern", "missing \\)"),
        ({"kind": "regex", "pattern": "(?=a)"}, "pattern", "use kind python"),
        ({"kind": "regex", "pattern": "\ud800"}, "pattern", "."),
        ({"kind": "json_schema", "json_schema": {"type": "strnig"}}, "json_schema", "strnig"),
        ({"kind": "json_schema", "json_schema": 3}, "json_schema", "."),
        ({"kind": "json_schema", "json_schema": {"const": "x" * 1_000_001}}, "json_schema", "at most 1000000"),
        ({"kind": "json_schema", "json_schema": {"pattern": "("}}, "json_schema", "unterminated subpattern"),
        ({"kind": "json_schema", "json_schema": {"patternProperties": {"[": {}}}}, "json_schema", "unterminated"),
        ({"kind": "json_schema", "json_schema": {"pattern": "x" * 10_001}}, "json_schema", "at most 10000 are allowed"),
        ({"kind": "json_schema", "json_schema": {"$schema": 5}}, "json_schema", "a text"),
        ({"kind": "json_schema", "json_schema": {"$schema": []}}, "json_schema", "a text"),
        (
            {"kind": "json_schema", "json_schema": {"properties": {"\ud800": {"type": "zz"}}}},
            "json_schema",
            "surrogates not allowed",
        ),
        ({"kind": "math", "answer": ""}, "answer", "at least 1"),
        ({"kind": "python", "source": ""}, "source", "at least 1"),
        ({"kind": "python", "src": "x"}, "src", "did you mean 'source'"),
    ],
)
def test_a_wrong_spec_names_the_field(spec: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_spec(spec)
    assert any(f["field"].startswith(field) for f in caught.value.fields)


VERIFY = "def verify(completion, reference):\n    return reference in completion\n"
LOADS: dict[str, tuple[str, str]] = {
    "right": (VERIFY, ""),
    "a class that can be called": ("class V:\n    def __call__(self, c, r): return 1\nverify = V()", ""),
    "no function": ("def check(completion, reference): return 1", "defines no function verify"),
    "no callable": ("verify = 3", "defines no function verify"),
    "no Python": ("def verify(completion, reference):\n    return (", "SyntaxError"),
    "an import that is not there": ("import no_such_package\n" + VERIFY, "No module named 'no_such_package' (line 1)"),
    "a loop": ("while True: pass\n" + VERIFY, "exceeds its time limit while it loads"),
}


@pytest.mark.parametrize("name", LOADS)
def test_a_function_that_can_not_be_loaded_is_refused_before(name: str, sandbox: Sandbox) -> None:
    source, message = LOADS[name]
    refused = sandbox.verifier.refusals([{"kind": "python", "source": source, "limits": {"cpu_s": 0.3}}])
    assert bool(refused) == bool(message)
    assert message in str(refused.get(0, "")), refused


ADDS = {"kind": "code", "fn_name": "add", "tests": [{"input": "1\n2", "output": "3"}]}
SOLVED: dict[str, tuple[dict[str, Any], str]] = {
    "code": (ADDS, "```python\ndef add(a, b): return a + b\n```"),
    "choice": ({"kind": "choice", "answer": "B"}, "<answer>B</answer>"),
    "exact": ({"kind": "exact", "answer": "42"}, "<answer>42</answer>"),
    "regex": ({"kind": "regex", "pattern": "4."}, "42"),
    "math": (HALF, r"\boxed{0.5}"),
    "json_schema": ({"kind": "json_schema", "json_schema": {"type": "object"}}, "{}"),
    "python": ({"kind": "python", "source": VERIFY, "reference": "42"}, "It is 42."),
}


@pytest.mark.parametrize("name", SOLVED)
def test_a_spec_proves_itself_by_its_solution(name: str, sandbox: Sandbox) -> None:
    spec, solution = SOLVED[name]
    assert sandbox.verifier.refusals([spec, {**spec, "solution": solution}]) == {}
    assert judge(sandbox, solution, **spec, solution="what is wrong there spoils no verdict").outcome == "passed"
    refused = sandbox.verifier.refusals([{**spec, "solution": "nonsense"}, spec])
    assert list(refused) == [0]
    assert refused[0].fields[0]["field"] == "solution"
    assert "the solution does not pass" in refused[0].fields[0]["message"]
    assert list(sandbox.verifier.refusals([{**spec, "solution": 3}])) == [0]


def test_a_solution_that_the_function_fails_on_names_the_cause(sandbox: Sandbox) -> None:
    spec = {"kind": "python", "source": "def verify(c, r): return r[0]", "reference": 3, "solution": "x"}
    assert "TypeError" in str(sandbox.verifier.refusals([spec])[0])


def test_trouble_of_ours_refuses_no_spec(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise SandboxError("no zygote")

    monkeypatch.setattr(sandbox.pool, "run", fail)
    specs = [SOLVED["python"][0], {**ADDS, "solution": SOLVED["code"][1]}]
    assert sandbox.verifier.refusals(specs) == {}


def test_packages_of_scorers_are_not_for_programs() -> None:
    pool, tier = open_sandbox(1, memory_mb=512, insecure=False)
    scorers, _ = open_sandbox(1, memory_mb=pool.memory, libraries=("numpy",), insecure=False)
    box = BatchVerifier(pool, tier, scorers)
    try:
        source = "import numpy\ndef verify(c, r): return float(numpy.float64(1))"
        program = "```python\nimport numpy\ndef add(a, b): return a + b\n```"
        verdicts = box.verify([Submission({"kind": "python", "source": source}, "x"), Submission(ADDS, program)])
        assert [verdict.outcome for verdict in verdicts] == ["passed", "failed"]
        assert "numpy" in verdicts[1].feedback
    finally:
        pool.close()
        box.close()


@pytest.mark.timeout(60)
def test_a_schema_that_is_slow_to_compile_is_checked_at_once() -> None:
    pattern = "(?i)" + r"[\0-\U0010ffff]" * 600  # compiling one class takes 8 ms and more
    began = time.process_time()
    parse_spec({"kind": "json_schema", "json_schema": {"patternProperties": {pattern: {}}}})
    assert time.process_time() - began < 2.0


@pytest.mark.timeout(60)
def test_a_schema_that_is_slow_to_compare_is_checked_at_once() -> None:
    enum = [{"a": number} for number in range(60_000)]  # draft 4 wants them unique: 1.8e9 comparisons
    parse_spec(
        {"kind": "json_schema", "json_schema": {"$schema": "http://json-schema.org/draft-04/schema#", "enum": enum}}
    )


KIND_PACKAGE = """
from typing import Literal
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.common.extract import text_answer
from pmd.services.verifier.kinds.kind import Kind

class Spec(Strict):
    kind: Literal["palindrome"] = "palindrome"
    min_chars: int = 1

def answer(spec, completion):
    return text_answer(completion)

def verify(spec, completion, context):
    given = answer(spec, completion)
    if given == "bug":
        raise RuntimeError("a bug of the package")
    right = len(given) >= spec.min_chars and given == given[::-1]
    return Verdict(outcome=Outcome.PASSED if right else Outcome.FAILED, reward=float(right))

palindrome = Kind(Spec, answer, verify)
not_a_kind = 3
"""
SETUP = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "pmd-palindrome"
version = "1.0"
[project.entry-points."pmd.verifier_kinds"]
{entry}
[tool.setuptools]
py-modules = ["pmd_palindrome"]
"""
USE = """
from pmd.services.verifier.verification import BatchVerifier, Submission
from pmd.services.verifier.sandbox.tier import open_sandbox
pool, tier = open_sandbox(1, memory_mb=512, insecure=False)
verifier = BatchVerifier(pool, tier)
spec = {"kind": "palindrome", "min_chars": 3}
for verdict in verifier.verify([Submission(spec, text) for text in ("abba", "ab", "bug")]):
    print(verdict.outcome.value, verdict.error)
pool.close()
verifier.close()
"""


def with_package(folder: Path, entry: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where a package with this entry point is really installed."""
    source = folder / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(SETUP.format(entry=entry))
    (source / "pmd_palindrome.py").write_text(KIND_PACKAGE)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(source)], check=True, capture_output=True)
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(folder / "site")])}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_an_installed_package_adds_a_kind(tmp_path: Path) -> None:
    done = with_package(tmp_path, 'palindrome = "pmd_palindrome:palindrome"', USE)
    assert done.stdout.splitlines() == ["passed ", "failed ", "infra_error RuntimeError: a bug of the package"], (
        done.stderr
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('exact = "pmd_palindrome:palindrome"', "kind 'exact' .* has a name that is taken"),
        ('broken = "pmd_palindrome:not_a_kind"', "kind 'broken' .* is a int; it must be a .*Kind"),
        ('missing = "pmd_palindrome:nothing"', "kind 'missing' .* can't be loaded"),
    ],
)
def test_a_package_whose_kind_is_unusable_is_named(entry: str, message: str, tmp_path: Path) -> None:
    done = with_package(tmp_path, entry, "from pmd.services.verifier.kinds import kinds; kinds()")
    assert done.returncode
    assert re.search(f"KindError: {message}", done.stderr), done.stderr
