"""What a run starts with: checked problems, prompts without answers, a sealed base model."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pmd.gateway.recipes.inputs import Inputs
from pmd.gateway.recipes.problems import InvalidRecipe, load_problems, materialise, parse_recipe, problems_of
from pmd.gateway.recipes.recipe import PocketProblems, Recipe
from pmd.services.common.artifacts import check_weights, load_messages, local_path, read_problems, read_table
from pmd.services.common.options import HardwareSettings, ObjectiveSettings

Make = Callable[..., Recipe]
Tree = Callable[..., dict[str, Any]]


def write(path: Path, *problems: dict[str, Any]) -> str:
    path.write_text("\n".join(json.dumps(p) for p in problems))
    return str(path)


def one(id_: str, split: str = "train", text: str = "") -> dict[str, Any]:
    return {
        "id": id_,
        "messages": [{"role": "user", "content": text or id_}],
        "verifier": {"kind": "exact", "answer": "x"},
        "split": split,
    }


def refusal(call: Callable[[], Any]) -> dict[str, str]:
    with pytest.raises(InvalidRecipe) as caught:
        call()
    return caught.value.fields[0]


def test_law_4_prompts_hold_no_answers(recipe: Make, tmp_path: Path) -> None:
    inputs = materialise(recipe(), "demo-1", f"file://{tmp_path}/runs")
    rows = read_table(inputs.prompts)
    assert b"secret-answer" not in local_path(inputs.prompts.uri).read_bytes()
    assert "secret-answer" not in json.dumps(rows)
    assert set(rows[0]) == {"prompt_id", "problem_id", "split", "messages"}
    problems = read_problems(inputs.problems)
    assert problems["train-0"].verifier["answer"] == "secret-answer"
    assert inputs.evaluation == ("test-0", "test-1", "unseen-0", "unseen-1")
    assert inputs.train == tuple(f"train-{n}" for n in range(6)), "what is evaluated is never practised (Law 3)"


def test_what_is_evaluated_is_what_the_recipe_names(recipe: Make, tmp_path: Path) -> None:
    inputs = materialise(recipe(evaluation={"splits": ["unseen"]}), "demo-1", f"file://{tmp_path}/runs")
    assert inputs.evaluation == ("unseen-0", "unseen-1")


def test_law_1_a_prompt_is_what_the_problem_says_and_nothing_else(recipe: Make, tmp_path: Path) -> None:
    inputs = materialise(recipe(), "demo-1", f"file://{tmp_path}/runs")
    problems = read_problems(inputs.problems)
    prompts = {row["prompt_id"]: load_messages(row["messages"]) for row in read_table(inputs.prompts)}
    assert prompts == {id_: problem.messages for id_, problem in problems.items()}


def test_materialising_twice_gives_the_same_bytes(recipe: Make, tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/runs"
    assert materialise(recipe(), "demo-1", uri) == materialise(recipe(), "demo-1", uri)


def test_version_0_is_the_base_models_own_files(recipe: Make, model: Path, tmp_path: Path) -> None:
    inputs = materialise(recipe(), "demo-1", f"file://{tmp_path}/runs")
    folder = check_weights(inputs.base)
    assert folder.name == "v0000"
    assert (folder / "model.safetensors").stat().st_ino == (model / "model.safetensors").stat().st_ino
    assert not (model / "manifest.json").exists()


def test_one_run_created_twice_at_once_gets_the_base_model_whole(
    recipe: Make, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is on another file system, and the second request does everything while the first copies a file."""
    begun: list[Path] = []
    second: list[Inputs] = []

    def other_file_system(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def interrupted(origin: Path, target: Path) -> None:
        data = origin.read_bytes()
        with target.open("wb") as file:
            file.write(data[:1])
            if not begun:
                begun.append(target)
                second.append(materialise(recipe(), "r", f"file://{tmp_path}"))
            file.write(data[1:])

    monkeypatch.setattr("os.link", other_file_system)
    monkeypatch.setattr("shutil.copyfile", interrupted)
    first = materialise(recipe(), "r", f"file://{tmp_path}")
    assert [first] == second
    folder = check_weights(first.base)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*(p.name for p in model.iterdir()), "manifest.json"])
    assert [p.name for p in folder.parent.iterdir()] == ["v0000"]


