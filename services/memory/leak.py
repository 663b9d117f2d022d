"""The leak guard: a reference answer, or a copy of a passing program, never reaches a teacher through memory.

A teacher that reads the answer teaches to state it, not to find it (Law 3). A note that leaks is quarantined
with the reason; it is kept for people to see and never shown. The guard knows the answer, the policy doesn't.

What tells (a long word, a number of two digits or more) leaks wherever it is said, in any notation. What does not
("no", 3, 100, "increase") is said in honest notes too, and leaks where it is *claimed*: "the answer is no", "it comes
to 3.", "increase is right". What the question says leaks only where it is claimed. `services.memory.leak_forms` brings
both sides to one form, `services.memory.leak_code` is for programs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from services.common.wire import Problem
from services.memory.leak_code import code_leak
from services.memory.leak_forms import (
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

_WEAK = frozenset(
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
    r"|\b(?:is|are|was|be|equals?|equal to|gives?|yields?|returns?|outputs?|prints?|obtains?|becomes?|comes? to|"
    r"amounts to|evaluates to|works out to|reduces to|simplifies to|comes out (?:as|at|to)|ends? up (?:with|at)|"
    r"arrives? at|left with|leav(?:es|ing)|answers?|solution|answered|say|write|state|report|submit|enter|output|"
    r"(?:respond|reply|answer) with|(?:we|you|to|they) (?:find|see|have)|found|conclude|expect|expected|get)\b:?"
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
    r"best|wanted)\b|(?:answer|result|solution|root|zero)s?\b))"
)
_EQUATED = re.compile(r"(\S{3,})\s*=\s*$")
_ASKED = re.compile(
    r"\b(?:what(?:'s| is| are| was| were)?|find|compute|determine|evaluate|calculate|give|name|state|which|identify|"
    r"how (?:many|much))\s+((?:[a-z]+[\s,.?]+){1,5})"
)
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


def leak(note: str, problem: Problem, passed: Sequence[str] = ()) -> str | None:
    """Why `note` gives away the answer of `problem`, or None.

    Args:
        passed: completions of this problem that passed; their programs must not be copied.
    """
    spec = problem.verifier
    kind = spec.get("kind")
    if kind == "choice":
        return _choice_leak(note, problem, str(spec.get("answer", "")), [str(x) for x in spec.get("labels", "ABCD")])
    if kind == "code":
        return code_leak(note, problem, passed)
    reasons = (_text_leak(note, problem, answer) for answer in _answers(spec))
    return next((reason for reason in reasons if reason), None)


def _answers(spec: Mapping[str, Any]) -> Iterator[str]:
    """The answers that a spec names: its own, a program's reference, the words that an expression is a choice of."""
    given = spec.get("answer", spec.get("reference"))
    for answer in given if isinstance(given, list) else [given]:
        if isinstance(answer, str | int | float):
            yield str(answer)
    pattern = spec.get("pattern")
    if isinstance(pattern, str):
        bare = re.sub(r"^(?:\(\?[a-z]+\))?\^?|\$$", "", pattern)
        bare = re.sub(r"^\((?:\?:)?([^()]*)\)$", r"\1", bare)
        if not re.search(r"(?<!\\)[\[\](){}*+?.^$]|\\\w", bare):
            yield from (re.sub(r"\\(.)", r"\1", part) for part in bare.split("|"))


# ---------------------------------------------------------------- claims


def _claimed(said: str, start: int, end: int, question: str) -> bool:
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


def _places(said: str, words: str) -> list[tuple[int, int]]:
    """Where `words` occur whole, or in the plural, however joined; both plain."""
    joined = r"[\s-]*".join(re.escape(part) for part in re.split(r"(?<=\w)[\s-]+(?=\w)", words))
    plural = "(?:e?s)?" if len(words) > MIN_LITERAL and words[-1:].isalpha() else ""
    return [m.span() for m in re.finditer(rf"(?<![\w.]){joined}{plural}(?!\w|\.\d)", said)]


# ---------------------------------------------------------------- text and numbers


