"""Prompt templates: files that a recipe can replace, rendered with the variables listed here.

teacher:  problem, strategies, lessons, behaviors, foreign, experiences [{text, passed, feedback}], solution, feedback
          (foreign: strategies of other problems; a template that does not name it finds them among strategies)
reflect:  problem, mode (contrast | successes | failures), successes [{text}], failures [{text, feedback}],
          strategies, lessons
abstract: insights [{strategies}]

A variable that a template misspells is an error, not an empty string. `check` finds it before a run begins, not at
the step that first uses the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)

_FAILED = {"text": "an attempt", "feedback": "what went wrong"}
_TRIALS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "teacher": [
        {
            "problem": "a problem",
            "strategies": notes,
            "lessons": notes,
            "behaviors": notes,
            "foreign": notes,
            "experiences": [
                {"text": note, "passed": passed, "feedback": ""} for note in notes for passed in (True, False)
            ],
            "solution": text,
            "feedback": text,
        }
        for notes, text in ((["a note"], "a text"), ([], None))
    ],
    "reflect": [
        {
            "problem": "a problem",
            "mode": mode,
            "successes": [{"text": "an attempt"}] * (mode != "failures"),
            "failures": [_FAILED] * (mode != "successes"),
            "strategies": notes,
            "lessons": notes,
        }
        for mode, notes in (("contrast", ["a note"]), ("successes", []), ("failures", []))
    ],
    "abstract": [{"insights": [{"strategies": ["a note"]}, {"strategies": ["a note", "another"]}]}],
}
"""What each template is tried with: everything there is to show, and as little as there may be."""


@lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    return _environment.from_string(source)


@lru_cache(maxsize=64)
def names(source: str, variable: str) -> bool:
    """Whether a template uses a variable."""
    return variable in find_undeclared_variables(_environment.parse(source))


class PromptError(ValueError):
    """A recipe's template can't be rendered; the message names it and the cause."""


def render(name: str, source: str, **variables: Any) -> str:
    """The template `source` with `variables`, without trailing white space.

    Raises:
        PromptError: for syntax errors, unknown variables, and whatever an expression in it raises.
    """
    try:
        return str(_compiled(source).render(**variables)).rstrip()
    except Exception as error:  # a template is a program of its author's
        raise PromptError(f"prompts.{name}: {error}") from error


@lru_cache(maxsize=64)
def check(name: str, source: str) -> None:
    """Try a template as the steps of a run will use it.

    Raises:
        PromptError: it can't be rendered, or names a variable that there is not, be it where a trial does not come by.
    """
    trials = _TRIALS[name]
    try:
        named = find_undeclared_variables(_environment.parse(source))
    except TemplateSyntaxError as error:
        raise PromptError(f"prompts.{name}: line {error.lineno}: {error.message}") from error
    if unknown := sorted(named - trials[0].keys() - _environment.globals.keys()):
        raise PromptError(f"prompts.{name}: no variable {unknown[0]!r}; there are {', '.join(trials[0])}")
    for variables in trials:
        render(name, source, **variables)
