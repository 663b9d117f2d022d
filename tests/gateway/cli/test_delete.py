"""`pmd runs delete`: a look first, a question, patience, and what was freed."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.gateway.cli.conftest import Api, Pmd
from tests.gateway.cli.synthetic import report

FOUND = {
    "run": "r", "done": False, "waiting": None, "memory": {"experience": 31, "insight": 9, "behavior": 1},
    "versions": 41, "files": 512, "bytes": 3 << 30,
}  # fmt: skip


@pytest.fixture
def deletion(api: Api) -> Api:
    """A gateway that asks for patience twice."""
    waits = iter(["the run is being cancelled", "the run is being cancelled", None])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.params.get("dry_run"):
            return httpx.Response(200, json=FOUND)
        waiting = next(waits)
        return httpx.Response(202 if waiting else 200, json=FOUND | {"waiting": waiting, "done": waiting is None})

    api.answers |= {"GET /v1/runs/r": report(id="r").run.model_dump(mode="json"), "DELETE /v1/runs/r": answer}
    return api


def test_who_is_not_asked_must_say_yes(deletion: Api, pmd: Pmd) -> None:
    refused = pmd("runs", "delete", "r")
    assert refused.exit_code == 2
    assert "--yes does it" in refused.stderr
    assert "512 files, 3.0 GiB; the weights of 41 policy versions; its memory (31 experiences" in refused.stdout
    assert [each.url.params.get("dry_run") for each in deletion.asked if each.method == "DELETE"] == ["true"]


@pytest.mark.parametrize(("answer", "deleted"), [("y\n", True), ("n\n", False)])
def test_at_a_terminal_it_asks(
    answer: str, deleted: bool, deletion: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.gateway.cli.delete.POLL_S", 0.0)
    monkeypatch.setattr("pmd.gateway.cli.delete.at_terminal", lambda: True)
    monkeypatch.setattr("pmd.gateway.cli.delete.typer.confirm", lambda _: answer == "y\n")
    result = pmd("runs", "delete", "r")
    assert (result.exit_code == 0) is deleted
    assert ("r is deleted" in result.stdout) is deleted
    assert any("dry_run" not in each.url.params for each in deletion.asked if each.method == "DELETE") is deleted


def test_what_has_to_end_first_is_said_once_and_waited_for(
    deletion: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.gateway.cli.delete.POLL_S", 0.0)
    result = pmd("runs", "delete", "r", "--force", "--yes")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("waiting: the run is being cancelled") == 1
    assert "r is deleted; 3.0 GiB freed" in result.stdout
    assert {each.url.params.get("force") for each in deletion.asked if each.method == "DELETE"} == {"true"}


def test_a_removal_that_takes_longer_than_an_answer_is_asked_about_again(
    deletion: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.gateway.cli.delete.POLL_S", 0.0)
    refusal = {"title": "not deleted yet, ask again: the trainer service: it works"}
    answers = iter([httpx.ReadTimeout("slow"), httpx.Response(503, json=refusal), None])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.params.get("dry_run"):
            return httpx.Response(200, json=FOUND)
        match next(answers):
            case httpx.Response() as refused:
                return refused
            case httpx.ReadTimeout() as slow:
                raise slow
        return httpx.Response(200, json={"run": "r", "done": True, "bytes": 0, "files": 0, "versions": 0})

    deletion.answers["DELETE /v1/runs/r"] = answer
    result = pmd("runs", "delete", "r", "--yes")
    assert result.exit_code == 0, result.output
    assert "r is deleted; 3.0 GiB freed" in result.stdout
    assert "the trainer service: it works" in result.stderr


def test_a_gateway_that_is_gone_is_not_asked_for_ever(deletion: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.params.get("dry_run"):
            return httpx.Response(200, json=FOUND)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr("pmd.gateway.cli.delete.PATIENCE_S", -1.0)
    deletion.answers["DELETE /v1/runs/r"] = answer
    result = pmd("runs", "delete", "r", "--yes")
    assert result.exit_code == 1
    assert "no gateway answers" in result.stderr


def test_scripts_get_one_document(deletion: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmd.gateway.cli.delete.POLL_S", 0.0)
    assert json.loads(pmd("runs", "delete", "r", "--yes", "--json").stdout)["done"] is True


def test_who_gives_up_waiting_is_told_how_to_go_on(deletion: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pmd.gateway.cli.delete.time.sleep", interrupted)
    result = pmd("runs", "delete", "r", "--yes")
    assert result.exit_code == 130
    assert "r is not deleted yet; `pmd runs delete r` goes on" in result.stderr
