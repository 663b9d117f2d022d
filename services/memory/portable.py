"""A bank as JSON lines, to keep it or to start another run from it.

The first line says what it is; then problems, then items in the order of their age. Ids are not kept: they are a
function of the bank. Provenance among items is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import ValidationError

from services.common.strict import Strict, explain
from services.common.wire import Level, Problem
from services.memory import curation
from services.memory.ledger import Item, Kind, Status, Transaction, UnknownBank, fingerprint, reads
from services.memory.ledger.rows import load
from services.memory.views import Text

FORMAT = "pmd-bank"
VERSION = 1


class PortableItem(Strict):
    """An item without what only its bank knows (id, version, seq)."""

    id: str
    """In the bank it came from: what `sources` of other items refer to."""
    level: Level
    kind: Kind
    scope: Text
    text: str
    status: Status
    pinned: bool
    edited: bool
    step: int
    policy_version: int
    facts: dict[str, Any]


class _Line(Strict):
    format: Literal["pmd-bank"] | None = None
    version: Literal[1] | None = None
    bank: str | None = None
    seq: int | None = None
    problem: Problem | None = None
    item: PortableItem | None = None


def lines(db: sa.Connection, bank: str, seq: int | None) -> Iterator[str]:
    """The lines of a bank as it is, or as it was at `seq`.

    Raises:
        UnknownBank: when there is none.
    """
    now = reads.seq(db, bank)
    if not now:
        raise UnknownBank(bank)
    at = now if seq is None else min(seq, now)
    yield json.dumps({"format": FORMAT, "version": VERSION, "bank": bank, "seq": at}) + "\n"
    for body in reads.problems(db, bank).values():
        yield json.dumps({"problem": json.loads(body)}) + "\n"
    for item in reads.at(db, bank, at):
        portable = PortableItem(**{name: getattr(item, name) for name in PortableItem.model_fields})
        yield json.dumps({"item": portable.model_dump(mode="json")}, ensure_ascii=False) + "\n"


def parse(text: str) -> tuple[list[Problem], list[PortableItem]]:
    """The problems and items of an export.

    Raises:
        curation.Invalid: naming the line and the field.
    """
    problems: list[Problem] = []
    items: list[PortableItem] = []
    given = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    for n, raw in given:
        try:
            line = _Line.model_validate_json(raw)
        except ValidationError as error:
            first = explain(error, _Line)[0]
            raise curation.Invalid(f"line {n}: {first['field']}", first["message"]) from error
        if n == given[0][0] and line.format is None:
            raise curation.Invalid("line 1", 'no export of a bank: it begins {"format": "pmd-bank", "version": 1, ..}')
        if line.problem:
            problems.append(line.problem)
        if line.item:
            if "\x00" in line.item.text or not line.item.text.strip():
                raise curation.Invalid(f"line {n}: item.text", "is empty or holds NUL")
            items.append(line.item)
    return problems, items


def load_into(tx: Transaction, problems: list[Problem], items: list[PortableItem], actor: str) -> tuple[int, int]:
    """Write an export into a bank; how many items were added, and how many it knows (or bans) already."""
    for problem in problems:
        curation.problem(tx, problem)
    known = set(reads.problems(tx.db, tx.bank))
    made: dict[str, Item] = {}
    for given in items:
        if given.level != "behavior" and given.scope not in known:
            raise curation.Invalid("item.scope", f"problem {given.scope!r} is neither in the file nor in the bank")
        item = Item(**{k: getattr(given, k) for k in PortableItem.model_fields if k != "id"})
        _check(item)
        made[given.id] = replace(item, id=item.identity(tx.bank))
    ids = {old: item.id for old, item in made.items()}
    unique = {
        i.id: replace(i, facts=i.facts | {"sources": [ids.get(s, s) for s in i.facts["sources"]]})
        if "sources" in i.facts
        else i
        for i in made.values()
    }
    there = load(tx.db, tx.bank, list(unique))
    banned = reads.StepView(tx.db, tx.bank, -1).banned
    fresh = [i for i in unique.values() if i.id not in there and fingerprint(i.text) not in banned]
    tx.put_new(fresh, actor)
    tx.log(actor, "import", items=len(fresh), problems=len(problems))
    return len(fresh), len(items) - len(fresh)


def _check(item: Item) -> None:
    """Facts that reflection and retrieval read must be there."""
    wanted: dict[Level, dict[str, type]] = {
        "experience": {"rollout_id": str, "passed": bool, "feedback": str},
        "insight": {},
        "behavior": {"topic": str, "support": int, "members": int},
    }
    kinds: dict[Level, set[str]] = {
        "experience": {"attempt"},
        "insight": {"strategy", "lesson"},
        "behavior": {"behavior"},
    }
    if item.kind not in kinds[item.level]:
        raise curation.Invalid("item.kind", f"a {item.kind} is no {item.level}")
    for name, kind in wanted[item.level].items():
        if not isinstance(item.facts.get(name), kind):
            raise curation.Invalid(f"item.facts.{name}", f"an {item.level} needs it, as {kind.__name__}")
    sources = item.facts.get("sources", [])
    if not isinstance(sources, list) or not all(isinstance(s, str) for s in sources):
        raise curation.Invalid("item.facts.sources", "is a list of ids")
