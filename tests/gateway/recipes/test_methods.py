"""A method is one file, and nothing else knows its name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

from pmd.gateway.recipes.methods import METHODS, MethodName

GATEWAY = Path(__file__).parents[3] / "gateway"
ROOM = GATEWAY / "recipes" / "methods"


def test_every_word_is_one_file_and_every_file_a_word() -> None:
    files = {path.stem for path in ROOM.glob("*.py")} - {"__init__", "method"}
    assert set(METHODS) == set(get_args(MethodName)) == files


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_file_says_its_credit_its_loss_and_its_teacher(name: MethodName) -> None:
    told = ast.get_docstring(ast.parse((ROOM / f"{name}.py").read_text())) or ""
    assert all(f"{word}:" in told for word in ("Credit", "Loss", "Teacher"))
    loss = METHODS[name].loss
    assert f"`{loss}`" in " ".join(told.split()) if loss else "Loss: none" in told


def test_law_1_one_method_prompts_with_memory() -> None:
    assert [name for name, method in METHODS.items() if method.prompts_with_memory] == ["memory_agent"]


def test_a_teacher_that_reads_memory_is_one_that_somebody_learns_from() -> None:
    assert all(method.has_teacher for method in METHODS.values() if method.memory == "teacher")


def test_nothing_else_asks_for_a_method_by_name() -> None:
    asked = [
        f"{path.relative_to(GATEWAY)}:{node.lineno}"
        for path in GATEWAY.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and "method" in ast.unparse(node)
        if {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)} & set(METHODS)
    ]
    assert asked == []
