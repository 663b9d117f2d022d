"""Leaks of programs: copies of a passing one, whatever its names and layout, and literals of hidden tests.

What every program has in common (`range(len(a))`, reading a line of integers) is no copy, nor are the words of a
program's comments: notes are meant to say in words what programs do.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.common.wire import Problem
from services.memory.leak_forms import plain

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
LISTED = 4
"""Numbers in a row that are a test's."""
TEST_CHARS = 4000
"""As much of a test's side as is compared: no note quotes more."""
REMEMBERED = 128
"""Problems whose tests are kept prepared."""

_CODE_TOKEN = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"[^\W\d]\w*")
_FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_COMMENT = re.compile(r"#[^\n]*|(?<![\w\"])\"\"\"(?:.|\n)*?\"\"\"|(?<![\w'])'''(?:.|\n)*?'''")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NUMBERS = re.compile(r"-?\d+(?:\.\d+)?(?:(?:[\s,;\[\]()]|\band\b)+-?\d+(?:\.\d+)?){2,}")
_QUOTED = re.compile(r"[\"'`](.+?)[\"'`]")
_SHOWN = re.compile(r"\b(?:outputs?|prints?|returns?|expected?|answers?|results?|gives?|yields?)\b", re.IGNORECASE)

_IDIOMS = (
    "for i in range(len(a)):",
    "for i in range(1, len(a)):",
    "for i in range(len(a) - 1, -1, -1):",
    "for i, x in enumerate(a):",
    "for a, b in zip(x, y):",
    "list(map(int, input().split()))",
    "map(int, input().split())",
    "n, m = map(int, input().split())",
    "sys.stdin.read().split()",
    "sys.stdin.readline().strip()",
    "input = sys.stdin.readline",
    'if __name__ == "__main__": main()',
    "from collections import defaultdict, Counter, deque",
    "defaultdict(lambda: defaultdict(int))",
    "float('inf')",
    "[[0] * m for _ in range(n)]",
    "print(' '.join(map(str, a)))",
    "sorted(a, key=lambda x: x[0])",
    "sorted(a, key=lambda x: (x[0], x[1]))",
    "for i in range(n): for j in range(n):",
    "x if x > y else y",
    "return -1",
)


def _tokens(code: str) -> list[str]:
    return _CODE_TOKEN.findall(code)


def _anonymous(tokens: Sequence[str]) -> list[str]:
    return ["v" if _NAME.fullmatch(t) and not keyword.iskeyword(t) else t for t in tokens]


_COMMON = sorted((_anonymous(_tokens(line)) for line in _IDIOMS), key=len, reverse=True)


def _pieces(code: str) -> Iterator[list[str]]:
    """The tokens of code between the idioms that all programs share."""
    tokens = _tokens(code)
    shapes = _anonymous(tokens)
    begin = at = 0
    while at < len(tokens):
        idiom = next((i for i in _COMMON if len(i) >= NGRAM and shapes[at : at + len(i)] == i), None)
        if idiom is None:
            at += 1
        else:
            yield tokens[begin:at]
            begin = at = at + len(idiom)
    yield tokens[begin:]


def _runs(code: str) -> set[tuple[str, ...]]:
    return {tuple(p[i : i + NGRAM]) for p in _pieces(code) for i in range(len(p) - NGRAM + 1)}