def test_a_creation_that_was_cut_short_is_not_continued_with_another_model(
    recipe: Make, model: Path, tmp_path: Path
) -> None:
    before = materialise(recipe(), "r", f"file://{tmp_path}")
    other = shutil.copytree(model, tmp_path / "other")
    (other / "model.safetensors").write_bytes(b"other weights")
    error = refusal(lambda: materialise(recipe(model=str(other)), "r", f"file://{tmp_path}"))
    assert error["field"] == "model"
    assert "new Idempotency-Key" in error["message"]
    check_weights(before.base)


def test_a_model_that_is_a_folder_of_links_is_followed(recipe_tree: Tree, model: Path, tmp_path: Path) -> None:
    links = tmp_path / "snapshot"
    links.mkdir()
    for path in model.iterdir():
        (links / path.name).symlink_to(path)
    inputs = materialise(parse_recipe(recipe_tree(model=str(links))), "demo-1", f"file://{tmp_path}/runs")
    assert not (check_weights(inputs.base) / "model.safetensors").is_symlink()


@pytest.mark.parametrize(
    ("model_path", "message"),
    [
        ("/nowhere/at/all", "no folder /nowhere/at/all"),
        ("../relative/path", "relative path"),
        ("s3://bucket/model", "not on a file system"),
    ],
)
def test_a_model_that_is_not_there_is_refused(model_path: str, message: str, recipe: Make, tmp_path: Path) -> None:
    field = refusal(lambda: materialise(recipe(model=model_path), "demo-1", f"file://{tmp_path}/runs"))
    assert field["field"] == "model"
    assert message in field["message"]


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("model.safetensors", "*.safetensors"),
        ("tokenizer.json", "tokenizer.json"),
        ("chat_template.jinja", "chat template"),
    ],
)
def test_a_folder_without_weights_tokenizer_or_chat_template_is_no_model(
    missing: str, named: str, recipe: Make, model: Path, tmp_path: Path
) -> None:
    (model / missing).unlink()
    (model / "tokenizer_config.json").write_text("{}")
    field = refusal(lambda: materialise(recipe(), "demo-1", f"file://{tmp_path}/runs"))
    assert field["field"] == "model"
    assert f"holds no {named}" in field["message"]


def test_an_older_models_chat_template_is_in_its_tokenizers_configuration(
    recipe: Make, model: Path, tmp_path: Path
) -> None:
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    materialise(recipe(), "demo-1", f"file://{tmp_path}/runs")


def test_a_bad_record_is_named_by_file_line_and_field_and_the_rest_loads(recipe_tree: Tree, tmp_path: Path) -> None:
    bad = one("b")
    del bad["verifier"]
    path = write(tmp_path / "p.jsonl", one("a"), bad, one("c"))
    source = parse_recipe(recipe_tree(problems={"files": [path]})).problems
    problems, left_out = load_problems(source)
    assert [p.id for p in problems] == ["a", "c"]
    assert [str(record) for record in left_out] == [f"{path} line 2: field 'verifier': missing; it must be given"]


