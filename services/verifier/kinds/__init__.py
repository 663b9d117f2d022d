"""The kinds of verifier spec: one file each, listed in `KINDS`.

A kind is a pydantic spec, `answer`, which names the part of a completion that the verdict depends on (equal answers
are judged once), and `grade(spec, completion, context) -> Verdict`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from services.common.strict import Strict, explain, nearest
from services.common.wire import Verdict
from services.verifier.context import Context
from services.verifier.kinds import choice, code, exact

S = TypeVar("S", bound=Strict)


@dataclass(frozen=True)
class Kind(Generic[S]):
    """How one kind of spec is judged."""

    spec: type[S]
    answer: Callable[[S, str], str | None]
    grade: Callable[[S, str, Context], Verdict]


KINDS: dict[str, Kind[Any]] = {
    "exact": Kind(exact.Spec, exact.answer, exact.grade),
    "choice": Kind(choice.Spec, choice.answer, choice.grade),
    "code": Kind(code.Spec, code.answer, code.grade),
}


class SpecError(ValueError):
    """A verifier spec is not valid; `fields` says where and why."""

    def __init__(self, fields: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{f['field']}: {f['message']}" for f in fields))
        self.fields = fields


def parse_spec(raw: Mapping[str, Any]) -> tuple[Kind[Any], Strict]:
    """The kind and the typed spec of `raw`.

    Raises:
        SpecError: unknown kind or key, or a value out of bounds.
    """
    name = raw.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        guess = nearest(name, KINDS) if isinstance(name, str) else None
        hint = f"did you mean {guess!r}?" if guess else f"valid: {', '.join(KINDS)}"
        raise SpecError([{"field": "kind", "message": f"unknown kind {name!r}; {hint}"}])
    kind = KINDS[name]
    try:
        return kind, kind.spec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(explain(error, kind.spec)) from error
