"""`pmd memory`: a bank through time and beside another: snapshots, differences, undo, rollback, deletion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pmd.gateway.cli.client import CliError, connect
from pmd.gateway.cli.memory import Who, first_line, headers_of, read_as
from pmd.gateway.cli.output import AsJson, RunId, age, console, known_runs, print_json, print_table, run_id, table

if TYPE_CHECKING:
    from pmd.services.common.bank import ChangedItem

# Commands import the models that they read: making all of them would cost every other command its start.
# ruff: noqa: PLC0415

app = typer.Typer()

NAMED = 10
"""Memories that an undo names; the rest is counted."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the snapshot; it begins with a letter.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without, it says what it would do.")]


@app.command("snapshot")
def snapshot(
    run: RunId,
    name: Name,
    seq: Annotated[int | None, typer.Option(min=1, help="The bank as it was at this seq; as it is if missing.")] = None,
    note: Annotated[str, typer.Option(help="What it is kept for.")] = "",
    who: Who = None,
) -> None:
    """Name a moment of a run's memory, to export it, to compare with it or to go back to it. Nothing is copied."""
    from pmd.services.common.bank import SnapshotView

    body = {"name": name, "seq": seq, "note": note}
    made = read_as(SnapshotView, connect().post(f"/v1/runs/{run}/bank/snapshots", body, headers_of(who)))
    console.print(f"{made.name} is seq {made.seq}")


@app.command("snapshots")
def snapshots(run: RunId, as_json: AsJson = False) -> None:
    """List the named moments of a run's memory, newest first."""
    from pmd.services.common.bank import SnapshotList

    answer = connect().get(f"/v1/runs/{run}/bank/snapshots")
    if as_json:
        print_json(answer)
        return
    found = read_as(SnapshotList, answer).snapshots
    rows = table("name", "seq", "named", "by", "note")
    for each in found:
        rows.add_row(each.name, str(each.seq), age(each.at), escape(each.actor), escape(each.note))
    print_table(rows if found else "no snapshots; `pmd memory snapshot` names one")


@app.command("forget")
def forget(run: RunId, name: Name, who: Who = None) -> None:
    """Delete the name of a snapshot; what it stood for stays in the history."""
    from pmd.services.common.bank import SnapshotView

    gateway, path = connect(), f"/v1/runs/{run}/bank/snapshots/{name}"
    seen = read_as(SnapshotView, gateway.get(path)).seq
    gateway.delete(path, headers_of(who, seen))
    console.print(f"{name} is no name any more; it was seq {seen}")


