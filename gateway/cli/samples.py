"""`pmd runs samples`: attempts of a step, as they were drawn and judged."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any

import typer
from rich.markup import escape

from pmd.gateway.cli.client import connect
from pmd.gateway.cli.output import AsJson, RunId, console, print_json

app = typer.Typer()

OUTCOME_STYLE = {"passed": "green", "infra_error": "yellow", "": "dim"}


@app.command("samples")
def samples(
    run: RunId,
    step: Annotated[int | None, typer.Option(min=0, help="The newest with judged attempts, if missing.")] = None,
    split: Annotated[str | None, typer.Option(help="train, test or unseen; all if missing.")] = None,
    outcome: Annotated[
        str | None, typer.Option(help="passed, failed, timeout, memory, output_limit, format or infra_error.")
    ] = None,
    problem: Annotated[str | None, typer.Option(help="Only attempts at this problem.")] = None,
    context: Annotated[bool, typer.Option("--context", help="With what the teacher was shown for each.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 8,
    offset: Annotated[int, typer.Option(min=0, help="Attempts to pass over.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show attempts of a step: what was asked, what the model wrote, verdict and feedback."""
    filters = {"step": step, "split": split, "outcome": outcome, "problem": problem}
    page = connect().get(
        f"/v1/runs/{run}/samples", **filters, context="true" if context else None, limit=limit, offset=offset
    )
    if as_json:
        print_json(page)
        return
    for problem_id, attempts in groupby(page["samples"], key=lambda each: each["problem_id"]):
        _show_problem(problem_id, page["problems"].get(problem_id, []))
        for attempt in attempts:
            _show_attempt(attempt)
    end = offset + len(page["samples"])
    counted = f"{offset + 1} to {end} of {page['total']}" if page["samples"] else f"none of {page['total']}"
    more = f"; more: --offset {end}" if end < page["total"] else ""
    console.print(f"[dim]step {page['step']}: attempts {counted} that match{more}[/]", soft_wrap=True)


def _show_problem(problem: str, asked: list[dict[str, Any]]) -> None:
    console.rule(f"[bold]{escape(problem)}[/]", align="left")
    _show_messages(asked)


def _show_messages(messages: list[dict[str, Any]]) -> None:
    for message in messages:
        said = message["content"] if len(messages) == 1 else f"{message['role']}: {message['content']}"
        console.print(said, style="dim", markup=False, soft_wrap=True)


def _show_attempt(attempt: dict[str, Any]) -> None:
    outcome = attempt["outcome"] or ""
    reward = "" if attempt["reward"] is None else f", reward {attempt['reward']:g}"
    cut = ", cut off" if attempt["finish_reason"] == "length" else ""
    about = f"{attempt['split']}, version {attempt['policy_version']}, {attempt['tokens']} tokens{cut}"
    style = OUTCOME_STYLE.get(outcome, "red")
    head = f"\n[bold]{escape(attempt['rollout_id'])}[/]  [{style}]{outcome or 'not judged'}{reward}[/]  [dim]{about}[/]"
    console.print(head, soft_wrap=True)
    console.print(attempt["text"], markup=False, soft_wrap=True)
    for word, text in (("feedback", attempt["feedback"]), ("error", attempt["error"])):
        if text:
            console.print(f"[bold]{word}[/]")
            console.print(text, markup=False, soft_wrap=True)
    if attempt["context"]:
        console.print("[bold]context[/]")
        _show_messages(attempt["context"])
