"""The leak guard for typed answers: texts, numbers, expressions, and lists of numbers.

What tells (a name, a number of two digits or more, an expression) leaks wherever it is said, in any notation. What does
not ("no", 3, 100, "increase") is said in honest notes too, and leaks where it is *claimed*: "the answer is no", "it
comes to 3.", "increase is right". What the question says leaks only where it is claimed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

from pmd.services.common.wire import Problem
from pmd.services.memory.leak import words as wording
from pmd.services.memory.leak.forms import Number, number, numbers, plain
from pmd.services.memory.leak.vocabulary import any_of

CLAIM_CHARS = 160
"""As much around an answer as is read for a claim."""

_FILLER = rf"(?:{any_of('filler')}\s+)*[\"'`(\[{{*<]*$"
_BEFORE = re.compile(
    r"(?:\b(?:answer|result|solution|root|total|sum|count|value|output|outcome)s?\b[^.\n]{0,60}?(?:=|:|->|→|\bto|\bof|\bas)"
    rf"|\b{any_of('claims')}\b:?|=|->|→|=>)\s*{_FILLER}"
)
_TAIL = re.compile(rf"\W*$|[\"'`)\]}}*>]*\s*(?:[,;:!?.]|\(?\s*mod\b|\b{any_of('goes_on')}\b)")
_SUPPOSED = re.compile(r"\b(?:assum\w+|suppos\w+|pretend|if|whether|unless)\b")
_AFTER = re.compile(
    r"[\"'`)\]}*>]*\s*(?:is|was|are|must be|has to be|will be|would be)\s+(?:always\s+|clearly\s+|indeed\s+)?"
    r"(?:what (?:we|you|is|remains|comes|one)\b|(?:(?:the|your|our|a)\s+)?(?:(?:right|correct|final|only|true|expected|"
    r"accepted|best|better|wanted)\b|(?:answer|result|solution|root|zero)s?\b))"
)
_STEP = re.compile(r"[\d^)!]\s*(?:=|is|gives)\s*$")
"""What a step of a computation comes to is not yet the answer, if it is 0, 1 or 2."""
_IN_UNIT = re.compile(r"\b(?:in|how many) (?:the |different |units of )?([a-z]{2,}(?:/[a-z]+)?)\b")
_ASKED = re.compile(rf"\b{any_of('asks')}\s+((?:[a-z]+[\s,.?]+){{1,5}})")
_BETWEEN = re.compile(r"(?:[\s,;(){}\[\]$|]|\b(?:and|or|to)\b|\b[a-z]+_?\d?\s*=|<=?\s*[a-z]\s*<=?)+")
_NAMES_ALL = re.compile(
    r"(?:\b[a-z]+_?\d?\s*(?:=|\bin\b)|∈|\b(?:roots?|solutions?|zeros?|values?|pairs?|set|between|interval|from|hence|so|thus|therefore)\b)\W*$"
)
_SOLVE = re.compile(
    r"\W*(?:both |all |each )?(?:solves?|satisf\w+|works?|fits?|are (?:the )?(?:roots|solutions|zeros))\b"
)
_SCALED_UNIT = re.compile(r"\s?[kmcdnuμg]?(?:m|s|g|l|pa|n|j|w|v|a|hz|mol)(?![a-z])")


def typed_leak(note: str, problem: Problem, given: str) -> str | None:
    """Why a note gives away the answer `given`, or None."""
    said, answer, question = plain(note), plain(given), plain(problem.question())
    if not answer:
        return None
    reason = value_leak(said, answer, question)
    if reason is not None or _value(answer)[0] is not None:
        return reason
    if any(claimed(said, start, end, question) for start, end in occurrences(said, answer)):
        return "claims the reference answer"
    if re.search(r"[<>=]", answer) and has_formula(said, answer) and not has_formula(question, answer):
        return "states the reference answer"
    asked = wording.words(question)
    own = wording.weights(given, (), asked)
    if answer in wording.WEAK or not own:
        return None
    told = wording.tells(own, wording.words(said)) or wording.broken_up(said, answer)
    return "states the reference answer" if told or wording.abbreviated(note, given, asked, ()) else None


def has_formula(said: str, formula: str) -> bool:
    """Whether a plain text has a formula, however it is spaced."""
    signs = r"\s*".join(map(re.escape, re.sub(r"\s", "", formula)))
    return re.search(rf"(?<![\w<>=]){signs}(?!\s*[\w<>=^])", said) is not None


def value_leak(said: str, answer: str, question: str) -> str | None:
    """The same for an answer that has a value, or is a list of values; all three texts plain."""
    value, variables = _value(answer)
    if value is None:
        return _list_leak(said, _listed(answer), question)
    asked = numbers(question, variables)
    known = any(same(n.value, value, "") for n in asked)
    telling = (tells(value) and not known) or bool(variables)
    for found in numbers(said, variables):
        text = said[found.start : found.end]
        if not same(found.value, value, answer):
            if telling and not variables and _rescaled(found, text, said, answer, question):
                return "states the reference answer in another unit"
        elif re.search(r"[a-z^*/+]", text) and text.replace(" ", "") in question.replace(" ", ""):
            continue  # the question itself
        elif telling or claimed(said, found.start, found.end, question):
            return "states the reference answer" if telling else "claims the reference answer"
    return None


def same(found: float, wanted: float, written: str) -> bool:
    """Whether two values are one: to a millionth, or to the decimals that the wanted one is written with."""
    if math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-12):
        return True
    decimals = re.fullmatch(r"-?\d+\.(\d+)", written)
    return decimals is not None and len(written) > 3 and abs(found - wanted) <= 0.5001 * 10.0 ** -len(decimals[1])


def tells(value: float) -> bool:
    """Whether a number is nobody's by chance."""
    return (abs(value) >= 10 or not value.is_integer()) and abs(value) not in {0.5, 10, 100, 1000}


