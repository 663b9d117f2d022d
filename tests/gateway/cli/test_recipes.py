"""Every recipe of the repository is valid, and says what its name says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pmd.gateway.recipes import files
from pmd.gateway.recipes.files import RecipeError, load_recipe, parse_overrides
from pmd.gateway.recipes.methods import METHODS, MethodName
from pmd.gateway.recipes.problems import InvalidRecipe, parse_recipe
from pmd.gateway.recipes.recipe import Recipe

RECIPES = Path(__file__).parents[3] / "recipes"
POCKET = [RECIPES / "pocket.yaml", *sorted((RECIPES / "pocket").rglob("*.yaml"))]


def read(path: Path) -> Recipe:
    return Recipe.model_validate(load_recipe(path))


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_recipe_is_valid(path: Path) -> None:
    read(path)


def test_names_tell_recipes_apart() -> None:
    names = [read(path).name for path in POCKET]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_recipe_on_the_same_problems(method: MethodName) -> None:
    recipe = read(RECIPES / "pocket" / f"{method}.yaml")
    assert recipe.method == method
    assert recipe.problems == read(RECIPES / "pocket.yaml").problems


def test_ablations_differ_from_pmd_in_one_thing() -> None:
    whole = read(RECIPES / "pocket" / "pmd.yaml").model_dump()
    for path in sorted((RECIPES / "pocket" / "ablations").glob("*.yaml")):
        ablated = read(path).model_dump()
        assert [key for key in whole if whole[key] != ablated[key] and key != "name"], path.name
        changed = [
            f"{section}.{key}"
            for section in (
                "memory",
                "retrieval",
                "context",
                "teacher",
                "policy",
                "objective",
                "optimizer",
                "hardware",
                "sampling",
            )
            for key in whole[section]
            if whole[section][key] != ablated[section][key]
        ]
        assert len(changed) == 1, path.name


def test_sdpo_and_pmd_share_everything_but_memory_learning_rate_and_who_may_be_shown() -> None:
    own = {"name": True, "method": True, "optimizer": {"lr"}, "context": {"demonstrations"}}
    sdpo, pmd = (read(RECIPES / "pocket" / f"{name}.yaml").model_dump(exclude=own) for name in ("sdpo", "pmd"))
    assert sdpo == pmd


def numbers(tree: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type]]:
    for name, value in tree:
        if isinstance(value, BaseModel):
            yield from numbers(value, (*path, name))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, name), type(value)


@pytest.mark.parametrize(("path", "kind"), list(numbers(read(RECIPES / "pocket.yaml"))), ids=str)
def test_every_number_of_a_recipe_has_bounds(path: tuple[str, ...], kind: type) -> None:
    """JSON can't write what is not finite, and no database holds every integer: both would fail at some later step."""
    for wrong in (True, False, *((10**30,) if kind is int else (float("inf"), float("-inf"), float("nan")))):
        over: Any = wrong
        for part in reversed(path):
            over = {part: over}
        with pytest.raises(InvalidRecipe) as refused:
            parse_recipe(load_recipe(RECIPES / "pocket.yaml", over))
        assert [field["field"] for field in refused.value.fields] == [".".join(path)]


def test_false_does_not_freeze_the_memory_at_step_0() -> None:
    with pytest.raises(InvalidRecipe, match=r"memory.freeze_at_step: a number, not true or false"):
        parse_recipe(load_recipe(RECIPES / "pocket.yaml", parse_overrides(["memory.freeze_at_step=false"])))


def test_other_baselines_differ_from_their_method_in_the_objective() -> None:
    paths = sorted((RECIPES / "pocket" / "baselines").glob("*.yaml"))
    assert paths
    for path in paths:
        baseline, method = read(path), read(RECIPES / "pocket" / f"{path.stem.split('-')[0]}.yaml")
        own = {"name", "objective"}
        assert baseline.model_dump(exclude=own) == method.model_dump(exclude=own)
        assert baseline.objective != method.objective


@pytest.mark.parametrize("method", METHODS)
def test_one_key_makes_every_method_of_the_same_recipe(method: MethodName) -> None:
    recipe = parse_recipe(load_recipe(RECIPES / "pocket.yaml", {"method": method}))
    assert recipe.lead_gate == (method in {"sdpo", "pmd"})


