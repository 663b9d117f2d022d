"""The words of an answer that tell it: names and terms that neither the question nor a wrong option has.

A word is told by its forms, by its head (`trifluoro`), by an abbreviation (`PCC`), or in two pieces.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache

from pmd.services.memory.leak.forms import dressed, letters, plain
from pmd.services.memory.leak.vocabulary import VOCABULARY

STOP = frozenset(VOCABULARY["stop"].split())
"""Words that say nothing of what a text is about."""
WEAK = frozenset(VOCABULARY["weak"].split())
"""Answers that are words of every honest note."""
MAX_WEIGHT = 10
"""The most that a word weighs; a shorter one weighs as much as it has letters."""
SHARED = 0.25
"""What a word weighs that a wrong option has too, against one that only the right one has."""
TOLD = 0.65
"""Share of an answer's words, by weight, that tells it if two of them are its own."""
MANY = 3
"""Of more words than that, all together tell an answer even if each is another's too."""
LONG = 6
"""Words of so many letters are recognised however they are broken up."""
HEADS = 2
"""So many names of an answer, from its beginning, tell it alone; those behind them may be a solvent or a place."""
_WORD = re.compile(r"[a-z0-9]+(?:\.[a-z0-9]+)*")
_ENDING = re.compile(r"(?<=\w\w\w)(?:ations?|ings?|ers?|ely|ly|ed|es|ions?|s|e|y|al|ment)$")
_ABBREVIATION = re.compile(r"(?<![A-Za-z])(?=[a-z]?[A-Z][A-Za-z]*\d?[A-Z])[A-Za-z][A-Za-z0-9]*")


def words(said: str) -> list[str]:
    """The words of a plain text that say what it is about, in order."""
    return [w for w in _WORD.findall(re.sub(r"'s?\b|\^", "", said)) if w not in STOP]


@cache
def _stem(word: str) -> str:
    return _ENDING.sub("", word) if word.isalpha() else word


_COMMON = frozenset(map(_stem, (*VOCABULARY["ordinary"].split(), *STOP, *WEAK)))
"""Stems of words that all notes are full of: ordinary English, and what all sciences share."""


def alike(a: str, b: str) -> bool:
    """Whether two words are forms of one word, or one is the other with a slip of the pen."""
    if a == b:
        return True
    if a[0] != b[0] or not (a.isalpha() and b.isalpha()) or min(len(a), len(b)) < 4:
        return False
    if _stem(a) == _stem(b) and (min(len(a), len(b)) > 4 or abs(len(a) - len(b)) < 3):
        return True
    short, long = sorted((a, b), key=len)
    common = next((i for i, (x, y) in enumerate(zip(short, long, strict=False)) if x != y), len(short))
    slip = len(short) > LONG and long[common + 1 :] in (short[common:], short[common + 1 :])
    return slip or (common >= LONG and common >= 0.7 * len(long))


def weights(answer: str, others: Sequence[str], known: Collection[str]) -> dict[str, float]:
    """How much each word of an answer tells: by its length, less where other options share it, nothing if known."""
    rest = [w for other in others for w in words(plain(other))]
    return {
        w: min(len(w), MAX_WEIGHT) * (SHARED if any(alike(w, o) for o in rest) else 1.0)
        for w in words(plain(answer))
        if not any(alike(w, k) for k in known)
    }


def share(own: dict[str, float], said: Sequence[str]) -> float:
    """The share of an answer's words, by weight, that a text says."""
    return sum(weight for w, weight in own.items() if _says(said, w)) / (sum(own.values()) or 1.0)


def names(own: dict[str, float]) -> list[str]:
    """The words of an answer that only it has and that aren't ordinary."""
    return [w for w, weight in own.items() if weight >= min(len(w), MAX_WEIGHT) and len(w) > 3 and not _common(w)]


def tells(own: dict[str, float], said: Sequence[str]) -> bool:
    """Whether a text says enough of an answer's words to tell it."""
    told = share(own, said)
    only = [w for w, weight in own.items() if weight >= min(len(w), MAX_WEIGHT) and _says(said, w)]
    heads = [name for name in names(own)[:HEADS] if _says(said, name) or _in_pieces(said, name)]
    if heads and (len(only) > 1 or len(own) <= MANY + 1):
        return True
    if told >= 0.95:
        return len(own) > MANY or (bool(only) and sum(map(len, own)) > 2)
    return told >= TOLD and len(only) > 1


def _common(word: str) -> bool:
    return _stem(word) in _COMMON


def _says(said: Sequence[str], word: str) -> bool:
    return any(alike(word, s) or (len(word) > 8 and _is_part(s, word)) for s in said)


def _is_part(part: str, word: str) -> bool:
    """Whether a text's word is the head of a name, or its long end."""
    return (len(part) >= LONG and word.startswith(part) and not _common(part)) or (
        len(part) > 8 and word.endswith(part)
    )


def _in_pieces(said: Sequence[str], name: str) -> bool:
    pieces = {s for s in said if len(s) > 2}
    return any(name[:i] in pieces and name[i:] in pieces for i in range(3, len(name) - 2))


def broken_up(said: str, answer: str) -> bool:
    """Whether a text has the letters of a long answer with something between them."""
    bare = letters(answer)
    return len(bare) >= LONG and bare in letters(said)


def abbreviated(note: str, answer: str, known: Collection[str], others: Sequence[str]) -> bool:
    """Whether a note has an abbreviation of an answer, and not one of another option or of the question."""
    return any(
        short.casefold() not in known
        and abbreviates(short, answer)
        and not any(abbreviates(short, other) or short in other for other in others)
        for short in _ABBREVIATION.findall(dressed(note))
    )


def abbreviates(short: str, answer: str) -> bool:
    """Whether the letters of `short` begin the words of `answer` and their parts, in order.

    Parts of a name begin behind a linking vowel (phosphO|fructO|kinase). Where `short` has the first letters of all
    words, its other letters may be any (glycerAldehyde Phosphate deHydrogenase).
    """
    wanted = re.sub(r"[^a-z]", "", re.sub(r"(?i)o\d+$", "", short).casefold())
    parts = [w for w in re.findall(r"[a-z]+", plain(answer)) if w not in STOP]
    full = " ".join(parts)
    if max(map(len, parts), default=0) <= 3 or len(wanted) < 2:
        return False
    initials = "".join(w[0] for w in parts)
    if wanted == initials or (len(wanted) == 2 and short.isalpha()):
        return wanted == initials
    loose = len(parts) > 1 and len(wanted) > 3 and _subsequence(initials, wanted)
    beginnings = {0} | {m.end() for m in re.finditer(r" |(?<=[a-z]{2})[oiay](?=[a-z]{3})", full)}
    at = -1
    for i, letter in enumerate(wanted):
        follows = (j for j in range(at + 1, len(full)) if full[j] == letter)
        at = next((j for j in follows if loose or j in beginnings or (i and j == at + 1)), -1)
        if at < 0 or (i == 0 and at > 0):
            return False
    return True


def _subsequence(part: str, whole: str) -> bool:
    letters_left = iter(whole)
    return all(letter in letters_left for letter in part)