def test_files_without_one_right_record_are_refused(recipe_tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("{nonsense")
    source = parse_recipe(recipe_tree(problems={"files": [str(tmp_path / "q.jsonl")]})).problems
    field = refusal(lambda: load_problems(source))
    assert field["field"] == "problems.files"
    assert "line 1: no JSON" in field["message"]
    source = parse_recipe(recipe_tree(problems={"files": ["/no/such/file.jsonl"]})).problems
    assert "can't be read" in refusal(lambda: load_problems(source))["message"]


def test_a_run_says_which_records_it_left_out(recipe: Make, problem_file: Path, tmp_path: Path) -> None:
    problem_file.write_text(problem_file.read_text() + "\n[]\n")
    inputs = materialise(recipe(), "demo-1", f"file://{tmp_path}/runs")
    assert inputs.bad_records == 1
    assert "a record is a JSON object, not list" in inputs.bad_examples[0]


def test_one_id_that_is_taken_is_left_out_and_named_like_other_bad_records(recipe_tree: Tree, tmp_path: Path) -> None:
    files = [write(tmp_path / "1.jsonl", one("a"), one("b"), one("a")), write(tmp_path / "2.jsonl", one("b"), one("c"))]
    problems, bad = load_problems(parse_recipe(recipe_tree(problems={"files": files})).problems)
    assert [p.id for p in problems] == ["a", "b", "c"]
    assert [(b.where.rsplit("/")[-1], b.field) for b in bad] == [("1.jsonl line 3", "id"), ("2.jsonl line 1", "id")]
    assert "'a' is the id of an earlier record" in bad[0].message


def test_prompts_that_training_would_mask_are_known_at_creation(
    recipe_tree: Tree, problem_file: Path, tmp_path: Path
) -> None:
    base = str(Path(__file__).parents[3] / "examples/pocket/base")

    def made(limit: int, **over: Any) -> Inputs:
        tree = recipe_tree(model=base, objective={"max_prompt_tokens": limit}, **over)
        return materialise(parse_recipe(tree), f"demo-{limit}", f"file://{tmp_path}/runs")

    refused = refusal(lambda: made(5))
    assert refused["field"].endswith("max_prompt_tokens")
    assert "all 6 train problems have more than 5 tokens" in refused["message"]
    problem_file.write_text(problem_file.read_text() + "\n" + json.dumps(one("long", text="word " * 3000)))
    inputs = made(2048)
    assert inputs.too_long == 1
    assert inputs.long_examples[0].startswith("problem long: at least ")
    assert made(5, method="memory_agent").too_long == 0  # nothing is trained


def test_law_3_an_evaluation_problem_is_never_a_training_problem(recipe_tree: Tree, tmp_path: Path) -> None:
    twice = write(tmp_path / "ids.jsonl", one("a"), one("a", "test"))
    source = parse_recipe(recipe_tree(problems={"files": [twice]})).problems
    assert [(p.id, p.split) for p in load_problems(source)[0]] == [("a", "train")]
    twins = write(tmp_path / "twins.jsonl", one("a", text="same"), one("b", "test", text="same"))
    source = parse_recipe(recipe_tree(problems={"files": [twins]})).problems
    assert "asks what train problem 'a' asks" in refusal(lambda: load_problems(source))["message"]
    shared = parse_recipe(recipe_tree(problems={"files": [twins], "shared_questions": True})).problems
    assert [p.id for p in load_problems(shared)[0]] == ["a", "b"]


def test_a_run_without_problems_is_refused(recipe_tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    tree = recipe_tree(method="base")
    tree["problems"] = {"source": "jsonl", "files": [str(tmp_path / "empty.jsonl")]}
    assert refusal(lambda: materialise(parse_recipe(tree), "demo", f"file://{tmp_path}"))["field"] == "problems"


def test_a_store_without_its_driver_is_a_recipes_mistake(recipe_tree: Tree) -> None:
    tree = recipe_tree(problems={"files": ["nosuch://store/problems.jsonl"]})
    assert "can't be read" in refusal(lambda: problems_of(parse_recipe(tree)))["message"]


def test_a_step_larger_than_the_training_set_is_refused(recipe: Make, tmp_path: Path) -> None:
    big = recipe(schedule={"problems_per_step": 7})
    field = refusal(lambda: materialise(big, "demo-1", f"file://{tmp_path}/runs"))
    assert field == {
        "field": "schedule.problems_per_step",
        "message": "7 problems a step, but only 6 of split train",
    }


def test_pocket_problems_are_of_three_splits() -> None:
    problems, _ = load_problems(PocketProblems(source="pocket", kind="choice", train=8, test=4, unseen=4))
    assert [p.split for p in problems] == ["train"] * 8 + ["test"] * 4 + ["unseen"] * 4


def test_more_pocket_problems_than_there_are_is_a_recipes_mistake() -> None:
    source = PocketProblems(source="pocket", kind="code", train=100_000)
    assert refusal(lambda: load_problems(source))["field"] == "problems"


@pytest.mark.parametrize(
    ("section", "key", "now"),
    [
        *(
            ("optimizer", key, f"{section}.{key}")
            for section, model in (("objective", ObjectiveSettings), ("hardware", HardwareSettings))
            for key in model.model_fields
            if key not in {"divergence_alpha", "entropy_floor"}  # had another name; is a key of alarms too
        ),
        ("optimizer", "alpha", "objective.divergence_alpha"),
        ("retrieval", "alpha", "retrieval.vector_weight"),
    ],
)
def test_law_11_a_key_that_has_moved_is_refused_with_its_place(
    section: str, key: str, now: str, recipe_tree: Tree
) -> None:
    told = refusal(lambda: parse_recipe(recipe_tree(**{section: {key: 1}})))
    assert told == {"field": f"{section}.{key}", "message": f"unknown key {key!r}; did you mean {now!r}?"}


@pytest.mark.parametrize(
    ("over", "field", "message"),
    [
        ({"teacher": {"emma": 1}}, "teacher.emma", "unknown key 'emma'; did you mean 'ema'?"),
        ({"scedule": {}}, "scedule", "unknown key 'scedule'; did you mean 'schedule'?"),
        ({"problems": {"fils": []}}, "problems.fils", "unknown key 'fils'; did you mean 'files'?"),
        ({"lr": 1e-3}, "lr", "unknown key 'lr'; did you mean 'optimizer.lr'?"),
        ({"optimizer": {"lr": -1}}, "optimizer.lr", "must be greater than 0"),
        ({"memory": {"levels": ["insight", "insight"]}}, "memory.levels", "names one twice"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature", "greedy rollouts are all the same"),
        ({"sampling": {"temperature": 1e-9}}, "sampling.temperature", "give 0 for greedy choices"),
        (
            {"method": "grpo", "schedule": {"rollouts_per_problem": 1}},
            "schedule.rollouts_per_problem",
            "grpo compares rollouts of a problem with each other; give 2 or more",
        ),
        ({"generator": {"model": "big"}}, "generator.base_url", "needed for a model"),
        ({"generator": {"model": "big", "base_url": "host:80"}}, "generator.base_url", "should match pattern"),
        ({"memory": {"quality": {"quarantine": True}}}, "memory.quality.quarantine", "needs memory.quality.hold_out"),
        ({"memory": {"quality": {"hold_out": 0.1}}}, "memory.quality.hold_out", "needs teacher.lead_gate"),
        ({"method": "memory_agent", "memory": {"levels": []}}, "memory.levels", "memory_agent without memory is base"),
    ],
)
def test_law_11_a_wrong_key_is_named_with_the_nearest_valid_one(
    over: dict[str, Any], field: str, message: str, recipe_tree: Tree
) -> None:
    said = refusal(lambda: parse_recipe(recipe_tree(**over)))
    assert said["field"] == field
    assert message in said["message"]


def test_what_a_recipe_lacks_is_a_sentence(recipe_tree: Tree) -> None:
    tree = recipe_tree()
    del tree["optimizer"]
    assert refusal(lambda: parse_recipe(tree)) == {"field": "optimizer", "message": "missing; it must be given"}


def test_a_line_that_is_no_json_names_no_empty_field(recipe_tree: Tree, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(one("a")) + "\nno json")
    _, bad = load_problems(parse_recipe(recipe_tree(problems={"files": [str(path)]})).problems)
    assert str(bad[0]).startswith(f"{path} line 2: no JSON: ")