def test_more_rollouts_than_can_be_drawn_at_once_are_refused() -> None:
    for key in ("schedule.rollouts_per_problem", "evaluation.samples"):
        with pytest.raises(InvalidRecipe, match=f"{key}: .*1024"):
            parse_recipe(load_recipe(RECIPES / "pocket.yaml", parse_overrides([f"{key}=2000"])))


def test_a_template_that_a_later_step_would_stumble_over_is_refused() -> None:
    over = {"prompts": {"abstract": "{% for insight in insights %}{{ insigth }}{% endfor %}"}}
    with pytest.raises(InvalidRecipe, match=r"prompts.abstract: no variable 'insigth'"):
        parse_recipe(load_recipe(RECIPES / "pocket.yaml", over))


def test_another_source_of_problems_takes_the_place_of_the_extended_one(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        f"extends: {RECIPES / 'pocket.yaml'}\nproblems: {{source: livecodebench, files: {{train: [x.jsonl]}},"
        " since: 2025-02-01}\n"
    )
    tree = load_recipe(tmp_path / "own.yaml")
    files = {"train": [str(tmp_path / "x.jsonl")]}
    assert tree["problems"] == {"source": "livecodebench", "files": files, "since": "2025-02-01"}
    assert str(parse_recipe(tree).problems.since) == "2025-02-01"  # type: ignore[union-attr]


def test_paths_of_overrides_are_where_the_caller_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    over = parse_overrides(["model=examples/pocket/base", "prompts=examples/pocket/prompts"])
    base = str(RECIPES.parent / "examples" / "pocket" / "base")
    assert load_recipe(RECIPES / "pocket.yaml", over) == load_recipe(RECIPES / "pocket.yaml") | {"model": base}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("extends: own.yaml", "in a circle"),
        ("extends: absent.yaml", "absent.yaml: No such file"),
        ("prompts: .", "own.yaml: prompts: .*teacher.jinja"),
        ('prompts: "a\\0b"', "own.yaml: prompts: .*null byte"),
        ("name: !!binary aGVsbG8=", "no YAML: could not determine a constructor"),
        ("- a", "a mapping of keys"),
        ("extends: [a.yaml]", "own.yaml: extends: the path of one other file"),
        ("teacher: {ema: 0.1}\nteacher: {lead_gate: true}", "key 'teacher' stands twice"),
        ("a: " + "[" * 5000, "no YAML: maximum recursion depth"),
    ],
    ids=lambda text: text[:20],
)
def test_a_recipe_that_cannot_be_read_says_why(text: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(RecipeError, match=cause):
        load_recipe(tmp_path / "own.yaml")


@pytest.mark.parametrize("bomb", ["b: [*a, *a]", "b: &b {<<: *a}\nc: *b", "b: &b [*b]"])
def test_a_few_aliases_that_stand_for_too_much_are_refused(
    bomb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_VALUES", 1 << 12)
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &a {x: [" + "1," * (1 << 11) + "]}\n" + f"{bomb}\nd: [*a]\n")
    with pytest.raises(RecipeError, match="stands for over 4096 values"):
        load_recipe(path)
    many = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12))
    path.write_text(f"l0: &l0 [x]\n{many}\n")
    with pytest.raises(RecipeError, match="stands for over"):
        load_recipe(path)
    path.write_text("a: &a {x: [1, 2]}\nb: *a\n")
    assert load_recipe(path) == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("-7", -7),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("2026-01-01", "2026-01-01"),
    ],
)
def test_values_are_read_as_yaml_1_2_reads_them(text: str, value: object, tmp_path: Path) -> None:
    read_back = parse_overrides([f"a={text}"])["a"]
    assert (read_back, type(read_back)) == (value, type(value))
    (tmp_path / "own.yaml").write_text(f"a: {text}")
    assert load_recipe(tmp_path / "own.yaml") == {"a": value}


def test_a_number_of_more_digits_than_can_be_read_is_refused() -> None:
    with pytest.raises(RecipeError, match="no YAML"):
        parse_overrides(["a=" + "1" * 5000])


def test_a_time_is_no_count_of_steps() -> None:
    with pytest.raises(InvalidRecipe, match=r"schedule.steps: must be a valid integer"):
        parse_recipe(load_recipe(RECIPES / "pocket.yaml", parse_overrides(["schedule.steps=1:30"])))
