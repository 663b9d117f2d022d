"""A bank as JSON lines, to keep it or to start another run from it.

The first line says what it is; then problems, then items in the order in which they came. Ids are not kept: they are
a function of the bank. Provenance among items is.

Invariants:
- Neither way holds more than a page of items in memory; of a file that comes in, besides, the ids of its notes.
- What is exported is one moment of the bank, however long it takes and whatever is written meanwhile.
- An import is all or nothing, and a line that is refused is named. It changes nothing that the bank holds.
- What another run did is never taken for what this one did. Runs number their steps and rollouts alike, so the
  rollouts of another bank carry its name (`b/12:p7#3`), and its steps are none that this run is yet to make.
- Each item says where it was written first, however many banks it came through.
- Of items that say the same, each stays what it is: what people decided is not lost to what a machine dropped.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import IO, Annotated, Any, Literal, NamedTuple, NoReturn

import sqlalchemy as sa
from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from pmd.services.common.bank import Kind, Origin, Status
from pmd.services.common.options import MAX_NOTE_CHARS
from pmd.services.common.strict import Strict, explain
from pmd.services.common.wire import Level, Problem, Slug
from pmd.services.memory.curate import changes
from pmd.services.memory.ledger import Banned, Item, Ledger, Transaction, UnknownBank, reads
from pmd.services.memory.ledger.items import ORIGIN, Thought
from pmd.services.memory.ledger.rows import PORTION, load, portions
from pmd.services.memory.ledger.tables import ITEMS

FORMAT = "pmd-bank"
VERSION = 1
MAX_TEXT = 1_000_000
"""Longest text of an item, in characters."""
MAX_ID = 500
"""Longest id of an item or a rollout, and longest scope: they are kept in indexes."""

_OWN = re.compile(r"\d+:")
"""How the rollouts of a bank's own run begin: with their step."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID, pattern=r"^[^\x00]*$")]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_ID and "\x00" not in value


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_id, value))


def _is_origin(value: object) -> bool:
    try:
        Origin.model_validate(value)
    except ValidationError:
        return False
    return True


FACTS: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("passes", "trials", "support", "members"), (_is_count, "a count")),
    **dict.fromkeys(("feedback", "outcome", "topic", "leak", "harm"), (_is_text, "a text")),
    **dict.fromkeys(("rollout_id", "split_from"), (_is_id, f"an id of at most {MAX_ID} characters")),
    ORIGIN: (_is_origin, "where it was written first: run, policy_version, id, and the model"),
    **dict.fromkeys(
        ("sources", "merged_from", "problems"), (_is_list, f"a list of ids of at most {MAX_ID} characters")
    ),
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

    id: Id
    """In the bank it came from: what `sources` of other items refer to."""
    level: Level
    kind: Kind
    scope: Id
    text: Annotated[
        str, StringConstraints(max_length=MAX_TEXT), AfterValidator(lambda text: text.replace("\x00", "\ufffd"))
    ]
    """Of an attempt whatever the model said, nothing too. Postgres can't store NUL."""
    status: Status
    pinned: bool
    edited: bool
    step: Count
    policy_version: Count
    facts: dict[str, Any]


class _Line(Strict):
    format: Literal["pmd-bank"] | None = None
    version: Literal[1] | None = None
    bank: Slug | None = None
    seq: int | None = None
    model: str | None = None
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


class Head(NamedTuple):
    """What an export says of itself."""

    bank: str
    """That it is of; "" if it does not say."""
    model: str | None
    """Of the run whose bank it is, if it says."""


def parse(lines: Iterable[bytes]) -> tuple[Head, Iterator[tuple[int, Problem | PortableItem]]]:
    """What an export says of itself, and its problems and items, each with its line number.

    Raises:
        changes.Invalid: naming the line and the field; the iterator raises it too.
    """
    numbered = ((n, _line(n, raw)) for n, raw in enumerate(lines, start=1) if raw.strip())
    n, head = next(numbered, (1, None))
    if head is None:
        raise changes.Invalid("line 1", "the file is empty")
    if head.format is None:
        message = 'no export of a bank: it begins {"format": "pmd-bank", "version": 1, ..}'
        raise changes.Invalid(f"line {n}", message)
    return Head(head.bank or "", head.model), ((n, _content(n, line)) for n, line in numbered)


