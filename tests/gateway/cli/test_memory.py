"""`pmd memory`: every verb of a bank, at the versions that were seen, in front of the real services."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from typer.main import get_command
from typer.testing import CliRunner, Result

from pmd.gateway.api import forward
from pmd.gateway.api.app import create_app
from pmd.gateway.api.memory import READS, WRITES
from pmd.gateway.cli import main, memory
from pmd.gateway.cli.client import Gateway
from pmd.gateway.settings import GatewaySettings
from pmd.services.memory.app import create_app as create_memory
from pmd.services.memory.settings import MemoryServiceSettings
from tests.gateway.api.test_memory_room import BANK
from tests.gateway.fakes import TOKEN

COMMANDS = {
    "accept_proposal": "proposals", "add_memory": "add", "annotate_memory": "annotate", "audit_bank": "audit",
    "ban_memory": "ban", "change_memories": "bulk", "compare_banks": "compare", "delete_snapshot": "forget",
    "diff_bank": "changes", "diff_memory": "diff", "edit_memory": "edit", "get_bank": "size",
    "get_memory_item": "show", "get_snapshot": "forget", "import_bank": "import", "list_memory": "list",
    "list_proposals": "proposals", "list_snapshots": "snapshots", "memory_provenance": "provenance",
    "memory_utility": "utility", "merge_memories": "merge", "name_snapshot": "snapshot", "pin_memory": "pin",
    "reject_proposal": "proposals", "restore_memory": "restore", "revert_memory": "revert",
    "review_memory": "review", "rollback_bank": "rollback", "search_bank": "search", "search_bank_batch": "search",
    "split_memory": "split", "undo_act": "undo", "unpin_memory": "unpin", "why_memory": "why",
}  # fmt: skip
"""The command of each route of a bank."""


class Shell:
    """A person at a shell, beside a run whose bank was imported."""

    def __init__(self, http: TestClient, run: str) -> None:
        self.http = http
        self.run = run

    def __call__(self, verb: str, *words: str, fails: str = "") -> str:
        done: Result = CliRunner().invoke(main.app, ["memory", verb, self.run, *words])
        said = " ".join((done.output + done.stderr).split())
        assert (done.exit_code != 0) == bool(fails), said
        assert fails in said
        return done.stdout

    def items(self, **asked: Any) -> list[dict[str, Any]]:
        return list(self.http.get(f"/v1/runs/{self.run}/memory", params=asked).json()["items"])


@pytest.fixture
def pmd(tmp_path: Path, recipe_tree: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    service = create_memory(MemoryServiceSettings(token=TOKEN, state_dir=tmp_path / "memory"))  # type: ignore[arg-type]
    transports = {"memory": httpx.ASGITransport(service, raise_app_exceptions=False)}
    settings = GatewaySettings(token=TOKEN, state_dir=tmp_path / "state")  # type: ignore[arg-type]
    app = create_app(settings, wake=lambda _: None, transports=transports)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(forward, "PATIENCE_S", 0.1)  # there is no verifier to wait for
    with TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}) as http:

        def passed_on(request: httpx.Request) -> httpx.Response:
            answer = http.request(
                request.method, str(request.url), content=request.read(), headers=dict(request.headers)
            )
            return httpx.Response(answer.status_code, content=answer.content, headers=dict(answer.headers))

        gateway = Gateway("http://testserver", TOKEN, transport=httpx.MockTransport(passed_on))
        for module in ("memory", "curate", "moments"):
            monkeypatch.setattr(f"pmd.gateway.cli.{module}.connect", lambda: gateway)
        run = http.post("/v1/runs", json={"recipe": recipe_tree()}).json()["id"]
        file = "".join(json.dumps(line) + "\n" for line in BANK)
        assert http.post(f"/v1/runs/{run}/bank:import", content=file).status_code == 200
        yield Shell(http, run)


def test_every_route_of_a_bank_has_its_command() -> None:
    assert {row.name for row in (*READS, *WRITES)} == COMMANDS.keys()
    known = set(get_command(memory.app).commands)  # type: ignore[attr-defined]
    assert set(COMMANDS.values()) | {"history", "explain", "export", "delete"} == known


def test_a_curator_reads_edits_merges_and_takes_it_back(pmd: Shell) -> None:
    one, two, *_ = sorted(pmd.items(), key=lambda item: item["text"])
    assert "5 insights" in pmd("size")
    pmd("snapshot", "before", "--note", "as it came", "--as", "ada")
    assert "before" in pmd("snapshots")
    pmd("annotate", one["id"], "look at this", "--as", "ada")
    pmd("edit", one["id"], "--text", "turn once.", "--as", "ada")
    assert "-rotate 0 times." in pmd("diff", one["id"])
    pmd("revert", one["id"], "1", "--as", "ada")
    pmd("merge", one["id"], two["id"], "--text", "rotate at most once.", "--as", "ada")
    changes = pmd("changes", "before")
    assert changes.count("gone") == 2
    assert "added" in changes
    merged = next(i for i in pmd.items() if i["text"] == "rotate at most once.")
    assert "merge" in pmd("provenance", merged["id"])
    assert "undone: merge" in pmd("undo", "--as", "ada")
    assert {one["id"], two["id"]} <= {i["id"] for i in pmd.items()}
    pmd("split", two["id"], "--text", "rotate.", "--text", "once.", "--as", "ada")
    assert "would undo split" in pmd("undo", "--dry-run", "--as", "ada")
    assert "split" in pmd("audit")
    assert "0 changed" not in pmd("rollback", "before")
    pmd("rollback", "before", "--yes")
    assert sorted(i["text"] for i in pmd.items()) == sorted(f"rotate {n} times." for n in range(5))
    pmd("forget", "before")
    pmd("changes", "before", fails="no snapshot")


def test_many_are_changed_after_a_look(pmd: Shell) -> None:
    assert "would ban 5" in pmd("bulk", "ban", "--level", "insight")
    assert len(pmd.items()) == 5
    pmd("bulk", "ban", "--level", "insight", "--yes")
    assert pmd.items() == []
    assert "5 memories" in pmd("audit"), "an act is one line"


def test_a_bank_that_a_run_may_read_is_deleted_with_yes_and_force_alone(pmd: Shell) -> None:
    pmd("delete", fails="--yes does it")
    pmd("delete", "--yes", fails="or give --force")
    assert len(pmd.items()) == 5
    assert "deleted 0 experiences, 5 insights" in pmd("delete", "--yes", "--force", "--as", "ada")
    pmd("size", fails="no bank")
    report = pmd.http.get(f"/v1/runs/{pmd.run}/report").json()
    assert [(e["deleted_by"], e["while_status"]) for e in report["memory_events"]] == [("person:ada", "queued")]
    page = pmd.http.get(f"/v1/runs/{pmd.run}/report", params={"format": "html"}).text
    assert "person:ada deleted the bank while the run was queued" in page


def test_what_nobody_measured_or_rendered_is_said_so(pmd: Shell) -> None:
    item = pmd.items()[0]["id"]
    assert "nothing was measured" in pmd("review")
    assert "0.50" in pmd("utility", item)
    pmd("why", item, fails="knows no contexts")
    pmd("explain", "1:p0#0", fails="knows no context")
    pmd("undo", "--as", "ada", fails="no act of")


def test_a_bank_leaves_says_its_model_and_is_tried_before_it_comes_back(pmd: Shell, tmp_path: Path) -> None:
    file = tmp_path / "bank.jsonl"
    pmd("export", str(file))
    head = json.loads(file.read_text().splitlines()[0])
    assert (head["bank"], head["model"]) == (pmd.run, "model")
    assert "0 would be added" in pmd("import", str(file), "--dry-run")
    assert "0 added, 5 known" in pmd("import", str(file))
    pmd.run = pmd.run[:-3]
    assert "0 added, 5 known" in pmd("import", str(file)), "sent again once the whole id is known"


def test_two_runs_are_compared(pmd: Shell, recipe_tree: Callable[..., dict[str, Any]]) -> None:
    other = pmd.http.post("/v1/runs", json={"recipe": recipe_tree(name="other")}).json()["id"]
    file = pmd.http.get(f"/v1/runs/{pmd.run}/bank/export").content
    assert pmd.http.post(f"/v1/runs/{other}/bank:import", content=file).status_code == 200
    pmd("edit", pmd.items()[0]["id"], "--text", "turn once.")
    said = pmd("compare", other)
    assert "4 in both, 1 only in" in said
    assert "turn once." in said


def test_a_run_begins_with_the_bank_of_another(pmd: Shell, recipe_tree: Callable[..., dict[str, Any]]) -> None:
    pmd("snapshot", "good")
    pmd("edit", pmd.items()[0]["id"], "--text", "turn once.")

    def create(start_from: str) -> httpx.Response:
        tree = recipe_tree(name="next", memory={"start_from": start_from})
        checked = pmd.http.post("/v1/recipes:validate", json={"recipe": tree})
        made = pmd.http.post("/v1/runs", json={"recipe": tree})
        assert (checked.status_code == 200) == (made.status_code == 201), (checked.text, made.text)
        return made

    made = create(f"run:{pmd.run}@good").json()
    start = pmd.http.get(f"/v1/runs/{made['id']}/report").json()["start"]
    assert (start["origin"], start["model"], start["seq"], start["items"]) == (pmd.run, "model", 1, {"insight": 5})
    for wrong, why in (
        ("run:none-1", "no run 'none-1'"),
        (f"run:{pmd.run}@bad", "no snapshot 'bad'"),
        (f"run:{made['id']}", "no bank"),
    ):
        refused = create(wrong)
        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert (error["field"], why in error["message"]) == ("memory.start_from", True), error
