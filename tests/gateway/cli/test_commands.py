"""Commands against a gateway of canned answers: what they send, what they print, how they fail."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from pmd.gateway.cli import client, output, verify
from tests.gateway.cli.conftest import Api, Pmd
from tests.gateway.cli.synthetic import report

RECIPE = Path(__file__).parents[3] / "recipes" / "pocket.yaml"


def run_view(**changes: Any) -> dict[str, Any]:
    return {**report().run.model_dump(mode="json"), **changes}


def test_a_run_is_created_from_a_recipe_with_overrides(api: Api, pmd: Pmd) -> None:
    api.answers["POST /v1/runs"] = httpx.Response(201, json=run_view(id="pocket-1"))
    result = pmd("runs", "create", str(RECIPE), "--set", "teacher.ema=0.5", "--set", "schedule.steps=3")
    assert result.exit_code == 0, result.output
    assert "pocket-1" in result.output
    sent = json.loads(api.asked[0].content)["recipe"]
    assert sent["teacher"] == {"ema": 0.5, "lead_gate": True}
    assert sent["schedule"]["steps"] == 3
    assert "Now solve it." in sent["prompts"]["teacher"]
    assert api.asked[0].headers["authorization"] == "Bearer token"


def test_a_wrong_key_is_named_before_anything_is_sent(api: Api, pmd: Pmd) -> None:
    result = pmd("runs", "create", str(RECIPE), "--set", "teacher.emma=0.5")
    assert result.exit_code == 2
    assert "teacher.emma: unknown key 'emma'; did you mean 'ema'?" in result.stderr
    assert api.asked == []


def test_a_dry_run_prints_the_complete_recipe_and_needs_no_gateway(pmd: Pmd) -> None:
    result = pmd("runs", "create", str(RECIPE), "--dry-run")
    assert json.loads(result.stdout)["retrieval"]["k"] == 3


def of_files(tmp_path: Path) -> tuple[str, ...]:
    record = {"messages": [{"role": "user", "content": "q"}], "verifier": {"kind": "exct"}}
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(record | {"id": f"p{n}"}) for n in range(9)))
    return (
        "--set",
        f"problems={{source: jsonl, files: [{tmp_path / 'p.jsonl'}]}}",
        "--set",
        "schedule.problems_per_step=2",
    )


def test_a_dry_run_says_what_the_verifier_refuses(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    left_out = {"where": "problem p8", "field": "verifier.kind", "message": "unknown kind 'exct'"}
    answer = {"problems": {"train": 8}, "bad_records": 1, "bad_examples": [left_out]}
    api.answers["POST /v1/recipes:validate"] = answer
    result = pmd("runs", "create", str(RECIPE), "--dry-run", *of_files(tmp_path))
    assert "left out: problem p8: field 'verifier.kind': unknown kind 'exct'" in result.stderr
    assert "8 problems, 1 bad records left out" in result.stderr
    assert json.loads(result.stdout)["problems"]["source"] == "jsonl"


def test_a_dry_run_without_a_gateway_says_what_it_has_not_checked(pmd: Pmd, tmp_path: Path) -> None:
    result = pmd("runs", "create", str(RECIPE), "--dry-run", *of_files(tmp_path))
    assert result.exit_code == 0, result.output
    assert "no verifier has checked the specs" in result.stderr
    assert "9 problems, 0 bad records left out" in result.stderr


def test_a_dry_run_misses_a_model_as_the_run_would(pmd: Pmd) -> None:
    result = pmd("runs", "create", str(RECIPE), "--dry-run", "--set", "model=nowhere")
    assert result.exit_code == 2
    assert "model: no folder" in result.stderr


@pytest.mark.parametrize(
    "words", [("no.yaml",), (str(RECIPE), "--set", "teacher.ema"), (str(RECIPE), "--set", "teacher.ema=[[")]
)
def test_an_unreadable_recipe_is_one_line(pmd: Pmd, words: tuple[str, ...]) -> None:
    result = pmd("runs", "create", *words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("run", ["../../v1/models", "a b", "", "x:cancel", "x?limit=1", "é"])
@pytest.mark.parametrize("command", [("runs", "cancel"), ("memory", "list"), ("chat",), ("compare", "r")])
def test_what_names_no_run_is_never_put_into_a_path(api: Api, pmd: Pmd, command: tuple[str, ...], run: str) -> None:
    result = pmd(*command, run)
    assert result.exit_code == 2, result.output
    assert "is no id of a run" in result.stderr
    assert api.asked == []


def test_without_a_gateway_the_fix_is_named(pmd: Pmd) -> None:
    result = pmd("runs", "list")
    assert result.exit_code == 1
    assert "pmd up" in result.stderr
    assert "PMD_URL" in result.stderr


def test_a_gateway_elsewhere_is_used(pmd: Pmd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_URL", "http://127.0.0.1:9")
    assert "set PMD_TOKEN" in pmd("runs", "list").stderr
    monkeypatch.setenv("PMD_TOKEN", "t")
    assert "no gateway answers at http://127.0.0.1:9" in pmd("runs", "list").stderr


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(401, json={"title": "missing token"}), "set PMD_TOKEN"),
        (httpx.Response(404, json={"title": "no run 'x'; GET /v1/runs lists them"}), "no run 'x'"),
        (httpx.Response(500, text="<html>"), "can't answer: HTTP 500"),
        (httpx.Response(403, text="<p>no key is sk-secret"), "HTTP 403; is it a gateway that answers at "),
        (httpx.Response(400, json={"title": "sk-secret", "errors": {"a": ["b"]}}), "HTTP 400; is it a gateway"),
        (
            httpx.Response(422, json={"title": "bad", "errors": [{"field": "a.b", "message": "too big"}]}),
            "a.b: too big",
        ),
    ],
)
def test_refusals_say_cause_and_fix(api: Api, pmd: Pmd, answer: httpx.Response, words: str) -> None:
    api.answers["GET /v1/runs/x"] = answer
    result = pmd("runs", "show", "x")
    assert result.exit_code == (2 if answer.status_code == 422 else 1)
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert "sk-secret" not in result.output


def test_runs_are_listed_for_people_and_for_scripts(api: Api, pmd: Pmd) -> None:
    api.answers["GET /v1/runs"] = [run_view(id="pocket-1"), run_view(id="pocket-2", status="failed")]
    assert "pocket-2" in pmd("runs", "list").stdout
    assert [run["id"] for run in json.loads(pmd("runs", "list", "--json").stdout)] == ["pocket-1", "pocket-2"]


def test_a_row_is_one_line_where_no_terminal_reads_it(api: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "80")
    assert output.line_width() is None
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(output.console, "width", output.line_width())
    api.answers["GET /v1/runs"] = [run_view(id="code-hard.levels-experience-insight." + "0" * 60)]
    lines = pmd("runs", "list").stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[0].endswith("0" * 60)


def test_an_id_is_never_broken_over_lines(api: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.console, "width", 60)
    ids = ["code-hard.levels-experience-insight-" + "0" * 60, "short"]
    api.answers["GET /v1/runs"] = [run_view(id=run) for run in ids]
    assert [line.split()[0] for line in pmd("runs", "list").stdout.splitlines()[1:]] == ids
    api.answers["POST /v1/runs"] = httpx.Response(201, json=run_view(id=ids[0]))
    assert ids[0] in pmd("runs", "create", str(RECIPE)).stdout


def test_a_run_that_waits_says_so_and_for_what(api: Api, pmd: Pmd) -> None:
    view = run_view(id="r", status="running", waiting="the verifier starts", waiting_since=1.0)
    api.answers |= {"GET /v1/runs": [view], "GET /v1/runs/r": view}
    assert "waiting: the verifier starts" in pmd("runs", "show", "r").stdout
    assert "waiting" in pmd("runs", "list").stdout


WARNED = {"warnings": ["step 3: 7 of 8 rollouts could not be judged (infra_error)"]}


def test_warnings_stand_in_create_list_show_watch_and_report(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    view = run_view(id="r", **WARNED) | {
        "latest": {
            "pass_rate": 0.5,
            "reward": 0.5,
            "lead": 0.25,
            "infra_error_share": 0.875,
            "train": {"loss": 0.25, "grad_norm": 2.0, "masked": 7.0, "sequences": 8.0, "skipped": 1.0},
            "accuracy": {"test": 0.75},
            "health": {},
        }
    }
    api.answers |= {"GET /v1/runs": [view], "GET /v1/runs/r": view, "POST /v1/runs": view}
    api.answers["GET /v1/runs/r/report"] = report(id="r", **WARNED).model_dump(mode="json")
    alarm = {"step": 3, "kind": "infra_error", "message": "7 of 8 rollouts could not be judged (infra_error)"}
    event = {"seq": 1, "ts": 0.0, "type": "run.alarm", "payload": alarm | {"pauses": False}}
    api.answers["GET /v1/runs/r/events"] = httpx.Response(200, text=f"data: {json.dumps(event)}\n\n")
    for command in (("runs", "create", str(RECIPE)), ("runs", "show", "r"), ("runs", "watch", "r")):
        assert WARNED["warnings"][0] in pmd(*command).stdout, command
    assert "(1 warning)" in pmd("runs", "list").stdout
    assert "succeeded after" in pmd("runs", "watch", "r").stdout
    assert ", but" in pmd("runs", "watch", "r").stdout
    shown = pmd("runs", "show", "r").stdout
    assert "test 75\u00a0%  train 50\u00a0%  lead +25  infra_error 88\u00a0%" in shown
    assert "loss 0.25  grad 2  masked 7 of 8  skipped 1" in shown
    assert "warning: step 3" in pmd("runs", "report", "r").stdout
    assert WARNED["warnings"][0] in (tmp_path / "state" / "reports" / "r.html").read_text()


def test_a_disk_that_fills_up_while_nothing_happens_is_shown_by_watch(api: Api, pmd: Pmd) -> None:
    api.answers["GET /v1/runs/r"] = run_view(id="r", warnings=["now only 0.01 GiB free where the run is kept"])
    api.answers["GET /v1/runs/r/report"] = report().model_dump(mode="json")
    api.answers["GET /v1/runs/r/events"] = httpx.Response(200, text=": heartbeat\n\n")
    assert pmd("runs", "watch", "r").stdout.startswith("now only 0.01 GiB free")


def test_all_runs_are_listed_however_many(api: Api, pmd: Pmd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmd.gateway.cli.runs.PAGE", 2)
    pages = {None: ["r4", "r3"], "r3": ["r2", "r1"], "r1": []}
    api.answers["GET /v1/runs"] = lambda request: [run_view(id=run) for run in pages[request.url.params.get("after")]]
    assert [run["id"] for run in json.loads(pmd("runs", "list", "--json").stdout)] == ["r4", "r3", "r2", "r1"]


@pytest.mark.parametrize(
    ("verb", "status", "said"),
    [
        ("pause", "running", "r running; it pauses once its service calls in progress have ended"),
        ("pause", "paused", "r paused"),
        ("cancel", "running", "r running; it is about to be cancelled"),
        ("resume", "queued", "r queued"),
    ],
)
def test_runs_are_steered(api: Api, pmd: Pmd, verb: str, status: str, said: str) -> None:
    api.answers[f"POST /v1/runs/r:{verb}"] = run_view(id="r", status=status)
    assert pmd("runs", verb, "r").stdout == f"{said}\n"


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 1)])
def test_watching_prints_a_line_per_step_and_tells_how_it_ended(api: Api, pmd: Pmd, status: str, code: int) -> None:
    view = report(steps=3)
    log = [{"seq": i, "ts": 0.0, "type": "step.completed", "payload": {"step": i - 1}} for i in range(1, 5)]
    stream = "".join(f"data: {json.dumps(each)}\n\n" for each in log)
    api.answers["GET /v1/runs/r"] = run_view(id="r", status=status, steps=3, error="no disk" if code else None)
    api.answers["GET /v1/runs/r/report"] = view.model_dump(mode="json")
    api.answers["GET /v1/runs/r/events"] = httpx.Response(200, text=stream)
    result = pmd("runs", "watch", "r")
    assert result.exit_code == code
    assert "step 3/3" in result.stdout
    assert status in result.stdout
    assert ("no disk" in result.stdout) is bool(code)


def test_a_report_is_printed_and_written(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    api.answers["GET /v1/runs/beginning/report"] = report(id="r").model_dump(mode="json")
    result = pmd("runs", "report", "beginning")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "state" / "reports" / "r.html").read_text().startswith("<!doctype html>")


def test_runs_are_compared(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    for method in ("pmd", "sdpo"):
        api.answers[f"GET /v1/runs/{method}/report"] = report(method).model_dump(mode="json")
    result = pmd("compare", "pmd", "sdpo", "--html", str(tmp_path / "c.html"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "c.html").exists()
    assert pmd("compare", "pmd").exit_code == 2


ITEM = {
    "id": "i1", "level": "behavior", "kind": "behavior", "text": "every zor-? begins with [flip].", "problem_id": None,
    "status": "active", "version": 2, "seq": 9, "step": 8, "policy_version": 7, "support": 5, "successes": 4,
    "trials": 6, "sources": ["a", "b"], "note": None,
}  # fmt: skip


def test_memory_is_listed_page_by_page(api: Api, pmd: Pmd) -> None:
    api.answers["GET /v1/runs/r/memory"] = {"items": [ITEM], "next": "cursor"}
    result = pmd("memory", "list", "r", "--level", "behavior", "-q", "zor")
    assert "[flip]" in result.stdout
    assert "--after cursor" in result.stdout
    assert dict(api.asked[0].url.params) == {"level": "behavior", "q": "zor", "limit": "20"}
    assert "levels are" in pmd("memory", "list", "r", "--level", "wisdom").stderr


def test_an_answer_of_another_version_is_a_sentence(api: Api, pmd: Pmd) -> None:
    api.answers["GET /v1/runs/r/memory"] = {"items": [ITEM | {"mood": "good"}], "next": None}
    refused = pmd("memory", "list", "r")
    assert refused.exit_code == 1
    assert "speaks another version (ItemPage.items.0.mood" in " ".join(refused.stderr.split())


def test_a_memory_shows_its_evidence_and_versions(api: Api, pmd: Pmd) -> None:
    then = {"seq": 1, "kind": "behavior", "status": "active", "pinned": False, "edited": False, "facts": {}}
    history = [then | {"version": v, "step": v, "actor": "r@1", "text": f"v{v}"} for v in (1, 2)]
    api.answers["GET /v1/runs/r/memory/i1"] = {"item": ITEM, "history": history}
    result = pmd("memory", "show", "r", "i1")
    assert result.exit_code == 0, result.output
    assert "trials" in result.stdout
    assert "r@1" in result.stdout


HELD = ITEM | {"pinned": False, "edited": True, "version": 3}


def test_a_memory_is_changed_at_the_version_that_was_seen(api: Api, pmd: Pmd) -> None:
    api.answers["GET /v1/runs/r/memory/i1"] = {"item": ITEM, "history": []}
    api.answers["GET /v1/runs/r/memory"] = {"items": [ITEM], "next": None}
    api.answers["PATCH /v1/runs/r/memory/i1"] = HELD
    api.answers["POST /v1/runs/r/memory/i1:pin"] = HELD
    result = pmd("memory", "edit", "r", "i1", "--text", "new words", "--as", "ada")
    assert "version 3" in result.stdout
    sent = api.asked[-1]
    assert json.loads(sent.content) == {"text": "new words", "also": []}
    assert (sent.headers["If-Match"], sent.headers["X-PMD-Actor"]) == ('"2"', "ada")
    pmd("memory", "pin", "r", "i1", "--version", "7", "--reason", "good")
    assert (api.asked[-1].headers["If-Match"], json.loads(api.asked[-1].content)) == ('"7"', {"reason": "good"})
    assert len({each.headers.get("Idempotency-Key") for each in (sent, api.asked[-1])} - {None}) == 2


def test_proposals_are_listed_and_decided(api: Api, pmd: Pmd) -> None:
    proposal = {
        "id": "w1",
        "item_id": "i1",
        "item_version": 2,
        "action": "replace",
        "step": 9,
        "actor": "r@8",
        "seq": 9,
    }
    proposal |= {"text": "[better]", "reason": "", "status": "open", "decided_by": None, "facts": {}}
    pages = {
        None: {"proposals": [proposal | {"id": "w0"}], "next": "9.w0"},
        "9.w0": {"proposals": [proposal], "next": None},
    }
    api.answers["GET /v1/runs/r/bank/proposals"] = lambda request: pages[request.url.params.get("after")]
    api.answers["GET /v1/runs/r/memory/i1"] = {"item": ITEM, "history": []}
    api.answers["POST /v1/runs/r/bank/proposals/w1:accept"] = HELD
    assert "[better]" in pmd("memory", "proposals", "r").stdout
    pmd("memory", "proposals", "r", "--accept", "w1")
    assert api.asked[-1].headers["If-Match"] == '"2"'
    assert "no open proposal" in pmd("memory", "proposals", "r", "--accept", "w2").stderr


def test_chat_streams_the_newest_version(api: Api, pmd: Pmd) -> None:
    pieces = [json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in ("Plan: ", "flip.")]
    api.answers["GET /v1/runs/r"] = run_view(id="r", version=7)
    api.answers["POST /v1/chat/completions"] = httpx.Response(
        200, text="".join(f"data: {each}\n\n" for each in [*pieces, "[DONE]"])
    )
    result = pmd("chat", "r", "--prompt", "hello")
    assert result.stdout == "Plan: flip.\n"
    sent = json.loads(api.asked[-1].content)
    assert sent["model"] == "r@7"
    assert sent["messages"] == [{"role": "user", "content": "hello"}]
    assert "a version is a number" in pmd("chat", "r@new", "--prompt", "x").stderr


@pytest.fixture
def judged(tmp_path: Path) -> tuple[Path, Path]:
    """A problem file with one wrong line, and completions of its problems."""
    problems, completions = tmp_path / "problems.jsonl", tmp_path / "completions.jsonl"
    problem = {"messages": [{"role": "user", "content": "?"}], "verifier": {"kind": "exact", "answer": "42"}}
    problems.write_text(f"{json.dumps({'id': 'p', **problem})}\n{{}}\n{json.dumps({'id': 'q', **problem})}\n")
    answers = [{"problem_id": id_, "completion": text} for id_, text in (("p", "42"), ("q", "7"), ("p", "8"))]
    completions.write_text("".join(f"{json.dumps(answer)}\n" for answer in answers))
    return problems, completions


def verdict(outcome: str, feedback: str = "") -> dict[str, Any]:
    return {"outcome": outcome, "reward": float(outcome == "passed"), "feedback": feedback, "error": ""}


def test_completions_are_judged_by_their_problems(
    api: Api, pmd: Pmd, judged: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "BATCH_ITEMS", 2)
    api.answers["POST /v1/verify"] = {"verdicts": [verdict("passed"), verdict("failed", "Answer: 7")]}
    result = pmd("verify", *map(str, judged), "--out", str(tmp_path / "out.jsonl"))
    assert result.exit_code == 1, "a batch of one was answered with two verdicts"
    sent = [json.loads(request.content)["items"] for request in api.asked]
    assert [[item["completion"] for item in batch] for batch in sent] == [["42", "7"], ["8"]]
    assert sent[0][0]["verifier"] == {"kind": "exact", "answer": "42"}

    monkeypatch.setattr(verify, "BATCH_ITEMS", 3)
    verdicts = [verdict("passed"), verdict("failed", "Answer: 7"), verdict("infra_error")]
    api.answers["POST /v1/verify"] = {"verdicts": verdicts}
    result = pmd("verify", *map(str, judged), "--out", str(tmp_path / "out.jsonl"))
    assert result.exit_code == 0, result.output
    assert "1 failed, 1 infra_error, 1 passed; mean reward 0.5000" in result.stdout
    assert "Answer: 7" in result.stdout
    assert "line 2: field 'id'" in result.stderr
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["problem_id"], row["outcome"]) for row in written] == [
        ("p", "passed"),
        ("q", "failed"),
        ("p", "infra_error"),
    ]


def test_one_completion_is_judged(api: Api, pmd: Pmd, judged: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "answer.md").write_text("It is 41.")
    api.answers["POST /v1/verify"] = {"verdicts": [verdict("failed", "Answer: It is 41.")]}
    result = pmd("verify", str(judged[0]), str(tmp_path / "answer.md"), "--problem", "q")
    assert "failed, reward 0" in result.stdout
    assert "Answer: It is 41." in result.stdout
    assert json.loads(api.asked[0].content)["items"][0]["completion"] == "It is 41."


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1 is no JSON"),
        ("[]", "line 1: field 'problem_id' must be a text"),
        ('{"problem_id": "p"}', "field 'completion' must be a text"),
        ('{"problem_id": "r", "completion": ""}', "holds no problem 'r'"),
        ("", "holds no completion"),
    ],
)
def test_completions_that_can_not_be_judged_are_named(
    api: Api, pmd: Pmd, judged: tuple[Path, Path], line: str, words: str
) -> None:
    judged[1].write_text(line)
    result = pmd("verify", *map(str, judged))
    assert result.exit_code == 2
    assert words in result.stderr.replace("\n", " ")
    assert api.asked == []


def test_a_run_is_judged_again(api: Api, pmd: Pmd, judged: tuple[Path, Path]) -> None:
    change = {"rollout_id": "p#1", "old": verdict("failed"), "new": verdict("passed")}
    api.answers["POST /v1/runs/r:reverify"] = {
        "judged": 8,
        "changed": 1,
        "transitions": {"failed -> passed": 1, "passed -> passed": 7},
        "mean_reward_old": 0.875,
        "mean_reward_new": 1.0,
        "changes": [change],
    }
    result = pmd("reverify", "r", "--step", "3", "--problems", str(judged[0]))
    assert result.exit_code == 0, result.output
    assert "8 rollouts judged, 1 otherwise than before; mean reward 0.8750 -> 1.0000" in result.stdout
    assert "1 failed -> passed, 7 passed -> passed" in result.stdout
    assert "p#1" in result.stdout
    sent = json.loads(api.asked[0].content)
    assert (sent["step"], sorted(sent["specs"])) == (3, ["p", "q"])


def test_the_command_line_starts_without_anything_heavy() -> None:
    code = "import sys, pmd.gateway.cli.main; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pyarrow", "transformers", "celery", "sqlalchemy"} & set(modules)


def test_a_token_of_the_state_folder_is_found(pmd: Pmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del pmd  # for its environment
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "token").write_text("kept")
    monkeypatch.setattr(client, "read_state", lambda _: {"url": "http://127.0.0.1:8700"})
    assert client.connect().url == "http://127.0.0.1:8700"


def test_what_a_recipe_names_of_the_hub_is_fetched_before_its_run_is_created(
    api: Api, pmd: Pmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.gateway.cli.runs.QUIET_POLL_S", 0.0)
    recipe = tmp_path / "recipe.yaml"
    problems = {
        "source": "huggingface",
        "dataset": "team/sums",
        "splits": {"train": "train"},
        "columns": {"prompt": "{{ q }}", "verifier": {"kind": "exact", "answer": "{{ a }}"}},
    }
    recipe.write_text(
        json.dumps({"name": "demo", "model": "owner/tiny", "problems": problems, "optimizer": {"lr": 1e-5}})
    )
    base = {"kind": "model", "name": "owner/tiny@aaaa", "status": "ready", "bytes": 0, "total_bytes": 0}
    data = {"kind": "dataset", "name": "team/sums@dddd", "status": "downloading", "bytes": 5 * 10**6}
    told = iter([[base, data | {"total_bytes": 2 * 10**7}], [base, data | {"status": "ready", "total_bytes": 0}]])
    api.answers = {
        "POST /v1/recipes:validate": {},
        "POST /v1/recipes:fetch": lambda _: httpx.Response(200, json=next(told)),
        "POST /v1/runs": {"id": "demo-1", "warnings": []},
    }
    done = pmd("runs", "create", str(recipe))
    assert done.exit_code == 0, done.output
    assert "downloading team/sums@dddd: 5.00 of 20.00 MB (25%)" in done.output
    assert "run demo-1 started" in done.output
    assert [request.url.path for request in api.asked][-3:] == ["/v1/recipes:fetch", "/v1/recipes:fetch", "/v1/runs"]


def test_downloads_are_listed_and_ended_by_name(api: Api, pmd: Pmd) -> None:
    coming = {"kind": "model", "name": "owner/tiny@aaaa", "status": "downloading", "bytes": 10**9}
    api.answers = {"GET /v1/downloads": [], "POST /v1/downloads:cancel": [coming | {"total_bytes": 4 * 10**9}]}
    assert "nothing is being downloaded" in pmd("runs", "downloads").output
    assert (
        "cancelled owner/tiny@aaaa: 1.00 of 4.00 GB (25%)"
        in pmd("runs", "downloads", "--cancel", "owner/tiny@aaaa").output
    )
    assert json.loads(api.asked[-1].content) == {"name": "owner/tiny@aaaa"}