def _line(n: int, raw: bytes) -> _Line:
    try:
        return _Line.model_validate_json(raw)
    except ValidationError as error:
        first = explain(error, _Line)[0]
        raise changes.Invalid(f"line {n}: {first['field']}".rstrip(": "), first["message"]) from error


def _content(n: int, line: _Line) -> Problem | PortableItem:
    found = line.problem or line.item
    if found is None or (line.problem and line.item):
        raise changes.Invalid(f"line {n}", "holds one problem or one item")
    return found


class Claim(NamedTuple):
    """A note that comes in, as far as it matters for the id that it gets."""

    id: str
    """In its old bank."""
    active: bool
    settled: bool
    """Whether people decided what it is (`Item.settled`)."""
    thought: Thought


@dataclass(frozen=True)
class Survey:
    """What a file that can be imported holds."""

    origin: str
    """The bank that it was exported from."""
    model: str | None
    """Of the run whose bank that is."""
    claims: Mapping[str, list[Claim]]
    """Its notes by the id that their text has in the new bank."""
    problems: frozenset[str]
    items: int


def survey(file: IO[bytes], bank: str) -> Survey:
    """Read an export through, and find every fault that can be found without the bank.

    Raises:
        changes.Invalid: naming the line and the field.
    """
    file.seek(0)
    head, lines = parse(file)
    claims: dict[str, list[Claim]] = defaultdict(list)
    problems: set[str] = set()
    notes: set[str] = set()
    items = 0
    for n, found in lines:
        if isinstance(found, Problem):
            if found.split != "train":
                message = f"problem {found.id} is of split {found.split!r}: only training problems enter a bank"
                raise changes.Invalid(f"line {n}: problem.split", message)
            problems.add(found.id)
            continue
        _check(n, found)
        items += 1
        if found.level == "experience":
            continue
        if found.id in notes:
            raise changes.Invalid(f"line {n}: item.id", f"another note before it has the id {found.id!r} too")
        notes.add(found.id)
        item = _item(found)
        claims[item.identity(bank)].append(Claim(found.id, item.status == "active", item.settled, item.thought))
    return Survey(head.bank, head.model, claims, frozenset(problems), items)


def load_into(tx: Transaction, file: IO[bytes], about: Survey, actor: str) -> int:
    """Write an export into a bank; how many items were added: not those that it knows already, or bans."""
    file.seek(0)
    known = about.problems | set(reads.problem_ids(tx.db, tx.bank))
    banned = reads.StepView(tx.db, tx.bank, -1).banned
    move = _Move(about.origin, about.model, tx.bank, changes.newest_step(tx), _places(tx, about))
    added = 0
    items: list[Item] = []
    problems: dict[str, str] = {}
    for n, found in parse(file)[1]:
        if isinstance(found, Problem):
            problems[found.id] = found.model_dump_json()
        elif found.level != "behavior" and found.scope not in known:
            message = f"problem {found.scope!r} is neither in the file nor in the bank"
            raise changes.Invalid(f"line {n}: item.scope", message)
        else:
            items.append(move.item(found))
        if len(items) + len(problems) == PORTION:
            tx.put_problems(problems)
            added += _add(tx, items, banned, actor)
            items, problems = [], {}
    tx.put_problems(problems)
    added += _add(tx, items, banned, actor)
    tx.log(actor, "import", items=added, problems=len(about.problems))
    return added


def _item(given: PortableItem, **changed: Any) -> Item:
    """An item as it is given, but for its id and what `changed` says."""
    return Item(**({k: getattr(given, k) for k in PortableItem.model_fields if k != "id"} | changed))


@dataclass(frozen=True)
class _Move:
    """What becomes of items on their way into a bank. Back into the bank that they are from, all stays as it was."""

    origin: str
    model: str | None
    bank: str
    newest: int
    """The bank's newest step: what comes later is this run's own."""
    places: Mapping[str, str]
    """Ids of notes here, by those that they had there."""

    def item(self, given: PortableItem) -> Item:
        """An item as it is here."""
        facts = dict(given.facts)
        for name in "sources", "merged_from":
            if name in facts:
                facts[name] = [self._refers(old) for old in facts[name]]
        for name in "rollout_id", "split_from":
            if name in facts:
                facts[name] = self._refers(facts[name])
        if self.origin and self.origin != self.bank and ORIGIN not in facts:
            first = Origin(run=self.origin, model=self.model, policy_version=given.policy_version, id=given.id)
            facts[ORIGIN] = first.model_dump()
        step = given.step if self.origin == self.bank else min(given.step, self.newest)
        if given.level != "experience":
            return _item(given, facts=facts, step=step, id=self.places[given.id])
        attempt = _item(given, facts=facts, step=step)
        return replace(attempt, id=attempt.identity(self.bank))

    def _refers(self, name: str) -> str:
        """The note or rollout that is called `name` there, as it is called here."""
        if name in self.places:
            return self.places[name]
        if self.origin != self.bank and _OWN.match(name):
            return f"{self.origin}/{name}"
        return name.removeprefix(f"{self.bank}/")


