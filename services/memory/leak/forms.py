"""The forms in which one thing can be said: a text without its dress, and numbers in all their notations.

The leak guard compares what a note says with what must not be said. Both are brought to the forms of this module
first: TeX, mathematics in signs and in words, full-width and look-alike letters, accents, invisible characters, spelled
words, number words, thousands separators, powers of ten, fractions, percentages, other bases, sums.
"""

from __future__ import annotations

import ast
import base64
import codecs
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

_INVISIBLE = re.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad\u180e\ufe00-\ufe0f\u20e3\U000e0000-\U000e007f]"
)
_NAMED = re.compile(
    r"(?:[A-Z -]+ LATIN CAPITAL LETTER|LATIN LETTER SMALL CAPITAL|REGIONAL INDICATOR SYMBOL LETTER) ([A-Z])"
)
"""Letters in boxes and discs, and small capitals: no form of Unicode makes plain letters of them."""
_SEAM = re.compile(r"(?<=[\u2e80-\uffdc])(?=[0-9A-Za-z])|(?<=[0-9A-Za-z])(?=[\u2e80-\uffdc])")
"""Where a script without spaces meets words and numbers."""
_LOOK_ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТХУаеіјорсухѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο" + "‐‑‒–—−‘’“”×·⋅∙⁄",
    "ABESIJKMHOPCTXYaeijopcyxsABEZHIKMNOPTYXo" + "------''\"\"****/",
)
_SIGNS = {
    "\u2260": "!=",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u2261": "=",
    "\u2248": "=",
    "\u2243": "=",
    "\u2245": "=",
    "\u03c0": "pi",
    "\u221a": "sqrt ",
}
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_TEX = (
    (re.compile(r"\\sqrt\s*\{([^{}]*)\}"), r" sqrt(\1) "),
    (re.compile(r"\\[dt]?frac\s*\{(\w*)\}\s*\{(\w*)\}"), r" \1/\2 "),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" (\1)/(\2) "),
    (re.compile(r"(?<=[A-Za-z])_\{?(\d+)\}?"), r"\1"),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r" \1/\2 "),
    (re.compile(r"\\f?boxed\s*\{"), " answer = "),
    (re.compile(r"\\(?:cdot|times|ast)\b"), "*"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\^\s*\{([^{}]*)\}"), r"^\1"),
    (re.compile(r"\\(?:text|mathrm|mathbf|mathit|textbf|left|right|displaystyle|,|;|!|:|quad)|[${}~]"), " "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\([A-Za-z]+)"), r" \1 "),
)

_UP_TO_NINETEEN = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_BY_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: n for n, word in enumerate(_UP_TO_NINETEEN)} | {"oh": 0}
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
    "point_words": re.compile(
        rf"(?P<s>\b(?:minus|negative)\s+)?\b(?P<n>(?:{_NUMERAL})(?:[\s-]+(?:{_NUMERAL}))*) point "
        rf"(?P<d>(?:{'|'.join(_SMALL)})(?:[\s-]+(?:{'|'.join(_SMALL)}))*)\b"
    ),
    "parts": re.compile(rf"\b(?P<n>an?|{'|'.join(_SMALL)})[\s-](?P<d>{'|'.join(_PARTS)})\b"),
}
_UNIT = re.compile(r"\s*(?:[a-z%][a-z%^*/.0-9-]*|/)(?:\s+[a-z/^*0-9-]+){0,2}")
_ENTRY = re.compile(
    rf"(?:(?<![\w)])-\s?|\b(?:minus|negative)\s+)?(?:(?<![\w.])\d+(?:/[1-9]\d*|\.\d+)?(?![\w/]|\.\d)|\b(?:{'|'.join(_SMALL)})\b)"
)
_BETWEEN = re.compile(r"(?:[\s,;(){}\[\]$|]|\b(?:and|or|to)\b|\b[a-z]+_?\d?\s*=|<=?\s*[a-z]\s*<=?)+")
_IN_WORDS = tuple(
    (re.compile(rf"\b(?:{words})\b"), f" {sign} ")
    for words, sign in (
        ("square root of|root of|root", "sqrt"),
        ("divided by|over", "/"),
        ("squared", "^2"),
        ("cubed", "^3"),
        ("times", "*"),
        ("plus", "+"),
        ("minus", "-"),
    )
)
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[a-z]+|[-+/^=<>!|&%]")
_FUNCTIONS = frozenset(
    re.findall(r"\w+", "pi sqrt sin cos tan cot sec exp log ln lim max min mod and or not is in to of")
)
_ATOM = r"(?:\d+(?:\.\d+)?|pi\b|sqrt(?![a-z]))"
_SIGN_BETWEEN = r"(?:[-+*/^()\s]+|(?<=\d)(?=pi|sqrt)|(?<=sqrt)(?=\d))"
_SUM = re.compile(rf"(?<![\w.])(?:[-+(]\s*){{0,4}}{_ATOM}(?:\s*\))*(?:{_SIGN_BETWEEN}{_ATOM})+(?:\s*\))*(?!\w|\.\d)")
_DOES: dict[type[ast.operator], Callable[[float, float], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
MAX_NUMBER = 200
"""Longer ones are no numbers: reading them takes long, and Python refuses beyond 4,300 digits."""
MAX_SUM = 80
"""Longer ones are not computed."""
MAX_VARIABLES = 3
"""So many letters in a row are variables, multiplied."""
_ROMAN = re.compile(r"(?<!\w)(?=[MDCLXVI]{3,})M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})(?!\w)")
_ROMAN_DIGITS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_SPELLED = re.compile(r"(?<!\w)\w(?:[\s\-._,*|/]{1,3}\w){2,}(?!\w)")


@dataclass(frozen=True)
class Number:
    """A number in a plain text, and where it is."""

    value: Fraction
    start: int
    end: int


def opened(text: str) -> str:
    """Characters of other alphabets, superscripts and vulgar fractions as ASCII writes them."""
    text = _SUPERSCRIPT.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]), _INVISIBLE.sub("", text))
    out = []
    for char in text:
        if char.isascii():
            out.append(char)
        elif char in _SIGNS:
            out.append(_SIGNS[char])
        elif unicodedata.decomposition(char).startswith("<fraction>"):
            out.append(" " + unicodedata.normalize("NFKC", char) + " ")
        elif unicodedata.category(char) == "Nd" or (
            unicodedata.digit(char, -1) >= 0 and not unicodedata.decomposition(char)
        ):
            out.append(str(unicodedata.digit(char)))
        elif named := _NAMED.fullmatch(unicodedata.name(char, "")):
            out.append(named[1])
        else:
            out.append(char)
    bare = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", "".join(out)))
    folded = "".join(c for c in bare if not unicodedata.combining(c)).translate(_LOOK_ALIKE)
    return _SEAM.sub(" ", folded)


