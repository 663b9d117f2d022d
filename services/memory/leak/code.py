"""Leaks of programs: copies of a passing one, whatever its names and layout, and literals of hidden tests.

What every program has in common (`range(len(a))`, reading a line of integers) is no copy, nor are the words of a
program's comments: notes are meant to say in words what programs do.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from pmd.services.common.wire import Problem
from pmd.services.memory.leak.forms import Number, flat, number, numbers, opened, plain
from pmd.services.memory.leak.vocabulary import VOCABULARY

NGRAM = 8
"""A run of this many code tokens in common with a passing program is a copy."""
RENAMED = 10
"""The same with names left out of account: a copy whose variables were renamed."""
MIN_LITERAL = 3
"""Shorter expected outputs ("1", "no") occur in honest notes by chance."""
MIN_WORD = 6
"""A shorter word is an honest note's word by chance, as is a number of few digits; both leak where they are claimed."""
MIN_INPUT = 6
"""Shorter inputs of tests occur in honest notes by chance."""
MIN_QUOTED = 4
"""A word of an input that is shorter than that tells when it is quoted, if it is no shorter than this."""
TELLING = 10_000
"""A number from here on is nobody's by chance, if it is not round."""
_WELL_KNOWN = frozenset({10**9 + 7, 10**9 + 9, 998244353, 86400, 10**5 + 1, 10**6 + 1, 10**6 + 3, 12345, 123456})
"""Large numbers that programs and their descriptions are full of."""
MAX_DIGITS = 40
"""Longer outputs are not read as one number."""
LISTED = 4
"""Numbers in a row that are a test's."""
IN_A_ROW = 5
"""Numbers in a row that are a part of a test's."""
NEAR = 40
"""Characters within which "prints" speaks of what follows."""
TEST_CHARS = 4000
"""As much of a test's side as is compared: no note quotes more."""
MAX_TEST_CODE = 200_000
"""Characters of test code that are read for its assertions."""
REMEMBERED = 128
"""Problems whose tests are kept prepared."""

_CODE_TOKEN = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"[^\W\d]\w*")
_FENCE = re.compile(r"(?:`{3,}|~{3,})[^\n]*\n(.*?)(?:`{3,}|~{3,}|\Z)", re.DOTALL)
_COMMENT = re.compile(r"#[^\n]*|(?<![\w\"])\"\"\"(?:.|\n)*?\"\"\"|(?<![\w'])'''(?:.|\n)*?'''")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NUMBERS = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?(?:(?:[\s,;:/|\[\](){}]|->|\b(?:and|then)\b)+-?\d+(?:\.\d+)?){2,}")
_QUOTED = re.compile(r"[\"'`](.+?)[\"'`]")
_SHOWN = re.compile(
    r"\b(?:outputs?|prints?|returns?|expect(?:ed|s|ing)?|answers?|results?|gives?|yields?|produces?)\b|->|→|==",
    re.IGNORECASE,
)
_OF_A_TEST = re.compile(
    r"\b(?:hidden|secret|private|judge'?s?|grader'?s?|(?:first|second|third|fourth|fifth|last|\d+(?:st|nd|rd|th)))\s+"
    r"(?:hidden |test )?(?:tests?|case|input)\b|\b(?:test|case)(?: case)? ?#?\d+\b|\btests? (?:expects?|wants?)\b"
)
"""Names a test that a note can't know."""


def _anonymous(tokens: Sequence[str]) -> list[str]:
    return ["v" if _NAME.fullmatch(t) and not keyword.iskeyword(t) else t for t in tokens]


_IDIOMS = [_anonymous(_CODE_TOKEN.findall(line)) for line in VOCABULARY["idioms"]]
_COMMON = sorted((idiom for idiom in _IDIOMS if len(idiom) >= NGRAM), key=len, reverse=True)


def _pieces(code: str) -> Iterator[list[str]]:
    """The tokens of code between the idioms that all programs share."""
    tokens = _CODE_TOKEN.findall(code)
    shapes = _anonymous(tokens)
    begin = at = 0
    while at < len(tokens):
        idiom = next((i for i in _COMMON if shapes[at : at + len(i)] == i), None)
        if idiom is None:
            at += 1
        else:
            yield tokens[begin:at]
            begin = at = at + len(idiom)
    yield tokens[begin:]


