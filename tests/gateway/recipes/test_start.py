"""The bank that a run begins with: found, checked against the run's own problems, frozen by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pmd.gateway.recipes.files import load_recipe
from pmd.gateway.recipes.inputs import Inputs
from pmd.gateway.recipes.problems import InvalidRecipe, check_allowed, materialise
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.recipes.start import Banks, WrongStart, bare_model
from pmd.services.common.allowed import Allowed
from pmd.services.common.artifacts import local_path, read_bytes

Make = Callable[..., Recipe]

HEAD = {"format": "pmd-bank", "version": 1, "bank": "teacher-1", "seq": 41, "model": "big/Model"}


def problem(id_: str, question: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}]
    return {"problem": {"id": id_, "messages": turns, "verifier": {"kind": "exact", "answer": "x"}}}


def note(scope: str, text: str, level: str = "insight", status: str = "active", **facts: Any) -> dict[str, Any]:
    kind = "strategy" if level == "insight" else "behavior"
    about = {"id": text, "level": level, "kind": kind, "scope": scope, "text": text, "status": status}
    return {"item": about | {"pinned": False, "edited": False, "step": 9, "policy_version": 8, "facts": facts}}


LINES = [
    HEAD,
    problem("train-0", "question train 0"),
    problem("train-1", "another question than this run's"),
    problem("far-0", "asked nowhere else"),
    note("train-0", "rotate"),
    note("train-1", "swap"),
    note("far-0", "turn", status="retired"),
    note("by hand", "always", level="behavior", topic="", support=2, members=2, problems=["train-1", "far-0"]),
]


@pytest.fixture
def bank(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: Any) -> Path:
        path = tmp_path / "bank.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines or LINES))
        return path

    return write


def frozen(recipe: Recipe, tmp_path: Path, banks: Banks | None = None) -> Inputs:
    return materialise(recipe, "demo-1", f"file://{tmp_path}/runs", banks=banks or Banks())


def refused(recipe: Recipe, tmp_path: Path, banks: Banks | None = None) -> str:
    with pytest.raises(InvalidRecipe) as caught:
        frozen(recipe, tmp_path, banks)
    assert caught.value.fields[0]["field"] == "memory.start_from"
    assert not (tmp_path / "runs" / "demo-1" / "weights").exists(), "nothing of the run is there"
    return caught.value.fields[0]["message"]


def test_a_bank_is_frozen_and_its_source_may_go(recipe: Make, bank: Callable[..., Path], tmp_path: Path) -> None:
    path = bank()
    given = hashlib.sha256(path.read_bytes()).hexdigest()
    start = frozen(recipe(memory={"start_from": str(path)}), tmp_path).start
    assert start is not None
    path.write_text("something else")
    lines = [json.loads(line) for line in read_bytes(start.file).splitlines()]
    assert len(lines) == len(LINES)
    assert local_path(start.file.uri).parent == tmp_path / "runs" / "demo-1" / "memory"
    assert (start.sha256, start.origin, start.model, start.seq) == (given, "teacher-1", "big/Model", 41)
    assert (start.items, start.problems) == ({"behavior": 1, "insight": 2}, 3)


def test_another_problem_of_the_same_name_is_not_taken_for_the_runs_own(
    recipe: Make, bank: Callable[..., Path], tmp_path: Path
) -> None:
    start = frozen(recipe(memory={"start_from": str(bank())}), tmp_path).start
    assert start is not None
    assert start.renamed_problems == 1
    lines = [json.loads(line) for line in read_bytes(start.file).splitlines()]
    first, other, far = (line["problem"]["id"] for line in lines[1:4])
    assert (first, far) == ("train-0", "far-0")
    assert other.endswith(".train-1")
    assert other != "train-1"
    scopes = {line["item"]["text"]: line["item"]["scope"] for line in lines[4:]}
    assert scopes == {"rotate": "train-0", "swap": other, "turn": "far-0", "always": "by hand"}
    assert lines[-1]["item"]["facts"]["problems"] == [other, "far-0"]


def test_law_3_a_bank_that_knows_an_evaluation_problem_is_refused(
    recipe: Make, bank: Callable[..., Path], tmp_path: Path
) -> None:
    path = bank(HEAD, problem("elsewhere", "question test 0"))
    said = refused(recipe(memory={"start_from": str(path)}), tmp_path)
    assert "'elsewhere', which this run evaluates as 'test-0'" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no export of a bank"),
        ("nothing\n", "line 1: no JSON"),
        ("[1]\n", "line 1: no JSON object"),
        ('{"format": "another"}\n', "no export of a bank"),
        (json.dumps(HEAD) + '\n{"problem": {"id": "a b"}}\n', "a problem of it is none"),
    ],
)
def test_what_is_no_bank_is_refused_by_name(content: str, said: str, recipe: Make, tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text(content)
    assert said in refused(recipe(memory={"start_from": str(path)}), tmp_path)


def test_a_bank_that_is_not_there_or_not_allowed_is_refused(recipe: Make, tmp_path: Path) -> None:
    asked = recipe(memory={"start_from": str(tmp_path / "none.jsonl")})
    assert "can't be read" in refused(asked, tmp_path)
    with pytest.raises(InvalidRecipe) as caught:
        check_allowed(recipe(memory={"start_from": "/etc/passwd"}), Allowed(paths=(str(tmp_path),)))
    assert caught.value.fields[0]["field"] == "memory.start_from"
    with pytest.raises(InvalidRecipe, match="PMD_ALLOWED_URLS"):
        check_allowed(recipe(memory={"start_from": "s3://bucket/bank.jsonl"}), Allowed())


def test_the_bank_of_another_run_is_asked_for_at_its_moment(recipe: Make, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    def export(run: str, moment: str | None) -> tuple[bytes, str | None]:
        asked.append((run, moment))
        if run == "none":
            raise WrongStart("no run 'none'")
        head = {key: value for key, value in HEAD.items() if key != "model"}
        return (json.dumps(head) + "\n").encode(), "/models/small"

    banks = Banks(export)
    start = frozen(recipe(memory={"start_from": "run:teacher-1@before-review"}), tmp_path, banks).start
    assert start is not None
    assert (asked, start.model) == ([("teacher-1", "before-review")], "small")
    assert json.loads(read_bytes(start.file).splitlines()[0])["model"] == "small", "no path leaves the machine"
    assert "no run 'none'" in refused(recipe(name="x", memory={"start_from": "run:none"}), tmp_path / "b", banks)
    check_allowed(recipe(memory={"start_from": "run:teacher-1"}), Allowed(paths=("/nowhere", str(tmp_path))))


def test_what_the_memory_service_refuses_is_refused_at_creation(
    recipe: Make, bank: Callable[..., Path], tmp_path: Path
) -> None:
    banks = Banks(objection=lambda _: "line 5: item.text: a note says something")
    assert "line 5: item.text" in refused(recipe(memory={"start_from": str(bank())}), tmp_path, banks)


@pytest.mark.parametrize("wrong", ["run:", "run:a b", "run:x@9a", "run:x@"])
def test_a_run_that_can_not_be_one_is_a_fault_of_the_recipe(wrong: str, recipe: Make) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        recipe(memory={"start_from": wrong})
    assert caught.value.fields[0]["field"] == "memory.start_from"


def test_a_bank_is_no_use_to_a_run_that_shows_only_its_own_step(recipe: Make) -> None:
    with pytest.raises(InvalidRecipe, match=r"memory.start_from: .*transient"):
        recipe(memory={"start_from": "run:x", "transient": True})


def test_a_method_without_memory_leaves_it_alone(recipe: Make, tmp_path: Path) -> None:
    assert frozen(recipe(method="sdpo", memory={"start_from": "run:x"}), tmp_path).start is None


def test_a_path_in_a_recipe_file_is_as_its_file_sees_it(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("memory: {start_from: banks/a.jsonl}\n")
    assert load_recipe(tmp_path / "r.yaml")["memory"]["start_from"] == str(tmp_path / "banks" / "a.jsonl")
    (tmp_path / "r.yaml").write_text("memory: {start_from: 'run:a-1'}\n")
    assert load_recipe(tmp_path / "r.yaml")["memory"]["start_from"] == "run:a-1"


def test_a_model_is_named_without_its_folder() -> None:
    assert [bare_model(m) for m in ("/models/pocket-base/", "owner/name@abc", None)] == [
        "pocket-base",
        "owner/name@abc",
        None,
    ]