@app.command("changes")
def changes(
    run: RunId,
    since: Annotated[str, typer.Argument(help="The earlier moment: a seq, or the name of a snapshot.")],
    until: Annotated[str | None, typer.Argument(help="The later one; now if missing.")] = None,
    level: Annotated[str | None, typer.Option(help="experience, insight or behavior; the last two if missing.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed in a run's memory between two moments."""
    from pmd.services.common.bank import BankDiff

    gateway, path = connect(), f"/v1/runs/{run}/bank/diff"
    page = read_as(BankDiff, gateway.get(path, since=since, until=until, level=level, limit=500))
    found = page.items
    while page.next:
        # The later moment is fixed by the first page: jobs may write meanwhile.
        asked = {"since": since, "until": page.until, "level": level, "limit": 500, "after": page.next}
        page = read_as(BankDiff, gateway.get(path, **asked))
        found = found + page.items
    if as_json:
        print_json([each.model_dump(mode="json") for each in found])
        return
    console.print(f"from seq {page.since} to {page.until}: {len(found)} changed")
    rows = table("", "id", "level", "about", "text")
    for each in found:
        rows.add_row(each.change, each.after.id, each.after.level, each.after.problem_id or "", escape(_words(each)))
    if found:
        print_table(rows)


def _words(changed: ChangedItem) -> str:
    """What became of a memory, in a line."""
    before, after = changed.before, changed.after
    if before is not None and before.text != after.text:
        return f"{first_line(before.text)} -> {first_line(after.text)}"
    if before is None or changed.change == "added":
        return first_line(after.text)
    was, now = ((i.status, i.kind, i.pinned, i.edited) for i in (before, after))
    words = [
        f"{name} {old} -> {new}".lower()
        for name, old, new in zip(("", "kind", "pinned", "edited"), was, now, strict=True)
        if old != new
    ]
    return f"{first_line(after.text)} ({', '.join(word.strip() for word in words)})"


@app.command("compare")
def compare(
    run: RunId,
    other: Annotated[
        str, typer.Argument(metavar="OTHER", help="Id of the other run.", parser=run_id, autocompletion=known_runs)
    ],
    level: Annotated[str | None, typer.Option(help="insight or behavior; both if missing.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare what two runs hold to be true: the notes that one of them lacks."""
    from pmd.gateway.views import RunView
    from pmd.services.common.bank import BankComparison

    gateway, path = connect(), f"/v1/runs/{run}/bank/compare"
    whole = read_as(RunView, gateway.get(f"/v1/runs/{other}")).id  # a query has no beginning of an id
    page = read_as(BankComparison, gateway.get(path, other=whole, level=level, limit=500))
    found = page.items
    while page.next:
        page = read_as(BankComparison, gateway.get(path, other=whole, level=level, limit=500, after=page.next))
        found = found + page.items
    if as_json:
        print_json(page.model_copy(update={"items": found}).model_dump(mode="json"))
        return
    console.print(
        f"{page.common} in both, {page.only_here} only in {page.bank}, {page.only_there} only in {page.other}"
    )
    rows = table("only in", "id", "level", "about", "in the other", "text")
    for each in found:
        about = (each.item.id, each.item.level, each.item.problem_id or "", each.elsewhere or "never")
        rows.add_row(page.bank if each.here else page.other, *about, escape(first_line(each.item.text)))
    if found:
        print_table(rows)


@app.command("undo")
def undo(
    run: RunId,
    seq: Annotated[int | None, typer.Option(min=1, help="An act, as `pmd memory audit` numbers it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would undo.")] = False,
    who: Who = None,
) -> None:
    """Undo your last act, or the act that --seq names. An undo is an act and can be undone by its own seq."""
    from pmd.services.common.bank import UndoResult

    gateway, path, headers = connect(), f"/v1/runs/{run}/bank:undo", headers_of(who)
    # Another key: who asks is the same, what is asked is not.
    dry = read_as(UndoResult, gateway.post(path, {"seq": seq}, headers | headers_of(who)))
    done = dry
    if not dry_run:
        done = read_as(UndoResult, gateway.post(path, {"seq": dry.seq, "dry_run": False}, headers))
    word = "would undo" if dry_run else "undone:"
    console.print(f"{word} {done.action} by {escape(done.actor)} (seq {done.seq})", soft_wrap=True)
    for ref in done.items[:NAMED]:
        console.print(f"{ref.id}  version {ref.version}", soft_wrap=True)
    if len(done.items) > NAMED:
        console.print(f"and {len(done.items) - NAMED} more")
    for proposal in done.reopened:
        console.print(f"proposal {proposal} is open again", soft_wrap=True)


@app.command("rollback")
def rollback(
    run: RunId,
    to: Annotated[str, typer.Argument(help="A seq, or the name of a snapshot.")],
    yes: Yes = False,
    who: Who = None,
) -> None:
    """Bring every memory back to what it was. History and bans stay."""
    from pmd.services.common.bank import RollbackResult
    from pmd.services.common.requests import MemoryCounts

    gateway, path = connect(), f"/v1/runs/{run}/bank:rollback"
    moment: Any = int(to) if to.isdecimal() else to
    seen = read_as(MemoryCounts, gateway.get(f"/v1/runs/{run}/bank")).seq
    body: dict[str, Any] = {"seq": moment, "dry_run": not yes}
    done = read_as(RollbackResult, gateway.post(path, body, headers_of(who, seen) if yes else None))
    would = "" if yes else "would be "
    console.print(
        f"{done.changed} {would}changed back, {done.retired} {would}retired{'' if yes else '; --yes does it'}"
    )


@app.command("delete")
def delete(
    run: RunId,
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Also while the run may still read it.")] = False,
    who: Who = None,
) -> None:
    """Delete all that a run remembers, history included. It can't be undone; `pmd memory export` keeps a copy."""
    from pmd.services.common.requests import MemoryCounts

    gateway, path = connect(), f"/v1/runs/{run}/bank"
    seen = read_as(MemoryCounts, gateway.get(path))
    what = f"{seen.experience} experiences, {seen.insight} insights and {seen.behavior} behaviors"
    if not yes:
        raise CliError(f"this deletes {what} for good; --yes does it", code=2)
    gateway.delete(path, headers_of(who, seen.seq), force="true" if force else None)
    console.print(f"deleted {what}")
