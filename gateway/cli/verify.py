"""`pmd verify` and `pmd reverify`: completions judged by the verifier, through the gateway."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pmd.gateway.cli.client import CliError, connect
from pmd.gateway.cli.output import AsJson, RunId, console, errors, print_json, print_table, table
from pmd.gateway.recipes.batches import batches

BATCH_ITEMS = 256
"""Of specs and completions in one request; one item may be larger."""
SHOWN = 20
LINE = 100

Item = dict[str, Any]
Answer = tuple[str, str]
"""Problem id, completion."""

Problems = Annotated[Path, typer.Argument(help="Problem file, JSON lines; see docs/recipes.md.")]
Out = Annotated[Path | None, typer.Option(help="Write a line of JSON per verdict here.")]


def verify(
    problems: Problems,
    completions: Annotated[
        Path, typer.Argument(help='JSON lines {"problem_id": .., "completion": ..}; with --problem, one completion.')
    ],
    problem: Annotated[str | None, typer.Option(metavar="ID", help="The problem that COMPLETIONS answers.")] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Judge completions of problems: outcome, reward and feedback of each."""
    specs = read_specs(problems)
    answers = [(problem, _text(completions))] if problem is not None else read_completions(completions)
    for id_, _ in answers:
        if id_ not in specs:
            raise CliError(f"{problems} holds no problem {id_!r}", code=2)
    gateway = connect()
    verdicts: list[Item] = []
    items = [{"verifier": specs[id_], "completion": text} for id_, text in answers]
    for batch in batches(zip(items, items, strict=True), BATCH_ITEMS):
        judged = gateway.post("/v1/verify", {"items": batch})["verdicts"]
        if len(judged) != len(batch):
            raise CliError(f"the verifier answered {len(batch)} completions with {len(judged)} verdicts")
        verdicts += judged
    rows = [{"problem_id": id_, **verdict} for (id_, _), verdict in zip(answers, verdicts, strict=True)]
    if out is not None:
        out.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    if as_json:
        print_json(rows)
        return
    if len(rows) == 1:
        console.print(f"{rows[0]['outcome']}, reward {rows[0]['reward']:g}")
        console.print(escape(rows[0]["feedback"] or rows[0]["error"]), soft_wrap=True)
        return
    rewards = [row["reward"] for row in rows if row["outcome"] != "infra_error"]
    console.print(f"{_counts(Counter(row['outcome'] for row in rows))}; mean reward {_mean(rewards)}")
    _show([(row["problem_id"], row["outcome"], row["feedback"] or row["error"]) for row in rows], "passed")


def reverify(
    run: RunId,
    step: Annotated[int | None, typer.Option(help="Step whose rollouts to judge; the last one unless given.")] = None,
    problems: Annotated[
        Path | None, typer.Option(help="Problem file whose verifier specs take the place of the run's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a step's rollouts again by the verifier of today, and say what changes. Nothing recorded is touched."""
    specs = read_specs(problems) if problems is not None else {}
    found = connect().post(f"/v1/runs/{run}:reverify", {"step": step, "specs": specs})
    if as_json:
        print_json(found)
        return
    console.print(
        f"{found['judged']} rollouts judged, {found['changed']} otherwise than before; mean reward "
        f"{found['mean_reward_old']:.4f} -> {found['mean_reward_new']:.4f}"
    )
    console.print(_counts(found["transitions"]))
    changes = found["changes"]
    _show([(c["rollout_id"], f"{c['old']['outcome']} -> {c['new']['outcome']}", c["new"]["feedback"]) for c in changes])


def read_specs(path: Path) -> dict[str, Item]:
    """Verifier specs by problem id. Records that are wrong are named and left out.

    Raises:
        CliError: the file can't be read, or no record in it is right.
    """
    from pmd.gateway.recipes.datasets.records import Unreadable, load  # noqa: PLC0415 - loads fsspec
    from pmd.services.common.wire import Problem  # noqa: PLC0415

    try:
        found, bad = load([str(path)], lambda record, _: Problem.model_validate(record))
    except Unreadable as error:
        raise CliError(str(error), code=2) from error
    for record in bad[:SHOWN]:
        errors.print(f"[yellow]left out:[/] {escape(str(record))}", soft_wrap=True)
    if not found:
        raise CliError(f"{path} holds no problem", code=2)
    return {problem.id: problem.verifier for problem in found}


def read_completions(path: Path) -> list[Answer]:
    """Problem ids and completions, in the order of the file.

    Raises:
        CliError: naming the line and the field that is wrong.
    """
    answers: list[Answer] = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CliError(f"{path} line {number} is no JSON: {error}", code=2) from error
        for field in ("problem_id", "completion"):
            if not isinstance(record, dict) or not isinstance(record.get(field), str):
                raise CliError(f"{path} line {number}: field {field!r} must be a text", code=2)
        answers.append((record["problem_id"], record["completion"]))
    if not answers:
        raise CliError(f"{path} holds no completion", code=2)
    return answers


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CliError(f"{path} can't be read: {error}", code=2) from error


def _counts(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))


def _mean(rewards: Sequence[float]) -> str:
    return f"{sum(rewards) / len(rewards):.4f}" if rewards else "unknown"


def _show(rows: Sequence[tuple[str, str, str]], dull: str = "") -> None:
    """The first rows that tell something, a line each."""
    telling = [row for row in rows if row[1] != dull]
    if not telling:
        return
    shown = table("id", "outcome", "feedback")
    for id_, outcome, text in telling[:SHOWN]:
        shown.add_row(escape(id_), outcome, escape(" ".join(text.split())[:LINE]))
    print_table(shown)
    if len(telling) > SHOWN:
        console.print(f"and {len(telling) - SHOWN} more; --json has all")