def _shape(code: str) -> set[tuple[str, ...]]:
    """Runs of tokens with names left out of account; runs that are mostly names say nothing."""
    pieces = map(_anonymous, _pieces(code))
    runs = (tuple(p[i : i + RENAMED]) for p in pieces for i in range(len(p) - RENAMED + 1))
    return {run for run in runs if len(set(run) - {"v"}) >= 4 and run.count("v") <= RENAMED // 2}


def programs(completions: Sequence[str]) -> list[str]:
    """The programs in completions, without comments: what is fenced, or all of one that is nothing but a program."""
    found = []
    for text in completions:
        blocks = _FENCE.findall(text) or ([text] if _is_program(text) else [])
        found += [_COMMENT.sub(" ", block) for block in blocks]
    return found


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


_prepared: OrderedDict[int, tuple[Problem, tuple[_Side, ...]]] = OrderedDict()


def _sides(problem: Problem) -> tuple[_Side, ...]:
    """The sides of a problem's tests; tests can be megabytes, and a problem is asked about for every note."""
    known = _prepared.get(id(problem))
    if known is None or known[0] is not problem:
        question, listed = _squeeze(problem.question()), _numbers(problem.question())
        sides = {
            side
            for test in problem.verifier.get("tests", ())
            for name, shortest in (("output", MIN_LITERAL), ("input", MIN_INPUT))
            if (side := _side(name, shortest, test.get(name), question, listed)) is not None
        }
        known = _prepared[id(problem)] = (problem, tuple(sorted(sides, key=lambda s: (s.name, s.literal, s.numbers))))
        while len(_prepared) > REMEMBERED:
            _prepared.popitem(last=False)
    return known[1]


def _side(name: str, shortest: int, value: object, question: str, listed: tuple[str, ...]) -> _Side | None:
    text = (value if isinstance(value, str) else json.dumps(value))[:TEST_CHARS]
    literal = _squeeze(text).strip("\"'")
    if len(literal) < shortest or literal in question or literal in {"true", "false", "none", "null", "yes", "no"}:
        literal = ""
    found = _numbers(text)
    if len(found) < LISTED or _within(found, listed):
        found = ()
    word = literal.isalpha() and len(literal) < MIN_WORD
    simple = word or bool(re.fullmatch(r"-?\d{1,4}(?:\.\d)?|\d*000", literal))
    return _Side(name, literal, simple, found) if literal or found else None


def code_leak(note: str, problem: Problem, passed: Sequence[str]) -> str | None:
    """Why `note` gives away a program or a hidden test, or None.

    Args:
        passed: completions of this problem that passed.
    """
    if "```" in note or _is_program(note):
        return "contains a program"
    sources = programs(passed)
    own = _runs(note) if sources else set()
    if own and any(own & _runs(program) for program in sources):
        return f"copies {NGRAM} tokens of a passing program"
    own = _shape(note) if sources else set()
    if own and any(own & _shape(program) for program in sources):
        return f"copies {RENAMED} tokens of a passing program, names changed"
    return _test_leak(note, problem)


def _test_leak(note: str, problem: Problem) -> str | None:
    said = plain(note)
    tight = _squeeze(said)
    lists = [_numbers(found) for found in _NUMBERS.findall(said)]
    quoted = {_squeeze(q) for q in _QUOTED.findall(said)}
    for side in _sides(problem):
        what = "expected output" if side.name == "output" else "input"
        if side.literal and (_quotes(said, side.literal, quoted) if side.simple else _contains(tight, side.literal)):
            return f"quotes the {what} of a hidden test"
        if side.numbers and any(_overlap(numbers, side.numbers) for numbers in lists):
            return f"lists the numbers of a hidden test's {side.name}"
    return None


def _quotes(said: str, literal: str, quoted: set[str]) -> bool:
    """Whether a short literal is quoted, or named as what comes out."""
    if literal in quoted:
        return True
    if literal not in said:
        return False
    whole = re.compile(rf"(?<![\w.]){re.escape(literal)}(?!\w|\.\d)")
    return any(whole.search(part[m.end() : m.end() + 40]) for part in said.split(". ") for m in _SHOWN.finditer(part))


def _contains(tight: str, literal: str) -> bool:
    """Whether a literal occurs, not as a part of a longer number."""
    if literal not in tight:  # nearly always, and far cheaper than an expression for each of all tests
        return False
    before = r"(?<!\d)" if literal[0].isdigit() else ""
    after = r"(?!\d)" if literal[-1].isdigit() else ""
    return re.search(before + re.escape(literal) + after, tight) is not None


def _overlap(numbers: tuple[str, ...], hidden: tuple[str, ...]) -> bool:
    """Whether a list in a note is a hidden one, or has six numbers in a row, not a plain count, in common with it."""
    if numbers == hidden:
        return True
    runs = (hidden[i : i + 6] for i in range(len(hidden) - 5))
    return any(_within(run, numbers) for run in runs if not _counts(run)) if len(numbers) >= 6 else False


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
