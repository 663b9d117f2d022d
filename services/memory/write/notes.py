"""Notes as a model wrote them, read from its answer.

An answer is read in one of two ways, as the recipe says (`generator.format`):
- `json`: JSON by the schema that was asked for (`answer_schema`), else what models and people write in its place
  (`pmd.services.memory.write.free`): headings, lists, labels in any markup, several lines a note.
- `lines`: one labelled line a note and nothing else (`pmd.services.memory.write.lines`), for models too small for more.

Invariants:
- An answer that holds no note and does not say that there is none is invalid: the caller asks once more.
- What is not kept of an answer is named with its reason (`Reading.dropped`), never corrected in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pmd.services.common.bank import Kind
from pmd.services.common.options import NotesFormat
from pmd.services.memory.ledger import Banned
from pmd.services.memory.write import free, lines
from pmd.services.memory.write.found import BEYOND, TWICE, Dropped, Found, Note

T = TypeVar("T")


class InvalidNotes(ValueError):
    """The model's answer holds no note and does not say that there is none."""


@dataclass(frozen=True)
class Insight:
    """What is known about one problem."""

    strategies: tuple[str, ...] = ()
    lessons: tuple[str, ...] = ()

    def without(self, banned: Banned) -> Insight:
        """What is left when what people have banned goes."""
        left = (tuple(t for t in texts if not banned.says(t)) for texts in (self.strategies, self.lessons))
        return Insight(*left)


@dataclass(frozen=True)
class Reading(Generic[T]):
    """The notes of one answer, and what of it was not kept."""

    notes: T
    dropped: tuple[Dropped, ...] = ()


def answer_schema(*kinds: Kind, budget: int) -> Mapping[str, Any]:
    """The JSON schema of an answer: for each kind a list of at most `budget` texts."""
    texts = {"type": "array", "items": {"type": "string"}, "maxItems": budget}
    names = [free.KEYS[kind] for kind in kinds]
    return {
        "type": "object",
        "properties": dict.fromkeys(names, texts),
        "required": names,
        "additionalProperties": False,
    }


def parse_insight(text: str, budget: int, how: NotesFormat) -> Reading[Insight]:
    """Strategies and lessons in a reflection, at most `budget` of each.

    Notes of a bare list are told apart by how they begin: "Don't .." is a lesson.

    Raises:
        InvalidNotes: when there is no note, and nothing that says so.
    """
    found = _found(text, how)
    named = [note for note in found.notes if note.kind]
    loose = [] if named else [Note(free.guessed(note.text), note.text) for note in found.notes]
    # Who is asked for what helped and writes `Rule:` means a strategy; where one labelled line is a note, it is none.
    means: Mapping[Kind | None, Kind] = {} if how == "lines" else {"behavior": "strategy"}
    notes = [Note(means.get(note.kind, note.kind), note.text) for note in named or loose]
    strategies, lessons = (_within(notes, kind, budget, found.dropped) for kind in ("strategy", "lesson"))
    _check(text, [*strategies, *lessons], found)
    return Reading(Insight(strategies, lessons), tuple(found.dropped))


def parse_behaviors(text: str, budget: int, how: NotesFormat) -> Reading[tuple[str, ...]]:
    """Behaviors in an abstraction, at most `budget`.

    Raises:
        InvalidNotes: when there is no note, and nothing that says so.
    """
    found = _found(text, how)
    rules = found.notes
    if any(note.kind == "behavior" for note in rules) or how == "lines":
        rules = [note for note in rules if note.kind == "behavior"]
    elif any(note.kind for note in rules):  # in the word that it was shown
        rules = [note for note in rules if note.kind]
    behaviors = _within([Note("behavior", note.text) for note in rules], "behavior", budget, found.dropped)
    _check(text, behaviors, found)
    return Reading(behaviors, tuple(found.dropped))


def _found(text: str, how: NotesFormat) -> Found:
    text = text.replace("\0", "\ufffd")  # databases keep no NUL
    return lines.read(text) if how == "lines" else free.read(text)


def _within(notes: Iterable[Note], kind: Kind, budget: int, dropped: list[Dropped]) -> tuple[str, ...]:
    """The different texts of a kind, at most `budget`; models like to go on."""
    kept: list[str] = []
    for note in notes:
        if note.kind != kind:
            continue
        if note.text in kept:
            dropped.append(Dropped(TWICE, note.text))
        elif len(kept) == budget:
            dropped.append(Dropped(BEYOND, note.text))
        else:
            kept.append(note.text)
    return tuple(kept)


def _check(text: str, notes: Sequence[str], found: Found) -> None:
    if not notes and not found.nothing:
        why = f" ({found.dropped[0].why})" if found.dropped else ""
        raise InvalidNotes(f"no note in the model's answer{why}: {text[:200]!r}")
