"""JSON, or whatever people and models write in its place: notes as a person would read them.

    {"strategies": ["Sort first."], "lessons": []}      also fenced, with words around it, with other keys, cut off
    **Strategy 1**: Sort first.                         any markup, number, or word for it; also `Strategy for sums: ..`
    ## Strategies                                       a heading, then a list, a numbered list, or paragraphs
    1. **Sort first**: then compare neighbours.
       Equal ones stay where they are.                  several lines are one note

An answer that is a bare list holds notes that do not say what they are. `None`, `N/A` or an empty list says that there
is nothing to note. Prose alone is no note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pmd.services.common.bank import Kind
from pmd.services.memory.write.found import AROUND, CIRCLE, CUT, LONG, PLACEHOLDER, Dropped, Found, Note

KEYS: Mapping[Kind, str] = {"strategy": "strategies", "lesson": "lessons", "behavior": "behaviors"}
"""What each kind of note is called in JSON."""

MAX_CHARS = 2000
"""Longer notes are copies of something. Two have room beside each other in a context."""

_WORDS: Mapping[Kind, str] = {
    "strategy": r"strateg(?:y|ies)",
    "lesson": r"lessons?(?:[ _]learn(?:ed|t))?",
    "behavior": r"(?:behaviou?rs?|rules?)",
}
_MORE: Mapping[Kind, str] = {
    "strategy": r"approach(?:es)?|techniques?|tips?|what (?:worked|works|helps|helped)",
    "lesson": r"mistakes?|pitfalls?|warnings?|what (?:failed|fails|went wrong|did(?:n.t| not) work)",
    "behavior": r"principles?|guidelines?|patterns?",
}
"""Words that only a heading is known by: notes use them too."""

_THINK = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_TAG = re.compile(rf"<(/?)({'|'.join(_WORDS.values())})>", re.IGNORECASE)
_BOLD = re.compile(r"(?<![\w*])(\*{1,3}|__)(?=\S)([^*\n]+?)(?<=\S)\1(?!\w)")
_HEADING = re.compile(r"^#{1,6}\s+")
_FENCE = re.compile(r"^(```|~~~)")
_RULE = re.compile(r"^[-*_=\s]{3,}$")
_ITEM = re.compile(r"^(?:[-*•+–‣]|\(?\d{1,2}[.):]|\(?[a-z]\))\s+(?=\S)")
_LABEL = re.compile(
    rf"^(?P<word>{'|'.join(f'(?P<{kind}>{word})' for kind, word in _WORDS.items())})"
    r"(?P<number>[ _]?[#(]?\d{1,2}\)?)?"
    r"(?P<about>\s*\([^)\n]*\)|\s+(?:for|from|of|about|on|when|to)\b[^:\n]{1,80})?"
    r"\s*(?P<end>[:：]|\s[-–—](?=\s)|[.)](?=\s)|$)\s*(?P<rest>.*)$",
    re.IGNORECASE,
)
_NONE = re.compile(
    r"^\W*(?:none|n/?a|nothing|no (?:new |further )?(?:strategies|lessons|behaviou?rs|rules|notes)"
    r"|there (?:is|are) none|nothing to note)"
    r"(?: (?:yet|here|found|needed|to note|apply|applies))?\W*$",
    re.IGNORECASE,
)
_FAREWELL = re.compile(r"^(?:i hope|let me know|feel free|hope this)\b", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"^(?:\W*|<[^<>]*>|\[[a-z .]*\]|(?:your |the |a |first |second )?(?:strategy|lesson|rule)\W*\d*)$", re.I
)
_AVOID = re.compile(r"^(?:\W*)(?:don.t|do not|never|avoid|not\b|failing|forgetting|beware|be careful|without)", re.I)


def guessed(text: str) -> Kind:
    """What a note is that does not say it: a lesson if it warns, else a strategy."""
    return "lesson" if _AVOID.match(text) else "strategy"


def read(text: str) -> Found:
    """The notes of an answer, hidden thinking left aside."""
    text = _THINK.sub("", text)
    found = _from_json(text) or _from_text(text)
    kept = []
    for kind, said in found.notes:
        note = said.strip().strip('"“”').strip()
        if _NONE.match(note):
            found.nothing = True
        elif why := _fault(note):
            found.dropped.append(Dropped(why, note))
        else:
            kept.append(Note(kind, note))
    found.notes = kept
    return found


def _fault(note: str) -> str:
    if _PLACEHOLDER.match(note):
        return PLACEHOLDER
    if len(note) > MAX_CHARS:
        return LONG
    return CIRCLE if circles(note) else ""


def circles(text: str) -> bool:
    """Whether words come again at once as no writer repeats them: four or more twice, three thrice, any four times.

    Numbers alone may repeat: they are data.
    """
    words = re.findall(r"\w+", text.lower())
    for length in range(1, 17):
        repeats = 2 if length > 3 else 3 if length == 3 else 4
        same = 0
        for i in range(length, len(words)):
            same = same + 1 if words[i] == words[i - length] else 0
            if same >= length * (repeats - 1) and not all(w.isdigit() for w in words[i - length + 1 : i + 1]):
                return True
    return False


# JSON


_DECODER = json.JSONDecoder(strict=False)
_KEY = re.compile(rf'"\W*(?:{"|".join(_WORDS.values())})[ _]?\d*\W*"\s*:', re.IGNORECASE)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|"((?:[^"\\]|\\.)*)\Z', re.DOTALL)
_ABOUT = ("name", "title")
_WHEN = ("when", "condition", "if", "trigger")
_KINDS = ("type", "kind")
_NO_NOTES = {*_KINDS, "id"}
"""Fields that say of a note which one it is."""


def _from_json(text: str) -> Found | None:
    """What the JSON in an answer says; None where it holds none that is about notes."""
    if not _KEY.search(text) and text.strip().removeprefix("```json").lstrip("`\n ")[:1] != "[":
        return None
    found = Found()
    rest, heard = "", False
    while text:
        start = min((i for i in (text.find("{"), text.find("[")) if i >= 0), default=-1)
        if start < 0:
            break
        rest += text[:start]
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            if not _KEY.search(text, start):
                break
            _from_broken(text[start:], found)
            heard, text = True, ""
            break
        taken = list(_said(value, None))
        heard = heard or bool(taken) or value in ([], {}) or (isinstance(value, dict) and bool(_keys(value)))
        found.notes += taken
        text = text[end:]
    if not heard:
        return None
    around = " ".join(f"{rest} {text}".replace("```json", " ").replace("```", " ").split())
    if around:
        found.dropped.append(Dropped(AROUND, around))
    found.nothing = not found.notes and not any(why == CUT for why, _ in found.dropped)
    return found


def _kind_of(key: str) -> Kind | None:
    bare = re.sub(r"[\W\d_]+", " ", key).strip()
    for words in (_WORDS, _MORE):
        for kind, word in words.items():
            if re.fullmatch(rf"(?:\w+ )?(?:{word})", bare, re.IGNORECASE):
                return kind
    return None


def _keys(value: Mapping[str, Any]) -> list[str]:
    return [key for key in value if _kind_of(key)]


def _said(value: Any, kind: Kind | None) -> Iterator[Note]:
    """The notes in a JSON value that stands where notes of `kind` do."""
    if isinstance(value, str):
        yield Note(kind, value)
    elif isinstance(value, Sequence):
        for part in value:
            yield from _said(part, kind)
    elif isinstance(value, Mapping):
        if named := _keys(value):
            for key in named:
                yield from _said(value[key], _kind_of(key))
        elif len(value) == 1 and not isinstance(inner := next(iter(value.values())), str):
            yield from _said(inner, kind)  # {"insight": {..}}
        else:
            told = next((value[k] for k in _KINDS if k in value), None)
            kind = (_kind_of(told) if isinstance(told, str) else None) or kind
            if note := _sentence({k: v for k, v in value.items() if k not in _NO_NOTES}):
                yield Note(kind, note)


def _sentence(parts: Mapping[str, Any]) -> str:
    """A note that is told in fields, `{name, when, do}` for instance, in one sentence."""
    texts = {k.lower(): v.strip() for k, v in parts.items() if isinstance(v, str) and v.strip()}
    head = next((texts.pop(k) for k in _ABOUT if k in texts), "")
    when = next((texts.pop(k) for k in _WHEN if k in texts), "")
    if when and not when.lower().startswith(("when", "if", "for")):
        when = f"when {when}"
    body = " ".join(texts.values())
    body = ", ".join(filter(None, (when, body)))
    return ": ".join(filter(None, (head, body)))


def _from_broken(text: str, found: Found) -> None:
    """The complete strings below each key of JSON that does not parse, mostly for its length."""
    kind: Kind | None = None
    key = ""
    for match in _STRING.finditer(text):
        if match[3] is not None:
            if match[3].strip():
                found.dropped.append(Dropped(CUT, match[3]))
        elif match[2]:
            key = match[1]
            kind = _kind_of(key) or kind
        elif kind and key not in _NO_NOTES:
            try:
                found.notes.append(Note(kind, str(_DECODER.decode(f'"{match[1]}"'))))
            except ValueError:
                found.notes.append(Note(kind, match[1]))
    if not found.notes and not found.dropped:
        found.dropped.append(Dropped(CUT, text))


# Text


class _Text:
    """Reads line by line: which kind of note the text is at, and the note that is being read."""

    def __init__(self) -> None:
        self.found = Found()
        self.kind: Kind | None = None
        self.section = False
        """Each item or paragraph is a note of its own, until another heading."""
        self.items_at: int | None = None
        """Column of the section's items; None before the first."""
        self.note: list[str] | None = None
        """Lines of the note that is being read."""
        self.closed = False
        """An empty line stands behind them."""
        self.fenced: str | None = None
        """`note` in a fence that belongs to a note, `answer` in one around everything."""
        self.loose: list[str] = []
        """Items under no heading."""
        self.in_loose = False

    def line(self, raw: str) -> None:
        """Take in one more line."""
        indent = len(raw) - len(raw.lstrip())
        bare = raw.strip()
        if _FENCE.match(bare):
            self._fence(bare)
        elif self.fenced == "note" and self.note is not None:
            self.note.append(f"\n{raw.rstrip()}")
        elif not bare or _RULE.match(bare):
            self.closed = True
        else:
            self._words(indent, bare)

    def _words(self, indent: int, bare: str) -> None:
        item = _ITEM.match(bare)
        plain = _unmarked(bare[item.end() :] if item else bare)
        heads = bool(_HEADING.match(bare))
        if (label := _LABEL.match(plain)) and (label["end"] or heads or not item):
            self._label(label)
        elif not item and (over := _heading(plain, heads or plain != bare)) is not None:
            self._open(over[0], section=True)
        elif _NONE.match(plain):
            self._end()
            self.found.nothing = True
        elif item:
            self._item(indent, bare, plain)
        else:
            self._prose(plain)

    def done(self) -> Found:
        """All that was read; a bare list where no note says what it is."""
        self._end()
        if not self.found.notes:
            self.found.notes = [Note(None, text) for text in self.loose]
        else:
            self.found.dropped += [Dropped(AROUND, text) for text in self.loose]
        return self.found

    def _fence(self, bare: str) -> None:
        if self.fenced is None:
            self.fenced = "note" if self.note is not None else "answer"
            if self.fenced == "note" and self.note is not None:
                self.note.append(f"\n{bare}")
        else:
            if self.fenced == "note" and self.note is not None:
                self.note.append("\n```\n")
            self.fenced = None

    def _label(self, label: re.Match[str]) -> None:
        kind = next(kind for kind in _WORDS if label[kind])
        about, rest = (label["about"] or "").strip(), label["rest"].strip()
        many = label["word"].lower().endswith(("ies", "s", "learned", "learnt")) and not label["number"]
        if rest and _NONE.match(rest):
            self._open(kind, section=True)
            self.found.nothing = True
        elif rest:
            self._open(kind, section=many)
            context = "" if not about or about.startswith("(") else f"{about}: "
            self.note = [context + rest]
        else:
            self._open(kind, section=many or not label["number"])
            self.note = None if self.section else []

    def _open(self, kind: Kind | None, *, section: bool) -> None:
        self._end()
        self.kind, self.section, self.items_at, self.closed = kind, section, None, False

    def _item(self, indent: int, bare: str, plain: str) -> None:
        below = self.items_at is not None and indent > self.items_at + 1
        # Steps of a note, unless an empty line has ended it and it does not wait for them.
        steps = not self.in_loose and not self.section and (not self.closed or self._waits() or not self.note)
        if self.note is not None and (below or steps):
            self.note.append(_BOLD.sub(r"\2", bare) if self.note else plain)
            self.closed = False
            return
        self._end()
        if self.items_at is None or indent < self.items_at:
            self.items_at = indent
        self.in_loose = self.kind is None
        self.note, self.closed = [plain], False

    def _prose(self, plain: str) -> None:
        if _FAREWELL.match(plain):
            self._end()
            self.found.dropped.append(Dropped(AROUND, plain))
        elif self.note is not None and (not self.closed or self._waits() or not self.note):
            self.note.append(plain)
            self.closed = False
        elif self.section and self.items_at is None and self.kind:
            self._end()
            self.note, self.closed = [plain], False
        else:
            self._end()
            self.found.dropped.append(Dropped(AROUND, plain))

    def _waits(self) -> bool:
        """Whether the note announces what is to come."""
        return bool(self.note) and self.note[-1].endswith((":", ","))  # type: ignore[index]

    def _end(self) -> None:
        if self.note:
            text = " ".join(self.note).replace(" \n", "\n").replace("\n ", "\n").strip()
            if self.in_loose:
                self.loose.append(text)
            elif self.kind:
                self.found.notes.append(Note(self.kind, text))
        self.note, self.in_loose = None, False
        if self.fenced == "note":
            self.fenced = None


def _unmarked(line: str) -> str:
    """A line without heading marks and bold."""
    return _BOLD.sub(r"\2", _HEADING.sub("", line)).strip()


def _heading(plain: str, marked: bool) -> tuple[Kind | None] | None:
    """The kind of notes that a heading is over, `(None,)` over several; None for a line that is none.

    Args:
        marked: it looks like one.
    """
    if len(plain.split()) > 9 or not (marked or plain.endswith((":", "："))) or plain.endswith("."):
        return None
    for words in (_WORDS, _MORE):
        kinds = [kind for kind, word in words.items() if re.search(rf"\b(?:{word})\b", plain, re.IGNORECASE)]
        if kinds:
            return (kinds[0] if len(kinds) == 1 else None,)
    return None


def _from_text(text: str) -> Found:
    text = _TAG.sub(lambda m: "\n" if m[1] else f"\n{m[2]}: ", text)
    reader = _Text()
    for line in text.expandtabs(4).splitlines():
        reader.line(line)
    return reader.done()
