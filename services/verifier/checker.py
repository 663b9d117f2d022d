"""A checker: the spec's own function that says whether an output is right, for problems with many right outputs.

    def check(input, output, expected) -> bool | float | (score, message)

Invariants:
- It runs in a sealed child of its own, never in the program's: the expected output is there, the program's output is
  data there, and no code of the program's is.
- A checker that raises, exceeds its limits or answers with something else is trouble of the spec: `CheckerError`, which
  becomes `infra_error` (Law 5).
"""

from __future__ import annotations

import math

from pmd.services.verifier import report
from pmd.services.verifier.context import Context
from pmd.services.verifier.report import LIMITS, Report
from pmd.services.verifier.sandbox.job import Job, Limits

FUNCTION = "check"
_PAIR = """

def _check(*given):
    said = check(*given)
    return list(said) if isinstance(said, tuple) else [said, ""]
"""


class CheckerError(RuntimeError):
    """The checker said nothing that can be understood; the message goes on after "the checker "."""


def check(source: str, given: tuple[str, str, str], limits: Limits, context: Context) -> tuple[float, str]:
    """Score in [0, 1] and message about `given`: the JSON of input, output and expected output.

    Raises:
        CheckerError: there is no such thing.
    """
    arguments = "\n".join(text.replace("\n", " ") for text in given)  # between JSON's tokens a line's end is a space
    said = report.read(context.scorers.run(Job(source + _PAIR, "_check", arguments, limits)))
    if said.limit is not None:
        raise CheckerError(f"exceeded its {LIMITS[said.limit].lower()} limit{' while loading' if said.loading else ''}")
    if said.error is not None:
        raise CheckerError(f"raised {said.error.name}: {said.error.message}{line_of(said)}")
    match said.value:
        case [bool() | int() | float() as score, str() as message] if math.isfinite(score):
            return float(min(max(score, 0), 1)), message
    raise CheckerError("must return a bool, a number, or a pair of one and a text")


def prove(source: str, limits: Limits, context: Context, function: str = FUNCTION) -> str | None:
    """What keeps `source` from being Python that defines `function`."""
    proof = f"{source}\n\ndef _proof(): return callable({function})\n"
    said = report.read(context.scorers.run(Job(proof, "_proof", "", limits)))
    if said.limit is not None:
        return f"exceeds its {LIMITS[said.limit].lower()} limit while it loads"
    if said.error is not None and not (said.error.name == "NameError" and function in said.error.message):
        return f"can't be loaded: {said.error.name}: {said.error.message}{line_of(said)}"
    return None if said.value is True else f"defines no function {function}"


def line_of(said: Report) -> str:
    """The line of an error, in brackets, where it is known."""
    return f" (line {said.error.frames[-1].line})" if said.error and said.error.frames else ""