def _text_leak(note: str, problem: Problem, given: str) -> str | None:
    """A short answer leaks where it is claimed, a longer one (or a telling number) wherever it is said."""
    said, answer, question = plain(note), plain(given), plain(problem.question())
    if not answer:
        return None
    value = number(answer)
    reason = _list_leak(said, listed(answer), question) if value is None else _number_leak(note, said, value, question)
    if reason is not None:
        return reason
    known, places = bool(_places(question, answer)), _places(said, answer)
    words = value is None and not known and answer not in _WEAK
    long = len(answer) >= MIN_LITERAL
    if words and ((places and long) or _hidden(said, answer)):
        return "states the reference answer"
    if any(_claimed(said, start, end, question) for start, end in places):
        return "claims the reference answer"
    return "states the reference answer in code" if long and not known and encoded(note, given) else None


def _number_leak(note: str, said: str, value: Fraction, question: str) -> str | None:
    known = any(n.value == value for n in numbers(question))
    telling = not known and _tells(value)
    for found in [*numbers(said), *romans(dressed(note))]:
        if found.value == value and (telling or _claimed(said, found.start, found.end, question)):
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
    telling = not set(values) <= known and (len(values) > 2 or any(map(_tells, values)))
    for row in rows(said):
        if sorted(row.values) == wanted:
            named = (
                "<" in said[row.start : row.end]
                or _NAMES_ALL.search(said[: row.start]) is not None
                or _claimed(said, row.start, row.end, question)
            )
            if telling or named:
                return "states the reference answer" if telling else "claims the reference answer"
    return None


def _tells(value: object) -> bool:
    """Whether a number is nobody's by chance."""
    text = str(value)
    return len(text.lstrip("-")) >= 2 and text not in {"10", "100", "1000", "1/2", "1/3", "1/4"}


def _hidden(said: str, answer: str) -> bool:
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


# ---------------------------------------------------------------- choice

