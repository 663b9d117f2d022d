"""Prompt templates are tried before a run begins, as its steps will use them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmd.services.common.options import PromptFiles
from pmd.services.common.prompts import PromptError, check

BUNDLED = Path(__file__).parents[2] / "examples" / "pocket" / "prompts"


@pytest.mark.parametrize("name", PromptFiles.model_fields)
def test_passes_the_bundled(name: str) -> None:
    check(name, (BUNDLED / f"{name}.jinja").read_text())


@pytest.mark.parametrize("name", PromptFiles.model_fields)
@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("{{ problem", "line 1"),
        ("{% if 0 %}{{ problm }}{% endif %}", "no variable 'problm'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% include 'x' %}", "no loader"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
    ],
)
def test_refuses(name: str, source: str, cause: str) -> None:
    with pytest.raises(PromptError, match=f"prompts.{name}: .*{cause}"):
        check(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("teacher", "{{ strategies[0] }}"),  # fails in the first step, which has none
        ("teacher", "{{ solution.upper() }}"),
        ("teacher", "{% for e in experiences %}{{ e.txt }}{% endfor %}"),
        ("reflect", "{{ successes[0].text }}"),
        ("reflect", "{{ failures[0].feedback }}"),
        ("abstract", "{% for i in insights %}{{ i.lessons }}{% endfor %}"),
    ],
)
def test_tries_what_steps_will_show(name: str, source: str) -> None:
    with pytest.raises(PromptError, match=f"prompts.{name}"):
        check(name, source)
