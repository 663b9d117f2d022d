"""`pmd runs samples`: attempts of a step, as they were drawn and judged."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer
from rich.markup import escape

from pmd.gateway.cli.client import connect
from pmd.gateway.cli.output import AsJson, RunId, console, print_json

app = typer.Typer()

OUTCOME_STYLE = {"passed": "green", "infra_error": "yellow", "": "dim"}


@app.command("samples")
def samples(
    run: RunId,
    step: Annotated[int | None, typer.Option(min=0, help="The newest that has some, if missing.")] = None,
    drawn: Annotated[
        Literal["train", "probe", "evaluation"],
        typer.Option(help="What they were drawn for; a probe is drawn with its teacher's context."),
    ] = "train",
    split: Annotated[str | None, typer.Option(help="train, test or unseen; all if missing.")] = None,
    outcome: Annotated[
        str | None, typer.Option(help="passed, failed, timeout, memory, output_limit, format or infra_error.")
    ] = None,
    problem: Annotated[str | None, typer.Option(help="Only attempts at this problem.")] = None,
    context: Annotated[bool, typer.Option("--context", help="With what the teacher was shown for each.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 8,
    offset: Annotated[int, typer.Option(min=0, help="Attempts to pass over.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show attempts of a step: what was asked, what the model wrote, verdict and feedback."""
    gateway = connect()
    asked = {"step": step, "drawn": drawn, "split": split, "outcome": outcome, "problem_id": problem}
    page = gateway.get(f"/v1/runs/{run}/rollouts", **asked, sort="problem", limit=limit, offset=offset)
    of_step = f"/v1/runs/{run}/steps/{page['step']}/rollouts"
    attempts = [gateway.get(f"{of_step}/{quote(row['id'], safe='')}", drawn=drawn) for row in page["rollouts"]]
    if as_json:
        print_json({"step": page["step"], "drawn": drawn, "total": page["total"], "rollouts": attempts})
        return
    for problem_id, of_problem in groupby(attempts, key=lambda each: each["row"]["problem_id"]):
        for n, attempt in enumerate(of_problem):
            if not n:
                console.rule(f"[bold]{escape(problem_id)}[/]", align="left")
                _show_messages(attempt["problem"])
            _show_attempt(attempt, context=context)
    end = offset + len(attempts)
    counted = f"{offset + 1} to {end} of {page['total']}" if attempts else f"none of {page['total']}"
    more = f"; more: --offset {end}" if end < page["total"] else ""
    console.print(f"[dim]step {page['step']}, {drawn}: attempts {counted} that match{more}[/]", soft_wrap=True)


def _show_messages(messages: list[dict[str, Any]]) -> None:
    for message in messages:
        said = message["content"] if len(messages) == 1 else f"{message['role']}: {message['content']}"
        console.print(said, style="dim", markup=False, soft_wrap=True)


def _show_attempt(attempt: dict[str, Any], *, context: bool) -> None:
    row, shown = attempt["row"], attempt["context"]
    outcome = row["outcome"] or ""
    reward = "" if row["reward"] is None else f", reward {row['reward']:g}"
    cut = ", cut off" if row["finish_reason"] == "length" else ""
    about = f"{row['split']}, version {row['policy_version']}, {row['tokens']} tokens{cut}"
    style = OUTCOME_STYLE.get(outcome, "red")
    head = f"\n[bold]{escape(row['id'])}[/]  [{style}]{outcome or 'not judged'}{reward}[/]  [dim]{about}[/]"
    console.print(head, soft_wrap=True)
    console.print(attempt["text"], markup=False, soft_wrap=True)
    for word, text in (("feedback", attempt["feedback"]), ("error", attempt["error"])):
        if text:
            console.print(f"[bold]{word}[/]")
            console.print(text, markup=False, soft_wrap=True)
    if context and shown and shown["has_context"]:
        console.print("[bold]context[/]")
        _show_messages(shown["messages"])
