"""`pmd memory`: change what a run remembers. Changes are in force from its next step on.

Invariant: a change names the version that was seen, which is read just before unless it is given.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.markup import escape

from pmd.gateway.cli.client import CliError, Gateway, connect
from pmd.gateway.cli.memory import ItemId, Version, Who, first_line, headers_of, item_of, read_as, say_written
from pmd.gateway.cli.output import AsJson, RunId, console, print_json, print_table, table
from pmd.gateway.local.launcher import default_state_dir

if TYPE_CHECKING:
    from pmd.services.common.bank import ItemView

# Commands import the models that they read: making all of them would cost every other command its start.
# ruff: noqa: PLC0415

app = typer.Typer()


@app.command("edit")
def edit(
    run: RunId,
    item: ItemId,
    text: Annotated[str | None, typer.Option(help="The new wording; your editor opens if missing.")] = None,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Reword the same thought at other problems along with it.")
    ] = False,
    version: Version = None,
    who: Who = None,
) -> None:
    """Reword a memory. The machine proposes changes of it from then on and makes none."""
    gateway = connect()
    now = item_of(gateway, run, item)
    wanted = text if text is not None else _written(now.text)
    if wanted is None or wanted.strip() in {"", now.text.strip()}:
        console.print("nothing changed")
        return
    try:
        _reword(gateway, run, now, wanted, everywhere=everywhere, version=version, who=who)
    except CliError as error:
        if text is not None:
            raise
        kept = _keep(run, item, wanted)
        again = f'pmd memory edit {run} {item} --text "$(cat {shlex.quote(str(kept))})"'
        raise CliError(f"{error}\n  your text is in {kept}; `{again}` tries again", error.code) from error


def _written(text: str) -> str | None:
    """`text` as the person's editor leaves it; None where it was not saved.

    Raises:
        CliError: there is no editor, or it failed.
    """
    try:
        edited = click.edit(text)
    except click.ClickException as error:
        raise CliError(f"{error.format_message()}; set EDITOR, or give --text") from error
    return None if edited is None else edited.strip()


def _keep(run: str, item: str, text: str) -> Path:
    """Where a text is kept that was written and not taken."""
    folder = default_state_dir() / "edits"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{run}.{item}.txt"
    path.write_text(text, encoding="utf-8")
    return path


def _reword(
    gateway: Gateway, run: str, now: ItemView, wanted: str, *, everywhere: bool, version: int | None, who: str | None
) -> None:
    """Have a memory say `wanted`, unless it has moved on from what was seen."""
    item = now.id
    same = [] if now.level == "experience" else _same(gateway, run, now)
    also = [{"id": each.id, "version": each.version} for each in same] if everywhere else []
    headers = headers_of(who, version or now.version)
    say_written(gateway.patch(f"/v1/runs/{run}/memory/{item}", {"text": wanted, "also": also}, headers))
    if same:
        done = "reworded" if everywhere else "stands; --everywhere rewords it"
        console.print(f"the same thought {done} at {len(same)} more place{'' if len(same) == 1 else 's'}")


def _same(gateway: Gateway, run: str, item: ItemView) -> list[ItemView]:
    """The active notes elsewhere that say what `item` says."""
    from pmd.services.common.bank import ItemPage

    page = read_as(ItemPage, gateway.get(f"/v1/runs/{run}/memory", same_as=item.id, sort="oldest", limit=500))
    found = page.items
    while page.next:
        more = gateway.get(f"/v1/runs/{run}/memory", same_as=item.id, sort="oldest", limit=500, after=page.next)
        page = read_as(ItemPage, more)
        found = found + page.items
    return [each for each in found if each.id != item.id]


def _verb(name: str, what: str) -> None:
    def act(
        run: RunId,
        item: ItemId,
        reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
        version: Version = None,
        who: Who = None,
    ) -> None:
        gateway = connect()
        seen = version or item_of(gateway, run, item).version
        say_written(gateway.post(f"/v1/runs/{run}/memory/{item}:{name}", {"reason": reason}, headers_of(who, seen)))

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
    say_written(connect().post(f"/v1/runs/{run}/memory", body, headers_of(who)))


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
        gateway.post(f"{base}/{reject}:reject", None, headers_of(who))
        console.print(f"rejected {reject}")
        return
    page = read_as(ProposalPage, gateway.get(base))
    found = page.proposals
    while page.next:
        page = read_as(ProposalPage, gateway.get(base, after=page.next))
        found = found + page.proposals
    if accept is not None:
        proposal = next((p for p in found if p.id == accept), None)
        if proposal is None:
            raise CliError(f"no open proposal {accept!r}; `pmd memory proposals {run}` lists them")
        now = item_of(gateway, run, proposal.item_id)
        say_written(gateway.post(f"{base}/{accept}:accept", None, headers_of(who, now.version)))
        return
    if as_json:
        print_json(ProposalPage(proposals=found).model_dump(mode="json"))
        return
    rows = table("proposal", "item", "action", "step", "by", "text or reason")
    for each in found:
        said = escape(first_line(each.text or each.reason))
        rows.add_row(each.id, each.item_id, each.action, str(each.step), escape(each.actor), said)
    print_table(rows if found else "no open proposals")


@app.command("annotate")
def annotate(
    run: RunId, item: ItemId, text: Annotated[str, typer.Argument(help="The remark.")], who: Who = None
) -> None:
    """Attach a remark to a memory; the memory and its version stay."""
    say_written(connect().post(f"/v1/runs/{run}/memory/{item}:annotate", {"text": text}, headers_of(who)))


@app.command("revert")
def revert(
    run: RunId,
    item: ItemId,
    to: Annotated[int, typer.Argument(min=1, help="The version whose words to bring back.")],
    version: Version = None,
    who: Who = None,
) -> None:
    """Bring back what a memory said at an earlier version."""
    gateway = connect()
    seen = version or item_of(gateway, run, item).version
    say_written(gateway.post(f"/v1/runs/{run}/memory/{item}:revert", {"version": to}, headers_of(who, seen)))


@app.command("split")
def split(
    run: RunId,
    item: ItemId,
    text: Annotated[list[str], typer.Option(help="What one of the parts says; give it for each.")],
    version: Version = None,
    who: Who = None,
) -> None:
    """Turn one memory into several, which take its place."""
    gateway = connect()
    seen = version or item_of(gateway, run, item).version
    for part in gateway.post(f"/v1/runs/{run}/memory/{item}:split", {"texts": text}, headers_of(who, seen)):
        say_written(part)


@app.command("merge")
def merge(
    run: RunId,
    items: Annotated[list[str], typer.Argument(metavar="ITEM ITEM ..", help="Ids of the memories.")],
    text: Annotated[str, typer.Option(help="What the one says that takes their place.")],
    topic: Annotated[
        str, typer.Option(help="Of a behavior: it is for problems that have all of these words too.")
    ] = "",
    who: Who = None,
) -> None:
    """Make several memories one. Insights of different problems become a behavior, which these problems are shown."""
    gateway = connect()
    seen = [item_of(gateway, run, item) for item in items]
    refs = [{"id": each.id, "version": each.version} for each in seen]
    body = {"items": refs, "text": text, "topic": topic}
    say_written(gateway.post(f"/v1/runs/{run}/memory:merge", body, headers_of(who)))


@app.command("bulk")
def bulk(
    run: RunId,
    action: Annotated[str, typer.Argument(help="pin, unpin, ban or restore.")],
    level: Annotated[str | None, typer.Option(help="Only this level.")] = None,
    kind: Annotated[str | None, typer.Option(help="attempt, strategy, lesson or behavior.")] = None,
    status: Annotated[str | None, typer.Option(help="active, retired, quarantined, banned or superseded.")] = None,
    problem: Annotated[str | None, typer.Option(help="Only what is about this problem.")] = None,
    query: Annotated[str | None, typer.Option("--query", "-q", help="Only items that match these words.")] = None,
    protected: Annotated[
        bool | None, typer.Option("--protected/--free", help="Only what people have pinned or edited, or not.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it says what it would do.")] = False,
    who: Who = None,
) -> None:
    """Pin, unpin, ban or restore many memories: all of them or none."""
    from pmd.services.common.bank import BulkResult

    gateway, path = connect(), f"/v1/runs/{run}/memory:bulk"
    given = {"level": level, "kind": kind, "status": status, "problem_id": problem, "q": query, "protected": protected}
    where = {key: value for key, value in given.items() if value is not None}
    dry = read_as(BulkResult, gateway.post(path, {"action": action, "where": where}))
    for refused in dry.refused:
        console.print(f"refused: {refused.id}: {refused.why}", markup=False, soft_wrap=True)
    if not yes:
        console.print(f"would {action} {len(dry.items)}, {dry.unchanged} are so already; --yes does it")
        return
    refs = [ref.model_dump() for ref in dry.items]
    body = {"action": action, "items": refs, "dry_run": False, "reason": reason}
    done = read_as(BulkResult, gateway.post(path, body, headers_of(who)))
    console.print(f"{action}: {len(done.items)} changed, {dry.unchanged} were so already")
