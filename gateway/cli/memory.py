"""`pmd memory`: read what a run remembers, and what its contexts showed of it. `curate` and `moments` have the acts."""

from __future__ import annotations

import difflib
import uuid
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import typer
from pydantic import ValidationError
from rich.markup import escape

from pmd.gateway.cli.client import CliError, Gateway, connect
from pmd.gateway.cli.output import AsJson, RunId, age, console, print_json, print_table, table
from pmd.gateway.cli.progress import LEVELS
from pmd.gateway.views import RunView
from pmd.services.common.strict import Strict, explain

if TYPE_CHECKING:
    from pmd.services.common.bank import ItemView, Origin, Utility

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
    problem: Annotated[str | None, typer.Option(help="Only what is about this problem.")] = None,
    same_as: Annotated[str | None, typer.Option(help="Only notes that say what this one says, wherever.")] = None,
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
    filters |= {"problem_id": problem, "same_as": same_as}
    answer = connect().get(f"/v1/runs/{run}/memory", **filters, limit=limit, after=after)
    if as_json:
        print_json(answer)
        return
    page = read_as(ItemPage, answer)
    rows = table("id", "level", "kind", "support", "worked", "step", "text")
    for item in page.items:
        rows.add_row(
            item.id,
            item.level,
            item.kind,
            "" if item.support is None else str(item.support),
            _worked(item),
            str(item.step),
            _mark(item) + escape(first_line(item.text)),
        )
    print_table(rows if page.items else "nothing remembered")
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
    found = read_as(SearchAnswer, answer)
    for item in found.results[0]:
        alike = "" if item.similarity is None else f"{item.similarity:.2f}"
        rows.add_row(item.id, item.kind, f"{item.score:.2f}", alike, escape(first_line(item.text)))
    print_table(rows if found.results[0] else "nothing found")
    if found.degraded:
        console.print(f"the index is out of reach; the {found.index} one answered", style="yellow")


@app.command("show")
def show(run: RunId, item: ItemId, as_json: AsJson = False) -> None:
    """Show one memory: text, evidence, what it was made from, and its versions."""
    from pmd.services.common.bank import ItemDetail, Origin

    answer = connect().get(f"/v1/runs/{run}/memory/{item}")
    if as_json:
        print_json(answer)
        return
    found = read_as(ItemDetail, answer)
    now = found.item
    console.print(now.text, markup=False, soft_wrap=True)
    console.print()
    facts = table("", "", show_header=False)
    for key, value in now:
        if key != "text" and value not in (None, "", []):
            shown = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
            if isinstance(value, Origin):
                shown = _origin(value)
            facts.add_row(f"[dim]{key}[/]", escape(shown))
    print_table(facts)
    if len(found.history) > 1:
        versions = table("version", "step", "by", "status", "text")
        for each in found.history:
            about = (str(each.version), str(each.step), escape(each.actor), each.status)
            versions.add_row(*about, escape(first_line(each.text)))
        console.print()
        print_table(versions)


@app.command("history")
def history(run: RunId, item: ItemId, as_json: AsJson = False) -> None:
    """Show every version of a memory, and what changed from each to the next."""
    from pmd.services.common.bank import ItemDetail

    answer = connect().get(f"/v1/runs/{run}/memory/{item}")
    if as_json:
        print_json(answer["history"])
        return
    found = read_as(ItemDetail, answer)
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


@app.command("size")
def size(run: RunId, as_json: AsJson = False) -> None:
    """Show how much a run remembers, and the `seq` of its bank."""
    from pmd.services.common.requests import MemoryCounts

    answer = connect().get(f"/v1/runs/{run}/bank")
    if as_json:
        print_json(answer)
        return
    found = read_as(MemoryCounts, answer)
    console.print(f"{', '.join(f'{getattr(found, level)} {level}s' for level in LEVELS)}, seq {found.seq}")


@app.command("diff")
def diff(
    run: RunId,
    item: ItemId,
    before: Annotated[int | None, typer.Option(min=1, help="A version; the last but one if missing.")] = None,
    after: Annotated[int | None, typer.Option(min=1, help="A version; the newest if missing.")] = None,
) -> None:
    """Compare two versions of a memory."""
    from pmd.services.common.bank import Diff

    found = read_as(Diff, connect().get(f"/v1/runs/{run}/memory/{item}/diff", before=before, after=after))
    for side in (found.before, found.after):
        held = " pinned" if side.pinned else " edited" if side.edited else ""
        console.print(f"version {side.version}  step {side.step}  {side.status}{held}  by {escape(side.actor)}")
    for line in found.text.splitlines()[2:]:
        console.print(line, style=DIFF_STYLE.get(line[:1]), markup=False, soft_wrap=True)
    if not found.text:
        console.print("the same words")


