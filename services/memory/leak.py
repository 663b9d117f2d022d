"""The leak guard: a reference answer, or a copy of a passing program, never reaches a teacher through memory.

A teacher that reads the answer teaches to state it, not to find it (Law 3). A note that leaks is quarantined
with the reason; it is kept for people to see and never shown. The guard knows the answer, the policy doesn't.

What tells (a long word, a number of two digits or more) leaks wherever it is said, in any notation. What does not
("no", 3, 100, "increase") is said in honest notes too, and leaks where it is *claimed*: "the answer is no", "it comes
to 3.", "increase is right". What the question says leaks only where it is claimed. `services.memory.leak_forms` brings
both sides to one form, `services.memory.leak_code` is for programs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.common.wire import Problem
from services.memory.leak_code import code_leak
from services.memory.leak_forms import dressed, letters, number, numbers, plain, romans, spelled, squeezed

MIN_LITERAL = 3
"""Shorter answers occur in honest notes by chance."""
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

_BEFORE = re.compile(
    r"(?:\b(?:answer|result|solution|total|sum|count|value|output|outcome)s?\b[^.\n]{0,60}?(?:=|:|->|→|\bto|\bof|\bas)"
    r"|\b(?:is|are|was|be|equals?|equal to|gives?|yields?|returns?|outputs?|prints?|obtains?|becomes?|comes to|"
    r"amounts to|evaluates to|works out to|answer|solution|answered|say|write|state|conclude|expect|expected|get)\b:?)"
    r"\s*(?:(?:exactly|simply|just|only|always|therefore|thus|then|clearly|indeed|definitely|the|with|option|letter)"
    r"\s+)*[\"'`(\[{*<]*$"
)
_TAIL = re.compile(
    r"\W*$|[\"'`)\]}*>]*\s*(?:[,;:!?.]|\b(?:and|because|since|as|for|so|here|when|if|exactly|by|not|"
    r"in (?:this|all|every)|after|once|at the end|overall)\b)"
)
_SUPPOSED = re.compile(r"\b(?:assum\w+|suppos\w+|pretend|if|whether|unless)\b")
_AFTER = re.compile(
    r"[\"'`)\]}*>]*\s*(?:is|was|are|must be|has to be|will be|would be)\s+(?:always\s+|clearly\s+|indeed\s+)?"
    r"(?:(?:the|your|our|a)\s+)?(?:(?:right|correct|final|only|true|expected|best|wanted)\b|(?:answer|result|solution)\b)"
)


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
    answer = spec.get("answer")
    return _text_leak(note, problem, str(answer)) if isinstance(answer, str | int | float) else None


# ---------------------------------------------------------------- claims


def _claimed(said: str, start: int, end: int) -> bool:
    """Whether what stands at [start, end) of a plain text is named as the answer."""
    begins = max(said.rfind(stop, 0, start) for stop in (". ", "! ", "? ", "; ", "\n")) + 1
    before, after = said[begins:start], said[end:]
    if _SUPPOSED.search(before):
        return False
    if _AFTER.match(after):
        return True
    return bool(_BEFORE.search(before) and _TAIL.match(after))


def _places(said: str, words: str) -> list[tuple[int, int]]:
    """Where `words` occur whole; both plain."""
    return [m.span() for m in re.finditer(rf"(?<![\w.]){re.escape(words)}(?!\w|\.\d)", said)]


# ---------------------------------------------------------------- text and numbers


def _text_leak(note: str, problem: Problem, given: str) -> str | None:
    """A short answer leaks where it is claimed, a longer one (or a telling number) wherever it is said."""
    said, answer, question = plain(note), plain(given), plain(problem.question())
    if not answer:
        return None
    value = number(answer)
    if value is not None:
        known = any(n.value == value for n in numbers(question))
        telling = not known and _tells(value)
        for found in [*numbers(said), *romans(dressed(note))]:
            if found.value == value and (telling or _claimed(said, found.start, found.end)):
                return "states the reference answer" if telling else "claims the reference answer"
    known = bool(_places(question, answer))
    places = _places(said, answer)
    if value is None and places and not known and len(answer) >= MIN_LITERAL and answer not in _WEAK:
        return "states the reference answer"
    if any(_claimed(said, start, end) for start, end in places):
        return "claims the reference answer"
    if not known and value is None and _hidden(said, answer):
        return "states the reference answer"
    return None


def _tells(value: object) -> bool:
    """Whether a number is nobody's by chance."""
    text = str(value)
    return len(text.lstrip("-")) >= 2 and text not in {"10", "100", "1000", "1/2", "1/3", "1/4"}


def _hidden(said: str, answer: str) -> bool:
    """Whether a text holds an answer broken up, backwards, or a good part of a long one."""
    tight, bare = squeezed(answer), letters(answer)
    if tight != letters(answer) and len(tight) > MIN_LITERAL:  # mathematics: its signs count
        if re.search(rf"(?<![^\W_]){re.escape(tight)}(?![^\W_])", squeezed(said)):
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


# ---------------------------------------------------------------- choice

