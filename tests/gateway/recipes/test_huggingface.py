"""Problems from any data set: columns, templates, formats, and a hub that a small server plays."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pmd.gateway.recipes.problems import InvalidRecipe, check_allowed, load_problems, materialise, parse_recipe
from pmd.services.common.allowed import Allowed
from pmd.services.common.artifacts import read_problems
from tests.models.hub import LocalHub

Tree = Callable[..., dict[str, Any]]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = [{"question": f"What is {n} + {n}?", "answer": f"It is\n#### {2 * n}", "level": n % 2} for n in range(10)]
COLUMNS = {
    "prompt": "{{ question }} Put it into \\boxed{}.",
    "verifier": {"kind": "math", "answer": "{{ answer.split('####')[1].strip() }}"},
    "domain": "level-{{ level }}",
}


def tree_of(recipe_tree: Tree, **problems: Any) -> dict[str, Any]:
    tree = recipe_tree()
    tree["problems"] = {"source": "huggingface", "columns": COLUMNS, **problems}
    return tree


def refusal(tree: dict[str, Any]) -> str:
    with pytest.raises(InvalidRecipe) as caught:
        load_problems(parse_recipe(tree).problems)
    return str(caught.value)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(map(json.dumps, rows))
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        head = ",".join(rows[0])
        quoted = ("".join(['"', str(value).replace('"', '""'), '"']) for row in rows for value in row.values())
        cells = list(quoted)
        width = len(rows[0])
        path.write_text("\n".join([head, *(",".join(cells[n : n + width]) for n in range(0, len(cells), width))]))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.json", "a.csv"])
def test_every_format_makes_the_same_problems(name: str, recipe_tree: Tree, tmp_path: Path) -> None:
    file = str(write(tmp_path / name, ROWS))
    tree = tree_of(recipe_tree, files={"train": [file], "test": [file]}, rows={"train": ":8", "test": "80%:"})
    problems, bad = load_problems(parse_recipe(tree).problems)
    assert bad == []
    assert [p.split for p in problems] == ["train"] * 8 + ["test"] * 2
    first, last = problems[0], problems[-1]
    assert (first.id, first.domain) == ("train-a-1", "level-0")
    assert first.question() == "What is 0 + 0? Put it into \\boxed{}."
    assert last.verifier == {"kind": "math", "answer": "18"}


def test_values_of_columns_go_into_the_spec_as_they_are(recipe_tree: Tree, tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/7",
        "asserts": ["assert f(1) == 1"],
        "meta": {"options": ["x", "y"]},
        "packed": '{"limits": {"cpu_s": 3}}',
        "chat": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "gold"}],
    }
    columns = {
        "messages": "chat",
        "id": "{{ task_id }}",
        "verifier": {
            "kind": "unit_tests",
            "tests": {"column": "asserts"},
            "one": [{"column": "meta.options.1"}, "{{ task_id }}!", 3, None],
            "more": {"json": "packed"},
        },
    }
    file = str(write(tmp_path / "a.parquet", [row]))
    (problem,), _ = load_problems(parse_recipe(tree_of(recipe_tree, files={"train": [file]}, columns=columns)).problems)
    assert problem.id == "HumanEval-7"
    assert [m.content for m in problem.messages] == ["Hi"], "the answer of a chat set is no part of the prompt"
    assert problem.verifier == {
        "kind": "unit_tests",
        "tests": ["assert f(1) == 1"],
        "one": ["y", "HumanEval/7!", 3, None],
        "more": {"limits": {"cpu_s": 3}},
    }


@pytest.mark.parametrize(
    ("columns", "where", "why"),
    [
        ({"prompt": "{{ qestion }}"}, "prompt", "'qestion' is undefined"),
        ({"verifier": {"kind": "math", "answer": {"column": "gold"}}}, "verifier.answer", "no column 'gold'"),
        ({"verifier": {"kind": "math", "answer": {"json": "question"}}}, "verifier.answer", "no JSON"),
        ({"id": "{{ '' }}"}, "id", ""),
        ({"prompt": "{{ question.__class__.__mro__ }}"}, "prompt", "SecurityError"),
        ({"prompt": "{{ 1 / 0 }}"}, "prompt", "ZeroDivisionError"),
        ({"prompt": None, "messages": "question"}, "question", "list of turns"),
    ],
)
def test_a_record_that_makes_no_problem_is_named(
    columns: dict[str, Any], where: str, why: str, recipe_tree: Tree, tmp_path: Path
) -> None:
    file = str(write(tmp_path / "a.parquet", ROWS[:1]))
    said = refusal(tree_of(recipe_tree, files={"train": [file]}, columns={**COLUMNS, **columns}))
    assert f"a.parquet row 1: field {where!r}" in said
    assert why in said


@pytest.mark.parametrize(
    ("over", "why"),
    [
        ({"splits": {}}, "problems: splits: name the data set's splits"),
        ({"splits": {"train": "train"}}, "files: without dataset"),
        ({"dataset": "no name at all", "splits": {"train": "t"}}, "write owner/name"),
        ({"dataset": "a/../b", "splits": {"train": "t"}}, "write owner/name"),
        ({"files": {"train": ["x"]}, "rows": {"test": ":1"}}, "rows.test: there is no such split"),
        ({"files": {"train": ["x"]}, "rows": {"train": "1-2"}}, "write begin:end"),
        ({"files": {"train": ["x"]}, "colums": {}}, "did you mean 'columns'"),
        ({"files": {"train": ["x"]}, "columns": {**COLUMNS, "promt": ""}}, "did you mean 'prompt'"),
        ({"files": {"train": ["x"]}, "columns": {**COLUMNS, "prompt": "{{ a"}}, "prompt: line 1"),
        ({"files": {"train": ["x"]}, "columns": {**COLUMNS, "verifier": {"answer": "1"}}}, "has no kind"),
        ({"files": {"train": ["x"]}, "columns": {"verifier": {"kind": "math"}}}, "give prompt"),
    ],
)
def test_a_wrong_section_says_what_to_do(over: dict[str, Any], why: str, recipe_tree: Tree) -> None:
    assert why in refusal(tree_of(recipe_tree, **over))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for a in range(999) %}{% for b in range(999) %}{% endfor %}{% endfor %}", "loops take over 100000 rounds"),
        ("{{ 'x' * 999999999 }}", "a product of more than 1048576"),
        ("{{ 999999999 * [1] }}", "a product of more than 1048576"),
        ("{{ 9 ** 9 ** 9 }}", "a power"),
        ("{{ '%999999999d' % 1 }}", "not formatted by %"),
    ],
)
def test_a_template_without_end_ends(template: str, why: str, recipe_tree: Tree, tmp_path: Path) -> None:
    file = str(write(tmp_path / "a.parquet", ROWS[:1]))
    said = refusal(tree_of(recipe_tree, files={"train": [file]}, columns={**COLUMNS, "prompt": template}))
    assert "a.parquet row 1: field 'prompt'" in said
    assert why in said


def test_an_ordinary_template_loops_and_multiplies(recipe_tree: Tree, tmp_path: Path) -> None:
    template = (
        "{% for c in 'abc' if c != 'b' %}{{ loop.index }}{{ c * 2 }}{% if not loop.last %}-{% endif %}{% else %}no"
        "{% endfor %} {{ 2 ** 10 }} {{ 7 % 4 }} {{ 99999 * 99999 }}"
    )
    file = str(write(tmp_path / "a.parquet", ROWS[:1]))
    tree = tree_of(recipe_tree, files={"train": [file]}, columns={**COLUMNS, "prompt": template})
    (problem,), _ = load_problems(parse_recipe(tree).problems)
    assert problem.question() == "1aa-2cc 1024 3 9999800001"


@pytest.mark.parametrize("template", ["{% macro f() %}{% endmacro %}", "{% for a in b recursive %}{% endfor %}"])
def test_a_template_that_could_call_itself_is_refused(template: str, recipe_tree: Tree) -> None:
    said = refusal(tree_of(recipe_tree, files={"train": ["x"]}, columns={**COLUMNS, "prompt": template}))
    assert "are not taken" in said


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", b"question,answer\nshort\n", "row 1: has 1 values where the file has 2 columns"),
        ("a.csv", b"question,answer\na,b,c,d\n", "row 1: has 4 values where the file has 2 columns"),
        ("a.csv", b"question,question\na,b\n", "two columns 'question'"),
        ("a.jsonl", b'{"question": "a", "answer": NaN}\n', "line 1: field 'verifier.answer': nan is no JSON"),
        ("a.jsonl", b'{"question": "a", "answer": ' + b"[" * 400 + b"]" * 400 + b"}", "more than 32 deep"),
    ],
)
def test_a_hostile_file_is_a_sentence(name: str, content: bytes, why: str, recipe_tree: Tree, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    columns = {"prompt": "{{ question }}", "verifier": {"kind": "exact", "answer": {"column": "answer"}}}
    assert why in refusal(tree_of(recipe_tree, files={"train": [str(tmp_path / name)]}, columns=columns))


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (pa.table({"question": ["a"], "answer": pa.array([2**52], pa.timestamp("ms"))}), "can't be read: Overflow"),
        (pa.table({"question": ["a"], "answer": pa.array([1], pa.timestamp("s", tz="No/Where"))}), "No/Where"),
        (pa.Table.from_arrays([pa.array(["a"])] * 2, names=["question"] * 2), "two columns 'question'"),
        (pa.table({"question": ["a"], "answer": [[1.0, float("inf")]]}), "field 'verifier.answer': inf is no JSON"),
    ],
)
def test_a_hostile_parquet_file_is_a_sentence(table: pa.Table, why: str, recipe_tree: Tree, tmp_path: Path) -> None:
    parquet.write_table(table, tmp_path / "a.parquet")
    columns = {"prompt": "{{ question }}", "verifier": {"kind": "exact", "answer": {"column": "answer"}}}
    assert why in refusal(tree_of(recipe_tree, files={"train": [str(tmp_path / "a.parquet")]}, columns=columns))


def test_rows_from_the_beginning_are_read_no_further(recipe_tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"question,answer\n" + b"a,1\n" * 9 + b'"never closed')
    columns = {"prompt": "{{ question }}", "verifier": {"kind": "exact", "answer": {"column": "answer"}}}
    tree = tree_of(recipe_tree, files={"train": [str(tmp_path / "a.csv")]}, columns=columns)
    assert "unexpected end of data" in refusal(tree)
    tree["problems"]["rows"] = {"train": "1:4"}
    problems, bad = load_problems(parse_recipe(tree).problems)
    assert ([problem.id for problem in problems], bad) == (["train-a-2", "train-a-3", "train-a-4"], [])


def test_a_file_that_is_no_parquet_is_refused(recipe_tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("PAR1 not at all")
    said = refusal(tree_of(recipe_tree, files={"train": [str(tmp_path / "a.parquet")]}))
    assert "a.parquet can't be read: ArrowInvalid" in said


def test_a_parquet_file_that_expands_without_end_is_refused(
    recipe_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.gateway.recipes.datasets.records.MAX_BYTES", 1 << 20)
    write(tmp_path / "a.parquet", [{**ROWS[0], "answer": "#### 1" + " " * 100_000}] * 1000)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    assert "expands beyond" in refusal(tree_of(recipe_tree, files={"train": [str(tmp_path / "a.parquet")]}))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    files = {
        "README.md": b"a card",
        "main/train-00000-of-00001.parquet": write(tmp_path / "made" / "a.parquet", ROWS[:8]).read_bytes(),
        "main/test-00000-of-00001.parquet": write(tmp_path / "made" / "b.parquet", ROWS[8:]).read_bytes(),
        "main/train.jsonl": b"the same rows again",
        "main/train.py": b"raise SystemExit('run')",
    }
    started = LocalHub(files, COMMIT, "team/sums", "dataset")
    with started.chosen(monkeypatch, tmp_path / "hf"):
        yield started


SPLITS = {"train": "train", "test": "test"}


def test_a_data_set_of_the_hub_is_frozen_at_its_commit(hub: LocalHub, recipe_tree: Tree, tmp_path: Path) -> None:
    tree = tree_of(recipe_tree, dataset="team/sums", config="main", splits=SPLITS)
    inputs = materialise(parse_recipe(tree), "demo-1", f"file://{tmp_path}/runs")
    assert inputs.source == f"team/sums@{COMMIT}"
    problems = read_problems(inputs.problems)
    assert len(problems) == 10
    assert problems["test-test-00000-of-00001-1"].verifier["answer"] == "16"
    fetched = {asked.rsplit("/", 1)[-1] for asked in hub.asked if "/resolve/" in asked}
    wanted = {"train-00000-of-00001.parquet", "test-00000-of-00001.parquet"}
    assert fetched == wanted, "data once, in one format, and no code"


def test_what_was_fetched_once_needs_no_hub(hub: LocalHub, recipe_tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tree_of(recipe_tree, dataset="team/sums", config="main", splits=SPLITS)
    first = load_problems(parse_recipe(tree).problems)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.asked)
    assert load_problems(parse_recipe(tree).problems) == first
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("over", "why"),
    [
        (
            {"config": None},
            "it has main/test-00000-of-00001.parquet, main/train-00000-of-00001.parquet, main/train.jsonl. Name the",
        ),
        ({"splits": {"train": "validation"}}, "no file like main/validation.parquet for split train"),
        ({"dataset": "team/sums@v9"}, "has no revision 'v9'"),
        (
            {"dataset": "team/nothing"},
            "datasets/team/nothing does not exist, or is private: look at the spelling, or set HF_TOKEN",
        ),
    ],
)
def test_what_the_hub_has_not_got_is_said(over: dict[str, Any], why: str, hub: LocalHub, recipe_tree: Tree) -> None:
    tree = tree_of(recipe_tree, **{"dataset": "team/sums", "config": "main", "splits": SPLITS, **over})
    said = refusal(tree)
    assert said.startswith("problems.dataset: ")
    assert why in said


def test_a_hub_that_does_not_answer_is_named_with_the_remedy(
    recipe_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    tree = tree_of(recipe_tree, dataset="team/sums", splits=SPLITS)
    said = refusal(tree)
    assert "no hub answers at http://127.0.0.1:9 (" in said
    assert "hf download --repo-type dataset team/sums --revision main --local-dir data/sums" in said
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in refusal(tree)


def test_an_installation_that_lists_folders_lists_data_sets_too(
    recipe_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    recipe = parse_recipe(tree_of(recipe_tree, dataset="team/sums", splits=SPLITS))
    folders = (str(tmp_path),)
    check_allowed(recipe, Allowed())
    check_allowed(recipe, Allowed(("https://hub.example/datasets/team",), folders))
    with pytest.raises(InvalidRecipe, match=r"problems\.dataset: https://hub\.example/datasets/team/sums is not on"):
        check_allowed(recipe, Allowed((), folders))
