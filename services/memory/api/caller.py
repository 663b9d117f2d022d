"""Who asks for a change, what they saw of it, and that they ask for it once.

- `If-Match` is needed to change what exists: 428 without (the shell's answer), 412 with the current version when it
  has moved on.
- `Idempotency-Key`: the same request again gets the same answer and changes nothing; another request is 409.
- `X-PMD-Actor` is the name that the history shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from pmd.services.common.bodies import problem
from pmd.services.common.curation import Actor, IdempotencyKey, IfMatch
from pmd.services.memory.api.views import item_view
from pmd.services.memory.curate import changes
from pmd.services.memory.curate.snapshots import NotThere
from pmd.services.memory.ledger import PERSON, BankMoved, Ledger, Transaction, UnknownBank
from pmd.services.memory.ledger.cursor import BadCursor
from pmd.services.memory.ledger.tables import WRITES


@dataclass(frozen=True)
class Caller:
    """One request for a change."""

    actor: str
    key: str | None
    digest: str
    """Of method, path, query, actor and body: what the key stands for."""

    def sends(self, content: bytes) -> Caller:
        """The same caller with a body of this digest."""
        return replace(self, digest=hashlib.sha256(self.digest.encode() + content).hexdigest())


async def _caller(request: Request, idempotency_key: IdempotencyKey = None, actor: Actor = None) -> Caller:
    about = f"{request.method} {request.url.path}?{request.url.query}\n{actor or ''}\n"
    return Caller(
        actor=f"{PERSON}:{actor}" if actor else PERSON,
        key=idempotency_key,
        digest=hashlib.sha256(about.encode()).hexdigest(),
    )


StreamingCaller = Annotated[Caller, Depends(_caller)]
"""Who sends a body that is not read at once; its content is to be added with `Caller.sends`."""


async def _with_body(request: Request, caller: StreamingCaller) -> Caller:
    return caller.sends(hashlib.sha256(await request.body()).digest())


TheCaller = Annotated[Caller, Depends(_with_body)]


def seen_in(if_match: str) -> changes.Versions:
    """What `If-Match` allows to change: versions of an item or seqs of a bank; None for `*`."""
    tags = re.findall(r"\d+", if_match)
    return frozenset(map(int, tags)) if tags else None


async def _seen(if_match: IfMatch) -> changes.Versions:
    return seen_in(if_match)


Seen = Annotated[changes.Versions, Depends(_seen)]


def etag(number: int) -> str:
    """The entity tag of an item's version or a bank's seq."""
    return f'"{number}"'


@dataclass(frozen=True)
class Answer:
    """What a change answers; it is kept under the idempotency key."""

    body: BaseModel | list[Any]
    tag: int | None = None
    status: int = 200

    def dump(self) -> dict[str, Any]:
        parts = self.body if isinstance(self.body, list) else [self.body]
        data = [part.model_dump(mode="json") for part in parts]
        return {"body": data if isinstance(self.body, list) else data[0], "tag": self.tag, "status": self.status}


class _Replay(Exception):
    """The request was answered before."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__()
        self.answer = answer


class Dry(Exception):
    """Undoes a dry run, and carries what it would have answered."""

    def __init__(self, result: BaseModel) -> None:
        super().__init__()
        self.result = result


def change(
    ledger: Ledger, bank: str, caller: Caller, do: Callable[[Transaction], Answer], *, create: bool = False
) -> JSONResponse:
    """Run a person's change and its bookkeeping in one transaction, or repeat the answer that it got.

    A change that raises `Dry` is undone and answered with what it carries.
    """
    name = f"request {caller.key}"

    def once(tx: Transaction) -> dict[str, Any]:
        if caller.key is None:
            return do(tx).dump()
        here = sa.and_(WRITES.c.bank == bank, WRITES.c.key == name)
        if (known := tx.db.execute(sa.select(WRITES).where(here)).first()) is not None:
            if known.digest != caller.digest:
                raise changes.Conflict("this Idempotency-Key names another request; use a new key for new work")
            raise _Replay(json.loads(known.answer))
        answer = do(tx).dump()
        tx.insert(WRITES, [{"bank": bank, "key": name, "digest": caller.digest, "answer": json.dumps(answer)}])
        return answer

    try:
        answer = ledger.change(bank, once, create=create)
    except _Replay as replay:
        answer = replay.answer
    except Dry as dry:
        answer = Answer(dry.result).dump()
    headers = {} if answer["tag"] is None else {"ETag": etag(answer["tag"])}
    return JSONResponse(answer["body"], answer["status"], headers=headers)


def explain_refusals(app: FastAPI) -> None:
    """Curation's errors as answers."""

    @app.exception_handler(UnknownBank)
    async def unknown(_: Request, error: UnknownBank) -> JSONResponse:
        return problem(404, f"no bank {error.args[0]!r}; a bank appears with its run's first experience")

    @app.exception_handler(changes.Missing)
    async def missing(_: Request, error: changes.Missing) -> JSONResponse:
        return problem(404, str(error))

    @app.exception_handler(changes.Conflict)
    async def conflict(_: Request, error: changes.Conflict) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(changes.Invalid)
    async def invalid(_: Request, error: changes.Invalid) -> JSONResponse:
        return problem(422, "the request is not valid", [{"field": error.field, "message": str(error)}])

    @app.exception_handler(BadCursor)
    async def cursor(_: Request, error: BadCursor) -> JSONResponse:
        return problem(422, "the request is not valid", [{"field": "after", "message": str(error)}])

    @app.exception_handler(BankMoved)
    async def moved(_: Request, error: BankMoved) -> JSONResponse:
        return problem(412, str(error), headers={"ETag": etag(error.seq)})

    @app.exception_handler(NotThere)
    async def renamed(_: Request, error: NotThere) -> JSONResponse:
        return problem(412, str(error), headers={"ETag": etag(error.snapshot.seq)})

    @app.exception_handler(changes.Stale)
    async def stale(_: Request, error: changes.Stale) -> JSONResponse:
        body = {"status": 412, "title": str(error), "current": item_view(error.current).model_dump(mode="json")}
        headers = {"ETag": etag(error.current.version)}
        return JSONResponse(body, 412, headers=headers, media_type="application/problem+json")
