"""`pmd chat`: talk to a run's checkpoint, with no memory attached."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pmd.gateway.cli.client import GENERATION_TIMEOUT_S, CliError, Gateway, connect
from pmd.gateway.cli.output import console, known_runs, run_id


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN[@VERSION]", help="A run, at its newest version unless given.", autocompletion=known_runs
        ),
    ],
    prompt: Annotated[str | None, typer.Option(help="Ask this and exit.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=5.0)] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 512,
) -> None:
    """Talk to a run's checkpoint. What it knows is in its weights: no memory is attached."""
    gateway = connect()
    name, at, version = model.partition("@")
    run = run_id(name)
    if at and not version.isdigit():
        raise CliError(f"{model!r}: a version is a number, e.g. {run}@60", code=2)
    view = gateway.get(f"/v1/runs/{run}")
    name = f"{view['id']}@{version if at else view['version']}"
    if prompt is not None:
        answer(gateway, name, [{"role": "user", "content": prompt}], temperature, max_tokens)
        return
    console.print(f"[dim]{name}; an empty line begins a new conversation, Ctrl-D ends[/]")
    turns: list[dict[str, str]] = []
    while True:
        try:
            line = console.input("[bold cyan]you>[/] ")
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not line.strip():
            turns = []
            continue
        turns.append({"role": "user", "content": line})
        turns.append({"role": "assistant", "content": answer(gateway, name, turns, temperature, max_tokens)})


def answer(gateway: Gateway, model: str, messages: list[dict[str, str]], temperature: float, max_tokens: int) -> str:
    """Print the model's answer while it is drawn, and return it.

    Raises:
        CliError: when it breaks off.
    """
    body = {
        "model": model,
        "messages": messages,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "stream": True,
    }
    text = ""
    for data in gateway.stream("POST", "/v1/chat/completions", body=body, silence_s=GENERATION_TIMEOUT_S):
        if data == "[DONE]":
            break
        event = json.loads(data)
        if "error" in event:
            typer.echo()
            raise CliError(str(event["error"]["message"]))
        for choice in event.get("choices", []):
            piece = choice.get("delta", {}).get("content") or ""
            text += piece
            typer.echo(piece, nl=False)
    typer.echo()
    return text
