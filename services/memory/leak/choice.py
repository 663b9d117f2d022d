"""The leak guard for multiple choice: the right option named, quoted, or left over.

A note speaks of an option by its label, its place, its number, or the words that only this option has. Each clause that
speaks of one rejects it or doesn't. The right option leaks where it is spoken of and no wrong one stands beside it, and
where all wrong ones are spoken of and it is not: what failures leave over is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pmd.services.common.wire import Problem
from pmd.services.memory.leak.forms import Number, dressed, number, numbers, plain
from pmd.services.memory.leak.text import claimed, has_formula, occurrences, same, tells
from pmd.services.memory.leak.words import WEAK, abbreviated, names, share, weights, words
from pmd.services.memory.leak.words import tells as tells_by_words

TOUCHED = 0.28
"""Share of an option's words that shows that a note speaks of it; one that is a name does too."""

_NOUN = r"(?:options?|choices?|answers?|alternatives?|statements?|candidates?|items?|letters?|labels?|entry|entries)"
_REJECTS = re.compile(
    r"\b(?:wrong\w*|false|incorrect\w*|fail\w*|reject\w*|los[et]s?|zero|not|never|no|nor|neither|none|cannot|impossible|"
    r"\w+n't|rule[sd]? out|eliminat\w*|exclud\w*|discard\w*|dismiss\w*|drop\w*|cross\w*|strike|out|fall away|traps?|"
    r"forgets?|forgot|ignor\w*|confus\w*|mistak\w*|tempt\w*|slips?|overlook\w*|misses|mix\w*|avoid|opposite|"
    r"distractors?|contradicts?|cancels?|worse)\b",
    re.IGNORECASE,
)
_PRAISES = re.compile(
    r"\b(?:right|correct|answer(?:s|ed|ing)?|accepted|pass(?:es|ed|ing)?|reward\w*|won|wins?|pick|choose|chose|select|"
    r"mark|tick|take|go|goes|put|key|best|true|only|survives?|remains?|settle|stick|opt|label|one|output|submit)\b",
    re.IGNORECASE,
)
_ALL_BUT = r"(?i:\b(?:all|every\w*|any\w*|none|nothing|no option)\b[^.;]{0,24}?\b(?:but|except|save)(?: for)? (?:the |option )*)"
_BEATS = r"\W*\s*(?:>|over|beats|rather than|instead of|wins over|is better than|before|not|and not|unlike|against)\s+"
_PLACES = (
    *((rf"{a}|{i}{b}", i - 1) for i, (a, b) in enumerate([("first", "st"), ("second", "nd"), ("third", "rd")], 1)),
    *(("fourth|4th", 3), ("fifth|5th", 4), ("sixth|6th", 5), ("last|final", -1)),
    *((r"(?:second|next)[- ]to[- ]last|penultimate|last but one", -2), ("one|1", 0), ("two|2", 1), ("three|3", 2)),
    *(("four|4", 3), ("five|5", 4), ("six|6", 5)),
)
"""Words for places, and the places."""
_NTH = "(?:" + "|".join(pattern for pattern, _ in reversed(_PLACES[:8])) + ")"
_PLACE = "(?:" + "|".join(pattern for pattern, _ in (*reversed(_PLACES[:8]), *_PLACES[8:])) + r")\b"
_AND = r"(?:,? and |,? or |, )"
_BY_PLACE = tuple(
    re.compile(rf"(?i)(?<![\w-])(?:the )?{pattern}")
    for pattern in (
        rf"{_NTH}(?:{_AND}(?:the )?{_NTH})* (?:\w+ )?(?:(?:{_NOUN}(?<!answer)|answers|ones?|value|of (?:the|these|those|all) "
        r"(?:\w+ )?\w+)\b|listed|given)",
        rf"{_NOUN}(?: (?:is|was|number|no\.?)|[:=])*(?: the)? {_NTH}(?=[.,;!]|$)",
        rf"{_NOUN}(?: number| no\.?)? #?{_PLACE}(?:{_AND}{_PLACE})*(?![\w%]|\.\d)",
        rf"#{_PLACE}",
    )
) + (re.compile(rf"(?i)(?<=\bthe ){_NTH}(?=[.,;!]|$| are\b)"),)
_DRESS = r"[(\[\"'*`]*"
_BEHIND = r"[)\]\"'*`]*"
_CALLED = re.compile(rf"(?i)\b{_NOUN}(?:'s|\s+(?:is|was|be|must be|should be|to be|number|under))*\s*[-:=>]*\s*{_DRESS}$")
_CHOSEN = re.compile(
    r"(?i)\b(?:pick(?:s|ed|ing)?|choos(?:es?|ing)|chose|select(?:s|ed|ing)?|go (?:with|for)|opt for|mark|tick|answer(?:s|"
    r"ed|ing)?|settle on|stick (?:with|to)|respond|reply|conclude|output|submit|enter|said|say|says|write|return|put)"
    rf"\s*:?\s+(?:with |by )?(?:the )?{_DRESS}$|\b(?:leav(?:es|ing)|left with|makes?|only|it's|it is|must be|has to be|"
    rf"hence|so|thus|therefore|correct) *[:=]? *{_DRESS}$"
)
_LEADS = re.compile(
    r"(?i)(?:^|[^\w\s°]|\b(?:that|with|for|to|by|on|when|if|only|just|but|and|or|nor|not|so|than|over|is|was|be|as|because|"
    r"since|then|therefore|thus|hence|while|both|either|neither|all|except|always|from|unless|(?!(?:degrees|vitamins|points"
    r"|vertices|fields|classes|types|methods|mixed|fixed|charged|twisted)\b)[a-z]+(?:ed|(?<!i)s|ing)|chose|took|gave|left|makes?|pick|reject|drop|eliminate|exclude|discard|"
    r"take|mark|tick|put|say|said|go|output|answer|choose|select|submit|enter|return|write|reply))\s*$"
)
"""What may stand before a label that stands for an option."""
_NOUNS = (
    r"cells?|lymphocytes?|atoms?|bonds?|ions?|isomers?|orbitals?|fields?|points?|levels?|series|species|types?|chains?|"
    r"groups?|rings?|major|minor|language|coli|terminal|terminus|vitamins?|forms?|strains?|phases?|neighbou?rs?|stands|"
    r"waves?|means|lens|domains?|subunits?|alleles?|axis|direction|string|code"
)
"""What is named by a letter: B cells, C atoms."""
_JOINT = re.compile(r"\s*(?:,|/|&|>|<|\b(?:and|or|nor|with|to|than|versus|vs|from)\b)(?:\s*(?:and|or|nor)\b)?\s*")
_GOES_ON = re.compile(
    rf"\s*(?:$|[.,;!?)>\n]|:|- )|\s+(?!(?:{_NOUNS})\b|(?:is|was) (?:the |a )?(?:chemical )?(?:symbol|letter|unit|name)\b)"
    r"[a-z\d]"
)
_ARTICLE_GOES_ON = re.compile(
    rf"\s*(?:$|[.,;!?)>\n]|:|- )|\s+(?!(?:{_NOUNS})\b)(?:is|it|was|were|has|had|must|should|will|would|cannot|does|did|"
    r"because|since|due|as|and|or|nor|but|over|when|again|here|alone|wins?|won|got|lost|right|wrong|once|twice|rather|"
    r"instead|in|inside|with|to|than|succeeded|failed|passed|worked|(?!basis|lens|series|species|gas)[a-z]{2,}(?:(?<![suiao])s|n't))\b"
)
"""After A and I, which are words: "A ring" names no option."""
_ENDS = re.compile(
    r"[.;!?]+(?=\s|$)|\n|,\s+|\s(?:(?<!all )(?<!thing )(?<!none )but|while|whereas|although|though|yet|however)\s"
)
_OPTION_LINE = r"^\s*[(\[]?{label}[).:\]]\s*(.+?)\s*$"