_LETTER_CLAIM = (
    r"(?i:\b(?:ans|answer(?:s|ed|ing)?|option|choice|letter|alternative|correct|antwort|respuesta|reponse|"
    r"risposta)\b|答案|选|選|正确)[^.\n]{{0,24}}?"
    r"(?<![A-Za-z])[(\[\"'*`]*{label}[)\]\"'*`]*(?![A-Za-z]| [a-z])"
)
"""Case matters for the letter: "the answer is a number" claims nothing."""
_LETTER_CHOSEN = (
    r"(?i:\b(?:pick(?:s|ed|ing)?|choos(?:es?|ing)|chosen?|select(?:s|ed|ing)?|take|go with|go for|opt for|mark|tick|"
    r"answer|settle on|stick (?:with|to)|respond(?: with)?|reply(?: with)?|conclude with|conclude|output|submit|enter)"
    r"\s*:?\s+(?:the )?(?:option |answer |letter |choice )?)[(\[\"'*`]*{alone}"
)
_LETTER_PRAISED = (
    r"(?<![A-Za-z])[(\[\"'*`]*{label}[)\]\"'*`]*\s+(?i:is|was|must be|has to be|will be)\s+(?i:the )?(?i:only )?"
    r"(?i:right|correct|true|answer|best|one to|one that|winner|way to go)\b"
)
_LETTER_WINS = r"(?<![A-Za-z])[(\[\"'*`]*{label}[)\]\"'*`]*\s+(?i:(?:it is|wins|survives|works|fits|holds|remains)\b)"
_LETTER_LEFT = (
    r"(?i:\b(?:it's|it is|only|all but|all except|everything but|everything except|none but|must be|has to be|being|"
    r"leaves|leaving|left with)\s+)(?i:the )?(?i:option |answer |letter )?[(\[\"'*`]*{alone}"
)
_LETTER_SHOWN = r"(?:answer =|=>|->|→)\s*[(\[\"'*`]*{label}(?![A-Za-z])"
_CLAIMS = (_LETTER_CLAIM, _LETTER_CHOSEN, _LETTER_PRAISED, _LETTER_WINS, _LETTER_LEFT, _LETTER_SHOWN)
_LOWER_CLAIM = r"\b(?:answer|option|choice|letter)\s*(?:is|=|:|->)?\s*[(\[\"'*`]*{label}(?=[)\]\"'*`.,;!]|\s*$)"
"""A label in lower case, where nothing else can be meant."""
MIN_OPTION = 2
"""Shorter options are said by chance."""
_RULED_OUT = re.compile(
    r"\b(?:rule[sd]? out|eliminate[sd]?|exclude[sd]?|reject(?:s|ed)?|discard(?:s|ed)?|drop|dismiss|cross out|strike|"
    r"contradicts?|cancels?|"
    r"none of|neither|nor|not|never|no|can't|cannot|isn't|aren't|wrong|false|incorrect|impossible|fails?|out)\b",
    re.IGNORECASE,
)
_FAILS = r"(?<![A-Za-z]){label} (?:is|was|fails?|can't|can ?not|isn't|does|doesn't|has to go)\b"
_RIGHT_ALONE = (
    r"(?:^|[.;:,!?(\n]\s*|\b(?i:so|thus|hence|therefore|then|because|that|and|only|makes|leaves|statement|item)\s+)"
    r"[(\[\"'*`]*{label}[)\]\"'*`]*(?:[.!?]*\s*(?:$|\n)|\s*>\s|\s+(?i:is|was|because|since|due|has|should|must|will|can|matches|satisfies|fits|"
    r"works|holds|agrees|describes|follows|corresponds|remains|stands)\b)"
)
"""The right label as the subject of a sentence, or as all of it."""
_RIGHT_PUT = (
    r"(?i:\b(?:put|write|place|give|return|report|use|makes))\s+[(\[\"'*`]*{label}[)\]\"'*`]*"
    r"(?=\s*(?:[.,;!]|$|\n)|\s+(?:in|inside|as the|within)\b)|(?i:\bmakes)\s+{label}\s+[a-z]"
)
_RIGHT_BRACKET = r"(?<!\S)\(?{label}\)"
_NTH = ("first|1st", "second|2nd", "third|3rd", "fourth|4th", "fifth|5th", "sixth|6th")
_COUNT = ("one", "two", "three", "four", "five", "six")
_ITEM = r"(?:option|choice|answer|alternative|statement|candidate|item|one|letter)"
_NTH_CHOSEN = (
    r"(?:\b(?:pick|choose|select|take|mark|go (?:with|for)|answer is|opt for|it is|it's) (?:the )?"
    rf"(?:{{nth}})(?: {_ITEM})?\b(?! {_ITEM})|"
    rf"\b(?:{{nth}}) {_ITEM} (?:is|was|must|has|should|holds?|fits|works|wins|matches|survives|remains|because)\b|"
    rf"\b(?:{{nth}}) {_ITEM}\W*(?:$|\n|[.;,!])|"
    r"\b(?:{nth}) (?:[a-z]+ )?(?:listed|given|named|mentioned)\b|"
    r"\b(?:all|every\w*|none|nothing)\b[^.;\n]{{0,24}}?\b(?:but|except|save)(?: for)? (?:the )?(?:{nth})\b|"
    rf"\b{_ITEM}(?: number| no\.?)? ?#? ?(?:{{count}})(?![\w.])|(?<!\w)#{{place}}(?![\w.]))"
)
_LOOKED_AT = re.compile(r"\b(?:compar\w+|read|than|check|every|each|reread)\b[^.;\n]*$", re.IGNORECASE)
_BESIDE = r"\b(?:letter|option|choice|one|answer) (?:right |just |directly )?(?:{way})\s+[(\[\"'*`]*{label}(?![A-Za-z])"
_SPAN = r"(?<![A-Za-z]){first}\s?(?:-|to|through|thru)\s?{last}(?![A-Za-z])"
_OPTION_LINE = r"^\s*[(\[]?{label}[).:\]]\s*(.+?)\s*$"


