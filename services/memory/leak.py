"""The leak guard: a reference answer, or a copy of a passing program, never reaches a teacher through memory.

A teacher that reads the answer teaches to state it, not to find it (Law 3). A note that leaks is quarantined
with the reason; it is kept for people to see and never shown. The guard knows the answer, the policy doesn't.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
import unicodedata
from collections.abc import Sequence

from services.common.wire import Problem

NGRAM = 8
"""A run of this many code tokens in common with a passing program is a copy."""
RENAMED = 10
"""The same with names left out of account: a copy whose variables were renamed."""

_CODE_TOKEN = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"[^\W\d]\w*")
_FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_LETTER_CLAIM = (
    r"(?i:\b(?:answer|option|choice|letter|correct)\b)[^.\n]{{0,24}}?"
    r"(?<![A-Za-z])[(\"'*]*{label}[)\"'*]*(?![A-Za-z]| [a-z])"
)
"""Case matters for the letter: "the answer is a number" claims nothing."""
_LETTER_CHOSEN = r"(?i:\b(?:pick|choose|select|take|go with) (?:the )?(?:option |answer |letter )?)[(\"'*]*{alone}"
_LETTER_PRAISED = (
    r"(?<![A-Za-z])[(\"'*]*{label}[)\"'*]* (?i:is|was|must be|has to be) (?i:the )?"
    r"(?i:right|correct|true|answer|best|one to)\b"
)
_CLAIMS = (_LETTER_CLAIM, _LETTER_CHOSEN, _LETTER_PRAISED)
_RULED_OUT = re.compile(r"\b(?:rule out|eliminate|exclude|reject|discard|none of|neither|not)\b", re.IGNORECASE)

_OPTION_LINE = r"^\s*[(]?{label}[).:]\s*(.+?)\s*$"
MIN_LITERAL = 3
"""Shorter expected outputs ("1", "no") occur in honest notes by chance."""
MIN_INPUT = 6
"""The same for a test's inputs."""

_TEX = re.compile(r"\\(?:boxed|text|mathrm|mathbf|left|right|displaystyle|,|;|!)|[${}]")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DECIMAL_ZEROS = re.compile(r"(?<![\d.])(\d+)\.0+(?![\d.])")
_ANSWER_CLAIM = re.compile(r"\b(?:answer|result|solution|equals?|outputs?|returns?|value)\b|=", re.IGNORECASE)
_NUMBERS = re.compile(r"-?\d+(?:\.\d+)?(?:[\s,;\[\]()]+-?\d+(?:\.\d+)?){2,}")