def dressed(text: str) -> str:
    """A text in ASCII's dress, without TeX; case, words and lines stay."""
    text = opened(text)
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


def encoded(note: str, answer: str) -> bool:
    """Whether a text holds an answer as base64, hexadecimal digits or rot13, in one of the usual cases."""
    turned = codecs.encode(answer.casefold(), "rot13")
    if turned != answer.casefold() and re.search(rf"(?<!\w){re.escape(turned)}(?!\w)", note.casefold()):
        return True
    for form in {answer, answer.lower(), answer.upper(), answer.capitalize()}:
        raw = form.encode()
        if base64.b64encode(raw).decode().rstrip("=") in note or raw.hex() in note.lower().replace(" ", ""):
            return True
    return False


def spelled(text: str) -> Iterator[str]:
    """Words that a plain text spells letter by letter."""
    for found in _SPELLED.finditer(text):
        yield letters(found[0])


def numbers(text: str) -> list[Number]:
    """Every number that a plain text can be read to hold, in all notations; one place may be read in several ways."""
    found: dict[tuple[Fraction, int], Number] = {}
    for name, pattern in _NOTATIONS.items():
        for match in pattern.finditer(text):
            short = match.end() - match.start() <= MAX_NUMBER
            if short and (value := _value(name, match)) is not None:
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
    """The value of a plain text that is one number, with a name (`x = 5`) or a unit (`9.9 m/s`) at most."""
    bare = re.sub(r"^[a-z]\w?\s*=\s*", "", text.strip(" .$()[]*\"'`"))
    first = [n for n in numbers(bare) if n.start == 0]
    whole = [n for n in first if n.end == len(bare)]
    if not whole and _UNIT.fullmatch(bare[max((n.end for n in first), default=len(bare)) :]):
        whole = first[:1]
    return whole[0].value if whole else None