def _choice_leak(note: str, problem: Problem, answer: str, labels: Sequence[str]) -> str | None:
    if re.search(r"</?answer>", note, re.IGNORECASE):
        return "contains an answer tag"
    said = dressed(note)
    for label in labels:
        claims = (p.format(label=re.escape(label), alone=_alone(label)) for p in _CLAIMS)
        lower = re.search(_LOWER_CLAIM.format(label=re.escape(label.casefold())), said.casefold())
        if lower or any(re.search(claim, said) for claim in claims):
            return "names an option letter as the answer"
    if answer in labels:
        place = labels.index(answer)
        symbols = _symbols(problem, labels)
        if answer not in symbols and _named(said, labels, place):
            return "names the right letter"
        if _placed(said, labels, place):
            return "names the place of the right option"
        if _leaves_only(said, answer, labels, symbols):
            return "rules out every option but the answer"
    return _option_leak(note, problem, answer, labels)


def _named(said: str, labels: Sequence[str], place: int) -> bool:
    """Whether a text has the right label where only an answer can stand."""
    label = labels[place]
    if any(re.search(p.format(label=re.escape(label)), said) for p in (_RIGHT_ALONE, _RIGHT_PUT)):
        return True
    brackets = [other for other in labels if re.search(_RIGHT_BRACKET.format(label=re.escape(other.casefold())), said)]
    if brackets == [label.casefold()] or brackets == [label]:
        return True
    around = [("after|following|behind|below", place - 1), ("before|preceding|ahead of|above", place + 1)]
    return any(
        re.search(_BESIDE.format(way=way, label=re.escape(labels[at])), said)
        for way, at in around
        if 0 <= at < len(labels)
    )


def _placed(said: str, labels: Sequence[str], place: int) -> bool:
    """Whether a text names the place of the right option among all."""
    words = [*_NTH[place : place + 1]]
    words += ["last|final"] if place == len(labels) - 1 else []
    words += ["second[- ]to[- ]last|penultimate|last but one|next to last"] if place == len(labels) - 2 else []
    counts = [str(place + 1), *_COUNT[place : place + 1]]
    pattern = _NTH_CHOSEN.format(nth="|".join(words) or "-", count="|".join(counts), place=place + 1)
    bare = said if place == 1 else re.sub(r"(?i)second[- ]to[- ]last", "penultimate", said)
    return any(not _LOOKED_AT.search(bare[: m.start()]) for m in re.finditer(pattern, bare, re.IGNORECASE))


def _alone(label: str) -> str:
    """A pattern for a label that stands for itself: "A ring" and "I see" name no option."""
    word = r"| (?!and\b|or\b|nor\b)[a-z]" if label in {"A", "I"} else ""
    return rf"(?<![A-Za-z]){re.escape(label)}(?![A-Za-z]{word})"


def _stem(problem: Problem, labels: Sequence[str]) -> str:
    """A question without its options."""
    return re.split(r"\n\s*[(\[]?" + re.escape(labels[0]) + r"[).:\]]", problem.question())[0]


def _symbols(problem: Problem, labels: Sequence[str]) -> set[str]:
    """Labels that mean something else in the question: points of a triangle, elements, quantities."""
    stem = dressed(_stem(problem, labels))
    found = {label for label in labels if re.search(_alone(label), stem)}
    # A sentence may begin with the article.
    return found if re.search(r"(?<=[a-z,] )A(?![A-Za-z0-9]| [a-z0-9])", stem) else found - {"A"}


def _leaves_only(said: str, answer: str, labels: Sequence[str], symbols: set[str]) -> bool:
    """Whether a note speaks of all labels but the right one, or of few labels rules out all others."""
    wrong = set(labels) - {answer}
    for i, first in enumerate(labels):
        for j in range(i + 1, len(labels)):
            span = _SPAN.format(first=re.escape(first), last=re.escape(labels[j]))
            said = re.sub(span, ", ".join(labels[i : j + 1]), said)
    said = _PLACES.sub(lambda found: _lettered(found[0], labels), said)
    sentences = re.split(r"[.;\n]", said)
    mentioned, out = set(), set()
    for sentence in sentences:
        found = {label for label in labels if re.search(_alone(label) + "|" + _FAILS.format(label=label), sentence)}
        mentioned |= found
        out |= found if _RULED_OUT.search(sentence) else set()
    return len(labels) > 2 and (out == wrong or (mentioned == wrong and len(wrong) > 2 and not wrong & symbols))


