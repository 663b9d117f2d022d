"""Records of SciKnowEval: multiple choice, true or false, and gaps to fill; other types have no exact verifier."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pmd.gateway.recipes.datasets.records import BadField, text_of
from pmd.services.common.wire import Message, Problem, Split

SYSTEM = (
    "Reason step by step inside <reasoning> and </reasoning>. Then give the final answer inside <answer> and </answer>"
)
LETTER = f"{SYSTEM}: the letter of the right option and nothing else."
WORD = f"{SYSTEM}: {{}} and nothing else."
GAP = f"{SYSTEM}: what fills the gap and nothing else."


def decode(record: dict[str, Any], split: Split, id_: str, *, types: Collection[str]) -> Problem | None:
    """The problem of a record; None when its type is not one of `types`.

    Raises:
        BadField: naming what is missing or wrong.
    """
    kind = record.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind  # older dumps
    if not isinstance(kind, str):
        raise BadField("type", "must be a text")
    if kind not in types:
        return None
    question = text_of(record, "question").strip()
    if kind.startswith("mcq"):
        system, user, verifier = _choice(record, question)
    elif kind == "true_or_false":
        verifier = {"kind": "choice", "answer": _yes_no(record), "labels": ["Yes", "No"]}
        system, user = WORD.format("Yes or No"), question
    else:
        verifier = {"kind": "exact", "answer": text_of(record, "answer").strip(), "ignore_case": True}
        system, user = GAP, question
    return Problem(
        id=id_,
        messages=[Message(role="system", content=system), Message(role="user", content=user)],
        verifier=verifier,
        domain=str(record.get("domain", "")),
        split=split,
    )


def _choice(record: dict[str, Any], question: str) -> tuple[str, str, dict[str, Any]]:
    choices = record.get("choices")
    texts, labels = (choices.get("text"), choices.get("label")) if isinstance(choices, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels) or len(labels) < 2:
        raise BadField("choices", "must hold lists `text` and `label` of one length, at least 2")
    if not all(isinstance(label, str) and label for label in labels) or len(set(labels)) < len(labels):
        raise BadField("choices.label", "must be different texts")
    key = text_of(record, "answerKey").strip()
    if key not in labels:
        raise BadField("answerKey", f"{key!r} is none of the labels {labels}")
    options = "\n".join(f"{label}: {text}" for label, text in zip(labels, texts, strict=True))
    return LETTER, f"{question}\n{options}", {"kind": "choice", "answer": key, "labels": labels}


def _yes_no(record: dict[str, Any]) -> str:
    said = text_of(record, "answer").strip().lower()
    if said not in ("yes", "no", "true", "false"):
        raise BadField("answer", f"{said!r} is neither Yes nor No")
    return "Yes" if said in ("yes", "true") else "No"
