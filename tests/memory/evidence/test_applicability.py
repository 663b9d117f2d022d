"""Which problems a note speaks about."""

from __future__ import annotations

from pmd.services.memory.evidence.applicability import Applicability

REACH = Applicability(
    {
        "a": "Apply zor-mil, then negate each.",
        "b": "Apply zor-mil, then square each.",
        "c": "Apply zor-kem, then negate each.",
        "d": "Apply pav-mil, then add 3.",
        "e": "Apply pav-kem, then drop the last.",
        "f": "Apply tav-kem, then drop the first.",
    }
)


def test_a_note_speaks_about_problems_that_mention_all_that_it_names() -> None:
    note = "zor-mil: rotate then add 3."
    assert REACH.names(note, "a") == {"zor", "mil"}, "`then` is in every problem, so it names none"
    assert REACH.problems(note, "a") == ("a", "b")


def test_a_note_that_names_nothing_speaks_about_its_home_alone() -> None:
    assert REACH.problems("Check the sign before you return.", "c") == ("c",)


def test_a_name_that_only_its_home_has_keeps_a_note_at_home() -> None:
    assert REACH.problems("pav-kem: drop first, then rotate.", "e") == ("e",)
