"""The leak guard for multiple choice: the right option named, quoted, or left over.

A note speaks of an option by its label, its place, its number, or the words that only this option has. Each clause that
speaks of one rejects it or doesn't. The right option leaks where it is spoken of and no wrong one stands beside it, and
where all wrong ones are spoken of and it is not: what failures leave over is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pmd.services.common.wire import Problem
from pmd.services.memory.leak import words as wording
from pmd.services.memory.leak.forms import dressed, number, numbers, plain
from pmd.services.memory.leak.text import claimed, occurrences, same, tells
from pmd.services.memory.leak.vocabulary import any_of

TOUCHED = 0.28
"""Share of an option's words that shows that a note speaks of it; one that is a name does too."""
NEAR = 80
"""As much around a label as is read for what it is."""
RIVAL = 0.15
"""A wrong option of which so much less is said than of the right one is no rival of it."""

_REJECTS = re.compile(rf"\b{any_of('rejects')}\b", re.IGNORECASE)
_NEGATIONS = re.compile(rf"\b{any_of('negations')}\b", re.IGNORECASE)
_PRAISES = re.compile(rf"\b{any_of('praises')}\b", re.IGNORECASE)
_ALL_BUT = (
    r"(?i:\b(?:all|(?:every|any|no)\w*|none|no option)\b[^.;]{0,24}?\b(?:but|except|save)(?: for)? (?:the |option )*)"
)
_ENDS = re.compile(
    r"[.;!?]+(?=\s|$)|\n|,\s+|\s(?:(?<!all )(?<!thing )(?<!none )but|while|whereas|although|though|yet|however)\s"
)
"""What ends a clause."""
_JOINT = re.compile(r"\s*(?:,|/|&|>|<|\b(?:and|or|nor|with|to|than|versus|vs|from)\b)(?:\s*(?:and|or|nor)\b)?\s*")
_AROUND, _BEHIND, _STOPS = r"[(\[\"'*`]{0,6}", r"[)\]\"'*`]{0,6}", r"\s*(?:$|[.,;!?)>\n:]|- )"
_CALLED = re.compile(
    rf"(?i)\b{any_of('option')}(?:'s|\s+(?:is|was|be|must be|should be|to be|number|under))*\s*[-:=>]*\s*{_AROUND}$"
)
_CHOSEN = re.compile(
    rf"(?i)\b{any_of('chosen')}\s*:?\s+(?:with |by )?(?:the )?{_AROUND}$|\b{any_of('left')} *[:=]? *{_AROUND}$"
)
_LEADS = re.compile(rf"(?i)(?:^|[^\w\s°]|\b{any_of('leads')})\s*$")
_GOES_ON = re.compile(rf"{_STOPS}|\s+(?!{any_of('lettered')}\b)[a-z\d]")
_VERB = re.compile(rf"{_STOPS}|\s+(?!{any_of('lettered')}(?<!in)\b){any_of('verbs')}\b")
_NO_ARTICLE = r" (?!(?:and|or|nor|when|because|here|in)\b)[a-z]"

_PLACES = {
    **{"first|1st": 0, "second|2nd": 1, "third|3rd": 2, "fourth|4th": 3, "fifth|5th": 4, "sixth|6th": 5},
    **{"(?:second|next)[- ]to[- ]last|penultimate|last but one": -2, "last|final(?! answer)": -1},
    **{"one|1": 0, "two|2": 1, "three|3": 2, "four|4": 3, "five|5": 4, "six|6": 5},
}
_NTH = f"(?:{'|'.join([*_PLACES][7::-1])})"
_PLACE = rf"(?:{_NTH}|{'|'.join([*_PLACES][8:])})\b"
_AND = r"(?:,? and |,? or |, )"
_BY_PLACE = [
    re.compile(rf"(?i)(?<![\w-])(?:the )?{pattern}")
    for pattern in (
        rf"{_NTH}(?:{_AND}(?:the )?{_NTH})* (?:\w+ )?(?:(?:{any_of('option')}|ones?|value|of (?:the |these |all )+"
        rf"(?:{any_of('option')}|two|three|four|five|six|\d))\b|listed|given)",
        rf"{any_of('option')}(?: (?:is|was|number|no\.?)|[:=])*(?: the)? {_NTH}(?=[.,;!]|$)",
        rf"{any_of('option')}(?: number| no\.?)? #?{_PLACE}(?:{_AND}{_PLACE})*(?![\w%]|\.\d)",
        rf"#{_PLACE}",
        rf"(?<=\bthe ){_NTH}(?=[.,;!]|$| are\b)",
    )
]


@dataclass(frozen=True)
class _Clause:
    """A part of a note that says one thing, and the options that it names by label."""

    text: str
    named: frozenset[str]
    rejects: bool
    praises: bool


@dataclass(frozen=True)
class _Spoken:
    """What a text says of an option."""

    told: bool
    """Enough to know it."""
    share: float
    """Of its words, by weight; 1 where its number or its abbreviation stands."""


