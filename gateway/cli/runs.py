"""`pmd runs`: start runs, look at them, steer them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from pmd.gateway.cli.client import PAGE, CliError, Gateway, Unreachable, connect, in_commands
from pmd.gateway.cli.output import AsJson, RunId, age, console, print_json, print_table, status, table
from pmd.gateway.cli.watch import watch as watch_run
from pmd.gateway.local.launcher import default_state_dir
from pmd.gateway.recipes.models.names import hub_name
from pmd.gateway.report.units import completions, percent, training

POLL_S, QUIET_POLL_S = 0.5, 10.0
"""Between two looks at a download, where one line is drawn over and over, and where each look is a line of a log."""
OBEYED_LATER = {"pause": "pauses once its service calls in progress have ended", "cancel": "is about to be cancelled"}

app = typer.Typer(no_args_is_help=True, help="Start runs, look at them, steer them.")


def read_recipe(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The recipe file with `--set` laid on top, as data to post.

    Raises:
        CliError: when a file can't be read or an override is malformed.
    """
    from pmd.gateway.recipes.files import RecipeError, load_recipe, parse_overrides  # noqa: PLC0415 - loads pyarrow

    try:
        return load_recipe(path, parse_overrides(overrides))
    except RecipeError as error:
        raise CliError(str(error), code=2) from error


def check_recipe(recipe: dict[str, Any]) -> None:
    """Validate a recipe here, before anything is sent.

    Raises:
        CliError: naming each wrong key and the nearest valid one.
    """
    from pmd.gateway.recipes.problems import InvalidRecipe, parse_recipe  # noqa: PLC0415 - loads pyarrow

    try:
        parse_recipe(recipe)
    except InvalidRecipe as error:
        raise _refusal(error.fields) from error


def _refusal(fields: list[dict[str, str]], title: str = "the recipe is not valid") -> CliError:
    lines = [f"{each['field'] or 'recipe'}: {in_commands(each['message'])}" for each in fields]
    return CliError("\n  ".join([title, *lines]), code=2)


def submit(gateway: Gateway, recipe: dict[str, Any]) -> dict[str, Any]:
    """Start a run, once what it names of the hub is where the gateway is."""
    check_recipe(recipe)
    if hub_name(str(recipe["model"])) or _dataset(recipe):
        gateway.post("/v1/recipes:validate", {"recipe": recipe})  # what is wrong is said before gigabytes are fetched
        fetch(gateway, recipe)
    view: dict[str, Any] = gateway.post("/v1/runs", {"recipe": recipe})
    return view


def _dataset(recipe: dict[str, Any]) -> bool:
    """Whether a recipe's problems are a data set of the hub."""
    problems = recipe.get("problems")
    return isinstance(problems, dict) and problems.get("source") == "huggingface" and bool(problems.get("dataset"))


@app.command("create")
def create(
    recipe: Annotated[Path, typer.Argument(help="Recipe file, e.g. recipes/pocket.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. teacher.ema=0.05.")
    ] = None,
    watch: Annotated[bool, typer.Option(help="Show progress until the run ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate, print the complete recipe, start nothing.")] = (
        False
    ),
    as_json: AsJson = False,
) -> None:
    """Start a run from a recipe."""
    data = read_recipe(recipe, overrides or [])
    if dry_run:
        check_recipe(data)
        from pmd.gateway.recipes.recipe import Recipe  # noqa: PLC0415 - loads pyarrow

        lines, missing = _checked(data)
        for line in lines:
            typer.echo(line, err=True)
        print_json(Recipe.model_validate(data).model_dump(mode="json"))
        if missing:
            raise _refusal(missing, "the recipe can't run yet")
        return
    gateway = connect()
    view = submit(gateway, data)
    if as_json:
        print_json(view)
    else:
        console.print(f"run [bold]{view['id']}[/] started", soft_wrap=True)
        print_warnings(view)
    if watch and watch_run(gateway, view["id"]) != "succeeded":
        raise typer.Exit(1)