@app.command("provenance")
def provenance(run: RunId, item: ItemId, as_json: AsJson = False) -> None:
    """Show what a memory was made from, what was made from it, and which contexts were to show it."""
    from pmd.services.common.bank import Provenance

    answer = connect().get(f"/v1/runs/{run}/memory/{item}/provenance")
    if as_json:
        print_json(answer)
        return
    found = read_as(Provenance, answer)
    if found.item.origin is not None:
        console.print(f"first written by run {_origin(found.item.origin)}", markup=False)
    rows = table("", "how", "id", "text")
    for word, links in (("made from", found.made_from), ("made", found.made)):
        for link in links:
            rows.add_row(word, link.how, link.id, escape(first_line(link.item.text)) if link.item else "")
    print_table(rows)
    uses = table("step", "problem", "version", "shown", "believed", "reward")
    for use in found.uses:
        reward = "" if use.reward is None else f"{use.reward:.2f}"
        shown = "yes" if use.shown else "held out"
        uses.add_row(str(use.step), use.problem_id, str(use.version), shown, f"{use.credibility:.2f}", reward)
    print_table(uses if found.uses else "no context was to show it")


@app.command("why")
def why(
    run: RunId,
    item: ItemId,
    step: Annotated[int | None, typer.Option(min=0, help="Step; the newest that rendered contexts if missing.")] = None,
    problem: Annotated[str | None, typer.Option(help="Only this problem.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say why a step's contexts show a memory, or not: problem by problem."""
    from pmd.services.common.bank import Why

    answer = connect().get(f"/v1/runs/{run}/memory/{item}/why", step=step, problem_id=problem)
    if as_json:
        print_json(answer)
        return
    found = read_as(Why, answer)
    was = f"version {found.version}, {found.status}" if found.status else "not there yet"
    console.print(f"step {found.step}, seq {found.seq}: {was}")
    rows = table("problem", "shown", "contexts", "why")
    for here in found.problems:
        cause = (here.cause or "no").replace("_", " ")
        rows.add_row(here.problem_id, "yes" if here.shown else cause, str(here.contexts), escape(here.reason))
    if found.problems:
        print_table(rows)
    if found.others:
        console.print(f"{found.others} other problems: {found.reason}", markup=False, soft_wrap=True)


@app.command("explain")
def explain_context(
    run: RunId,
    rollout: Annotated[str, typer.Argument(help="<step>:<rollout id>, as 12:p7#3; with --step the id alone.")],
    step: Annotated[int | None, typer.Option(min=0, help="Step of a `prompt_id` as the contexts' file has it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the exact teacher context of a rollout: what it says, what of memory is in it, and what was left out."""
    from pmd.services.common.bank import ContextView

    name = rollout if step is None else f"{step}:{rollout}"
    gateway = connect()
    whole = read_as(RunView, gateway.get(f"/v1/runs/{run}")).id  # a query has no beginning of an id
    answer = gateway.get(f"/v1/contexts/{quote(name, safe=':')}", run=whole)
    if as_json:
        print_json(answer)
        return
    found = read_as(ContextView, answer)
    for message in found.messages:
        console.print(f"[bold]{message.role}[/]")
        console.print(message.content, markup=False, soft_wrap=True)
        console.print()
    rows = table("", "id", "version", "level", "why")
    for word, notes in (("shown", found.items), ("left out", found.left_out)):
        for note in notes:
            rows.add_row(word, note.id, str(note.version), note.level, escape(note.reason))
    print_table(rows if found.items or found.left_out else "nothing of memory was found for it")


@app.command("utility")
def utility(run: RunId, item: ItemId, as_json: AsJson = False) -> None:
    """Show what a memory did to the reward."""
    from pmd.services.common.bank import Utility

    answer = connect().get(f"/v1/runs/{run}/memory/{item}/utility")
    if as_json:
        print_json(answer)
        return
    rows = table(*EFFECT)
    rows.add_row(*_effect(read_as(Utility, answer)))
    print_table(rows)


@app.command("review")
def review(
    run: RunId,
    sort: Annotated[str, typer.Option(help="worst, best or unsure first.")] = "worst",
    level: Annotated[str | None, typer.Option(help="insight or behavior.")] = None,
    status: Annotated[str | None, typer.Option(help="active (if missing), retired, quarantined, banned, any.")] = None,
    min_trials: Annotated[int, typer.Option(min=1, help="Contexts with a known reward that a note needs.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Notes per page.")] = 20,
    after: Annotated[str | None, typer.Option(help="Cursor of the page before.")] = None,
    as_json: AsJson = False,
) -> None:
    """List memories by their measured effect, those that seem to do harm first."""
    from pmd.services.common.bank import ReviewPage

    asked = {"sort": sort, "level": level, "status": status, "min_trials": min_trials, "limit": limit, "after": after}
    answer = connect().get(f"/v1/runs/{run}/bank/review", **asked)
    if as_json:
        print_json(answer)
        return
    page = read_as(ReviewPage, answer)
    rows = table("id", "level", *EFFECT, "proposals", "text")
    for row in page.rows:
        text = _mark(row.item) + escape(first_line(row.item.text))
        asking = str(len(row.proposals)) if row.proposals else ""
        rows.add_row(row.item.id, row.item.level, *_effect(row.utility), asking, text)
    print_table(rows if page.rows else "nothing was measured")
    if page.unmeasured:
        console.print(f"{page.unmeasured} not measured", style="dim")
    if page.next is not None:
        console.print(f"more: --after {page.next}", soft_wrap=True)


EFFECT = ("with it", "held out", "no memory", "effect", "believed")
"""Columns of what a note is worth: rewards, each with how often, their difference, and the belief that it helps."""


def _effect(found: Utility) -> list[str]:
    def rate(reward: float | None, trials: int) -> str:
        return "" if reward is None else f"{reward:.2f} ({trials})"

    base = "" if found.reward_without_memory is None else f"{found.reward_without_memory:.2f}"
    lift = ""
    if found.lift is not None and found.interval is not None:
        lift = f"{found.lift:+.2f} ({found.interval[0]:+.2f} to {found.interval[1]:+.2f})"
    shown, held_out = rate(found.reward, found.shown), rate(found.reward_held_out, found.held_out)
    return [shown, held_out, base, lift, f"{found.belief:.2f}"]


@app.command("audit")
def audit(
    run: RunId,
    everybody: Annotated[bool, typer.Option("--jobs", help="What jobs wrote, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List who changed what, oldest first. The number of an act is what `pmd memory undo --seq` takes."""
    from pmd.services.common.bank import AuditPage

    gateway = connect()
    page = read_as(AuditPage, gateway.get(f"/v1/runs/{run}/bank/audit", limit=1000))
    found = [row for row in page.rows if everybody or row.by_person]
    while page.rows:
        page = read_as(AuditPage, gateway.get(f"/v1/runs/{run}/bank/audit", limit=1000, after=page.next))
        found += [row for row in page.rows if everybody or row.by_person]
    if as_json:
        print_json([row.model_dump(mode="json") for row in found])
        return
    rows = table("seq", "when", "by", "action", "item", "detail")
    for (seq, action), act in groupby(found, key=lambda row: (row.seq, row.action)):
        first, *more = act
        said = ", ".join(f"{key} {value}" for key, value in first.detail.items())
        about = f"{len(more) + 1} memories" if more else first.item_id or ""
        rows.add_row(str(seq), age(first.at), escape(first.actor), action, about, escape(said))
    print_table(rows if found else "nobody changed anything")


@app.command("export")
def export(
    run: RunId,
    file: Annotated[Path, typer.Argument(help="JSON lines file to write.")],
    seq: Annotated[str | None, typer.Option(help="The bank as it was then: a seq, or the name of a snapshot.")] = None,
) -> None:
    """Write a run's whole memory to a file, to keep it or to start another run from it (`memory.start_from`).

    The file holds the problems with their verifiers, hidden tests included.
    """
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
def import_(
    run: RunId,
    file: Annotated[Path, typer.Argument(help="JSON lines file.", exists=True)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file, and add nothing.")] = False,
    who: Who = None,
) -> None:
    """Add an exported memory to a run's."""
    from pmd.services.common.bank import ImportResult

    with file.open("rb") as content:
        path = f"/v1/runs/{run}/bank:import{'?dry_run=true' if dry_run else ''}"
        done = read_as(ImportResult, connect().upload(path, content, headers_of(who)))
    would = "would be added" if dry_run else "added"
    console.print(f"{done.added} {would}, {done.known} known or banned, {done.problems} problems, seq {done.seq}")


def headers_of(who: str | None, version: int | None = None) -> dict[str, str]:
    """Who asks, for which version, once: a repeated request is the same request."""
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    if who:
        headers["X-PMD-Actor"] = who
    if version is not None:
        headers["If-Match"] = f'"{version}"'
    return headers


def read_as(model: type[M], answer: Any) -> M:
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


def item_of(gateway: Gateway, run: str, item: str) -> ItemView:
    """A memory as it is now."""
    from pmd.services.common.bank import ItemDetail

    return read_as(ItemDetail, gateway.get(f"/v1/runs/{run}/memory/{item}")).item


def say_written(answer: Any) -> None:
    """Say how a memory is now that was changed."""
    from pmd.services.common.bank import ItemView

    item = read_as(ItemView, answer)
    held = " pinned" if item.pinned else " edited" if item.edited else ""
    console.print(f"{item.id}  version {item.version}  {item.status}{held}", soft_wrap=True)


def _origin(origin: Origin) -> str:
    """The run that wrote a memory first."""
    model = f", model {origin.model}" if origin.model else ""
    return f"{origin.run}@{origin.policy_version}{model}"


def _mark(item: ItemView) -> str:
    return "[yellow]pinned[/] " if item.pinned else "[yellow]edited[/] " if item.edited else ""


def _worked(item: ItemView) -> str:
    """Successes of trials, when the item was ever tried."""
    return f"{item.successes}/{item.trials}" if item.trials else ""


def first_line(text: str) -> str:
    """The head of a text, for a row."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 100 else line[:99] + "…"