def choice_leak(note: str, problem: Problem, answer: str, labels: Sequence[str]) -> str | None:
    """Why a note gives away which of `labels` is right, or None."""
    if re.search(r"</?answer>", note, re.IGNORECASE):
        return "contains an answer tag"
    if answer not in labels:
        return None
    stem = re.split(r"\n\s*[(\[]?" + re.escape(labels[0]) + r"[).:\]]", problem.question())[0]
    clauses = _clauses(_lettered(dressed(note), labels), labels, stem)
    wrong = frozenset(labels) - {answer}
    reason = _named(clauses, answer, wrong)
    lines = {x: re.search(rf"^\s*[(\[]?{re.escape(x)}[).:\]]\s*(.+?)\s*$", problem.question(), re.M) for x in labels}
    options = {label: line[1] for label, line in lines.items() if line is not None}
    if reason is not None or answer not in options:
        return reason
    spoken = {label: _spoken(note, label, options, plain(stem)) for label in options}
    if _quoted(plain(note), options, answer, spoken, plain(stem)):
        return "quotes the right option"
    named = frozenset().union(*(c.named for c in clauses))
    touched = {x for x in wrong if x in named or (x in spoken and spoken[x].share >= TOUCHED)}
    quiet = answer not in named and spoken[answer].share < TOUCHED
    if quiet and touched == wrong and (len(wrong) > 2 or (len(wrong) > 1 and _REJECTS.search(note))):
        return "rules out every option but the answer"
    return None


def _named(clauses: Sequence[_Clause], answer: str, wrong: frozenset[str]) -> str | None:
    """Whether labels alone give the answer away."""
    right, beats = re.escape(answer), any_of("beats")
    beside = {w for c in clauses if not c.rejects for w in c.named & wrong}
    for clause in clauses:
        stands = answer in clause.named and (clause.praises or not clause.rejects)
        alone = not clause.named & wrong and (clause.praises or not beside)
        wins = re.search(rf"(?<!\w){right}\W*\s*{beats}\s", clause.text)
        if re.search(rf"{_ALL_BUT}{right}(?!\w)", clause.text) or (stands and (alone or wins)):
            return "names the right option"
    named = frozenset().union(*(c.named for c in clauses))
    rejected = frozenset().union(*(c.named for c in clauses if c.rejects))
    if answer not in named and (wrong == rejected or (wrong == named and len(wrong) > 2)):
        return "rules out every option but the answer"
    return None


def _clauses(said: str, labels: Sequence[str], stem: str) -> list[_Clause]:
    """The clauses of a note; where the question itself asks for what is not so, saying so rejects no option."""
    one, symbols = "|".join(map(re.escape, labels)), _symbols(dressed(stem), labels)
    negated = re.search(r"\b(?:not|except|false|incorrect|n't)\b", stem, re.IGNORECASE)
    said = re.sub(rf"(?<!\w)({one})({_BEHIND}),\s*(?=(?:(?:and|or|nor)\s)?{_AROUND}(?:{one})(?!\w))", r"\1\2 & ", said)
    found = []
    for text in _ENDS.split(said):
        rejects = _REJECTS.search(_NEGATIONS.sub(" ", text) if negated else text) is not None
        found.append(_Clause(text, _labels_in(text, one, symbols), rejects, _PRAISES.search(text) is not None))
    return found


def _labels_in(clause: str, one: str, symbols: frozenset[str]) -> frozenset[str]:
    """The labels that a clause uses as such: "A ring", "vitamin C" and "No cell" name no option."""
    named = {
        (m[1] or m[2]).upper()  # labels in lower case, where nothing else can be meant
        for m in re.finditer(
            rf"(?i:\b(?:{any_of('option')}|correct|choos\w+|pick))\s*(?:is|=|:|->)?\s*{_AROUND}({one.lower()})"
            rf"(?=[)\]\"'*`.,;!]|\s*$)|^\(?({one.lower()})\) (?:is|was|works|passed|fits|wins)\b",
            clause,
        )
    }
    places = list(re.finditer(rf"(?<![\w°'.+\-=/]){_AROUND}({one}){_BEHIND}(?![\w'°]|[-+=/]\w)", clause))
    pairs = [(a, b) for a, b in pairwise(places) if _JOINT.fullmatch(clause, a.end(), b.start())]
    joined = {one for pair in pairs for one in pair}
    for match in places:
        label, before = match[1], clause[max(0, match.start() - NEAR) : match.start()]
        after, listed = clause[match.end() : match.end() + NEAR], match in joined
        judged = listed and re.search(r"\b(?:are|is|was|were) (?:all )?(?:wrong|false|incorrect|out)\b", after)
        quoted = match[0] != label and not match[0].endswith("'") and not re.search(r"\w$", before)
        word = label in {"A", "I"}
        chosen = _CHOSEN.search(before) and not (word and re.match(_NO_ARTICLE, after))
        if judged or quoted or chosen or _CALLED.search(before):
            named.add(label)
        elif len(label) > 1 or not label.isalpha():
            named |= {label} if re.match(r"\W*\s(?:is|was) (?:right|wrong|correct|false|true)", after) else set()
        elif label not in symbols and (
            listed or (_LEADS.search(before) and (_VERB if word else _GOES_ON).match(after))
        ):
            named.add(label)
    return frozenset(named)