def _checked(data: dict[str, Any]) -> tuple[list[str], list[dict[str, str]]]:
    """What is to be said of a recipe besides itself, a line each, and what it misses.

    By the gateway's word if one answers: there are the files that the recipe names, and the verifier, which alone
    knows which specs are right.
    """
    from pmd.gateway.recipes.datasets.records import BadRecord  # noqa: PLC0415 - loads pyarrow
    from pmd.gateway.recipes.preview import preview  # noqa: PLC0415
    from pmd.gateway.recipes.problems import SHOWN, InvalidRecipe  # noqa: PLC0415
    from pmd.gateway.recipes.recipe import PocketProblems, Recipe  # noqa: PLC0415

    lines = []
    try:
        gateway = connect()
        if _dataset(data):
            fetch(gateway, data, weights=False)
        told = gateway.post("/v1/recipes:validate", {"recipe": data})
    except Unreachable:
        recipe = Recipe.model_validate(data)
        if not isinstance(recipe.problems, PocketProblems):
            lines.append("no gateway answers, so no verifier has checked the specs of these problems")
        try:
            seen = preview(recipe)
        except InvalidRecipe as error:
            raise _refusal(error.fields) from error
        told = {
            "model": seen.model,
            "problems": seen.problems,
            "bad_records": len(seen.bad),
            "bad_examples": seen.bad[:SHOWN],
            "long_examples": seen.long[:SHOWN],
            "warnings": seen.warnings,
            "estimate": seen.estimate,
            "missing": seen.missing,
        }
    lines += [f"left out: {BadRecord.model_validate(record)}" for record in told["bad_examples"]]
    lines += [f"too long to be trained on: {problem}" for problem in told.get("long_examples", [])]
    lines += [f"warning: {warning}" for warning in told.get("warnings", [])]
    lines += [f"model: {told['model']}"] if told.get("model") else []
    lines += told.get("estimate", [])
    lines.append(f"{sum(told['problems'].values())} problems, {told['bad_records']} bad records left out")
    return lines, told.get("missing", [])


def fetch(gateway: Gateway, recipe: dict[str, Any], *, weights: bool = True) -> None:
    """Have what a recipe names of the hub where the gateway is; says how far that is.

    Args:
        weights: those of its model, too.
    """
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as line:
        coming: list[dict[str, Any]] = []
        try:
            while True:
                told = gateway.post("/v1/recipes:fetch", {"recipe": recipe, "weights": weights})
                coming = [each for each in told if each["status"] != "ready"]
                if not coming:
                    return
                said = "\n".join(f"downloading {how_far(each)}" for each in coming)
                if line.console.is_terminal:
                    line.update(said, refresh=True)
                else:
                    typer.echo(said, err=True)
                time.sleep(POLL_S if line.console.is_terminal else QUIET_POLL_S)
        except KeyboardInterrupt:
            names = " and ".join(f"`pmd runs downloads --cancel {each['name']}`" for each in coming)
            typer.echo(f"the gateway goes on downloading; the same command follows it, {names} ends it", err=True)
            raise typer.Exit(130) from None


def how_far(download: dict[str, Any]) -> str:
    """A download in words."""
    done, total = download["bytes"], max(download["total_bytes"], download["bytes"])
    unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
    share = f" ({done / total:.0%})" if total else ""
    return f"{download['name']}: {done / unit:.2f} of {total / unit:.2f} {name}{share}"