@dataclass(frozen=True)
class _Clause:
    """A part of a note that says one thing, and the options that it names by label."""

    text: str
    named: frozenset[str]
    rejects: bool
    praises: bool


def choice_leak(note: str, problem: Problem, answer: str, labels: Sequence[str]) -> str | None:
    """Why a note gives away which of `labels` is right, or None."""
    if re.search(r"</?answer>", note, re.IGNORECASE):
        return "contains an answer tag"
    if answer not in labels:
        return None
    stem = re.split(r"\n\s*[(\[]?" + re.escape(labels[0]) + r"[).:\]]", problem.question())[0]
    clauses = _clauses(_lettered(dressed(note), labels), labels, _symbols(dressed(stem), labels))
    wrong = frozenset(labels) - {answer}
    named = frozenset().union(*(c.named for c in clauses))
    reason = _named(clauses, answer, wrong)
    if reason is not None:
        return reason
    options = _options(problem, labels)
    if answer not in options:
        return None
    spoken = _spoken(note, options, stem)
    return _quoted(note, options, answer, spoken, plain(stem)) or _left_over(note, answer, wrong, named, spoken)


def _named(clauses: Sequence[_Clause], answer: str, wrong: frozenset[str]) -> str | None:
    """Whether labels alone give the answer away."""
    label = re.escape(answer)
    if any(re.search(_ALL_BUT + rf"{label}(?!\w)", c.text) for c in clauses):
        return "names the right option"
    standing = [c for c in clauses if answer in c.named and not (c.rejects and not c.praises)]
    beside = {w for c in clauses if not c.rejects for w in c.named & wrong}
    for clause in standing:
        alone = not clause.named & wrong
        beats = re.search(rf"(?<!\w){re.escape(answer)}{_BEATS}", clause.text) is not None
        if beats or (alone and (clause.praises or not beside)):
            return "names the right option"
    named = frozenset().union(*(c.named for c in clauses))
    rejected = frozenset().union(*(c.named for c in clauses if c.rejects))
    if answer not in named and (wrong == rejected or (wrong == named and len(wrong) > 2)):
        return "rules out every option but the answer"
    return None


