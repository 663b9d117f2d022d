"""The forms in which one thing can be said: a text without its dress, and numbers in all their notations.

The leak guard compares what a note says with what must not be said. Both are brought to the forms of this module
first: TeX, full-width and look-alike letters, accents, invisible characters, spelled words, number words, thousands
separators, powers of ten, fractions, percentages, other bases.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad]")
_LOOK_ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТХУаеіјорсухѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο" + "‐‑‒–—−‘’“”×·⋅∙⁄",
    "ABESIJKMHOPCTXYaeijopcyxsABEZHIKMNOPTYXo" + "------''\"\"****/",
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_TEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" \1/\2 "),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r" \1/\2 "),
    (re.compile(r"\\f?boxed\s*\{"), " answer = "),
    (re.compile(r"\\(?:cdot|times|ast)\b"), "*"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\^\s*\{([^{}]*)\}"), r"^\1"),
    (re.compile(r"\\(?:text|mathrm|mathbf|mathit|textbf|left|right|displaystyle|,|;|!|:|quad)|[${}~]"), " "),
    (re.compile(r"\\%"), "%"),
)

_UP_TO_NINETEEN = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_BY_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: n for n, word in enumerate(_UP_TO_NINETEEN)}
_TENS = {word: 10 * n for n, word in enumerate(_BY_TENS, start=2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fifth": 5, "fifths": 5,
          "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10}  # fmt: skip
_NUMERAL = "|".join((*_SMALL, *_TENS, "hundred", *_SCALES))
_SIGN = r"(?:(?<![\w)\]])[-+]\s?|\b(?:minus|negative)\s+)?"
_DIGITS = r"(?:\d{1,3}(?:[ ,'_]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_END = r"(?![\w/^]|[.,]\d)"
_NOTATIONS = {
    "plain": re.compile(rf"(?P<s>{_SIGN})(?<![\w./^,'])(?P<n>{_DIGITS}){_END}"),
    "alone": re.compile(rf"(?P<s>{_SIGN})(?<![\w./^])(?P<n>\d+(?:\.\d+)?)(?![\w/^]|\.\d)"),
    "point": re.compile(rf"(?P<s>{_SIGN})(?<![\w./^])(?P<n>\d{{1,3}}(?:\.\d{{3}})+){_END}"),
    "comma": re.compile(rf"(?P<s>{_SIGN})(?<![\w.,/^])(?P<n>\d+,\d+){_END}"),
    "power": re.compile(
        rf"(?P<s>{_SIGN})(?<![\w./^])(?P<n>{_DIGITS})\s*(?:e|[x*]\s*10\s*(?:\^|\*\*)\s*)(?P<p>[-+]?\d{{1,3}})(?!\w)"
    ),
    "fraction": re.compile(rf"(?P<s>{_SIGN})(?<![\w./^])(?P<n>{_DIGITS})\s*/\s*(?P<d>{_DIGITS}){_END}"),
    "percent": re.compile(rf"(?P<s>{_SIGN})(?<![\w./^])(?P<n>{_DIGITS})\s*(?:%|percent\b|per cent\b)"),
    "scaled": re.compile(rf"(?P<s>{_SIGN})(?<![\w./^])(?P<n>{_DIGITS})\s*(?P<w>k\b|{'|'.join(_SCALES)})"),
    "base": re.compile(r"(?<!\w)(?P<n>0x[0-9a-f]+|0b[01]+|0o[0-7]+)(?!\w)"),
    "spaced": re.compile(r"(?<![\w.])(?P<n>\d(?:[ .-]\d){2,})(?![\w.])"),
    "words": re.compile(
        rf"(?P<s>\b(?:minus|negative)\s+)?\b(?P<n>(?:{_NUMERAL})(?:[\s,-]+(?:and[\s-]+)?(?:{_NUMERAL}))*)\b"
    ),
    "parts": re.compile(rf"\b(?P<n>an?|{'|'.join(_SMALL)})[\s-](?P<d>{'|'.join(_PARTS)})\b"),
}
_ROMAN = re.compile(r"(?<!\w)(?=[MDCLXVI]{3,})M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})(?!\w)")
_ROMAN_DIGITS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_SPELLED = re.compile(r"(?<!\w)\w(?:[\s\-._,*|/]{1,3}\w){2,}(?!\w)")


@dataclass(frozen=True)
class Number:
    """A number in a plain text, and where it is."""

    value: Fraction
    start: int
    end: int


def _opened(text: str) -> str:
    """Characters of other alphabets, superscripts and vulgar fractions as ASCII writes them."""
    text = _SUPERSCRIPT.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]), _INVISIBLE.sub("", text))
    out = []
    for char in text:
        if char.isascii():
            out.append(char)
        elif unicodedata.decomposition(char).startswith("<fraction>"):
            out.append(" " + unicodedata.normalize("NFKC", char) + " ")
        elif unicodedata.category(char) == "Nd":
            out.append(str(unicodedata.digit(char)))
        else:
            out.append(char)
    bare = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", "".join(out)))
    return "".join(c for c in bare if not unicodedata.combining(c)).translate(_LOOK_ALIKE)


def dressed(text: str) -> str:
    """A text in ASCII's dress, without TeX; case, words and lines stay."""
    text = _opened(text)
    for pattern, plainly in _TEX:
        text = pattern.sub(plainly, text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def plain(text: str) -> str:
    """A text in the form that answers are compared in: `dressed`, on one line, without case."""
    return " ".join(dressed(text).casefold().split())


def squeezed(text: str) -> str:
    """What is left of a plain text without anything but letters, digits and signs of mathematics."""
    return re.sub(r"[^\w+\-*/^=<>()\[\]]|_", "", text.replace("**", "^"))


def letters(text: str) -> str:
    """What is left of a plain text without anything but letters and digits."""
    return re.sub(r"\W|_", "", text)


def spelled(text: str) -> Iterator[str]:
    """Words that a plain text spells letter by letter."""
    for found in _SPELLED.finditer(text):
        yield letters(found[0])


def numbers(text: str) -> list[Number]:
    """Every number that a plain text can be read to hold, in all notations; one place may be read in several ways."""
    found: dict[tuple[Fraction, int], Number] = {}
    for name, pattern in _NOTATIONS.items():
        for match in pattern.finditer(text):
            value = _value(name, match)
            if value is not None:
                found.setdefault((value, match.start()), Number(value, match.start(), match.end()))
    return sorted(found.values(), key=lambda n: (n.start, -n.end))


def romans(text: str) -> list[Number]:
    """Roman numerals of three letters or more; the text keeps its case."""
    found = []
    for match in _ROMAN.finditer(text):
        digits = [_ROMAN_DIGITS[c] for c in match[0]]
        following = [*digits[1:], 0]
        value = sum(-d if d < after else d for d, after in zip(digits, following, strict=True))
        found.append(Number(Fraction(value), match.start(), match.end()))
    return found


def number(text: str) -> Fraction | None:
    """The value of a plain text that is one number and nothing else."""
    bare = text.strip(" .$()[]*\"'`")
    whole = [n for n in numbers(bare) if n.start == 0 and n.end == len(bare)]
    return whole[0].value if whole else None


def _value(name: str, match: re.Match[str]) -> Fraction | None:
    parts = match.groupdict()
    sign = -1 if (parts.get("s") or "").strip() in {"-", "minus", "negative"} else 1
    if name == "words":
        value = _in_words(re.findall(r"[a-z]+", parts["n"]))
    elif name == "parts":
        value = Fraction(_SMALL.get(parts["n"], 1), _PARTS[parts["d"]])
    elif name == "base":
        value = Fraction(int(parts["n"], 0))
    elif name == "spaced":
        value = Fraction(re.sub(r"\D", "", parts["n"]))
    elif name == "point":
        value = Fraction(parts["n"].replace(".", ""))
    elif name == "comma":
        value = Fraction(parts["n"].replace(",", "."))
    else:
        value = _read(parts["n"])
        if name == "fraction":
            below = _read(parts["d"])
            value = value / below if below else None
        elif name == "percent":
            value = value / 100
        elif name == "power":
            value *= Fraction(10) ** int(parts["p"])
        elif name == "scaled":
            value *= _SCALES.get(parts["w"], 1000)
    return None if value is None else sign * value


def _read(digits: str) -> Fraction:
    return Fraction(re.sub(r"[ ,'_]", "", digits))


def _in_words(words: list[str]) -> Fraction | None:
    words = [w for w in words if w != "and"]
    if len(words) > 1 and all(_SMALL.get(w, 10) < 10 for w in words):
        return Fraction("".join(str(_SMALL[w]) for w in words))  # digit by digit
    total = part = 0
    for word in words:
        if word in _SCALES:
            total, part = total + max(part, 1) * _SCALES[word], 0
        elif word == "hundred":
            part = max(part, 1) * 100
        else:
            part += _SMALL.get(word, 0) + _TENS.get(word, 0)
    return Fraction(total + part)
