"""Prompt templates: files that a recipe can replace, rendered with the variables listed here.

teacher:  problem, strategies, lessons, behaviors, experiences [{text, passed, feedback}], solution, feedback
reflect:  problem, mode (contrast | successes | failures), successes [{text}], failures [{text, feedback}],
          strategies, lessons
abstract: insights [{strategies}]

A variable that a template misspells is an error, not an empty string.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    return _environment.from_string(source)


class PromptError(ValueError):
    """A recipe's template can't be rendered; the message names it and the cause."""


def render(name: str, source: str, **variables: Any) -> str:
    """The template `source` with `variables`, without trailing white space.

    Raises:
        PromptError: for syntax errors and unknown variables.
    """
    try:
        return str(_compiled(source).render(**variables)).rstrip()
    except TemplateError as error:
        raise PromptError(f"prompts.{name}: {error}") from error