@app.command("downloads")
def downloads(
    cancel: Annotated[str | None, typer.Option(metavar="NAME", help="End this one, as owner/name@commit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the models and data sets that are being fetched for runs to come, or end one."""
    gateway = connect()
    if cancel is not None:
        views = gateway.post("/v1/downloads:cancel", {"name": cancel})
    else:
        views = gateway.get("/v1/downloads")
    if as_json:
        print_json(views)
        return
    for view in views:
        console.print(escape(("cancelled " if cancel else "") + how_far(view)), soft_wrap=True)
    if not views:
        console.print("nothing is being downloaded")


@app.command("list")
def list_runs(as_json: AsJson = False) -> None:
    """List the runs of this installation."""
    gateway = connect()
    views = page = gateway.get("/v1/runs", limit=PAGE)
    while len(page) == PAGE:
        page = gateway.get("/v1/runs", limit=PAGE, after=page[-1]["id"])
        views = views + page
    if as_json:
        print_json(views)
        return
    rows = table("run", "method", "status", "step", "version", "created")
    for view in views:
        steps = f"{view['step']}/{view['steps']}"
        rows.add_row(view["id"], view["method"], _marked(view), steps, str(view["version"]), age(view["created"]))
    print_table(rows if views else "no runs yet; start one with `pmd runs create recipes/pocket.yaml --watch`")


@app.command("show")
def show(run: RunId, as_json: AsJson = False) -> None:
    """Show one run as it stands, with the phases of its step in progress."""
    view = connect().get(f"/v1/runs/{run}")
    if as_json:
        print_json(view)
        return
    console.print(
        f"[bold]{view['id']}[/]  {view['method']}  {status(view['status'])}  step {view['step']}/{view['steps']}",
        soft_wrap=True,
    )
    if view["model"]:
        console.print(f"model: {escape(view['model'])}", soft_wrap=True)
    if parent := view.get("parent"):
        console.print(f"forked from {parent['run']} at step {parent['step']}", soft_wrap=True)
    if view["dataset"]:
        console.print(f"data set: {escape(view['dataset'])}", soft_wrap=True)
    if view["error"]:
        console.print(f"[red]{escape(view['error'])}[/]", soft_wrap=True)
    if view["waiting"]:
        console.print(f"[yellow]waiting:[/] {escape(view['waiting'])}", soft_wrap=True)
    print_warnings(view)
    if view["latest"]:
        console.print(_newest(view["latest"]), soft_wrap=True, markup=False)
    rows = table("phase", "status", "attempt", "seconds", "error")
    for phase in view["phases"]:
        seconds = "" if phase["seconds"] is None else f"{phase['seconds']:.1f}"
        rows.add_row(phase["name"], phase["status"], str(phase["attempt"]), seconds, escape(phase["error"] or ""))
    if view["phases"]:
        print_table(rows)


def _marked(view: dict[str, Any]) -> str:
    """A run's status, whether it waits, and how many warnings stand behind it."""
    count = len(view["warnings"])
    word = "waiting" if view["waiting_since"] and view["status"] == "running" else view["status"]
    return status(word) + (f" [yellow]({count} warning{'s' * (count > 1)})[/]" if count else "")


def print_warnings(view: dict[str, Any]) -> None:
    """What should be known of a run, a line each."""
    for warning in view["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(in_commands(warning))}", soft_wrap=True)


def _newest(latest: dict[str, Any]) -> str:
    """The newest numbers of a run in one line."""
    parts = [f"{split} {percent(rate)}" for split, rate in latest["accuracy"].items()]
    parts += [f"train {percent(latest['pass_rate'])}"] if latest["pass_rate"] is not None else []
    parts += [f"lead {100 * latest['lead']:+.0f}"] if latest["lead"] is not None else []
    parts += [f"infra_error {percent(latest['infra_error_share'])}"] if latest["infra_error_share"] else []
    told = [training(latest["train"]), completions(latest["health"])]
    return "  ".join(filter(None, [*parts, *told]))


@app.command("watch")
def watch(run: RunId) -> None:
    """Show the progress of a run until it ends. Exit code 1 unless it succeeds."""
    if watch_run(connect(), run) != "succeeded":
        raise typer.Exit(1)


@app.command("pause")
def pause(run: RunId) -> None:
    """Pause a run once its service calls in progress have ended."""
    _steer(run, "pause")


@app.command("resume")
def resume(run: RunId) -> None:
    """Go on with a paused or failed run."""
    _steer(run, "resume")


@app.command("cancel")
def cancel(run: RunId) -> None:
    """End a run for good; what it recorded stays."""
    _steer(run, "cancel")


def _steer(run: str, verb: str) -> None:
    view = connect().post(f"/v1/runs/{run}:{verb}")
    later = OBEYED_LATER.get(verb, "") if view["status"] in {"queued", "running"} else ""
    console.print(f"{view['id']} {status(view['status'])}" + (f"; it {later}" if later else ""))


@app.command("report")
def report(
    run: RunId,
    html: Annotated[Path | None, typer.Option(help="Write the page here.", show_default="<state>/reports/RUN.html")] = (
        None
    ),
    as_json: AsJson = False,
) -> None:
    """Print a run's report and write it as a page that needs nothing else."""
    raw = connect().get(f"/v1/runs/{run}/report")
    if as_json:
        print_json(raw)
        return
    path = write_report(raw, html or default_state_dir() / "reports" / f"{raw['run']['id']}.html")
    console.print(f"page: {path}", soft_wrap=True)


def write_report(raw: dict[str, Any], path: Path) -> Path:
    """Print the report and write its page."""
    from pmd.gateway.cli.report import render_terminal  # noqa: PLC0415 - loads pyarrow
    from pmd.gateway.report import render_html  # noqa: PLC0415 - loads pyarrow
    from pmd.gateway.views import ReportView  # noqa: PLC0415

    view = ReportView.model_validate(raw)
    console.print(render_terminal(view))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_html(view), encoding="utf-8")
    return path
