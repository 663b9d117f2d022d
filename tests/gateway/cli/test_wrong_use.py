"""Wrong use of `pmd` is one clear line, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from pmd.gateway.cli.progress import Progress
from tests.gateway.cli.conftest import Api, Pmd
from tests.gateway.cli.synthetic import report


@pytest.mark.parametrize(
    ("url", "token", "cause"),
    [
        ("http://gateway:port", "t", "no address of a gateway"),
        ("foo", "t", "no gateway answers at foo"),
        ("http://127.0.0.1:9", "a\nb", "PMD_TOKEN is no token"),
        ("http://127.0.0.1:9", "t\u00fc", "PMD_TOKEN is no token"),
    ],
)
def test_an_address_or_a_token_that_is_none_is_named(
    url: str, token: str, cause: str, pmd: Pmd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMD_URL", url)
    monkeypatch.setenv("PMD_TOKEN", token)
    result = pmd("runs", "list")
    assert result.exit_code in {1, 2}
    assert cause in result.stderr


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, text="<html>"), httpx.Response(404, json=[1]), httpx.Response(502, text="bad")]
)
def test_what_is_no_gateway_is_said_to_be_none(answer: httpx.Response, api: Api, pmd: Pmd) -> None:
    api.answers["GET /v1/runs/r"] = answer
    result = pmd("runs", "show", "r")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_text_that_no_encoding_can_write_is_named(api: Api, pmd: Pmd) -> None:
    api.answers["GET /v1/runs/r"] = report().run.model_dump(mode="json")
    result = pmd("chat", "r", "--prompt", "\udcff")  # how Python reads an argument that is no UTF-8
    assert result.exit_code == 1
    assert "can't be written as utf-8" in result.stderr


def test_an_answer_that_breaks_off_is_an_error(api: Api, pmd: Pmd) -> None:
    api.answers["GET /v1/runs/r"] = report().run.model_dump(mode="json")
    broken = 'data: {"choices": [{"delta": {"content": "Pl"}}]}\n\ndata: {"error": {"message": "it broke off"}}\n\n'
    api.answers["POST /v1/chat/completions"] = httpx.Response(200, text=broken)
    result = pmd("chat", "r", "--prompt", "hello")
    assert result.exit_code == 1
    assert "it broke off" in result.stderr


def test_a_page_that_can_not_be_written_is_named(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    api.answers["GET /v1/runs/r/report"] = report().model_dump(mode="json")
    result = pmd("runs", "report", "r", "--html", str(tmp_path / "file" / "page.html"))
    assert result.exit_code == 1
    assert "error: " in result.stderr


def test_a_terminal_that_knows_ascii_only_still_shows_a_report(tmp_path: Path) -> None:
    """In a process of its own: the encoding of stdout is fixed at start."""
    code = (
        "import sys, httpx\n"
        "from pmd.gateway.cli import client, main, runs\n"
        "from tests.gateway.cli.synthetic import report\n"
        "told = httpx.MockTransport(lambda _: httpx.Response(200, json=report().model_dump(mode='json')))\n"
        "runs.connect = lambda: client.Gateway('http://gateway', 'token', transport=told)\n"
        "main.app(sys.argv[1:])\n"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PMD_STATE_DIR": str(tmp_path)}
    for words in (["runs", "report", "r", "--html", str(tmp_path / "page.html")], ["runs", "report", "r", "--json"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], env=os.environ | plain, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
    assert json.loads(done.stdout) == report().model_dump(mode="json")
    assert not (tmp_path / "page.html").read_text(encoding="utf-8").isascii()


def test_who_watches_a_paused_run_is_told_what_to_do() -> None:
    progress = Progress(steps=2)
    progress.apply({"type": "run.status", "payload": {"status": "paused"}})
    assert "pmd runs resume" in progress.notice
    progress.apply({"type": "run.status", "payload": {"status": "queued"}})
    assert not progress.notice


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PMD_GATEWAY_PORT", "abc", "unknown setting PMD_GATEWAY_PORT"),
        ("PMD_MEMORY_EMBEDER", "hash", "did you mean PMD_MEMORY_EMBEDDER?"),
        ("PMD_TRAINER_NPROC", "many", "PMD_TRAINER_NPROC: "),
        ("PMD_TOKEN", "short", "PMD_TOKEN: "),
    ],
)
def test_a_wrong_setting_is_a_sentence_before_anything_is_started(
    pmd: Pmd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("pmd.gateway.local.launcher.start_detached", lambda *_: pytest.fail("something was started"))
    refused = pmd("up")
    assert refused.exit_code == 1
    assert said in refused.output
    assert not (tmp_path / "state").exists()


RUNS = ["pocket-7f3a0001", "pocket-7f3b0002", "code-00000003"]


def of_runs(request: httpx.Request) -> httpx.Response:
    """A gateway that knows `RUNS`."""
    named = request.url.path.removeprefix("/v1/runs").strip("/").partition("/")[0].partition(":")[0]
    view = report().run.model_dump(mode="json")
    if not named:
        return httpx.Response(200, json=[view | {"id": run} for run in RUNS])
    if named not in RUNS:
        return httpx.Response(404, json={"status": 404, "title": f"no run {named!r}; GET /v1/runs lists them"})
    return httpx.Response(200, json=view | {"id": named})


@pytest.mark.parametrize("command", ["show", "pause", "cancel"])
def test_the_beginning_of_an_id_is_enough_where_it_names_one_run(command: str, api: Api, pmd: Pmd) -> None:
    class Known(dict[str, object]):
        def get(self, *_: object) -> object:
            return of_runs

    api.answers = Known()
    assert "code-00000003" in pmd("runs", command, "code").stdout
    assert "code-00000003" in str(api.asked[-1].url)
    ambiguous = pmd("runs", command, "pocket-7f3")
    assert (ambiguous.exit_code, "'pocket-7f3' begins 2 ids: pocket-7f3a0001, pocket-7f3b0002" in ambiguous.stderr) == (
        2,
        True,
    )
    assert "no run 'other'; `pmd runs list` shows them" in pmd("runs", command, "other").stderr


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("the memory service is out of reach (ConnectError); see GET /v1/services", "see `pmd status`"),
        ("run 'r' is running; it allows :pause and :cancel", "it allows `pmd runs pause` and `pmd runs cancel`"),
        ("run 'r' is failed; it allows :resume", "it allows `pmd runs resume`"),
    ],
)
def test_refusals_name_commands_and_no_routes(title: str, said: str, api: Api, pmd: Pmd) -> None:
    api.answers["POST /v1/runs/r:pause"] = httpx.Response(409, json={"status": 409, "title": title})
    error = pmd("runs", "pause", "r").stderr
    assert said in error
    assert "/v1/" not in error


@pytest.mark.parametrize("words", [["--version"], ["-h"], ["runs", "-h"], ["runs", "create", "-h"]])
def test_help_and_version_answer(words: list[str], pmd: Pmd) -> None:
    result = pmd(*words)
    assert result.exit_code == 0
    assert result.stdout.startswith("pmd 0") if words == ["--version"] else "Usage" in result.stdout


@pytest.mark.parametrize("module", ["pmd.gateway.cli.main", "pmd.gateway.cli"])
def test_the_command_runs_as_a_module_too(module: str) -> None:
    command = [sys.executable, "-m", module, "runs", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such command 'nonsense'" in done.stderr


def test_who_leaves_watch_is_told_that_the_run_goes_on(api: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    api.answers["GET /v1/runs/r"] = report(id="r").run.model_dump(mode="json")
    monkeypatch.setattr("pmd.gateway.cli.watch.follow", interrupted)
    result = pmd("runs", "watch", "r")
    assert result.exit_code != 0
    assert "r goes on" in result.stdout
    assert "`pmd runs cancel r` stops it" in result.stdout
