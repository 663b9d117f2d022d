"""How `pmd` speaks: completion, ids by their beginning, ids that stay whole, commands in place of routes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.testing import CliRunner

import pmd as package
from pmd.gateway.cli import client, main, output
from pmd.gateway.cli.client import Gateway
from tests.gateway.cli.conftest import Api, Pmd
from tests.gateway.cli.synthetic import report

RUNS = ("pocket-7f3a0001", "pocket-7f3b0002", "code-00000003")
PMD = typer.main.get_command(main.app)
ROUTE = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE) /v1/|(?<![\w/}]):(pause|resume|cancel)\b|force=true")


class OfRuns(dict[str, Any]):
    """A gateway that knows `RUNS` and nothing else."""

    def get(self, asked: Any, _: Any = None) -> Any:
        run = asked.partition("/v1/runs/")[2].partition("/")[0].partition(":")[0]
        if asked == "GET /v1/runs":
            return [{"id": each} for each in RUNS]
        if run in RUNS:
            return httpx.Response(418, json={"status": 418, "title": f"found {run}"})
        return httpx.Response(404, json={"status": 404, "title": f"no run {run!r}; GET /v1/runs lists them"})


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def of_runs() -> Iterator[Any]:
    """The words of each command that names a run, up to the run."""
    for path, command in commands(PMD):
        for parameter in command.params:
            if isinstance(parameter, TyperArgument) and str(parameter.metavar).startswith(("RUN", "OTHER")):
                yield pytest.param(path, command, parameter.name, id=" ".join((*path, str(parameter.name))))


def call(path: tuple[str, ...], command: Any, argument: str, run: str, tmp_path: Path) -> list[str]:
    """A whole command line with `run` as the argument, and something for what else it needs."""
    words = list(path)
    for parameter in command.params:
        if isinstance(parameter, TyperArgument) and parameter.required:
            given = {"file": str(tmp_path / "given"), "to": "1", "since": "1"}.get(str(parameter.name), "w1")
            given = run if parameter.name in {"run", "other"} else given
            words += [run if parameter.name == argument else given] * (2 if parameter.nargs == -1 else 1)
        elif isinstance(parameter, TyperOption) and parameter.required:
            words += [parameter.opts[0], str(tmp_path / "out") if parameter.name == "to" else "w2"]
    return words


@pytest.mark.parametrize(("path", "command", "argument"), list(of_runs()))
def test_the_beginning_of_an_id_names_a_run_in_every_command(
    path: tuple[str, ...], command: Any, argument: str, api: Api, pmd: Pmd, tmp_path: Path
) -> None:
    (tmp_path / "given").touch()
    api.answers = OfRuns()
    ambiguous = pmd(*call(path, command, argument, "pocket-7f3", tmp_path))
    assert ambiguous.exit_code == 2, ambiguous.output
    assert "'pocket-7f3' begins 2 ids: pocket-7f3a0001, pocket-7f3b0002" in ambiguous.stderr
    found = pmd(*call(path, command, argument, "code", tmp_path))
    assert "found code-00000003" in found.stderr, found.output
    unknown = pmd(*call(path, command, argument, "other", tmp_path))
    assert "no run 'other'; `pmd runs list` shows them" in unknown.stderr


@pytest.mark.parametrize("command", [path for path, _ in commands(PMD)], ids=" ".join)
def test_every_command_says_what_it_is_for(command: tuple[str, ...], pmd: Pmd) -> None:
    result = pmd(*command, "-h")
    assert result.exit_code == 0, result.output
    said = [line for line in result.stdout.splitlines() if line.strip()]
    assert "Usage:" in said[0]
    assert said[1].strip().endswith((".", ":", ")")) or len(said[1]) > 60, said[1]


def complete(pmd: Pmd, monkeypatch: pytest.MonkeyPatch, words: str) -> list[str]:
    """What bash is given for the last of `words`."""
    monkeypatch.setenv("_PMD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    return CliRunner().invoke(main.app, [], prog_name="pmd").stdout.split()


def test_a_shell_completes_commands_options_and_ids_of_runs(pmd: Pmd, monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete(pmd, monkeypatch, "pmd runs wa") == ["watch"]
    assert complete(pmd, monkeypatch, "pmd runs create --dr") == ["--dry-run"]
    assert complete(pmd, monkeypatch, "pmd runs show pocket") == [], "no gateway answers, and nothing breaks"
    told = httpx.MockTransport(lambda _: httpx.Response(200, json=[{"id": run} for run in RUNS]))
    monkeypatch.setattr(output, "connect", lambda _: Gateway("http://gateway", "token", transport=told))
    assert complete(pmd, monkeypatch, "pmd runs show pocket") == ["pocket-7f3a0001", "pocket-7f3b0002"]
    assert complete(pmd, monkeypatch, "pmd chat co") == ["code-00000003"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_printed(shell: str) -> None:
    assert "_PMD_COMPLETE" in CliRunner().invoke(main.app, ["--show-completion", shell], prog_name="pmd").stdout


@pytest.mark.parametrize("width", [20, 60, 80])
def test_no_id_is_broken_over_lines_however_narrow_the_terminal(
    width: int, api: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.console, "width", width)
    run, item, problem = "r" * 90, "i" * 40, "p" * 100
    about = {"level": "insight", "kind": "strategy", "text": "words " * 30, "status": "active", "version": 1, "seq": 1}
    about |= {"step": 1, "policy_version": 0, "support": None, "successes": 0, "trials": 0, "problem_id": problem}
    api.answers["GET /v1/runs/r/memory"] = {"items": [about | {"id": item}], "next": None}
    api.answers["GET /v1/runs"] = [report(id=run).run.model_dump(mode="json")]
    api.answers["GET /v1/runs/a/report"] = report(id=run).model_dump(mode="json")
    api.answers["POST /v1/runs/r:reverify"] = {
        "judged": 1, "changed": 1, "transitions": {}, "mean_reward_old": 0.0, "mean_reward_new": 0.0,
        "changes": [{"rollout_id": f"{problem}#1", "old": {"outcome": "failed"},
                     "new": {"outcome": "passed", "feedback": "words " * 30}}],
    }  # fmt: skip
    for words, whole in (
        (("runs", "list"), run),
        (("compare", "a", "a"), run),
        (("memory", "list", "r"), item),
        (("reverify", "r"), f"{problem}#1"),
    ):
        shown = pmd(*words).stdout
        assert whole in shown, words
        assert len({len(line) for line in shown.splitlines()[1:] if whole in line}) <= 1 + ("list" not in words)


def texts(path: Path) -> Iterator[str]:
    """What a file may say, with `r` in the place of what is filled in: its texts but those that document it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    filled = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    for node in filled:
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "r" for part in node.values)
    parts = {id(part) for node in filled for part in node.values}
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    routes = {
        id(each) for node in ast.walk(tree) for each in getattr(node, "decorator_list", ()) for each in ast.walk(each)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documents | routes | parts
        ):
            yield node.value


def test_no_refusal_names_a_route_to_who_types_commands() -> None:
    """Of all texts of the gateway and the services: a new one with a route in it needs its words in `client`."""
    root = Path(package.__file__).parent
    said = [
        text
        for room in ("gateway", "services")
        for path in sorted((root / room).rglob("*.py"))
        if "cli" not in path.relative_to(root).parts and path.name != "examples.py"
        for text in texts(path)
        if ROUTE.search(text)
    ]
    assert len(said) > 5, "nothing was looked at"
    assert [text for text in said if ROUTE.search(client.in_commands(text))] == []