_LETTER_CLAIM = (
    r"(?i:\b(?:answer|option|choice|letter|alternative|correct)\b)[^.\n]{{0,24}}?"
    r"(?<![A-Za-z])[(\[\"'*`]*{label}[)\]\"'*`]*(?![A-Za-z]| [a-z])"
)
"""Case matters for the letter: "the answer is a number" claims nothing."""
_LETTER_CHOSEN = (
    r"(?i:\b(?:pick|choose|select|take|go with|go for|opt for|mark|tick|answer|settle on|stick with|respond with|"
    r"reply with|conclude with|conclude)\s*:?\s+(?:the )?(?:option |answer |letter |choice )?)[(\[\"'*`]*{alone}"
)
_LETTER_PRAISED = (
    r"(?<![A-Za-z])[(\[\"'*`]*{label}[)\]\"'*`]*\s+(?i:is|was|must be|has to be|will be)\s+(?i:the )?(?i:only )?"
    r"(?i:right|correct|true|answer|best|one to|one that|winner|way to go)\b"
)
_LETTER_WINS = r"(?<![A-Za-z])[(\[\"'*`]*{label}[)\]\"'*`]*\s+(?i:(?:it is|wins|survives|works|fits|holds|remains)\b)"
_LETTER_LEFT = (
    r"(?i:\b(?:it's|it is|only|all but|all except|everything but|everything except|none but|must be|has to be|"
    r"leaves|leaving|left with)\s+)(?i:the )?(?i:option |answer |letter )?[(\[\"'*`]*{alone}"
)
_LETTER_SHOWN = r"(?:answer =|=>|->|→)\s*[(\[\"'*`]*{label}(?![A-Za-z])"
_CLAIMS = (_LETTER_CLAIM, _LETTER_CHOSEN, _LETTER_PRAISED, _LETTER_WINS, _LETTER_LEFT, _LETTER_SHOWN)
_LOWER_CLAIM = r"\b(?:answer|option|choice|letter)\s*(?:is|=|:|->)?\s*[(\[\"'*`]*{label}(?=[)\]\"'*`.,;!]|\s*$)"
"""A label in lower case, where nothing else can be meant."""
_RULED_OUT = re.compile(
    r"\b(?:rule[sd]? out|eliminate[sd]?|exclude[sd]?|reject(?:s|ed)?|discard(?:s|ed)?|drop|dismiss|cross out|strike|"
    r"none of|neither|nor|not|never|no|can't|cannot|isn't|aren't|wrong|false|incorrect|impossible|fails?|out)\b",
    re.IGNORECASE,
)
_FAILS = r"(?<![A-Za-z]){label} (?:is|was|fails?|can't|can ?not|isn't|does|doesn't|has to go)\b"
_NTH = ("first", "second", "third", "fourth", "fifth", "sixth")
_COUNT = ("one", "two", "three", "four", "five", "six")
_NTH_CHOSEN = (
    r"\b(?:pick|choose|select|take|mark|go (?:with|for)|answer is|opt for|it is|it's) (?:the )?"
    r"(?:{nth})(?: (?:option|choice|answer|alternative|one))?\b|"
    r"\b(?:{nth}) (?:option|choice|answer|alternative|one) (?:is|was|must be) (?:the )?(?:only )?"
    r"(?:right|correct|true|answer|best)\b|"
    r"\b(?:option|choice|answer|alternative)(?: number| no\.?| #)? (?:{count})(?![\w.])"
)
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
    for place in range(len(labels)):
        words = [*_NTH[place : place + 1], *(["last", "final"] if place == len(labels) - 1 else [])]
        counts = [str(place + 1), *_COUNT[place : place + 1]]
        pattern = _NTH_CHOSEN.format(nth="|".join(words) or "-", count="|".join(counts))
        if labels[place] == answer and re.search(pattern, said, re.IGNORECASE):
            return "names the place of the right option"
    if answer in labels and _leaves_only(said, answer, labels):
        return "rules out every option but the answer"
    return _option_leak(note, problem, answer, labels)


def _alone(label: str) -> str:
    """A pattern for a label that stands for itself: "A ring" and "I see" name no option."""
    word = r"| (?!and\b|or\b|nor\b)[a-z]" if label in {"A", "I"} else ""
    return rf"(?<![A-Za-z]){re.escape(label)}(?![A-Za-z]{word})"


def _leaves_only(said: str, answer: str, labels: Sequence[str]) -> bool:
    """Whether a note rules out, in one sentence or several, all labels but the right one."""
    out: set[str] = set()
    for sentence in re.split(r"[.;\n]", said):
        if _RULED_OUT.search(sentence):
            out |= {label for label in labels if re.search(_alone(label) + "|" + _FAILS.format(label=label), sentence)}
    return len(labels) > 2 and out == set(labels) - {answer}


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
    stem = plain(re.split(r"\n\s*[(\[]?" + re.escape(labels[0]) + r"[).:\]]", problem.question())[0])
    others = any(_quoted(said, tight, plain(text)) for label, text in lines.items() if label != answer)
    known = bool(_places(stem, right))
    if not others and not known and right not in _WEAK and len(squeezed(right)) >= MIN_LITERAL:
        strong = " " in right or len(right) >= 8
        if strong and (_quoted(said, tight, right) or _hidden(said, right)):
            return "quotes the right option"
        values = {n.value for n in numbers(right)} if len(right.split()) <= 2 else set()
        if len(values) == 1 and _tells(*values) and any(n.value in values for n in numbers(said)):
            return "quotes the right option"
    if any(_claimed(said, start, end) for start, end in _places(said, right)):
        return "claims the right option"
    return None


def _quoted(said: str, tight: str, option: str) -> bool:
    return bool(_places(said, option)) or (len(squeezed(option)) >= LONG and squeezed(option) in tight)