def _plain(text: str) -> str:
    """A text in the form that answers are compared in: no TeX, no tricks with invisible or wide characters."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    text = _THOUSANDS.sub("", _TEX.sub(" ", text))
    return " ".join(_DECIMAL_ZEROS.sub(r"\1", text).casefold().split())


def _says(text: str, answer: str) -> bool:
    """Whether `answer` occurs as whole words or numbers; both plain."""
    return re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", text) is not None


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text).lower()


def _shape(code: str) -> set[tuple[str, ...]]:
    """Runs of tokens with names left out of account; runs that are mostly names say nothing."""
    tokens = ["v" if _NAME.fullmatch(t) and not keyword.iskeyword(t) else t for t in _CODE_TOKEN.findall(code)]
    runs = (tuple(tokens[i : i + RENAMED]) for i in range(len(tokens) - RENAMED + 1))
    return {run for run in runs if len(set(run) - {"v"}) >= 4 and run.count("v") <= RENAMED // 2}


def _runs(code: str) -> set[tuple[str, ...]]:
    tokens = _CODE_TOKEN.findall(code)
    return {tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)}


def programs(completions: Sequence[str]) -> list[str]:
    """The fenced programs in completions."""
    return [block for text in completions for block in _FENCE.findall(text)]


def _is_program(text: str) -> bool:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return any(
        isinstance(node, ast.FunctionDef | ast.Return | ast.Import | ast.For | ast.While) for node in ast.walk(tree)
    )


def leak(note: str, problem: Problem, passed: Sequence[str] = ()) -> str | None:
    """Why `note` gives away the answer of `problem`, or None.

    Args:
        passed: completions of this problem that passed; their fenced programs must not be copied.
    """
    spec = problem.verifier
    kind = spec.get("kind")
    if kind == "choice":
        return _choice_leak(note, problem, str(spec.get("answer", "")), [str(x) for x in spec.get("labels", "ABCD")])
    if kind == "code":
        return _code_leak(note, problem, passed)
    answer = spec.get("answer")
    return _text_leak(note, problem, str(answer)) if isinstance(answer, str | int | float) else None


def _text_leak(note: str, problem: Problem, given: str) -> str | None:
    """A short answer leaks where it is claimed, a longer one (or a number) wherever it is said."""
    answer, said = _plain(given), _plain(note)
    if not answer or _says(_plain(problem.question()), answer):
        return None  # whoever reads the question reads it
    telling = len(answer) >= MIN_LITERAL or answer.lstrip("-").isdecimal()
    if telling and _says(said, answer):
        return "states the reference answer"
    if len(_squeeze(answer)) >= 2 * MIN_LITERAL and _squeeze(answer) in _squeeze(said):
        return "states the reference answer"
    claimed = any(_says(part[m.start() :], answer) for part in said.split(". ") for m in _ANSWER_CLAIM.finditer(part))
    return "claims the reference answer" if claimed else None


def _choice_leak(note: str, problem: Problem, answer: str, labels: Sequence[str]) -> str | None:
    if re.search(r"</?answer>", note, re.IGNORECASE):
        return "contains an answer tag"
    for label in labels:
        claims = (p.format(label=re.escape(label), alone=_alone(label)) for p in _CLAIMS)
        if any(re.search(claim, note) for claim in claims):
            return "names an option letter as the answer"
    if answer in labels and _leaves_only(note, answer, labels):
        return "rules out every option but the answer"
    option = re.search(_OPTION_LINE.format(label=re.escape(answer)), problem.question(), re.MULTILINE)
    if option and len(_squeeze(option[1])) >= MIN_LITERAL and _squeeze(option[1]) in _squeeze(note):
        return "quotes the right option"
    return None


def _alone(label: str) -> str:
    """A pattern for a label that stands for itself: "A ring" and "I see" name no option."""
    word = r"| (?!and\b|or\b|nor\b)[a-z]" if label in {"A", "I"} else ""
    return rf"(?<![A-Za-z]){re.escape(label)}(?![A-Za-z]{word})"


def _leaves_only(note: str, answer: str, labels: Sequence[str]) -> bool:
    """Whether one sentence rules out all labels but the right one."""
    others = [re.compile(_alone(x)) for x in labels if x != answer]
    sentences = re.split(r"[.\n]", note)
    return len(others) > 1 and any(_RULED_OUT.search(s) and all(o.search(s) for o in others) for s in sentences)


def _code_leak(note: str, problem: Problem, passed: Sequence[str]) -> str | None:
    if "```" in note or _is_program(note):
        return "contains a program"
    own = _runs(note)
    if own and any(own & _runs(program) for program in programs(passed)):
        return f"copies {NGRAM} tokens of a passing program"
    own = _shape(note)
    if own and any(own & _shape(program) for program in programs(passed)):
        return f"copies {RENAMED} tokens of a passing program, names changed"
    question, squeezed = _squeeze(problem.question()), _squeeze(note)
    listed = {_numbers(found) for found in _NUMBERS.findall(note)}
    for test in problem.verifier.get("tests", ()):
        for side, shortest in (("output", MIN_LITERAL), ("input", MIN_INPUT)):
            value = test.get(side)
            literal = _squeeze(value if isinstance(value, str) else json.dumps(value))
            if len(literal) >= shortest and literal not in question and literal in squeezed:
                return f"quotes the {'expected output' if side == 'output' else side} of a hidden test"
            numbers = _numbers(str(value))
            known = _numbers(problem.question())
            if len(numbers) >= 4 and numbers in listed and not _within(numbers, known):
                return f"lists the numbers of a hidden test's {side}"
    return None


def _numbers(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"-?\d+(?:\.\d+)?", text))


def _within(part: tuple[str, ...], whole: tuple[str, ...]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))