def _clauses(said: str, labels: Sequence[str], symbols: frozenset[str]) -> list[_Clause]:
    one = "|".join(map(re.escape, labels))
    said = re.sub(rf"(?<!\w)({one})({_BEHIND}),\s*(?=(?:(?:and|or|nor)\s)?{_DRESS}(?:{one})(?!\w))", r"\1\2 & ", said)
    found = []
    for text in _ENDS.split(said):
        names = _labels_in(text, one, symbols)
        found.append(_Clause(text, names, _REJECTS.search(text) is not None, _PRAISES.search(text) is not None))
    return found


def _labels_in(clause: str, one: str, symbols: frozenset[str]) -> frozenset[str]:
    """The labels that a clause uses as such: "A ring", "vitamin C" and "No cell" name no option."""
    found = set()
    token = rf"(?<![\w°'.+\-=/]){_DRESS}(?P<label>{one}){_BEHIND}(?![\w'°]|[-+=/]\w)"
    matches = list(re.finditer(token, clause))
    ends = {m.end() for m in matches}
    for at, match in enumerate(matches):
        label, before, after = match["label"], clause[: match.start()], clause[match.end() :]
        nexts = matches[at + 1 : at + 2]
        listed = any(_JOINT.fullmatch(clause, match.end(), m.start()) for m in nexts) or any(
            _JOINT.fullmatch(clause, end, match.start()) for end in ends
        )
        judged = listed and re.search(r"\b(?:are|is|was|were) (?:all )?(?:wrong|false|incorrect|out)\b", after)
        dressed_up = match[0] != label and not match[0].endswith("'") and not re.search(r"\w$", before)
        after_it = _ARTICLE_GOES_ON if label in {"A", "I"} else _GOES_ON
        if judged or dressed_up or _CALLED.search(before) or (_CHOSEN.search(before) and _stands(label, after)):
            found.add(label)
        elif len(label) > 1 or not label.isalpha():
            right = re.match(r"\W*\s(?:is|was) (?:right|wrong|correct|false|true|the answer)", after)
            found |= {label} if right else set()
        elif label not in symbols and (listed or (_LEADS.search(before) and after_it.match(after))):
            found.add(label)
    lower = (
        rf"(?i:\b(?:{_NOUN}|correct|choos\w+|pick))\s*(?:is|=|:|->)?\s*{_DRESS}({one.lower()})(?=[)\]\"'*`.,;!]|\s*$)"
    )
    return frozenset(found | {m[1].upper() for m in re.finditer(lower, clause)})


def _stands(label: str, after: str) -> bool:
    return label not in {"A", "I"} or not re.match(r" (?!and\b|or\b|nor\b|when\b|because\b|here\b|in\b)[a-z]", after)


def _lettered(said: str, labels: Sequence[str]) -> str:
    """A text that names options by their places, with their labels instead."""
    count = len(labels)

    def at_places(found: re.Match[str]) -> str:
        named = []
        for place in re.finditer(_NTH if re.match(rf"(?i)(?:the )?{_NTH}", found[0]) else _PLACE, found[0], re.I):
            way = next(i for i, (pattern, _) in enumerate(_PLACES) if re.fullmatch(pattern, place[0], re.IGNORECASE))
            at = _PLACES[way][1] + (count if _PLACES[way][1] < 0 else 0)
            named += [labels[at]] if 0 <= at < count else []
        return f"option {' and '.join(named)}" if named else found[0]

    def beside(found: re.Match[str]) -> str:
        at = labels.index(found[2]) + (1 if found[1].lower() in {"after", "following", "behind", "below"} else -1)
        return f"option {labels[at]}" if 0 <= at < count else found[0]

    def inside(found: re.Match[str]) -> str:
        first, last = labels.index(found[1]), labels.index(found[2])
        return "all" if last - first == count - 1 else ", ".join(labels[first : last + 1]) or found[0]

    one = "|".join(map(re.escape, labels))
    said = re.sub(r"\b(ans\w*) ?(?:=>?|->|→) ?", r"\1: ", said)
    said = re.sub(rf"(?<!\w)({one})\s?(?:-|to|through|thru)\s?({one})(?!\w)", inside, said)
    said = re.sub(rf"(?i:\b{_NOUN}\b)[^.;,]{{0,45}}?\b(?i:(after|following|behind|below|before|preceding|above)) "
                  rf"{_DRESS}({one})(?![A-Za-z])", beside, said)  # fmt: skip
    said = re.sub(rf"(?i:\b{_NOUN}\b)[^.;,]{{0,9}}\bbetween ({one}) and ({one})(?![A-Za-z])", r"option after \1", said)
    said = re.sub(rf"(?i:option (after)) ({one})(?![A-Za-z])", beside, said)
    for pattern in _BY_PLACE:
        said = pattern.sub(at_places, said)
    return said