def _lettered(said: str, labels: Sequence[str]) -> str:
    """A text that names options by their places, with their labels instead."""
    one, count, noun = "|".join(map(re.escape, labels)), len(labels), rf"(?i:\b{any_of('option')}\b)"

    def at_places(found: re.Match[str]) -> str:
        kind = _NTH if re.match(rf"(?i)(?:the )?{_NTH}", found[0]) else _PLACE
        words = [m[0] for m in re.finditer(kind, found[0], re.IGNORECASE)]
        places = [next(at for p, at in _PLACES.items() if re.fullmatch(p, w, re.IGNORECASE)) for w in words]
        named = [labels[at] for at in places if -count <= at < count]
        return f"option {' and '.join(named)}" if named else found[0]

    def beside(found: re.Match[str]) -> str:
        at = labels.index(found[2]) + (1 if found[1].lower() in {"after", "following", "behind", "below"} else -1)
        return f"option {labels[at]}" if 0 <= at < count else found[0]

    def between(found: re.Match[str]) -> str:
        first, last = labels.index(found[1]), labels.index(found[2])
        return "all" if last - first == count - 1 else ", ".join(labels[first : last + 1]) or found[0]

    said = re.sub(r"\b(ans\w*) ?(?:=>?|->|→) ?", r"\1: ", said)
    said = re.sub(rf"(?<!\w)({one})\s?(?:-|to|through|thru)\s?({one})(?!\w)", between, said)
    said = re.sub(rf"{noun}[^.;,]{{0,9}}\bbetween ({one}) and (?:{one})(?!\w)", r"option after \1", said)
    way = r"(?i:(after|following|behind|below|before|preceding|above))"
    said = re.sub(rf"{noun}[^.;,]{{0,45}}?\b{way} {_AROUND}({one})(?![A-Za-z])", beside, said)
    for pattern in _BY_PLACE:
        said = pattern.sub(at_places, said)
    return said


def _symbols(stem: str, labels: Sequence[str]) -> frozenset[str]:
    """Labels that mean something else in the question: points of a triangle, elements, quantities, alleles."""
    found = {x for x in labels if re.search(rf"(?<![A-Za-z]){re.escape(x)}(?![A-Za-z]|(?<=[AI]) [a-z])", stem)}
    found -= set() if re.search(r"(?<=[a-z,\d] )A(?![A-Za-z0-9]| [a-z0-9])", stem) else {"A"}
    return frozenset(found | {x for x in labels if len(x) == 1 and re.search(rf"\b{x}[{x}{x.lower()}]\b", stem)})


def _spoken(note: str, label: str, options: Mapping[str, str], stem: str) -> _Spoken:
    """How far a note speaks of an option."""
    option, said = plain(options[label]), plain(note)
    value = number(option)
    if value is not None:
        stands = any(same(n.value, value, option) for n in numbers(said))
        return _Spoken(stands and tells(value) and all(n.value != value for n in numbers(stem)), float(stands))
    others = [text for other, text in options.items() if other != label]
    known, heard = wording.words(stem), wording.words(said)
    own = wording.weights(options[label], others, known)
    if wording.abbreviated(note, options[label], known, others):
        return _Spoken(told=True, share=1.0)
    weak = option in wording.WEAK or wording.WEAK.issuperset(own)
    share = wording.share(own or wording.weights(options[label], others, ()), heard)
    named = any(wording.share({name: 1.0}, heard) for name in wording.names(own))
    return _Spoken(not weak and wording.tells(own, heard), max(share, TOUCHED * named))


def _quoted(said: str, options: Mapping[str, str], answer: str, spoken: Mapping[str, _Spoken], stem: str) -> bool:
    """Whether a plain note claims the right option, or quotes it and no other."""
    right = plain(options[answer])
    value, quotes = number(right), occurrences(said, right)
    places = quotes + [(n.start, n.end) for n in numbers(said) if value is not None and same(n.value, value, right)]
    if any(claimed(said, start, end, stem) for start, end in places):
        return True
    wrong = [label for label in options if label != answer]
    if value is None and quotes and len(right.split()) > 2 and not occurrences(stem, right):
        return not any(occurrences(said, plain(options[label])) for label in wrong)
    rivals = (spoken[x].told and spoken[x].share > spoken[answer].share - RIVAL for x in wrong)
    return spoken[answer].told and not any(rivals)
