"""What a teacher is told: a selection, and what the batch itself shows, as messages and as the record of them.

Invariant (Law 8): what a context shows is explained item by item: its version, why it was chosen, what it was made of.
"""

from __future__ import annotations

from typing import Any

from pmd.services.common import prompts
from pmd.services.common.options import ContextSettings, PromptFiles
from pmd.services.common.wire import Message, Problem
from pmd.services.memory.ledger import Item
from pmd.services.memory.retrieve.select import Note, Selection


def render(
    problem: Problem,
    selection: Selection,
    files: PromptFiles,
    settings: ContextSettings,
    solution: str | None = None,
    feedback: str | None = None,
) -> list[Message]:
    """The problem's messages with the last user turn rendered by the teacher template, and before it the attempts that
    are shown as turns, the nearest last.

    A sibling's solution stands in the last user turn however memory is shown: as a turn it would be the same question,
    answered and asked again, and with memory off the messages must be those of `sdpo` (Law 2).

    Args:
        solution: a verified sibling's, as it may be shown.
        feedback: the rollout's own.
    """
    last = max(i for i, m in enumerate(problem.messages) if m.role == "user")
    turns: list[Message] = []
    for turn in reversed(selection.turns):
        turns += [Message(role="user", content=turn.question), Message(role="assistant", content=turn.text)]
    if not selection.has_text and solution is None and feedback is None:
        return [*problem.messages[:last], *turns, *problem.messages[last:]]
    tells = settings.feedback != "never"
    strategies, foreign = [n.text for n in selection.strategies], [n.text for n in selection.foreign]
    if not prompts.names(files.teacher, "foreign"):
        strategies += foreign
    content = prompts.render(
        "teacher",
        files.teacher,
        problem=problem.question(),
        strategies=strategies,
        foreign=foreign,
        lessons=[n.text for n in selection.lessons],
        behaviors=[n.text for n in selection.behaviors],
        experiences=[
            {"text": n.text, "passed": n.item.facts["passed"], "feedback": n.item.facts["feedback"] if tells else ""}
            for n in selection.experiences
        ],
        solution=solution,
        feedback=feedback,
    )
    asked = Message(role="user", content=content)
    return [*problem.messages[:last], *turns, asked, *problem.messages[last + 1 :]]


def explained(note: Note) -> dict[str, Any]:
    """A note as the record of a context holds it."""
    return {
        "id": note.item.id,
        "version": note.item.version,
        "level": note.item.level,
        "text": note.text,
        "score": round(note.score, 4),
        "credibility": round(note.credibility, 4),
        "reason": note.reason,
        "sources": _sources(note.item),
    }


def omitted(note: Note) -> dict[str, Any]:
    """A note that is not shown as the record of a context holds it: which one, and why, but not what it says."""
    known = explained(note)
    return {name: known[name] for name in ("id", "version", "level", "reason")} | {"cause": note.cause}


def _sources(item: Item) -> list[str]:
    return [item.facts["rollout_id"]] if item.level == "experience" else item.facts.get("sources", [])