_PLACE = "|".join([*_NTH, *_COUNT])
_PLACES = re.compile(
    rf"\b(?:(?:{_PLACE})(?:,? and |,? or |, | ))+(?:options|choices|answers|statements)\b|"
    rf"\b(?:options|choices|answers|statements) (?:(?:{_PLACE})\b(?:,? and |,? or |, )?){{2,}}",
    re.IGNORECASE,
)
"""Several options by their places."""


def _lettered(said: str, labels: Sequence[str]) -> str:
    """A text that names options by their places, with their labels in it."""
    for label, nth, count in zip(labels, _NTH, _COUNT, strict=False):
        said = re.sub(rf"\b(?:{nth}|{count})\b", label, said, flags=re.IGNORECASE)
    return said


def _option_leak(note: str, problem: Problem, answer: str, labels: Sequence[str]) -> str | None:
    """Whether a note quotes the right option and no other, or claims it."""
    lines = {
        label: found[1]
        for label in labels
        if (found := re.search(_OPTION_LINE.format(label=re.escape(label)), problem.question(), re.MULTILINE))
    }
    if answer not in lines:
        return None
    said, right = plain(note), plain(lines[answer])
    tight = squeezed(said)
    stem = plain(_stem(problem, labels))
    others = any(_compared(said, tight, plain(text)) for label, text in lines.items() if label != answer)
    known = bool(_places(stem, right))
    core = _PRONOUN.sub("", right).strip(" .")
    if not others and not known and right not in _WEAK and len(squeezed(right)) >= MIN_OPTION:
        strong = " " in right or len(right) >= LONG or _SYMBOL.search(lines[answer]) or re.match(r"[-+]\d", right)
        if strong and (_quoted(said, tight, right) or _quoted(said, tight, core) or _hidden(said, core)):
            return "quotes the right option"
        values = {n.value for n in numbers(right)} if len(right.split()) <= 2 else set()
        if len(values) == 1 and _tells(*values) and any(n.value in values for n in numbers(said)):
            return "quotes the right option"
    value = number(right)
    if value is not None and not others:
        signed = right.startswith("+") and any(found == value for found in _signed(note))
        if signed or _number_leak(note, said, value, stem):
            return "claims the right option"
    if any(_claimed(said, start, end, stem) for start, end in _places(said, right)):
        return "claims the right option"
    return None


_SYMBOL = re.compile(r"[A-Z]\w*[A-Z]|[A-Za-z]\d")
"""Formulas and abbreviations are nobody's words."""


def _signed(note: str) -> Iterator[Fraction]:
    """Numbers that a note calls positive, or writes as a charge: `plus seven`, `Mn(VII)`."""
    said, cased = plain(note), dressed(note)
    yield from (n.value for n in numbers(said) if re.search(r"(?:plus|positive) $", said[: n.start]))
    yield from (n.value for n in romans(cased) if cased[: n.start].endswith("(") and cased[n.end :].startswith(")"))


_PRONOUN = re.compile(r"^(?:they|it|he|she|this|these|that|those|there|the|an?|its|their)\s+")
_DENIED = re.compile(r"\b(?:not|never|rather than|instead of|unlike|isn't|aren't)\s+(?:an? |the )?$")


def _compared(said: str, tight: str, option: str) -> bool:
    """Whether a text speaks of an option, and does not just deny it."""
    places = _places(said, option)
    if not places:
        return _quoted(said, tight, option)
    return any(not _DENIED.search(said[:start]) for start, _ in places)


def _quoted(said: str, tight: str, option: str) -> bool:
    return bool(_places(said, option)) or (len(squeezed(option)) >= LONG and squeezed(option) in tight)
