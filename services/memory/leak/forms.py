"""The forms in which one thing can be said: a text without its dress, its words, and the values in it.

The leak guard compares what a note says with what must not be said. Both are brought to the forms of this module
first: TeX, mathematics in signs and in words, full-width and look-alike letters, accents, invisible characters, number
words, thousands separators, powers of ten, fractions, percentages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from pmd.services.memory.leak.values import CONSTANTS, FUNCTIONS, Unreadable, value_of
from pmd.services.memory.leak.vocabulary import VOCABULARY

_INVISIBLE = re.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad\u180e\ufe00-\ufe0f\u20e3\U000e0000-\U000e007f]"
)
_LOOK_ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТХУаеіјорсухѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο" + "‐‑‒–—−‘’“”×·⋅∙⁄",
    "ABESIJKMHOPCTXYaeijopcyxsABEZHIKMNOPTYXo" + "------''\"\"****/",
)
_SIGNS = {"≠": "!=", "≤": "<=", "≥": ">=", "≡": "=", "≈": "=", "≃": "=", "≅": "=", "π": "pi", "√": "sqrt "}
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_TEX = (
    (re.compile(r"\\(?:left|right|displaystyle|quad|[,;!:{}]|(?=[{}]))"), " "),
    (re.compile(r"\\(?:text|math)(?:bf|it|rm|tt)?\b"), " "),
    (re.compile(r"\\sqrt\s*\{([^{}]*)\}"), r" sqrt(\1) "),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r" \1/\2 "),
    (re.compile(r"\\[dt]?frac\s*\{(\w*)\}\s*\{(\w*)\}"), r" \1/\2 "),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" (\1)/(\2) "),
    (re.compile(r"(?<=[A-Za-z])_\{?(\d+)\}?"), r"\1"),
    (re.compile(r"\\f?boxed\s*\{"), " answer = "),
    (re.compile(r"\\(?:cdot|times|ast)\b"), "*"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\^\s*\{([^{}]*)\}"), r"^(\1)"),
    (re.compile(r"[${}~]"), " "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\([A-Za-z]+)"), r" \1 "),
)

_SMALL = {word: n for n, word in enumerate(VOCABULARY["units"].split())}
_SMALL |= {word: n for n, word in zip(range(20, 100, 10), VOCABULARY["tens"].split(), strict=True)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALE_WORDS = {"dozen": 12, "hundred": 100, **_SCALES}
_NUMERAL = "|".join((*_SMALL, *_SCALE_WORDS))
_NUMERALS = re.compile(rf"\b(?:{_NUMERAL})(?:(?:, |[\s-])+(?:and )?(?:{_NUMERAL}))*\b")
_PARTS = {f"{word}th": n for word, n in _SMALL.items()} | {
    **{"half": 2, "halve": 2, "third": 3, "quarter": 4, "fifth": 5, "eighth": 8, "ninth": 9, "twelfth": 12},
    **{"twentieth": 20, "hundredth": 100, "thousandth": 1000},
}
_SCALED = "|".join(_SCALES)
_BEING = r"(?:\b(?:is|are|must be|must|has to be|be) )?\b"
_IN_SIGNS = tuple(
    (re.compile(words), signs)
    for words, signs in (
        (rf"\b(an?|\d+)[ -]({'|'.join(_PARTS)})s?\b", None),
        (r"(?<!\w)(\d+) and (\(\d/\d\))", r"(\1+\2)"),
        (r" to the (?:power (?:of )?)?(?=(?:minus )?\d+(?!\w))", "^"),
        (rf"{_BEING}(?:(?:strictly )?(?:greater|larger|bigger|more) than|exceeds?|above) (?=[\d-])", "> "),
        (rf"{_BEING}(?:(?:strictly )?(?:less|smaller) than|below) (?=[\d-])", "< "),
        (r"\b(?:(?:the )?square root of|root(?: of)?(?= \d))", " sqrt "),
        (r"(\d) point (\d)", r"\1.\2"),
        (r"(?<!\w)(?:minus|negative) (?=[\da-z(])", "-"),
        (r"(?<=[\w)]) (?:times|multiplied by) (?=[\d(a-z])", "*"),
        (r"(?<=[\d)]) (?:divided by|over) (?=[\d(])", "/"),
        (r"(?<=[\d)]) plus (?=[\d(])", "+"),
        (r" squared\b", "^2"),
        (r" cubed\b", "^3"),
        (r"\b(\d+) (?:out )?of (?:the )?(\d+)\b", r"(\1/\2)"),
        (r"(?<![\d.,])([\d.,]{1,40})\s*(?:%|percent\b|per cent\b)", r"(\1/100)"),
        (rf"(?<![\d.,])([\d.,]{{1,40}})\s*(k\b|{_SCALED})", None),
        (r"(?<=\d)\s*[x*]\s*10\s*(?:\^|\*\*)\s*\(?([-+]?\d{1,3})\)?(?!\w)", r"e\1"),
        (r"(?<=\d)\s*x\s*(?=\d)", "*"),
    )
)
_DIGITS = re.compile(
    r"(?<![\w.^])(?:\d{1,3}(?:([ ,'_.])\d{3})(?:\1\d{3})*(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)(?:e[-+]?\d{1,3})?"
    r"(?![\w]|[.,]\d)|(?<![\w.])\d+(?:\.\d+)?(?!\w|\.\d)"
)
_NEGATED = re.compile(r"(?<![\w)\]])[-]\s?$|\(\s*-\s?$")
_TERM = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?|\.\d+|[a-z]+|\*\*|[-+*/^()!]|\S")
_PLAIN_TERM = re.compile(r"\.?\d|[-+*/^()!]")
MAX_NUMBER = 60
"""Longer ones are no numbers: what reads like one is a string of digits."""
MAX_TERMS = 60
"""Longer expressions are not computed."""


@dataclass(frozen=True)
class Number:
    """A value in a plain text, and where it is."""

    value: float
    start: int
    end: int


def opened(text: str) -> str:
    """Characters of other alphabets, superscripts and vulgar fractions as ASCII writes them."""
    text = _SUPERSCRIPT.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]), _INVISIBLE.sub("", text))
    if text.isascii():
        return text
    text = "".join(_SIGNS.get(c, str(unicodedata.digit(c)) if unicodedata.category(c) == "Nd" else c) for c in text)
    text = re.sub(r"[¼-¾⅐-⅞]", r" \g<0> ", text)
    bare = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text))
    return "".join(c for c in bare if not unicodedata.combining(c)).translate(_LOOK_ALIKE)


def dressed(text: str) -> str:
    """A text in ASCII's dress, without TeX; case, words and lines stay."""
    text = opened(text)
    for pattern, plainly in _TEX:
        text = pattern.sub(plainly, text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def flat(text: str) -> str:
    """A text `dressed`, on one line, without case."""
    return " ".join(dressed(text).casefold().split())


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """A text in the form that answers are compared in: `flat`, with numbers in digits and mathematics in signs."""
    said = _NUMERALS.sub(_in_digits, flat(text))
    for pattern, signs in _IN_SIGNS:
        said = pattern.sub(signs if signs is not None else _scaled, said)
    return said


def _in_digits(found: re.Match[str]) -> str:
    words = [w for w in re.findall(r"[a-z]+", found[0]) if w != "and"]
    if len(words) > 1 and all(_SMALL.get(w, 10) < 10 for w in words):
        if re.search(r",|\band\b", found[0]):  # a list
            return re.sub(r"[a-z]+", lambda m: str(_SMALL.get(m[0], m[0])), found[0])
        return "".join(str(_SMALL[w]) for w in words)  # digit by digit
    total = part = 0
    for word in words:
        if word in _SCALES:
            total, part = total + max(part, 1) * _SCALES[word], 0
        elif word in _SCALE_WORDS:
            part = max(part, 1) * _SCALE_WORDS[word]
        else:
            part += _SMALL[word]
    return str(total + part)


def _scaled(found: re.Match[str]) -> str:
    """`two thirds` and `12.5k` as a quotient and a product."""
    many, unit = found[1], found[2]
    if unit in _PARTS:
        return f"({many if many.isdigit() else 1}/{_PARTS[unit]})"
    return f"({many}*{_SCALES.get(unit, 1000)})"


def numbers(said: str, variables: frozenset[str] = frozenset()) -> list[Number]:
    """Every value that a plain text can be read to hold: numbers in all notations, and what it computes.

    Args:
        variables: letters that are quantities; each has a value of its own (`values`).
    """
    found: dict[tuple[float, int], Number] = {}
    for value, start, end in (*_literals(said), *_expressions(said, variables)):
        found.setdefault((value, start), Number(value, start, end))
    return sorted(found.values(), key=lambda n: (n.start, -n.end))


def _literals(said: str) -> Iterator[tuple[float, int, int]]:
    for match in _DIGITS.finditer(said):
        if match.end() - match.start() > MAX_NUMBER:
            continue
        negative = _NEGATED.search(said, max(0, match.start() - 3), match.start()) is not None
        for value in _readings(match[0]):
            yield -value if negative else value, match.start() - negative, match.end()
        for part in re.finditer(r"(?<=[ ,'_])\d+(?:\.\d+)?(?!e)|\d+(?=[ ,'_])", match[0]):
            yield float(part[0]), match.start() + part.start(), match.start() + part.end()


def _readings(digits: str) -> list[float]:
    """What a number may be: `12,500` is twelve thousand or twelve and a half, the first unless it has a point."""
    found = []
    if grouped := re.fullmatch(r"([1-9]\d{0,2}(?:([ ,'_.])\d{3})(?:\2\d{3})*)((?:\.\d+)?(?:e[-+]?\d+)?)", digits):
        found.append(float(grouped[1].replace(grouped[2], "") + grouped[3]))
    if re.fullmatch(r"\d*(?:[.,]\d+)?(?:e[-+]?\d+)?", digits):
        found.append(float(digits.replace(",", ".")))
    return found[::-1] if "." in digits else found


def _expressions(said: str, variables: frozenset[str]) -> Iterator[tuple[float, int, int]]:
    """The values of the longest stretches of a plain text that can be computed."""
    run: list[re.Match[str]] = []
    for term in _TERM.finditer(said):
        word = term[0]
        product = len(word) <= 3 and variables.issuperset(word)
        if _PLAIN_TERM.match(word) or product or word in FUNCTIONS or word in CONSTANTS:
            run.append(term)
        elif run:
            yield from _computed(run)
            run = []
    yield from _computed(run)


def _computed(run: list[re.Match[str]]) -> Iterator[tuple[float, int, int]]:
    """The value of a stretch, without signs and brackets at its ends that belong to the text around it."""
    if len(run) > 2 * MAX_TERMS:
        return
    while run and run[0][0] in {")", "*", "/", "^", "!", "**", "+", "e"}:
        run = run[1:]
    while run and (run[-1][0] in {"(", "-", "+", "*", "/", "^", "**"} or (run[-1][0] == ")" and _depth(run) < 0)):
        run = run[:-1]
    while run and run[0][0] == "(" and _depth(run) > 0:
        run = run[1:]
    if 1 < len(run) <= MAX_TERMS:
        with suppress(Unreadable):
            yield value_of([t[0] for t in run]), run[0].start(), run[-1].end()


def _depth(run: list[re.Match[str]]) -> int:
    return sum((t[0] == "(") - (t[0] == ")") for t in run)


def number(text: str) -> float | None:
    """The value of a plain text that is one number or one expression, with a name (`x = 5`) or a unit at most."""
    bare = re.sub(r"^[a-z]\w?\s*=\s*", "", text.strip(" .$[]*\"'`+"))
    first = [n for n in numbers(bare) if n.start == 0]
    whole = [n for n in first if n.end == len(bare)]
    unit = re.compile(r"\s*(?:[a-z%][a-z%^*/.0-9-]*|/)(?:\s+[a-z/^*0-9-]+){0,2}")
    if not whole and first and unit.fullmatch(bare, max(n.end for n in first)):
        whole = first[:1]
    return whole[0].value if whole else None


def letters(text: str) -> str:
    """What is left of a plain text without anything but letters and digits."""
    return re.sub(r"\W|_", "", text)
