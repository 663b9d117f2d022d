"""The kinds of verifier spec: one file each, and those that installed packages add.

A package adds a kind by an entry point of group `pmd.verifier_kinds` whose name is the kind and whose object is a
`Kind`; docs/verifier.md shows one in twenty lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from pmd.services.common.strict import Strict, explain, nearest
from pmd.services.verifier.kinds import (
    choice,
    code,
    exact,
    http,
    json_schema,
    math,
    python,
    reasoning_gym,
    regex,
    unit_tests,
)
from pmd.services.verifier.kinds.kind import Kind

GROUP = "pmd.verifier_kinds"
SOLUTION = "solution"
"""Key that a spec of every kind may have: a completion that must pass. Whoever checks the spec has it judged; nothing
else looks at it."""

BUILT_IN: dict[str, Kind[Any]] = {
    "exact": Kind(exact.Spec, exact.answer, exact.verify),
    "choice": Kind(choice.Spec, choice.answer, choice.verify),
    "regex": Kind(regex.Spec, regex.answer, regex.verify),
    "math": Kind(math.Spec, math.answer, math.verify),
    "json_schema": Kind(json_schema.Spec, json_schema.answer, json_schema.verify),
    "code": Kind(code.Spec, code.answer, code.verify, code.prove),
    "unit_tests": Kind(unit_tests.Spec, unit_tests.answer, unit_tests.verify, unit_tests.prove),
    "python": Kind(python.Spec, python.answer, python.verify, python.prove),
    "reasoning_gym": Kind(reasoning_gym.Spec, reasoning_gym.answer, reasoning_gym.verify, reasoning_gym.prove),
    "http": Kind(http.Spec, http.answer, http.verify, http.prove),
}


class KindError(RuntimeError):
    """An installed package offers a kind that can't be used."""


class SpecError(ValueError):
    """A verifier spec is not valid; `fields` says where and why."""

    def __init__(self, fields: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{f['field']}: {f['message']}" for f in fields))
        self.fields = fields

    def below(self, path: str) -> SpecError:
        """The same for a spec that is part of something else, at `path`."""
        return SpecError([{**f, "field": f"{path}.{f['field']}".rstrip(".")} for f in self.fields])


@cache
def kinds() -> Mapping[str, Kind[Any]]:
    """All kinds by name.

    Raises:
        KindError: a package's kind can't be loaded, is no `Kind`, or has a name that is taken.
    """
    found = dict(BUILT_IN)
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        origin = f"kind {point.name!r} ({point.value}, of {point.dist.name if point.dist else 'an unknown package'})"
        if point.name in found:
            raise KindError(f"{origin} has a name that is taken; rename its entry point")
        try:
            kind = point.load()
        except Exception as error:
            raise KindError(f"{origin} can't be loaded: {error}; repair or uninstall the package") from error
        if not isinstance(kind, Kind):
            raise KindError(f"{origin} is a {type(kind).__name__}; it must be a {Kind.__module__}.Kind")
        found[point.name] = kind
    return found


def parse_spec(raw: Mapping[str, Any]) -> tuple[Kind[Any], Strict]:
    """The kind and the typed spec of `raw`.

    Raises:
        SpecError: unknown kind or key, or a value out of bounds.
    """
    name = raw.get("kind")
    known = kinds()
    if not isinstance(name, str) or name not in known:
        guess = nearest(name, known) if isinstance(name, str) else None
        hint = f"did you mean {guess!r}?" if guess else f"valid: {', '.join(known)}"
        raise SpecError([{"field": "kind", "message": f"unknown kind {name!r}; {hint}"}])
    kind = known[name]
    if SOLUTION not in kind.spec.model_fields:
        if not isinstance(raw.get(SOLUTION, ""), str):
            raise SpecError([{"field": SOLUTION, "message": "must be a text: a completion that passes"}])
        raw = {key: value for key, value in raw.items() if key != SOLUTION}
    try:
        return kind, kind.spec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(explain(error, kind.spec)) from error
