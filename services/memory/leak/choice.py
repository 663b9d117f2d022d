"""The leak guard for multiple choice: labels, places, and options quoted or ruled out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from pmd.services.common.wire import Problem
from pmd.services.memory.leak.forms import dressed, number, numbers, plain, romans, squeezed
from pmd.services.memory.leak.text import LONG, WEAK, claimed, hidden, number_leak, occurrences, tells

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
    r"[(\[\"'*`]*{label}[)\]\"'*`]*"
    r"(?!\s+(?i:(?:is|was) (?:the |a )?(?:chemical )?(?:symbol|letter|unit|name)|stands for)\b)"
    r"(?:[.!?]*\s*(?:$|\n)|\s*>\s|,\s+(?i:because|since|as)\b|"
    r"\s+(?i:is|was|because|since|due|has|should|must|will|can|matches|satisfies|fits|"
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
    rf"\b(?:{{nth}}) of the (?:\d|{'|'.join(_COUNT)}|{_ITEM}s)\b|"
    r"\b(?:{nth}) (?:[a-z]+ )?(?:listed|given|named|mentioned)\b|"
    r"\b(?:all|every\w*|none|nothing)\b[^.;\n]{{0,24}}?\b(?:but|except|save)(?: for)? (?:the )?(?:{nth})\b|"
    rf"\b{_ITEM}(?: number| no\.?)? ?#? ?(?:{{count}})(?!\w|\.\d)|(?<!\w)#{{place}}(?!\w|\.\d))"
)
_LOOKED_AT = re.compile(r"\b(?:compar\w+|read|than|check|every|each|reread)\b[^.;\n]*$", re.IGNORECASE)
_BESIDE = r"\b(?:letter|option|choice|one|answer) (?:right |just |directly )?(?:{way})\s+[(\[\"'*`]*{label}(?![A-Za-z])"
_SPAN = r"(?<![A-Za-z]){first}\s?(?:-|to|through|thru)\s?{last}(?![A-Za-z])"
_OPTION_LINE = r"^\s*[(\[]?{label}[).:\]]\s*(.+?)\s*$"


def choice_leak(note: str, problem: Problem, answer: str, labels: Sequence[str]) -> str | None:
    """Why a note gives away which of `labels` is right, or None."""
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


def _formula(text: str) -> str:
    """A plain text without the marks of superscripts in formulas: sp^3 is sp3."""
    return re.sub(r"(?<=[a-z])\^(?=[\d+-])", "", text)


def _options(problem: Problem, labels: Sequence[str]) -> dict[str, str]:
    """The options that a question lists, by label."""
    lines = {
        label: re.search(_OPTION_LINE.format(label=re.escape(label)), problem.question(), re.MULTILINE)
        for label in labels
    }
    return {label: line[1] for label, line in lines.items() if line is not None}


def _option_leak(note: str, problem: Problem, answer: str, labels: Sequence[str]) -> str | None:
    """Whether a note quotes the right option and no other, claims it, or rules out all others."""
    options = _options(problem, labels)
    if answer not in options:
        return None
    said, right = _formula(plain(note)), _formula(plain(options[answer]))
    tight = squeezed(said)
    stem = plain(_stem(problem, labels))
    wrong = [_formula(plain(text)) for label, text in options.items() if label != answer]
    if _RULED_OUT.search(said) and _only_others(said, right, wrong):
        return "rules out every option but the answer"
    others = any(_compared(said, tight, text) for text in wrong)
    if not others and not occurrences(stem, right) and _quotes(said, tight, options[answer]):
        return "quotes the right option"
    value = number(right)
    signed = right.startswith("+") and any(found == value for found in _signed(note))
    told = value is not None and not others and (signed or number_leak(note, said, value, stem))
    if told or any(claimed(said, start, end, stem) for start, end in occurrences(said, right)):
        return "claims the right option"
    return None


def _only_others(said: str, right: str, wrong: Sequence[str]) -> bool:
    """Whether a text speaks of all wrong options and not of the right one."""
    return len(wrong) > 1 and not occurrences(said, right) and all(occurrences(said, text) for text in wrong)


def _quotes(said: str, tight: str, option: str) -> bool:
    """Whether a text has the words or the number of an option that nobody says by chance."""
    right = _formula(plain(option))
    if right in WEAK or len(squeezed(right)) < MIN_OPTION:
        return False
    core = _PRONOUN.sub("", right).strip(" .")
    strong = " " in right or len(right) >= LONG or _SYMBOL.search(option) or re.match(r"[-+]\d", right)
    if strong and (_quoted(said, tight, right) or _quoted(said, tight, core) or hidden(said, core)):
        return True
    values = {n.value for n in numbers(right)} if len(right.split()) <= 2 else set()
    return len(values) == 1 and tells(*values) and any(n.value in values for n in numbers(said))


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
    places = occurrences(said, option)
    if not places:
        return _quoted(said, tight, option)
    return any(not _DENIED.search(said[:start]) for start, _ in places)


def _quoted(said: str, tight: str, option: str) -> bool:
    return bool(occurrences(said, option)) or (len(squeezed(option)) >= LONG and squeezed(option) in tight)
