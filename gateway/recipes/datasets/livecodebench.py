"""Records of LiveCodeBench's code_generation_lite: a statement, public tests, private tests that may be packed.

Packed private tests are `base64(zlib(pickle(JSON text)))`. The pickle is never loaded: its opcodes are read, and only a
pickle that is one text is accepted. No layer may expand beyond `MAX_BYTES`, nor its JSON beyond `records.MAX_VALUES`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import pickletools
import re
import zlib
from datetime import date
from typing import Any

from pmd.gateway.recipes.datasets.records import BadField, parse_json, text_of
from pmd.services.common.wire import Message, Problem, Split

MAX_BYTES = 256 << 20
"""Of one record's private tests, unpacked."""
MAX_OPCODES = 16
"""Of a pickle: one that is a text has six at most, and millions of harmless ones fit into a small record."""
CPU_S = 6.0
"""Per test, as LiveCodeBench's own grader allows (there it is wall time)."""
MEMORY_MB = 2048
MAX_TOTAL_S = 3600.0
"""The most that kind `code` allows for all tests together."""

TEXT = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
HARMLESS = frozenset({"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"})

STDIN = "Read the input from standard input and write the answer to standard output."
STARTER = "Complete this starter code:"
FORMAT = "Put the whole program into one ```python code block."


def decode(
    record: dict[str, Any], split: Split, *, since: date | None, until: date | None, share: float
) -> Problem | None:
    """The problem of a record; None when its contest was not in [since, until).

    Args:
        share: of the private tests, how many to keep: those whose input's hash is lowest, at least one.

    Raises:
        BadField: naming what is missing or wrong.
    """
    day = _day(record)
    if (since and day < since) or (until and day >= until):
        return None
    public = _tests(parse_json(text_of(record, "public_test_cases"), "public_test_cases"), "public_test_cases")
    private = _tests(unpack(text_of(record, "private_test_cases")), "private_test_cases")
    ranked = sorted(private, key=lambda t: hashlib.sha256(t["input"].encode("utf-8", "surrogatepass")).digest())
    kept = {id(test) for test in ranked[: max(1, round(share * len(private)))]}
    kinds = {test["testtype"] for test in public + private}
    if kinds not in ({"stdin"}, {"functional"}):
        raise BadField("private_test_cases.testtype", f"all tests must be stdin or all functional, not {sorted(kinds)}")
    fn_name = _fn_name(record) if kinds == {"functional"} else None
    tests = [{"input": t["input"], "output": t["output"], "public": True} for t in public]
    tests += [{"input": t["input"], "output": t["output"]} for t in private if id(t) in kept]
    starter = text_of(record, "starter_code", empty=True) if "starter_code" in record else ""
    ask = f"{STARTER}\n```python\n{starter.strip()}\n```" if starter.strip() else STDIN
    return Problem(
        id=re.sub(r"[^A-Za-z0-9._-]", "-", f"lcb-{text_of(record, 'question_id')}-{split}"),
        messages=[Message(role="user", content=f"{text_of(record, 'question_content').strip()}\n\n{ask}\n{FORMAT}")],
        verifier={
            "kind": "code",
            "fn_name": fn_name,
            "tests": tests,
            "compare": "livecodebench",
            "limits": {
                "cpu_s": CPU_S,
                "memory_mb": MEMORY_MB,
                "total_s": min(MAX_TOTAL_S, (CPU_S + 1) * len(tests) + 5),  # as its own grader allows
            },
        },
        domain=f"{record.get('platform', '')}-{record.get('difficulty', '')}".strip("-"),
        split=split,
    )


def unpack(text: str) -> Any:
    """The private tests: plain JSON, or packed.

    Raises:
        BadField: they are neither, or expand beyond `MAX_BYTES`.
    """
    if text.lstrip().startswith("["):
        return parse_json(text, "private_test_cases")
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadField("private_test_cases", f"neither JSON nor base64: {error}") from error
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(packed, MAX_BYTES + 1)
    except zlib.error as error:
        raise BadField("private_test_cases", f"not compressed by zlib: {error}") from error
    if len(data) > MAX_BYTES:
        raise BadField("private_test_cases", f"expands beyond {MAX_BYTES >> 20} MB")
    if not inflate.eof:
        raise BadField("private_test_cases", "the compressed data end early")
    return parse_json(_only_text(data), "private_test_cases")


def _only_text(pickled: bytes) -> str:
    """The text that `pickled` is, read from its opcodes; nothing is built or called."""
    found: list[str] = []
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(pickled))):
            if number == MAX_OPCODES:
                raise BadField("private_test_cases", f"the pickle is more than a text (over {MAX_OPCODES} opcodes)")
            if opcode.name in TEXT:
                found.append(str(argument))
            elif opcode.name not in HARMLESS:
                raise BadField("private_test_cases", f"the pickle is more than a text (opcode {opcode.name})")
    except (ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, BadField):
            raise
        raise BadField("private_test_cases", f"not a pickle: {error}") from error
    if len(found) != 1:
        raise BadField("private_test_cases", f"the pickle holds {len(found)} texts; it must be one")
    return found[0]


def _tests(cases: Any, field: str) -> list[dict[str, str]]:
    if not isinstance(cases, list):
        raise BadField(field, "must be a list of tests")
    for number, case in enumerate(cases):
        for key in ("input", "output", "testtype"):
            if not isinstance(case, dict) or not isinstance(case.get(key), str):
                raise BadField(f"{field}.{number}.{key}", "must be a text")
        if case["testtype"] == "functional":
            for text in (*(line for line in case["input"].split("\n") if line.strip()), case["output"]):
                parse_json(text, f"{field}.{number}")
    if not cases and field.startswith("private"):
        raise BadField(field, "there are no tests")
    return cases


def _fn_name(record: dict[str, Any]) -> str:
    metadata = parse_json(text_of(record, "metadata"), "metadata")
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii():
        raise BadField("metadata.func_name", "functional tests need the name of a function")
    return name


def _day(record: dict[str, Any]) -> date:
    try:
        return date.fromisoformat(text_of(record, "contest_date")[:10])
    except ValueError as error:
        if isinstance(error, BadField):
            raise
        raise BadField("contest_date", str(error)) from error
