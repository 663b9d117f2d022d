"""`pmd memory`: read and change what a run remembers. Changes are in force from its next step on."""

from __future__ import annotations

import difflib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import click
import typer
from pydantic import ValidationError
from rich.markup import escape

from pmd.gateway.cli.client import CliError, Gateway, connect
from pmd.gateway.cli.output import AsJson, RunId, age, console, print_json, table
from pmd.gateway.cli.progress import LEVELS
from pmd.services.common.strict import Strict, explain

if TYPE_CHECKING:
    from pmd.services.common.bank import ItemView

# Commands import the models that they read: making all of them would cost every other command its start.
# ruff: noqa: PLC0415

M = TypeVar("M", bound=Strict)

DIFF_STYLE = {"+": "green", "-": "red"}

app = typer.Typer(no_args_is_help=True, help="Read and change what a run remembers.")

ItemId = Annotated[str, typer.Argument(metavar="ITEM", help="Id of the memory.")]
Version = Annotated[int | None, typer.Option(help="Refuse when it is not at this version; its newest if missing.")]
Who = Annotated[str | None, typer.Option("--as", envvar="PMD_ACTOR", help="Your name, for the history.")]


@app.command("list")
def list_items(
    run: RunId,
    level: Annotated[str | None, typer.Option(help="experience, insight or behavior.")] = None,
    query: Annotated[str | None, typer.Option("--query", "-q", help="Only items that match these words.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Items per page.")] = 20,
    after: Annotated[str | None, typer.Option(help="Cursor of the page before.")] = None,
    status: Annotated[str | None, typer.Option(help="active (if missing), retired, quarantined, banned, any.")] = None,
    protected: Annotated[
        bool | None, typer.Option("--protected/--free", help="Only what people have pinned or edited, or not.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List memories, newest first."""
    from pmd.services.common.bank import ItemPage

    if level is not None and level not in LEVELS:
        raise CliError(f"no memory level {level!r}; levels are {', '.join(LEVELS)}", code=2)
    filters = {"level": level, "q": query, "status": status, "protected": protected}
    answer = connect().get(f"/v1/runs/{run}/memory", **filters, limit=limit, after=after)
    if as_json:
        print_json(answer)
        return
    page = _as(ItemPage, answer)
    rows = table("id", "level", "kind", "support", "worked", "step", "text")
    for item in page.items:
        rows.add_row(
            item.id,
            item.level,
            item.kind,
            "" if item.support is None else str(item.support),
            _worked(item),
            str(item.step),
            _mark(item) + escape(_first_line(item.text)),
        )
    console.print(rows if page.items else "nothing remembered")
    if page.next is not None:
        console.print(f"more: --after {page.next}", soft_wrap=True)


@app.command("search")
def search(
    run: RunId,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    level: Annotated[str, typer.Option(help="experience, insight or behavior.")] = "insight",
    mode: Annotated[str, typer.Option(help="hybrid, text (words) or vector (meaning).")] = "hybrid",
    alpha: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="hybrid: weight of meaning.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 10,
    as_json: AsJson = False,
) -> None:
    """Find memories by meaning, by words, or both, best first."""
    from pmd.services.common.bank import SearchAnswer

    asked = {"q": query, "level": level, "mode": mode, "alpha": alpha, "limit": limit}
    answer = connect().get(f"/v1/runs/{run}/bank/search", **asked)
    if as_json:
        print_json(answer)
        return
    rows = table("id", "kind", "score", "similarity", "text")
    found = _as(SearchAnswer, answer)
    for item in found.results[0]:
        alike = "" if item.similarity is None else f"{item.similarity:.2f}"
        rows.add_row(item.id, item.kind, f"{item.score:.2f}", alike, escape(_first_line(item.text)))
    console.print(rows if found.results[0] else "nothing found")
    if found.degraded:
        console.print(f"the index is out of reach; the {found.index} one answered", style="yellow")


@app.command("show")
def show(run: RunId, item: ItemId, as_json: AsJson = False) -> None:
    """Show one memory: text, evidence, what it was made from, and its versions."""
    from pmd.services.common.bank import ItemDetail

    answer = connect().get(f"/v1/runs/{run}/memory/{item}")
    if as_json:
        print_json(answer)
        return
    found = _as(ItemDetail, answer)
    now = found.item
    console.print(now.text, markup=False, soft_wrap=True)
    console.print()
    facts = table("", "", show_header=False)
    for key, value in now:
        if key != "text" and value not in (None, "", []):
            shown = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
            facts.add_row(f"[dim]{key}[/]", escape(shown))
    console.print(facts)
    if len(found.history) > 1:
        versions = table("version", "step", "by", "status", "text")
        for each in found.history:
            about = (str(each.version), str(each.step), escape(each.actor), each.status)
            versions.add_row(*about, escape(_first_line(each.text)))
        console.print()
        console.print(versions)


@app.command("history")
def history(run: RunId, item: ItemId, as_json: AsJson = False) -> None:
    """Show every version of a memory, and what changed from each to the next."""
    from pmd.services.common.bank import ItemDetail

    answer = connect().get(f"/v1/runs/{run}/memory/{item}")
    if as_json:
        print_json(answer["history"])
        return
    found = _as(ItemDetail, answer)
    before = ""
    for each in found.history:
        about = f"version {each.version}  seq {each.seq}  step {each.step}  {each.status}"
        console.print(f"[bold]{about}[/]  by {escape(each.actor)}", soft_wrap=True)
        if each.text != before:
            for line in difflib.ndiff(before.splitlines(), each.text.splitlines()):
                if not line.startswith("?"):
                    console.print(f"  {line}", style=DIFF_STYLE.get(line[0]), markup=False, soft_wrap=True)
        before = each.text
    for remark in found.annotations:
        console.print(f"[dim]{escape(remark.actor)}, {age(remark.at)}:[/] {escape(remark.text)}")


@app.command("edit")
def edit(
    run: RunId,
    item: ItemId,
    text: Annotated[str | None, typer.Option(help="The new wording; your editor opens if missing.")] = None,
    version: Version = None,
    who: Who = None,
) -> None:
    """Reword a memory. The machine proposes changes of it from then on and makes none."""
    gateway = connect()
    now = _item(gateway, run, item)
    wanted = text if text is not None else click.edit(now.text)
    if wanted is None or wanted.strip() == now.text:
        console.print("nothing changed")
        return
    headers = _headers(who, version or now.version)
    _written(gateway.patch(f"/v1/runs/{run}/memory/{item}", {"text": wanted}, headers))


def _verb(name: str, what: str) -> None:
    def act(
        run: RunId,
        item: ItemId,
        reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
        version: Version = None,
        who: Who = None,
    ) -> None:
        gateway = connect()
        seen = version or _item(gateway, run, item).version
        _written(gateway.post(f"/v1/runs/{run}/memory/{item}:{name}", {"reason": reason}, _headers(who, seen)))

    app.command(name, help=what)(act)


_verb("pin", "Keep a memory as it is: the machine can't change or drop it.")
_verb("unpin", "Give a memory back to the machine, edited or not.")
_verb("ban", "Never show this text again, whoever writes it.")
_verb("restore", "Make a memory active again.")


@app.command("add")
def add(
    run: RunId,
    text: Annotated[str, typer.Argument(help="What to remember.")],
    problem: Annotated[str | None, typer.Option(help="Problem that it is about; a behavior if missing.")] = None,
    lesson: Annotated[bool, typer.Option("--lesson", help="What to avoid, not what to do.")] = False,
    topic: Annotated[str, typer.Option(help="The behavior is for problems that have all of these words.")] = "",
    who: Who = None,
) -> None:
    """Add a memory by hand."""
    body: dict[str, Any] = {"level": "behavior", "text": text, "topic": topic}
    if problem is not None:
        body = {"level": "insight", "kind": "lesson" if lesson else "strategy", "text": text, "problem_id": problem}
    _written(connect().post(f"/v1/runs/{run}/memory", body, _headers(who)))


@app.command("proposals")
def proposals(
    run: RunId,
    accept: Annotated[str | None, typer.Option(help="Id of the proposal to accept.")] = None,
    reject: Annotated[str | None, typer.Option(help="Id of the proposal to reject.")] = None,
    who: Who = None,
    as_json: AsJson = False,
) -> None:
    """List what the machine would change of memories that people hold; accept or reject one."""
    from pmd.services.common.bank import ProposalPage

    gateway = connect()
    base = f"/v1/runs/{run}/bank/proposals"
    if reject is not None:
        gateway.post(f"{base}/{reject}:reject", None, _headers(who))
        console.print(f"rejected {reject}")
        return
    page = _as(ProposalPage, gateway.get(base))
    found = page.proposals
    while page.next:
        page = _as(ProposalPage, gateway.get(base, after=page.next))
        found = found + page.proposals
    if accept is not None:
        proposal = next((p for p in found if p.id == accept), None)
        if proposal is None:
            raise CliError(f"no open proposal {accept!r}; `pmd memory proposals {run}` lists them")
        now = _item(gateway, run, proposal.item_id)
        _written(gateway.post(f"{base}/{accept}:accept", None, _headers(who, now.version)))
        return
    if as_json:
        print_json(ProposalPage(proposals=found).model_dump(mode="json"))
        return
    rows = table("proposal", "item", "action", "step", "by", "text or reason")
    for each in found:
        said = escape(_first_line(each.text or each.reason))
        rows.add_row(each.id, each.item_id, each.action, str(each.step), escape(each.actor), said)
    console.print(rows if found else "no open proposals")


@app.command("export")
def export(
    run: RunId,
    file: Annotated[Path, typer.Argument(help="JSON lines file to write.")],
    seq: Annotated[int | None, typer.Option(help="The bank as it was at this seq.")] = None,
) -> None:
    """Write a run's whole memory to a file, to keep it or to start another run from it."""
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as out:
            connect().download(f"/v1/runs/{run}/bank/export", out, seq=seq)
        with part.open("rb") as written:
            lines = sum(1 for _ in written)
        part.replace(file)  # complete or absent
    finally:
        part.unlink(missing_ok=True)
    console.print(f"{lines} lines in {file}", soft_wrap=True)


@app.command("import")
def import_(run: RunId, file: Annotated[Path, typer.Argument(help="JSON lines file.", exists=True)]) -> None:
    """Add an exported memory to a run's."""
    from pmd.services.common.bank import ImportResult

    with file.open("rb") as content:
        done = _as(ImportResult, connect().upload(f"/v1/runs/{run}/bank:import", content))
    console.print(f"{done.added} added, {done.known} known or banned, seq {done.seq}")


def _headers(who: str | None, version: int | None = None) -> dict[str, str]:
    """Who asks, for which version, once: a repeated request is the same request."""
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    if who:
        headers["X-PMD-Actor"] = who
    if version is not None:
        headers["If-Match"] = f'"{version}"'
    return headers


def _as(model: type[M], answer: Any) -> M:
    """An answer of the gateway as the value that it says it is.

    Raises:
        CliError: when it is something else.
    """
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        first = explain(error)[0]
        cause = f"{model.__name__}.{first['field']}: {first['message']}"
        raise CliError(
            f"the gateway speaks another version ({cause}); use the command line that came with it"
        ) from error


def _item(gateway: Gateway, run: str, item: str) -> ItemView:
    from pmd.services.common.bank import ItemDetail

    return _as(ItemDetail, gateway.get(f"/v1/runs/{run}/memory/{item}")).item


def _written(answer: Any) -> None:
    from pmd.services.common.bank import ItemView

    item = _as(ItemView, answer)
    held = " pinned" if item.pinned else " edited" if item.edited else ""
    console.print(f"{item.id}  version {item.version}  {item.status}{held}", soft_wrap=True)


def _mark(item: ItemView) -> str:
    return "[yellow]pinned[/] " if item.pinned else "[yellow]edited[/] " if item.edited else ""


def _worked(item: ItemView) -> str:
    """Successes of trials, when the item was ever tried."""
    return f"{item.successes}/{item.trials}" if item.trials else ""


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 100 else line[:99] + "…"