def _rescaled(found: Number, text: str, said: str, answer: str, question: str) -> bool:
    """Whether a quantity has the digits of the answer, and a unit."""
    own, known = _mantissa(answer), {_mantissa(question[n.start : n.end]) for n in numbers(question)}
    long = len(re.sub(r"\D", "", answer)) > 2
    return long and _mantissa(text) == own and own not in known and _SCALED_UNIT.match(said, found.end) is not None


def _mantissa(text: str) -> str:
    return re.sub(r"\D", "", text.partition("e")[0]).strip("0")


def _value(answer: str) -> tuple[float | None, frozenset[str]]:
    """The value of a plain answer, and the variables that it is an expression in; no value for any other."""
    answer = re.sub(r"^[a-z]\s*=\s*", "", answer)
    value = number(answer)
    names = re.findall(r"[a-z]+", re.sub(r"\b(?:pi|sqrt|exp|sin|cos|tan|ln|log|e)\b", " ", answer))
    if value is not None or not names or max(map(len, names)) > 3 or not re.search(r"[+*/^\d]", answer):
        return value, frozenset()
    variables = frozenset("".join(names))
    whole = [n.value for n in numbers(answer, variables) if n.end - n.start == len(answer)]
    return (whole[0], variables) if whole else (None, frozenset())


def _listed(answer: str) -> list[float]:
    """The values of a plain answer that is a list of them; empty for any other."""
    parts = re.split(r"[,;]|\b(?:and|or)\b", re.sub(r"^\W*[a-z]\s*(?:=|\bin\b)", "", answer.strip(" {}[]()$")))
    values = [number(part.strip(" {}[]()$")) for part in parts]
    return [v for v in values if v is not None] if len(values) > 1 and None not in values else []


def _list_leak(said: str, values: Sequence[float], question: str) -> str | None:
    """Whether a text lists the numbers of an answer that is a list, in any order."""
    if not values:
        return None
    wanted = sorted(values)
    known = {n.value for n in numbers(question)}
    telling = not known.issuperset(values) and (len(values) > 2 or any(map(tells, values)))
    row: list[Number] = []
    for one in numbers(said):
        if re.search(r"[ ,'_]", said[one.start : one.end]) or (row and one.start < row[-1].end):
            continue
        row = [*row, one] if row and _BETWEEN.fullmatch(said, row[-1].end, one.start) else [one]
        tail = row[-len(wanted) :]
        if sorted(n.value for n in tail) == wanted:
            start, end = tail[0].start, tail[-1].end
            named = "<" in said[start:end] or _NAMES_ALL.search(said[:start]) or _SOLVE.match(said[end:])
            if telling or named or claimed(said, start, end, question):
                return "states the reference answer" if telling else "claims the reference answer"
    return None


@lru_cache(maxsize=256)
def _asked(question: str) -> re.Pattern[str] | None:
    """What names the thing that a plain question asks for, and is followed by its value."""
    nouns = {w for part in _ASKED.findall(question) for w in re.findall(r"[a-z]{2,}", part)} - wording.STOP
    if not nouns:
        return None
    names = "|".join(sorted(nouns))
    return re.compile(
        rf"\b(?:{names})s?\b(?:(?:[^.\n]{{0,30}}?(?:=|:|\b(?:is|are|of|equals?|to|as)\b))?\s*{_FILLER}|(?=[:,]))"
    )


def claimed(said: str, start: int, end: int, question: str) -> bool:
    """Whether what stands at [start, end) of a plain text is named as the answer of a plain question."""
    begins = max(said.rfind(stop, 0, start) for stop in (". ", "! ", "? ", "; ", "\n")) + 1
    before, after = said[max(begins, start - CLAIM_CHARS) : start], said[end : end + CLAIM_CHARS]
    if _SUPPOSED.search(before):
        return False
    if _AFTER.match(after) or not re.search(r"\w", said[:start] + said[end:]):
        return True
    asked = _asked(question)
    ends = _TAIL.match(after) or (asked and asked.match(after[1:]))
    if said[end - 1].isdigit() and _in_asked_unit(after, question):
        return True
    if said[start:end] in {"0", "1", "2"} and _STEP.search(before):
        return False
    return bool(ends and (_BEFORE.search(before) or (asked is not None and asked.search(before))))


def _in_asked_unit(after: str, question: str) -> bool:
    """Whether a number is followed by what the question counts, or asks it in."""
    unit = re.match(r"\s?(?:in total|altogether|overall|([a-z]{3,}))\b", after)
    asked = [noun for noun in _IN_UNIT.findall(question) if noun not in wording.STOP]
    return unit is not None and (unit[1] is None or any(noun.startswith(unit[1][:3]) for noun in asked))


def occurrences(said: str, phrase: str) -> list[tuple[int, int]]:
    """Where a phrase occurs whole, however joined; both plain."""
    joined = r"[\s-]*".join(re.escape(part) for part in re.split(r"(?<=\w)[\s-]+(?=\w)", phrase))
    return [m.span() for m in re.finditer(rf"(?<![\w.]){joined}(?!\w|\.\d)", said)]
