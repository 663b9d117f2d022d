"""A bank as JSON lines, to keep it or to start another run from it.

The first line says what it is; then problems, then items in the order in which they came. Ids are not kept: they are
a function of the bank. Provenance among items is.

Invariants: neither way holds more than a page of items in memory; what is exported is one moment of the bank, however
long it takes and whatever is written meanwhile; an import is all or nothing, and a line that is refused is named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Annotated, Any, Literal, NoReturn

import sqlalchemy as sa
from pydantic import Field, StringConstraints, ValidationError

from services.common.strict import Strict, explain
from services.common.wire import Level, Problem
from services.memory import curation
from services.memory.ledger import Banned, Item, Kind, Ledger, Status, Transaction, UnknownBank, fingerprint, reads
from services.memory.ledger.rows import PORTION, load, portions
from services.memory.ledger.tables import ITEMS
from services.memory.views import Text

FORMAT = "pmd-bank"
VERSION = 1
MAX_TEXT = 1_000_000
"""Longest text of an item, in characters."""

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


FACTS: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("passes", "trials", "support", "members"), (_is_count, "a count")),
    **dict.fromkeys(("rollout_id", "feedback", "outcome", "topic", "leak", "harm", "split_from"), (_is_text, "a text")),
    **dict.fromkeys(("sources", "merged_from"), (_is_list, "a list of ids")),
    "passed": (lambda value: isinstance(value, bool), "true or false"),
}
"""What the facts that the service reads must be."""
NEEDED: dict[Level, tuple[str, ...]] = {
    "experience": ("rollout_id", "passed", "feedback"),
    "insight": (),
    "behavior": ("topic", "support", "members"),
}
KINDS: dict[Level, tuple[Kind, ...]] = {
    "experience": ("attempt",),
    "insight": ("strategy", "lesson"),
    "behavior": ("behavior",),
}


class PortableItem(Strict):
    """An item without what only its bank knows (id, version, seq)."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """In the bank it came from: what `sources` of other items refer to."""
    level: Level
    kind: Kind
    scope: Text
    text: Annotated[str, StringConstraints(max_length=MAX_TEXT, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]
    status: Status
    pinned: bool
    edited: bool
    step: Count
    policy_version: Count
    facts: dict[str, Any]


class _Line(Strict):
    format: Literal["pmd-bank"] | None = None
    version: Literal[1] | None = None
    bank: str | None = None
    seq: int | None = None
    problem: Problem | None = None
    item: PortableItem | None = None


# ---------------------------------------------------------------- out


def pages(ledger: Ledger, bank: str, seq: int | None) -> Iterator[str]:
    """The lines of a bank as it is, or as it was at `seq`, some at a time.

    Each page is a short read of its own: versions are append-only, so that all of them show the same moment.

    Raises:
        UnknownBank: when there is none, or it is deleted meanwhile.
    """
    now = ledger.seq(bank)
    if not now:
        raise UnknownBank(bank)
    at = now if seq is None else min(seq, now)
    yield json.dumps({"format": FORMAT, "version": VERSION, "bank": bank, "seq": at}) + "\n"
    ids = ledger.problem_ids(bank)
    for part in portions(ids):
        bodies = ledger.problems(bank, part).values()
        yield "".join(json.dumps({"problem": json.loads(body)}) + "\n" for body in bodies)
    after: int | None = 0
    while after is not None:
        with ledger.read() as db:
            if reads.seq(db, bank) < now:
                raise UnknownBank(bank)
            items, after = reads.at_page(db, bank, at, after, PORTION)
        yield "".join(_written(item) for item in items)


def _written(item: Item) -> str:
    portable = {name: getattr(item, name) for name in PortableItem.model_fields}
    return json.dumps({"item": portable}, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------- in


def parse(lines: Iterable[bytes]) -> Iterator[tuple[int, Problem | PortableItem]]:
    """The problems and items of an export, each with the number of its line.

    Raises:
        curation.Invalid: naming the line and the field.
    """
    begun = False
    for n, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            line = _Line.model_validate_json(raw)
        except ValidationError as error:
            first = explain(error, _Line)[0]
            raise curation.Invalid(f"line {n}: {first['field']}".rstrip(": "), first["message"]) from error
        if not begun:
            if line.format is None:
                message = 'no export of a bank: it begins {"format": "pmd-bank", "version": 1, ..}'
                raise curation.Invalid(f"line {n}", message)
            begun = True
            continue
        found = line.problem or line.item
        if found is None or (line.problem and line.item):
            raise curation.Invalid(f"line {n}", "holds one problem or one item")
        yield n, found
    if not begun:
        raise curation.Invalid("line 1", "the file is empty")


@dataclass(frozen=True)
class Survey:
    """What a file that can be imported holds."""

    new_id: dict[str, str]
    """By the id of an item in its old bank, its id in the new one."""
    problems: frozenset[str]
    items: int


def survey(file: IO[bytes], bank: str) -> Survey:
    """Read an export through, and find every fault that can be found without the bank.

    Raises:
        curation.Invalid: naming the line and the field.
    """
    file.seek(0)
    new_id: dict[str, str] = {}
    problems: set[str] = set()
    items = 0
    for n, found in parse(file):
        if isinstance(found, Problem):
            if found.split != "train":
                message = f"problem {found.id} is of split {found.split!r}: only training problems enter a bank"
                raise curation.Invalid(f"line {n}: problem.split", message)
            problems.add(found.id)
        else:
            _check(n, found)
            new_id[found.id] = _item(found).identity(bank)
            items += 1
    return Survey(new_id, frozenset(problems), items)


def load_into(tx: Transaction, file: IO[bytes], about: Survey, actor: str) -> int:
    """Write an export into a bank; how many items were added: not those that it knows already, or bans."""
    file.seek(0)
    known = about.problems | set(reads.problem_ids(tx.db, tx.bank))
    banned = reads.StepView(tx.db, tx.bank, -1).banned
    added = 0
    items: list[Item] = []
    problems: dict[str, str] = {}
    for n, found in parse(file):
        if isinstance(found, Problem):
            problems[found.id] = found.model_dump_json()
        elif found.level != "behavior" and found.scope not in known:
            message = f"problem {found.scope!r} is neither in the file nor in the bank"
            raise curation.Invalid(f"line {n}: item.scope", message)
        else:
            items.append(_item(found, about.new_id))
        if len(items) + len(problems) == PORTION:
            tx.put_problems(problems)
            added += _add(tx, items, banned, actor)
            items, problems = [], {}
    tx.put_problems(problems)
    added += _add(tx, items, banned, actor)
    tx.log(actor, "import", items=added, problems=len(about.problems))
    return added


def _item(given: PortableItem, new_id: dict[str, str] | None = None) -> Item:
    item = Item(**{k: getattr(given, k) for k in PortableItem.model_fields if k != "id"})
    if new_id and "sources" in item.facts:
        item.facts["sources"] = [new_id.get(s, s) for s in item.facts["sources"]]
    return item


def _add(tx: Transaction, page: list[Item], banned: Banned, actor: str) -> int:
    by_id = {item.identity(tx.bank): item for item in page}
    there = load(tx.db, tx.bank, list(by_id))
    said = _said(tx, page)
    fresh = []
    for item_id, item in by_id.items():
        if item_id in there or item.text in banned:
            continue
        if item.level != "experience" and item.status == "active":
            # A note that was edited is known by its text, not by the id that it had under its first one.
            if (thought := (item.scope, item.kind, fingerprint(item.text))) in said:
                continue
            said.add(thought)
        fresh.append(replace(item, id=item_id))
    tx.put_new(fresh, actor)
    return len(fresh)


def _said(tx: Transaction, page: list[Item]) -> set[tuple[str, str, str]]:
    """What active notes of the bank say that the page might say again: scope, kind and fingerprint."""
    prints = [fingerprint(item.text) for item in page if item.level != "experience"]
    query = sa.select(ITEMS.c.scope, ITEMS.c.kind, ITEMS.c.fingerprint).where(
        ITEMS.c.bank == tx.bank, ITEMS.c.status == "active", ITEMS.c.level != "experience"
    )
    parts = (query.where(ITEMS.c.fingerprint.in_(part)) for part in portions(prints))
    return {(row.scope, row.kind, row.fingerprint) for part in parts for row in tx.db.execute(part)}


def _check(n: int, item: PortableItem) -> None:
    """Facts that reflection, retrieval and the interface read must be there, and be what they read."""

    def refuse(field: str, message: str) -> NoReturn:
        raise curation.Invalid(f"line {n}: item.{field}", message)

    if item.kind not in KINDS[item.level]:
        refuse("kind", f"a {item.kind} is no {item.level}")
    for name in NEEDED[item.level]:
        if name not in item.facts:
            refuse(f"facts.{name}", f"an item of level {item.level} needs it")
    for name, (right, what) in FACTS.items():
        if name in item.facts and not right(item.facts[name]):
            refuse(f"facts.{name}", f"is {what}")