def _symbols(stem: str, labels: Sequence[str]) -> frozenset[str]:
    """Labels that mean something else in the question: points of a triangle, elements, quantities."""
    found = {x for x in labels if re.search(rf"(?<![A-Za-z]){re.escape(x)}(?![A-Za-z]|(?<=[AI]) [a-z])", stem)}
    return frozenset(found if re.search(r"(?<=[a-z,] )A(?![A-Za-z0-9]| [a-z0-9])", stem) else found - {"A"})


def _options(problem: Problem, labels: Sequence[str]) -> dict[str, str]:
    """The options that a question lists, by label."""
    lines = {
        label: re.search(_OPTION_LINE.format(label=re.escape(label)), problem.question(), re.MULTILINE)
        for label in labels
    }
    return {label: line[1] for label, line in lines.items() if line is not None}


@dataclass(frozen=True)
class _Spoken:
    """What a text says of an option."""

    told: bool
    """Enough to know it."""
    share: float
    """Of its words, by weight; 1 where its number or its abbreviation stands."""


def _spoken(note: str, options: Mapping[str, str], stem: str) -> dict[str, _Spoken]:
    """How far a note speaks of each option."""
    text = plain(note)
    said, known, values = words(text), words(plain(stem)), numbers(text)
    asked = {n.value for n in numbers(plain(stem))}
    found = {}
    for label, option in options.items():
        others = [text for other, text in options.items() if other != label]
        value = number(plain(option))
        if value is not None:
            stands = any(same(n.value, value, plain(option)) for n in values)
            found[label] = _Spoken(stands and tells(value) and value not in asked, float(stands))
            continue
        if re.search(r"[<>=^]", option) and not has_formula(plain(stem), plain(option)):
            stands = has_formula(text, plain(option))
            found[label] = _Spoken(stands, float(stands))
            continue
        own = weights(option, others, known)
        short = abbreviated(note, option, known, others)
        weak = plain(option) in WEAK or set(own) <= WEAK
        told = bool(own) and not weak and tells_by_words(own, said, option)
        part = share(own or weights(option, others, ()), said)
        named = any(share({name: 1.0}, said) for name in names(own))
        found[label] = _Spoken(told or short, 1.0 if short else max(part, TOUCHED * named))
    return found


def _quoted(note: str, options: Mapping[str, str], answer: str, spoken: Mapping[str, _Spoken], stem: str) -> str | None:
    """Whether a note quotes the right option and no other, or claims it."""
    said, right = plain(note), plain(options[answer])
    value = number(right)
    places = [n for n in numbers(said) if value is not None and same(n.value, value, right)]
    places += [Number(0.0, start, end) for start, end in occurrences(said, right)]
    if any(claimed(said, place.start, place.end, stem) for place in places):
        return "claims the right option"
    if not spoken[answer].told:
        return None
    rivals = [label for label, one in spoken.items() if label != answer and one.told]
    rivals = [label for label in rivals if spoken[label].share > spoken[answer].share - 0.15]
    return None if rivals else "quotes the right option"


def _left_over(
    note: str,
    answer: str,
    wrong: frozenset[str],
    named: frozenset[str],
    spoken: Mapping[str, _Spoken],
) -> str | None:
    """Whether a note speaks of all wrong options, and not of the right one."""
    touched = {label for label in wrong if label in named or (label in spoken and spoken[label].share >= TOUCHED)}
    quiet = answer not in named and spoken[answer].share < TOUCHED
    if len(wrong) > 1 and touched == wrong and quiet and (len(wrong) > 2 or _REJECTS.search(note)):
        return "rules out every option but the answer"
    return None
