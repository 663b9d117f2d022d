"""What a run starts with, written once when it is created: its problems, its prompts, its base model.

Invariants:
- `prompts.*.parquet` holds questions only. Expected answers are in `problems.*.parquet`, which goes to the verifier and
  the memory service and never to the rollout service (Law 4).
- Problem ids are unique: of records with one id the first is used. No evaluation problem is a training problem (Law 3).
- Version 0 is the base model's own files (hard links where the disk allows), sealed by a manifest, which names the
  folder or the commit of the hub that they are from. Weights in other formats stay behind.
- A bank that the run begins with is a file below the run, too (`start`).
- A record that is wrong, or whose spec the verifier refuses, is left out and reported; the rest is used.
- A creation that was cut short can be repeated, or made twice at once: what is written has the same bytes or another
  name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pmd.gateway.recipes import hub
from pmd.gateway.recipes.datasets import huggingface, livecodebench, reasoning_gym, sciknoweval
from pmd.gateway.recipes.datasets.records import BadRecord, Cut, Decode, Unreadable, load
from pmd.gateway.recipes.downloads import Fetch
from pmd.gateway.recipes.inputs import Inputs
from pmd.gateway.recipes.lengths import too_long
from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.recipes.models.checks import refuse, warnings
from pmd.gateway.recipes.models.estimate import too_large
from pmd.gateway.recipes.models.resolve import HubAway, Located, check_name, locate
from pmd.gateway.recipes.models.shape import Facts, ModelError, belongs, read_facts, weight_files
from pmd.gateway.recipes.recipe import (
    OF_RUN,
    FileProblems,
    HuggingFaceProblems,
    LiveCodeBenchProblems,
    PocketProblems,
    ProblemSource,
    ReasoningGymProblems,
    Recipe,
    SciKnowEvalProblems,
)
from pmd.gateway.recipes.start import FIELD, Banks, Start, WrongStart, find_start, freeze
from pmd.services.common.allowed import Allowed, NotAllowed
from pmd.services.common.artifacts import (
    MANIFEST,
    ROW_GROUP,
    dump_messages,
    join,
    local_path,
    seal_weights,
    write_problems,
    write_table,
)
from pmd.services.common.columns import PROMPTS
from pmd.services.common.strict import explain
from pmd.services.common.wire import Problem, Split, Weights

SHOWN = 20
"""Bad records that are named; the rest is counted."""

Loaded = tuple[list[Problem], list[BadRecord]]


class InvalidRecipe(ValueError):
    """The recipe can't be carried out; `fields` name what is wrong, by dotted key."""

    def __init__(self, fields: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{field['field']}: {field['message']}" for field in fields))
        self.fields = fields


class Away(InvalidRecipe):
    """What the recipe names of the hub is not here and no hub answers; the same recipe may be valid later."""


def _invalid(field: str, message: str) -> InvalidRecipe:
    return InvalidRecipe([{"field": field, "message": message}])


def parse_recipe(tree: dict[str, Any]) -> Recipe:
    """The recipe that `tree` describes.

    Raises:
        InvalidRecipe: naming each wrong key, and the nearest valid one for an unknown key.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise InvalidRecipe([_readable(field, tree) for field in explain(error, Recipe)]) from error


def _readable(field: dict[str, str], tree: dict[str, Any]) -> dict[str, str]:
    """A pydantic message as people write keys: no union tags in the path, the key of a cross-check as the field."""
    path, message = field["field"], field["message"].removeprefix("Value error, ")
    problems = tree.get("problems")
    tag = problems.get("source") if isinstance(problems, dict) else None
    if tag and path.startswith(f"problems.{tag}"):
        path = "problems" + path.removeprefix(f"problems.{tag}")
    if not path and ": " in message:  # written by `Recipe` itself as "dotted.key: cause and fix"
        path, message = message.split(": ", 1)
    return {"field": path, "message": message}


def check_allowed(recipe: Recipe, allowed: Allowed, *, own_model: bool = False) -> None:
    """Look at every URL and path that a recipe names, before any is opened.

    Args:
        own_model: the model is the installation's own, wherever it keeps it.

    Raises:
        InvalidRecipe: the installation does not let recipes name one.
    """
    source = recipe.problems
    files: Sequence[str] = ()
    checks: list[tuple[str, str, Callable[[str], None]]] = []
    if isinstance(source, FileProblems):
        files = source.files
    elif isinstance(source, HuggingFaceProblems) and source.dataset is not None:
        checks.append(("problems.dataset", source.dataset, lambda name: huggingface.check_name(name, allowed)))
    elif not isinstance(source, PocketProblems | ReasoningGymProblems):
        files = [file for each in source.files.values() for file in each]
    if not own_model:
        checks.append(("model", recipe.model, lambda name: check_name(name, allowed)))
    checks += [("problems.files", file, allowed.check_file) for file in files]
    if recipe.start_from is not None and not recipe.start_from.startswith(OF_RUN):
        checks.append((FIELD, recipe.start_from, allowed.check_file))
    if recipe.generator.base_url is not None:
        checks.append(("generator.base_url", recipe.generator.base_url, allowed.check_url))
    for field, name, check in checks:
        _check(field, name, check)


def _check(field: str, name: str, check: Callable[[str], None]) -> None:
    try:
        check(name)
    except NotAllowed as error:
        raise _invalid(field, str(error)) from None
    except (OSError, ValueError) as error:
        raise _invalid(field, f"no path: {error}") from None


def load_problems(source: ProblemSource) -> Loaded:
    """The problems of a recipe, checked, and the records of its files that are left out because they are wrong.

    Raises:
        InvalidRecipe: the set as a whole can't be used: a file can't be read, no record is right, an evaluation
            problem is a training problem.
    """
    problems, bad = _load(source)
    trained = {dump_messages(p.messages): p.id for p in problems if p.split == "train"}
    if isinstance(source, PocketProblems | ReasoningGymProblems) or not source.shared_questions:
        for problem in problems:
            twin = trained.get(dump_messages(problem.messages))
            if problem.split != "train" and twin is not None:
                raise _invalid(
                    "problems",
                    f"{problem.split} problem {problem.id!r} asks what train problem {twin!r} asks; remove one, or set"
                    " problems.shared_questions if only their hidden tests differ",
                )
    return problems, bad


Refused = Callable[[Sequence[Problem]], Mapping[str, BadRecord]]
"""What the verifier has against the specs of problems, by problem id."""


def problems_of(recipe: Recipe, refused: Refused = lambda _: {}) -> Loaded:
    """`load_problems` of a recipe that can be carried out with them.

    Raises:
        InvalidRecipe: also when there is nothing to do, or too little for a step.
    """
    problems, bad = load_problems(recipe.problems)
    if not isinstance(recipe.problems, PocketProblems):
        wrong = refused(problems)
        problems, bad = [problem for problem in problems if problem.id not in wrong], [*bad, *wrong.values()]
        _refuse_if_none(problems, bad)
    if not problems:
        raise _invalid("problems", "no problem in them; a run needs one")
    trained = sum(problem.split == "train" for problem in problems)
    per_step = recipe.schedule.problems_per_step
    if not METHODS[recipe.method].evaluates_only and recipe.schedule.steps and per_step > trained:
        raise _invalid("schedule.problems_per_step", f"{per_step} problems a step, but only {trained} of split train")
    return problems, bad


def long_prompts(recipe: Recipe, problems: Sequence[Problem], base: Base) -> list[str]:
    """Train problems that training would mask because their prompt is too long, each with its length.

    Raises:
        InvalidRecipe: when that is all of them: nothing would be learnt.
    """
    if not recipe.trains:
        return []
    limit, trained = recipe.train_settings().max_prompt_tokens, [p for p in problems if p.split == "train"]
    long = too_long(trained, base.located.folder, limit)
    if long and len(long) == len(trained):
        shortest = min(tokens for _, tokens in long)
        message = (
            f"all {len(long)} train problems have more than {limit} tokens, so none would be trained on; the shortest"
            f" has {shortest} and the chat template: give more"
        )
        raise _invalid("objective.max_prompt_tokens", message)
    return [f"problem {problem.id}: at least {tokens} tokens, max_prompt_tokens is {limit}" for problem, tokens in long]


def _load(source: ProblemSource) -> Loaded:
    if isinstance(source, PocketProblems):
        return list(_pocket(source)), []
    if isinstance(source, ReasoningGymProblems):
        try:
            return reasoning_gym.generate(source)
        except ValueError as error:
            raise _invalid("problems", str(error)) from error
    return _from_files(source)


def _from_files(source: FileProblems | LiveCodeBenchProblems | SciKnowEvalProblems | HuggingFaceProblems) -> Loaded:
    problems: list[Problem] = []
    bad: list[BadRecord] = []
    try:
        if isinstance(source, FileProblems):
            problems, bad = load(source.files, lambda record, _: Problem.model_validate(record))
        else:
            known: set[str] = set()
            by_split = huggingface.files_of(source)[0] if isinstance(source, HuggingFaceProblems) else source.files
            for split, files in by_split.items():
                found, wrong = load(files, _decoder(source, split), known, _cut(source, split))
                problems += found
                bad += wrong
    except Unreadable as error:
        raise _unreadable(source, error) from error
    _refuse_if_none(problems, bad)
    return problems, bad


def _unreadable(source: ProblemSource, error: Unreadable) -> InvalidRecipe:
    by_name = isinstance(source, HuggingFaceProblems) and source.dataset is not None
    fields = [{"field": "problems.dataset" if by_name else "problems.files", "message": str(error)}]
    return Away(fields) if isinstance(error.__cause__, hub.HubAway) else InvalidRecipe(fields)


def _cut(source: LiveCodeBenchProblems | SciKnowEvalProblems | HuggingFaceProblems, split: Split) -> Cut | None:
    text = source.rows.get(split) if isinstance(source, HuggingFaceProblems) else None
    if text is None:
        return None
    if "%" in text or "-" in text:
        return lambda total: huggingface.rows(text, total)
    return huggingface.rows(text, 0)  # what comes behind the last row is not read


def _refuse_if_none(problems: list[Problem], bad: list[BadRecord]) -> None:
    if bad and not problems:
        raise InvalidRecipe([{"field": "problems.files", "message": str(record)} for record in bad[:SHOWN]])


def _decoder(source: LiveCodeBenchProblems | SciKnowEvalProblems | HuggingFaceProblems, split: Split) -> Decode:
    if isinstance(source, HuggingFaceProblems):
        return lambda record, id_: huggingface.decode(record, f"{split}-{id_}", split, source.columns)
    if isinstance(source, SciKnowEvalProblems):
        return lambda record, id_: sciknoweval.decode(record, split, id_, types=source.types)
    share = source.train_tests if split == "train" else 1.0
    return lambda record, _: livecodebench.decode(record, split, since=source.since, until=source.until, share=share)


def _pocket(source: PocketProblems) -> Iterator[Problem]:
    from pmd.examples.pocket.world import problem_sets  # noqa: PLC0415 -- a gateway without the example still starts

    try:
        sets = problem_sets(**source.model_dump(exclude={"source"}))
    except ValueError as error:
        raise _invalid("problems", str(error)) from error
    for records in sets.values():
        yield from (Problem.model_validate(record) for record in records)


NO_BANKS = Banks()


def start_of(recipe: Recipe, problems: Sequence[Problem], banks: Banks) -> Start | None:
    """The bank that a recipe's run begins with.

    Raises:
        InvalidRecipe: when it can't.
    """
    try:
        return find_start(recipe, problems, banks)
    except WrongStart as error:
        raise _invalid(FIELD, str(error)) from error


def materialise(
    recipe: Recipe,
    run: str,
    runs_uri: str,
    refused: Refused = lambda _: {},
    base: Base | None = None,
    banks: Banks = NO_BANKS,
) -> Inputs:
    """Write what `run` starts with below `runs_uri`; `base` is found unless given.

    Raises:
        InvalidRecipe: when the problems, the model or the bank to begin with can't be used.
    """
    recipe = find_data(recipe)
    base = base or find_base(recipe)
    problems, bad = problems_of(recipe, refused)
    long = long_prompts(recipe, problems, base)
    said = advise(recipe, base, problems)
    start = start_of(recipe, problems, banks)
    train = tuple(p.id for p in problems if p.split == "train")
    evaluation = tuple(p.id for p in problems if p.split in recipe.evaluation.splits)
    # What the verifier refuses depends on whether it answers: a creation that is repeated may find other problems.
    mark = hashlib.sha256("\n".join(p.id for p in problems).encode()).hexdigest()[:8]
    root = join(runs_uri, run)
    sealed = _link_base(base.located, join(root, "weights", "v0000"), run)
    prompts = (
        {"prompt_id": p.id, "problem_id": p.id, "split": p.split, "messages": dump_messages(p.messages)}
        for p in problems
    )
    return Inputs(
        root=root,
        model=base.located.name,
        base=sealed,
        problems=write_problems(join(root, "problems", f"problems.{mark}.parquet"), problems),
        prompts=write_table(join(root, "problems", f"prompts.{mark}.parquet"), prompts, PROMPTS, row_group=ROW_GROUP),
        train=train,
        evaluation=evaluation,
        source=getattr(recipe.problems, "dataset", None) or "",
        too_long=len(long),
        long_examples=tuple(long[:SHOWN]),
        bad_records=len(bad),
        bad_examples=tuple(str(record) for record in bad[:SHOWN]),
        warnings=tuple(said),
        start=freeze(start, root),
    )


def dataset_of(recipe: Recipe) -> str:
    """The data set of the hub that a recipe's problems are from; empty where they are from elsewhere."""
    source = recipe.problems
    return (source.dataset or "") if isinstance(source, HuggingFaceProblems) else ""


def find_data(recipe: Recipe, fetch: Fetch = hub.snapshot) -> Recipe:
    """The recipe with its data set at one commit, whose files are here; as it is where it names none of the hub.

    Raises:
        InvalidRecipe: there is no such data set, or none of its files is of a split.
        Away: it is not here and no hub answers.
        Exception: what `fetch` raises.
    """
    source = recipe.problems
    if not isinstance(source, HuggingFaceProblems) or source.dataset is None:
        return recipe
    try:
        _, name = huggingface.files_of(source, fetch)
    except Unreadable as error:
        raise _unreadable(source, error) from error
    return recipe.model_copy(update={"problems": source.model_copy(update={"dataset": name})})


@dataclass(frozen=True)
class Base:
    """The base model of a run, looked at."""

    located: Located
    facts: Facts


def find_base(recipe: Recipe, find: Callable[[str], Located] = locate) -> Base:
    """The recipe's base model, which it can run on.

    Args:
        find: what a name of `model` leads to; raises `ModelError`.

    Raises:
        InvalidRecipe: when it is no Hugging Face folder with safetensors, a tokenizer and a chat template, or one that
            this recipe can't work with.
        Away: when it is a name, its files are not here and no hub answers.
    """
    located = find_model(recipe.model, find)
    try:
        facts = read_facts(located.folder)
        refuse(recipe, facts)
    except ModelError as error:
        raise _of_model(error) from error
    return Base(located, facts)


def find_model(model: str, find: Callable[[str], Located]) -> Located:
    """What a recipe's `model` leads to, whether or not one can run on it.

    Raises:
        InvalidRecipe: `find` finds none.
        Away: as `find_base` has it.
    """
    try:
        return find(model)
    except ModelError as error:
        raise _of_model(error) from error


def _of_model(error: ModelError) -> InvalidRecipe:
    fields = [{"field": error.field, "message": str(error)}]
    return Away(fields) if isinstance(error, HubAway) else InvalidRecipe(fields)


def advise(recipe: Recipe, base: Base, problems: Sequence[Problem]) -> list[str]:
    """What may go wrong with this model, a sentence each.

    Raises:
        InvalidRecipe: when no problem leaves room for its answer.
    """
    try:
        said = warnings(recipe, base.facts, problems)
    except ModelError as error:
        raise _of_model(error) from error
    large = too_large(base.facts.shape, recipe, _memory())
    return [*said, large] if large else said


def _memory() -> int | None:
    """Bytes of this machine's memory; None where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _link_base(model: Located, uri: str, run: str) -> Weights:
    """Version 0 of `run`: complete or absent, however often and at once it is made."""
    source, folder = model.folder, local_path(uri)
    weights = weight_files(source)
    part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    part.mkdir(parents=True)
    try:
        for path in sorted(source.iterdir()):
            if path.name == MANIFEST or not path.is_file() or not belongs(path.name, weights):
                continue
            origin = path.resolve()  # model caches hold links to blobs; a hard link to a link would dangle
            try:
                os.link(origin, part / path.name)
            except OSError:
                shutil.copyfile(origin, part / path.name)
        sealed = seal_weights(part, 0, {"run": run, "step": 0, "base_model": model.name})
        try:
            part.rename(folder)
        except OSError:  # it is there: the creation is repeated, or made twice at the same time
            if (folder / MANIFEST).read_bytes() != (part / MANIFEST).read_bytes():
                message = f"run {run!r} was begun with another base model; use a new Idempotency-Key"
                raise _invalid("model", message) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sealed.model_copy(update={"uri": f"file://{folder}"})