@dataclass(frozen=True)
class Row:
    """Numbers that a plain text lists, and where."""

    values: tuple[Fraction, ...]
    start: int
    end: int


def rows(text: str) -> list[Row]:
    """The numbers of a plain text that stand in a row: `2, 3`, `x = 2 or x = 3`, `{2; 3}`."""
    found: list[list[re.Match[str]]] = []
    for match in _ENTRY.finditer(text):
        if match.end() - match.start() > MAX_NUMBER:
            continue
        if found and _BETWEEN.fullmatch(text[found[-1][-1].end() : match.start()]):
            found[-1].append(match)
        else:
            found.append([match])
    return [Row(tuple(_entry(m[0]) for m in row), row[0].start(), row[-1].end()) for row in found if len(row) > 1]


def listed(text: str) -> tuple[Fraction, ...]:
    """The numbers of a plain text that is a list of them and nothing else; empty for any other text."""
    found = rows(text)
    if len(found) != 1 or re.search(r"\w", text[found[0].end :]):
        return ()
    return found[0].values if re.fullmatch(r"\W*(?:[a-z]\s*=)?\W*", text[: found[0].start]) else ()


def _entry(said: str) -> Fraction:
    sign = -1 if said.startswith(("-", "minus", "negative")) else 1
    bare = re.sub(r"^(?:-|minus|negative)\s*", "", said)
    return sign * (Fraction(_SMALL[bare]) if bare in _SMALL else Fraction(bare))


def expression(text: str) -> list[str]:
    """A plain text as the tokens of mathematics or code that count: brackets, multiplication signs and quotes do not.

    `pi / (2 * sqrt(2))`, `pi/2sqrt2` and `pi over two root two` are one.
    """
    for pattern, sign in _IN_WORDS:
        text = pattern.sub(sign, text)
    found: list[str] = []
    for token in _TOKEN.findall(text.replace("**", "^")):
        short = token.isalpha() and len(token) <= MAX_VARIABLES and token not in _FUNCTIONS
        found += [str(_SMALL[token])] if token in _SMALL else list(token) if short else [token]
    return found


def computed(text: str) -> Iterator[tuple[float, int, int]]:
    """The values of what a plain text computes with numbers alone (`11 * 10`, `pi sqrt(2)/4`), and where."""
    for match in _SUM.finditer(text):
        value = worth(match[0])
        if value is not None:
            yield value, match.start(), match.end()


def worth(text: str) -> float | None:
    """The value of a plain text that is an expression of numbers, or None."""
    if len(text) > MAX_SUM or not _SUM.fullmatch(text.strip()):
        return None
    code = re.sub(r"sqrt\s*(\d+(?:\.\d+)?|pi)", r"sqrt(\1)", text.strip())
    code = re.sub(r"(?<=[\d)i])\s*(?=pi|sqrt|\()", "*", code).replace("^", "**")
    try:
        return _evaluate(ast.parse(code, mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError):
        return None


def _evaluate(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id="pi"):
            return math.pi
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_evaluate(inner)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _evaluate(inner)
        case ast.Call(func=ast.Name(id="sqrt"), args=[inner]):
            return math.sqrt(_evaluate(inner))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _DOES:
            return float(_DOES[type(sign)](_evaluate(left), _evaluate(right)))
    raise ValueError(ast.dump(node))


def _value(name: str, match: re.Match[str]) -> Fraction | None:
    parts = match.groupdict()
    sign = -1 if (parts.get("s") or "").strip() in {"-", "minus", "negative"} else 1
    if name == "words":
        value = _in_words(re.findall(r"[a-z]+", parts["n"]))
    elif name == "point_words":
        whole = _in_words(re.findall(r"[a-z]+", parts["n"]))
        decimals = "".join(str(_SMALL[word]) for word in re.findall(r"[a-z]+", parts["d"]))
        value = None if whole is None else whole + Fraction(int(decimals), 10 ** len(decimals))
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