def _places(tx: Transaction, about: Survey) -> dict[str, str]:
    """The id of each note of a file in the bank.

    It is that of its text. Of several that have the same (people edit, merge and add) the active one has it, and the
    others have ids of their own; so has what people decided where the bank's note of this text is one that a machine
    dropped. A note that the bank holds, or that an active one says already, is that one.
    """
    everyone = [claim for claims in about.claims.values() for claim in claims]
    back = _known(tx, [claim.id for claim in everyone]) if about.origin == tx.bank else set()
    said = _said(tx, {claim.thought for claim in everyone if claim.active})
    contested = [k for k, claims in about.claims.items() if len(claims) > 1 or any(c.settled for c in claims)]
    there = load(tx.db, tx.bank, contested)
    places: dict[str, str] = {}
    for identity, claims in about.claims.items():
        taken = identity in there
        stands = taken and (there[identity].status == "active" or there[identity].settled)
        for claim in sorted(claims, key=lambda c: (c.active, c.settled), reverse=True):
            if claim.id in back:
                place = claim.id
            elif claim.active and claim.thought in said:
                place = said[claim.thought]
            elif not taken or (identity in there and (stands or not claim.settled)):
                place, taken = identity, True
            else:
                place = str(uuid.uuid5(uuid.UUID(identity), claim.id))
            if claim.active:
                said.setdefault(claim.thought, place)
            places[claim.id] = place
    return places


def _known(tx: Transaction, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that the bank holds."""
    query = sa.select(ITEMS.c.id).where(ITEMS.c.bank == tx.bank)
    return {found for part in portions(ids) for found in tx.db.scalars(query.where(ITEMS.c.id.in_(part)))}


def _said(tx: Transaction, thoughts: Set[Thought]) -> dict[Thought, str]:
    """Those of `thoughts` that active notes of the bank say, each with the id of its note."""
    query = sa.select(ITEMS.c.id, ITEMS.c.scope, ITEMS.c.kind, ITEMS.c.fingerprint).where(
        ITEMS.c.bank == tx.bank, ITEMS.c.level.in_(("insight", "behavior")), ITEMS.c.status == "active"
    )
    found = tx.db.execute(query)
    return {said: row.id for row in found if (said := (row.kind, row.scope, row.fingerprint)) in thoughts}


def _add(tx: Transaction, page: list[Item], banned: Banned, actor: str) -> int:
    by_id: dict[str, Item] = {}
    for item in page:
        by_id.setdefault(item.id, item)
    there = _known(tx, list(by_id))
    fresh = [item for item_id, item in by_id.items() if item_id not in there and item.text not in banned]
    tx.put_new(fresh, actor)
    made = [(parent, item, "merge") for item in fresh for parent in item.facts.get("merged_from", ())]
    made += [(item.facts["split_from"], item, "split") for item in fresh if "split_from" in item.facts]
    tx.link(made)
    return len(fresh)


def _check(n: int, item: PortableItem) -> None:
    """Facts that reflection, retrieval and the interface read must be there, and be what they read."""

    def refuse(field: str, message: str) -> NoReturn:
        raise changes.Invalid(f"line {n}: item.{field}", message)

    if item.kind not in KINDS[item.level]:
        refuse("kind", f"a {item.kind} is no {item.level}")
    if item.level != "experience" and not item.text.strip():
        refuse("text", "a note says something")
    if item.level != "experience" and item.status == "active" and len(item.text) > MAX_NOTE_CHARS:
        refuse("text", f"a note is at most {MAX_NOTE_CHARS} characters long: a longer one might never be shown")
    for name in NEEDED[item.level]:
        if name not in item.facts:
            refuse(f"facts.{name}", f"an item of level {item.level} needs it")
    for name, (right, what) in FACTS.items():
        if name in item.facts and not right(item.facts[name]):
            refuse(f"facts.{name}", f"is {what}")
