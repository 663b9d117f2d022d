"""The leak guard for answers that are texts, numbers, or lists of numbers.

What tells (a long word, a number of two digits or more) leaks wherever it is said, in any notation. What does not
("no", 3, 100, "increase") is said in honest notes too, and leaks where it is *claimed*: "the answer is no", "it comes
to 3.", "increase is right". What the question says leaks only where it is claimed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from pmd.services.common.wire import Problem
from pmd.services.memory.leak.forms import (
    computed,
    dressed,
    encoded,
    expression,
    letters,
    listed,
    number,
    numbers,
    plain,
    romans,
    rows,
    spelled,
    squeezed,
    worth,
)

MIN_LITERAL = 3
"""Shorter answers occur in honest notes by chance."""
CLAIM_CHARS = 160
"""As much around an answer as is read for a claim."""
LONG = 6
"""Answers of so many letters are recognised in whatever way they are broken up; of so many words, in part."""

WEAK = frozenset(
    re.findall(
        r"\w+",
        "yes no true false none both all neither left right up down more less higher lower greater smaller larger "
        "equal same different first second third last positive negative even odd zero always never possible "
        "impossible valid invalid increase increases increased decrease decreases decreased rise rises fall falls "
        "unchanged constant",
    )
)
"""Answers that are words of every honest note."""

_FILLER = (
    r"(?:(?:exactly|simply|just|only|always|therefore|thus|then|clearly|indeed|definitely|about|roughly|a|the|with|"
    r"option|letter|single|word)\s+)*[\"'`(\[{*<]*$"
)
_BEFORE = re.compile(
    r"(?:\b(?:answer|result|solution|root|total|sum|count|value|output|outcome)s?\b[^.\n]{0,60}?"
    r"(?:=|:|->|→|\bto|\bof|\bas)"
    r"|\b(?:is|it's|that's|are|was|be|equals?|equal to|gives?|yields?|returns?|outputs?|prints?|obtains?|becomes?|"
    r"comes? to|amounts to|evaluates to|works out to|reduces to|simplifies to|comes out (?:as|at|to)|"
    r"ends? up (?:with|at)|arrives? at|left with|leav(?:es|ing)|answers?|solution|answered|say|write|state|report|"
    r"submit|enter|output|(?:respond|reply|answer) with|(?:we|you|to|they) (?:find|see|have)|found|conclude|expect|"
    r"expected|get)\b:?"
    r"|\b(?:so|thus|hence|therefore|giv(?:es|ing)|yields?|get|means|implies|then|conclude)\b[^.\n]{0,30}?"
    r"\b[a-z]\w?\s*=)\s*" + _FILLER
)
_TAIL = re.compile(
    r"\W*$|[\"'`)\]}*>]*\s*(?:[,;:!?.]|\(?\s*mod\b|\b(?:and|because|since|as|for|so|here|when|if|exactly|by|not|modulo|"
    r"in (?:this|all|every)|after|once|at the end|overall)\b)"
)
_SUPPOSED = re.compile(r"\b(?:assum\w+|suppos\w+|pretend|if|whether|unless)\b")
_AFTER = re.compile(
    r"[\"'`)\]}*>]*\s*(?:is|was|are|must be|has to be|will be|would be)\s+(?:always\s+|clearly\s+|indeed\s+)?"
    r"(?:what (?:we|you|is|remains|comes|one)\b|(?:(?:the|your|our|a)\s+)?(?:(?:right|correct|final|only|true|expected|"
    r"best|better|wanted)\b|(?:answer|result|solution|root|zero)s?\b))"
)
_EQUATED = re.compile(r"(\S{3,})\s*=\s*$")
_ASKED = re.compile(
    r"\b(?:what(?:'s| is| are| was| were)?|find|compute|determine|evaluate|calculate|give|name|state|which|identify|"
    r"how (?:many|much))\s+((?:[a-z]+[\s,.?]+){1,5})"
)
_PLURALS = (("on", "a"), ("um", "a"), ("us", "i"), ("is", "es"), ("y", "ies"), ("a", "ae"))
"""Of words from Greek and Latin; the others end in s."""
_SOLVE = re.compile(
    r"\W*(?:both |all |each )?(?:solves?|satisf(?:y|ies)|works?|fits?|are (?:the )?(?:roots|solutions|zeros))\b"
)
_NEGATIVE = re.compile(r"(?:-|\b(?:minus|negative)\b)\s+(?=[a-z])")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "the a an of is are was in on for to from at by with all its it their this that these those which what and or "
        "does do did has have be as one following real exact number value answer if so no up he we me us go can will",
    )
)


@lru_cache(maxsize=256)
def _asked(question: str) -> re.Pattern[str] | None:
    """What names the thing that a plain question asks for, and is followed by its value."""
    found = _ASKED.findall(question)
    nouns = {word for part in found for word in re.findall(r"[a-z]{2,}", part)} - _COMMON
    if not nouns:
        return None
    names = "|".join(sorted(nouns))
    return re.compile(rf"\b(?:{names})s?\b(?:[^.\n]{{0,30}}?(?:=|:|\b(?:is|are|of|equals?|to|as)\b))?\s*{_FILLER}")


def claimed(said: str, start: int, end: int, question: str) -> bool:
    """Whether what stands at [start, end) of a plain text is named as the answer of a plain question."""
    begins = max(said.rfind(stop, 0, start) for stop in (". ", "! ", "? ", "; ", "\n")) + 1
    before, after = said[max(begins, start - CLAIM_CHARS) : start], said[end : end + CLAIM_CHARS]
    if _SUPPOSED.search(before):
        return False
    if _AFTER.match(after) or not re.search(r"\w", said[:start] + said[end:]):
        return True
    if not _TAIL.match(after):
        return False
    equated = _EQUATED.search(before)
    asked = _asked(question)
    return bool(
        _BEFORE.search(before)
        or (asked is not None and asked.search(before))
        or (equated is not None and squeezed(equated[1]) in squeezed(question))
    )


def occurrences(said: str, words: str) -> list[tuple[int, int]]:
    """Where `words` occur whole, or in the plural, however joined; both plain."""
    joined = r"[\s-]*".join(re.escape(part) for part in re.split(r"(?<=\w)[\s-]+(?=\w)", words))
    plural = "(?:e?s)?" if len(words) > MIN_LITERAL and words[-1:].isalpha() else ""
    forms = [joined + plural]
    if len(words) > LONG:
        forms += [joined.removesuffix(one) + many for one, many in _PLURALS if joined.endswith(one)]
    return [m.span() for m in re.finditer(rf"(?<![\w.])(?:{'|'.join(forms)})(?!\w|\.\d)", said)]


def text_leak(note: str, problem: Problem, given: str) -> str | None:
    """Why a note gives away the answer `given`, or None.

    A short answer leaks where it is claimed, a longer one (or a telling number) wherever it is said.
    """
    said, answer, question = plain(note), plain(given), plain(problem.question())
    if not answer:
        return None
    value = number(answer)
    reason = _list_leak(said, listed(answer), question) if value is None else number_leak(note, said, value, question)
    if reason is not None:
        return reason
    if answer.startswith("-"):
        said, answer = _NEGATIVE.sub("-", said), _NEGATIVE.sub("-", answer)
    known, places = bool(occurrences(question, answer)), occurrences(said, answer)
    words = value is None and not known and answer not in WEAK
    long = len(answer) >= MIN_LITERAL
    if words and ((places and long) or hidden(said, answer)):
        return "states the reference answer"
    if any(claimed(said, start, end, question) for start, end in places):
        return "claims the reference answer"
    return "states the reference answer in code" if long and not known and encoded(note, given) else None


def number_leak(note: str, said: str, value: Fraction, question: str) -> str | None:
    """The same for a number, in any notation, or as a sum that comes to it.

    Args:
        said: the note, plain.
        question: of the problem, plain.
    """
    known = any(n.value == value for n in numbers(question))
    telling = not known and tells(value)
    for found in [*numbers(said), *romans(dressed(note))]:
        if found.value == value and (telling or claimed(said, found.start, found.end, question)):
            return "states the reference answer" if telling else "claims the reference answer"
    finite = abs(value) < 10**300
    return "computes the reference answer" if telling and finite and _computes(said, float(value)) else None


def _computes(said: str, value: float) -> bool:
    return any(math.isclose(found, value, rel_tol=1e-9) for found, _, _ in computed(said))


_NAMES_ALL = re.compile(
    r"(?:\b[a-z]+_?\d?\s*(?:=|\bin\b)|∈|\b(?:roots?|solutions?|zeros?|values?|pairs?|set|between|interval|from)\b)\W*$"
)


def _list_leak(said: str, values: tuple[Fraction, ...], question: str) -> str | None:
    """Whether a text lists the numbers of an answer that is a list, in any order."""
    wanted = sorted(values)
    if not wanted:
        return None
    known = {n.value for n in numbers(question)}
    telling = not set(values) <= known and (len(values) > 2 or any(map(tells, values)))
    for row in rows(said):
        if sorted(row.values) == wanted:
            named = (
                "<" in said[row.start : row.end]
                or _NAMES_ALL.search(said[: row.start]) is not None
                or _SOLVE.match(said[row.end :]) is not None
                or claimed(said, row.start, row.end, question)
            )
            if telling or named:
                return "states the reference answer" if telling else "claims the reference answer"
    return None


def tells(value: object) -> bool:
    """Whether a number is nobody's by chance."""
    text = str(value)
    return len(text.lstrip("-")) >= 2 and text not in {"10", "100", "1000", "1/2", "1/3", "1/4"}


def hidden(said: str, answer: str) -> bool:
    """Whether a text holds an answer broken up, backwards, or a good part of a long one."""
    bare = letters(answer)
    if re.search(r"[+*/^=<>]", answer):  # mathematics, or code: its signs count
        own, value = expression(answer), worth(answer)
        if len(own) >= MIN_LITERAL and _within(own, expression(said)):
            return True
        if value is not None and _computes(said, value):
            return True
    elif len(bare) >= LONG and (bare in letters(said) or bare[::-1] in letters(said)):
        return True
    if len(bare) >= MIN_LITERAL and bare in spelled(said):
        return True
    words, own = answer.split(), said.split()
    if len(words) <= LONG:
        return False
    runs = {tuple(words[i : i + LONG]) for i in range(len(words) - LONG + 1)}
    return any(tuple(own[i : i + LONG]) in runs for i in range(len(own) - LONG + 1))


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))
