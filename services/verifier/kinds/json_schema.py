"""A JSON answer that must be valid under a JSON Schema.

The answer is what the last `<answer>` holds, else the last fenced block marked `json` or not at all, else the whole
completion. It must be JSON as the standard has it: NaN, Infinity, numbers beyond every float and repeated keys are
format errors, and so is nesting deeper than 128.

Invariants:
- Validation happens in a sealed child that can be killed and has no network: neither a pattern that backtracks nor a
  schema that refers to itself hangs the service, and no `$ref` fetches anything.
- A schema that can't be used is the spec's trouble: 422 where its own schema shows it, else `infra_error`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import Field, field_validator

from pmd.services.common import extract
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier import compare, feedback, report
from pmd.services.verifier.context import Context
from pmd.services.verifier.infra import infra_error
from pmd.services.verifier.report import LIMITS
from pmd.services.verifier.visibility import Visibility

MAX_CHARS = 1_000_000
WORKER = "schema_worker"
LOOKED_AT = 100
MAX_PATTERN = 10_000


class Spec(Strict):
    """`{"kind": "json_schema", "json_schema": {"type": "object", "required": ["name"]}}`"""

    kind: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any] | bool
    """Draft 2020-12, unless its `$schema` names another; references only to its own parts. Patterns are Python's, at
    most 10,000 characters each; `format` is not checked."""
    cpu_s: float = Field(default=2.0, gt=0.0, le=60.0)
    """CPU seconds for the validation."""
    feedback: Visibility = Visibility()

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, Any] | bool) -> dict[str, Any] | bool:
        from jsonschema import FormatChecker  # noqa: PLC0415 -- the service starts without it
        from jsonschema.exceptions import SchemaError  # noqa: PLC0415
        from jsonschema.validators import Draft202012Validator, validator_for  # noqa: PLC0415

        patterns = FormatChecker(formats=())
        patterns.checks("regex", raises=(ValueError, re.error, OverflowError))(_reads)
        try:
            text = json.dumps(schema, ensure_ascii=False)
            text.encode()  # a lone surrogate is no text
            if len(text) > MAX_CHARS:
                raise ValueError(f"it has {len(text)} characters, at most {MAX_CHARS} are allowed")
            compare.parse_json(text)
            if isinstance(schema, dict) and not isinstance(schema.get("$schema", ""), str):
                raise ValueError("$schema must be a text")
            validator = validator_for(schema, default=Draft202012Validator)
            validator.check_schema(_beginnings(schema), format_checker=patterns)
        except SchemaError as error:
            cause = f" ({error.cause})" if error.cause else ""
            raise ValueError(f"{error.json_path}: {error.message[:200]}{cause}") from error
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        return schema


def _reads(pattern: object) -> bool:
    """Whether a pattern is one. It is read and not compiled: `(?i)` before many classes takes seconds to compile."""
    if isinstance(pattern, str):
        if len(pattern) > MAX_PATTERN:
            raise ValueError(f"{len(pattern)} characters, at most {MAX_PATTERN} are allowed")
        getattr(re, "_parser").parse(pattern)  # noqa: B009 -- typeshed does not know it
    return True


def _beginnings(schema: Any) -> Any:
    """A schema with the first `LOOKED_AT` of each array: older drafts compare all elements of an `enum` in pairs."""
    if isinstance(schema, dict):
        return {key: _beginnings(value) for key, value in schema.items()}
    return [_beginnings(value) for value in schema[:LOOKED_AT]] if isinstance(schema, list) else schema


def answer(spec: Spec, completion: str) -> str | None:  # noqa: ARG001 -- the signature of all kinds
    """The JSON text; None when there is none, or far too much."""
    given = extract.answer_of(completion)
    if given is None:
        given = extract.block_of(completion, frozenset({"json"}))
    if given is None:
        given = extract.without_thinking(completion)
    given = given.strip()
    return given if 0 < len(given) <= MAX_CHARS else None


def verify(spec: Spec, completion: str, context: Context) -> Verdict:
    """`passed` for a valid value, `format` for what is no JSON, `failed` for an invalid value."""
    given = answer(spec, completion)
    try:
        value = compare.parse_json(given or "", strict=True)
    except compare.NotJson as error:
        text = f"The answer is not JSON: {error}" if given else "No answer found."
        return Verdict(outcome=Outcome.FORMAT, reward=0.0, feedback=feedback.note(text))
    execution = context.library.run(WORKER, spec.json_schema, value, cpu_s=spec.cpu_s)
    said = report.read(execution)
    facts: dict[str, Any] = {"sandbox_tier": context.tier, "cpu_ms": execution.cpu_s * 1e3}
    if said.limit is not None:
        if report.read(context.library.run(WORKER, spec.json_schema, None, cpu_s=spec.cpu_s)).limit is not None:
            return infra_error("the schema can't be used within the limits, whatever the answer", **facts)
        return Verdict(outcome=said.limit, reward=0.0, feedback=f"{LIMITS[said.limit]} limit exceeded.", **facts)
    if not isinstance(said.value, list):
        cause = f"{said.error.name}: {said.error.message}" if said.error else "its judge ended early"
        return infra_error(f"the schema could not be used: {cause}", **facts)
    # A message quotes what the schema expects; a path and a keyword tell where to look.
    lines = [f"{path}: {message if spec.feedback.expected else keyword}" for path, keyword, message in said.value]
    outcome = Outcome.FAILED if lines else Outcome.PASSED
    return Verdict(outcome=outcome, reward=float(not lines), feedback=feedback.note("\n".join(lines)), **facts)