def _runs(code: str) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """Runs of tokens, and those with names left out of account; of these, mostly names say nothing."""
    pieces = list(_pieces(code))
    exact = {tuple(p[i : i + NGRAM]) for p in pieces for i in range(len(p) - NGRAM + 1)}
    runs = (tuple(p[i : i + RENAMED]) for p in map(_anonymous, pieces) for i in range(len(p) - RENAMED + 1))
    return exact, {run for run in runs if len(set(run) - {"v"}) >= 4 and run.count("v") <= RENAMED // 2}


def _is_program(text: str) -> bool:
    try:
        tree = ast.parse(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(
        isinstance(node, ast.FunctionDef | ast.Return | ast.Import | ast.For | ast.While | ast.Lambda | ast.ListComp)
        for node in ast.walk(tree)
    )


@dataclass(frozen=True)
class _Side:
    """What one side of a test is compared by."""

    name: str
    literal: str
    """Squeezed; empty when it is too short, or the question says it."""
    simple: bool
    """One word or a small number."""
    numbers: tuple[str, ...]
    """Empty when they are few, or the question lists them."""
    value: float | None
    """Of one number that the question does not say."""
    large: frozenset[str]
    """Its numbers that nobody says by chance."""
    words: frozenset[str]
    """Of an input, all of them; empty for fewer than two, or where the question has some."""


_prepared: dict[int, tuple[Problem, tuple[_Side, ...]]] = {}


def _sides(problem: Problem) -> tuple[_Side, ...]:
    """The sides of a problem's tests; tests can be megabytes, and a problem is asked about for every note."""
    known = _prepared.get(id(problem))
    if known is None or known[0] is not problem:
        if len(_prepared) >= REMEMBERED:
            _prepared.clear()
        question, listed = problem.question(), _numbers(problem.question())
        sides = [
            _side(name, shortest, test.get(name), question, listed)
            for test in _tests(problem.verifier)
            for name, shortest in (("output", MIN_LITERAL), ("input", MIN_INPUT))
        ]
        known = _prepared[id(problem)] = problem, tuple(dict.fromkeys(side for side in sides if side is not None))
    return known[1]


def _tests(spec: Mapping[str, Any]) -> Iterator[Mapping[str, object]]:
    """Inputs and outputs of a spec's tests; of unit tests those that `assert f(input) == output` says."""
    if spec.get("kind") != "unit_tests":
        yield from spec.get("tests", ())
        return
    for text in (*spec.get("tests", ()), spec.get("test_code", "")):
        try:
            tree = ast.parse(text[:MAX_TEST_CODE])
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Compare(left=ast.Call(args=given), ops=[ast.Eq()], comparators=[wanted]):
                    yield {"input": ", ".join(map(ast.unparse, given)), "output": ast.unparse(wanted)}


def _side(name: str, shortest: int, given: object, question: str, listed: tuple[str, ...]) -> _Side | None:
    text = (given if isinstance(given, str) else json.dumps(given))[:TEST_CHARS]
    literal, asked = _squeeze(text).strip("\"'"), _squeeze(question)
    known = literal in asked or literal in {"true", "false", "none", "null", "yes", "no"}
    value = number(plain(literal)) if name == "output" and len(literal) <= MAX_DIGITS and not known else None
    word = literal.isalpha() and len(literal) < MIN_WORD
    if known or len(literal) < (MIN_QUOTED if word and name == "input" else shortest):
        literal = ""
    found = _numbers(text)
    if len(found) < LISTED or _within(found, listed):
        found = ()
    simple = word or bool(re.fullmatch(r"-?\d{1,4}(?:\.\d)?|\d*000", literal))
    large = frozenset(n for n in _numbers(text) if _telling(n) and n not in asked)
    words = frozenset(re.findall(r"[a-z]{4,}", text.lower())) - {"true", "false", "none", "null"}
    words = words if name == "input" and len(words) > 1 and not words & set(question.lower().split()) else frozenset()
    told = literal or found or large or words or value is not None
    return _Side(name, literal, simple, found, value, large, words) if told else None


def _telling(digits: str) -> bool:
    """Whether a number is nobody's by chance: large, and neither round nor one that programs are full of."""
    if "." in digits or abs(value := int(digits)) < TELLING or digits.endswith("000"):
        return False
    return value not in _WELL_KNOWN and all((value + d) & (value + d - 1) for d in (-1, 0, 1))


def code_leak(note: str, problem: Problem, passed: Sequence[str]) -> str | None:
    """Why `note` gives away a program or a hidden test, or None.

    Args:
        passed: completions of this problem that passed.
    """
    said = re.sub(r"\\(?=[_*\[\](){}<>])", "", opened(note))  # as Markdown shows it
    if re.search(r"```|~~~", note) or _is_program(said):
        return "contains a program"
    for text in {said, _COMMENT.sub(" ", said)} if passed else set():
        own, shape = _runs(text)
        if any(own & runs for runs, _ in map(_program, passed)):
            return f"copies {NGRAM} tokens of a passing program"
        if any(shape & shapes for _, shapes in map(_program, passed)):
            return f"copies {RENAMED} tokens of a passing program, names changed"
    return _test_leak(note, problem)


@lru_cache(maxsize=1024)
def _program(completion: str) -> tuple[frozenset[tuple[str, ...]], frozenset[tuple[str, ...]]]:
    """The runs of the programs in a completion: what is fenced, or all of one that is nothing but a program."""
    blocks = _FENCE.findall(completion) or ([completion] if _is_program(completion) else [])
    found = [_runs(_COMMENT.sub(" ", block)) for block in blocks]
    return frozenset().union(*(runs for runs, _ in found)), frozenset().union(*(shapes for _, shapes in found))


def _test_leak(note: str, problem: Problem) -> str | None:
    said, told = plain(note), numbers(plain(note))
    bare = flat(note)
    tight, words = _squeeze(bare), frozenset(re.findall(r"[a-z]+", bare))
    large = {said[n.start : n.end] for n in told} | {f"{n.value:.0f}" for n in told}
    lists = [_numbers(found) for found in _NUMBERS.findall(bare)]
    quoted = {_squeeze(q) for q in _QUOTED.findall(bare)}
    for side in _sides(problem):
        what = "expected output" if side.name == "output" else "input"
        if side.literal and (_quotes(bare, side, quoted) if side.simple else _contains(tight, side.literal)):
            return f"quotes the {what} of a hidden test"
        if side.value is not None and any(n.value == side.value and _tells(said, n) for n in told):
            return f"quotes the {what} of a hidden test"
        if side.words and side.words <= words:
            return "names the words of a hidden test's input"
        if side.large & large:
            return f"quotes a number of a hidden test's {side.name}"
        if side.numbers and any(_overlap(numbers, side.numbers) for numbers in lists):
            return f"lists the numbers of a hidden test's {side.name}"
    return None


def _tells(said: str, found: Number) -> bool:
    """Whether a number that is an expected output is told as one: large, shown as what comes out, or of a test."""
    digits = f"{found.value:.17g}".lstrip("-")
    if _telling(digits) if digits.isdecimal() else len(digits) > MIN_WORD:
        return True
    before = said[max(0, said.rfind(". ", 0, found.start)) : found.start]
    if len(digits) >= MIN_LITERAL:
        return any(len(before) - m.end() <= NEAR for m in _SHOWN.finditer(before))
    return _OF_A_TEST.search(before) is not None and _SHOWN.search(before) is not None


def _quotes(said: str, side: _Side, quoted: set[str]) -> bool:
    """Whether a short literal is quoted, or named as what comes out."""
    if side.literal in quoted:
        return True
    if side.literal not in said or side.name == "input":
        return False
    whole = re.compile(rf"(?<![\w.]){re.escape(side.literal)}(?!\w|\.\d)")
    return any(whole.search(part[m.end() : m.end() + NEAR]) for part in said.split(". ") for m in _SHOWN.finditer(part))


def _contains(tight: str, literal: str) -> bool:
    """Whether a literal occurs, not as a part of a longer number."""
    if literal not in tight:  # nearly always, and far cheaper than an expression for each of all tests
        return False
    before, after = "(?<!\\d)" * literal[0].isdigit(), "(?!\\d)" * literal[-1].isdigit()
    return re.search(before + re.escape(literal) + after, tight) is not None


def _overlap(numbers: tuple[str, ...], hidden: tuple[str, ...]) -> bool:
    """Whether a list in a note is a hidden one, or has five numbers in a row in common with it; no plain counts."""
    if numbers == hidden:
        return not _counts(hidden)
    runs = (hidden[i : i + IN_A_ROW] for i in range(len(hidden) - IN_A_ROW + 1))
    return any(_within(run, numbers) for run in runs if not _counts(run)) if len(numbers) >= IN_A_ROW else False


def _counts(run: Sequence[str]) -> bool:
    """Whether numbers go up or down by one step: "1 2 3 4 5 6" is anybody's, and so is "0 0 0 0 0 0"."""
    values = [float(n) for n in run]
    return len({b - a for a, b in pairwise(values)}) == 1


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text).lower()


def _numbers(text: str) -> tuple[str, ...]:
    return tuple(_NUMBER.findall(text))


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    return any(tuple(whole[i : i + len(part)]) == tuple(part) for i in range(len(whole) - len(part) + 1))
