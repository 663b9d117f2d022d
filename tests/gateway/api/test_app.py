"""The public API, as a person with curl sees it."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pmd.gateway.api.app import create_app
from pmd.gateway.controller.advance import advance
from pmd.gateway.registry.registry import Registry
from pmd.gateway.settings import GatewaySettings
from pmd.gateway.views import ReportView
from pmd.services.common.sql import Busy
from tests.gateway.api.conftest import edge
from tests.gateway.api.person import AUTH, Tree, create
from tests.gateway.fakes import TOKEN, Fakes


def test_a_run_is_created_queued_and_woken(http: TestClient, recipe_tree: Tree, woken: list[str]) -> None:
    answer = http.post("/v1/runs", json={"recipe": recipe_tree()})
    assert answer.status_code == 201
    view = answer.json()
    assert (view["status"], view["step"], view["steps"], view["method"]) == ("queued", 0, 3, "pmd")
    assert answer.headers["location"] == f"/v1/runs/{view['id']}"
    assert woken == [view["id"]]
    assert http.get(f"/v1/runs/{view['id']}").json() == view


def test_law_11_a_wrong_recipe_is_refused_with_the_nearest_key(http: TestClient, recipe_tree: Tree) -> None:
    answer = http.post("/v1/runs", json={"recipe": recipe_tree(teacher={"emma": 0.1})})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "teacher.emma", "message": "unknown key 'emma'; did you mean 'ema'?"}]
    assert http.get("/v1/runs").json() == []


@pytest.mark.parametrize(
    ("path", "unknown", "nearest"),
    [("/v1/runs", "statsu", "status"), ("/v1/runs/r/events", "formt", "format"), ("/v1/contexts/1:p", "rn", "run")],
)
def test_law_11_an_unknown_query_key_is_refused_with_the_nearest(
    path: str, unknown: str, nearest: str, http: TestClient
) -> None:
    """A filter that is ignored answers another question."""
    answer = http.get(path, params={unknown: "failed", "run": "r"} if "contexts" in path else {unknown: "failed"})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"field": f"query.{unknown}", "message": f"unknown key {unknown!r}; did you mean {nearest!r}?"}
    ]


def test_a_model_that_is_not_there_names_the_field(http: TestClient, recipe_tree: Tree) -> None:
    answer = http.post("/v1/runs", json={"recipe": recipe_tree(model="/nowhere")})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "model"


def test_an_unknown_key_beside_the_recipe_is_refused(http: TestClient, recipe_tree: Tree) -> None:
    answer = http.post("/v1/runs", json={"recipe": recipe_tree(), "recpie": {}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "body.recpie"


def test_the_same_idempotency_key_is_the_same_run(http: TestClient, recipe_tree: Tree, woken: list[str]) -> None:
    key = {"Idempotency-Key": "order-7"}
    first = create(http, recipe_tree(), **key)
    again = http.post("/v1/runs", json={"recipe": recipe_tree()}, headers=key)
    assert again.status_code == 200
    assert again.json()["id"] == first["id"]
    other = http.post("/v1/runs", json={"recipe": recipe_tree(seed=8)}, headers=key)
    assert other.status_code == 409
    assert len(http.get("/v1/runs").json()) == 1
    assert woken == [first["id"]]


def test_without_a_key_every_post_is_a_run(http: TestClient, recipe_tree: Tree) -> None:
    assert create(http, recipe_tree())["id"] != create(http, recipe_tree())["id"]


def test_runs_are_listed_newest_first_in_pages(http: TestClient, recipe_tree: Tree) -> None:
    ids = [create(http, recipe_tree(name=f"r{n}"))["id"] for n in range(5)]
    url, seen = "/v1/runs?limit=2", []
    while url:
        page = http.get(url)
        seen += [view["id"] for view in page.json()]
        url = page.links.get("next", {}).get("url", "")
    assert seen == ids[::-1]
    assert http.get("/v1/runs", params={"status": "failed"}).json() == []
    assert http.get("/v1/runs", params={"status": "fail"}).status_code == 422


def test_every_refusal_has_a_name(http: TestClient) -> None:
    assert http.get("/v1/runs/nobody-1").status_code == 404
    assert "no run 'nobody-1'" in http.get("/v1/runs/nobody-1").json()["title"]
    assert http.get("/v1/runs/..%2F..%2Fetc").status_code in {404, 422}
    bad = http.get("/v1/runs/-leading-dash")
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (422, "path.run")
    for path in ("events", "report", "checkpoints", "memory", "memory/i-1"):
        assert http.get(f"/v1/runs/nobody-1/{path}").status_code == 404
    for verb in ("pause", "resume", "cancel", "reverify"):
        assert http.post(f"/v1/runs/nobody-1:{verb}", json={}).status_code == 404


def test_everything_but_health_wants_the_token(app: FastAPI) -> None:
    with TestClient(app) as anonymous:
        assert anonymous.get("/v1/runs").status_code == 401
        assert anonymous.get("/healthz").status_code == 200
        assert anonymous.get("/readyz").json()["registry"] == "sqlite"


def test_pause_resume_and_cancel_over_http(
    http: TestClient, recipe_tree: Tree, woken: list[str], drive: Callable[..., int]
) -> None:
    run = create(http, recipe_tree())["id"]
    assert http.post(f"/v1/runs/{run}:pause").json()["status"] == "queued", "obeyed by whoever advances it"
    drive(run)
    assert http.get(f"/v1/runs/{run}").json()["status"] == "paused"
    assert http.post(f"/v1/runs/{run}:resume").json()["status"] == "queued"
    http.post(f"/v1/runs/{run}:cancel")
    drive(run)
    assert http.get(f"/v1/runs/{run}").json()["status"] == "cancelled"
    refused = http.post(f"/v1/runs/{run}:resume")
    assert refused.status_code == 409
    assert "cancelled; that is final" in refused.json()["title"]
    assert woken == [run] * 4


def sse(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def test_the_log_is_replayed_and_resumed_without_a_gap(http: TestClient, finished: str) -> None:
    whole = http.get(f"/v1/runs/{finished}/events")
    assert whole.headers["content-type"].startswith("text/event-stream")
    events = sse(whole.text)
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("run.created", "run.ended")
    rest = http.get(f"/v1/runs/{finished}/events", headers={"Last-Event-ID": "10"})
    assert sse(rest.text) == events[10:]
    assert sse(http.get(f"/v1/runs/{finished}/events", headers={"Last-Event-ID": ""}).text) == events
    beyond = http.get(f"/v1/runs/{finished}/events", params={"after": 2**63, "format": "json"})
    assert beyond.status_code == 422, "no database holds that number"
    assert sse(http.get(f"/v1/runs/{finished}/events", params={"after": len(events)}).text) == []
    page = http.get(f"/v1/runs/{finished}/events", params={"format": "json", "after": 3, "limit": 2})
    assert page.json() == events[3:5]


def test_the_log_is_tailed_until_the_run_ends(
    http: TestClient, recipe_tree: Tree, fakes: Fakes, registry: Registry
) -> None:
    run = create(http, recipe_tree(method="base"))["id"]
    worker = threading.Timer(0.5, lambda: advance(registry, fakes.clients(), run, "me"))
    worker.start()
    events = sse(http.get(f"/v1/runs/{run}/events").text)
    worker.join()
    assert events[-1]["payload"] == {"status": "succeeded"}


def test_the_end_of_a_failed_run_that_was_resumed_does_not_end_the_log(
    http: TestClient, recipe_tree: Tree, fakes: Fakes, drive: Callable[..., int]
) -> None:
    fakes.failing["evaluate"] = [ValueError("no")]
    run = create(http, recipe_tree(method="base"))["id"]
    drive(run)
    http.post(f"/v1/runs/{run}:resume")
    drive(run)
    ends = [e["payload"]["status"] for e in sse(http.get(f"/v1/runs/{run}/events").text) if e["type"] == "run.ended"]
    assert ends == ["failed", "succeeded"]


def test_a_silent_log_beats(
    http: TestClient, recipe_tree: Tree, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.gateway.api.events.HEARTBEAT_S", 0.1)
    run = create(http, recipe_tree())["id"]
    worker = threading.Timer(1.0, lambda: registry.finish(registry.claim(run, "me"), "cancelled"))  # type: ignore[arg-type]
    worker.start()
    assert ": heartbeat" in http.get(f"/v1/runs/{run}/events").text
    worker.join()


def test_the_report_tells_every_step(http: TestClient, finished: str) -> None:
    report = ReportView.model_validate(http.get(f"/v1/runs/{finished}/report").json())
    assert [step.step for step in report.steps] == [0, 1, 2, 3]
    base, first = report.steps[0], report.steps[1]
    assert base.pass_rate is None
    assert set(base.evaluation) == {"test", "unseen"}
    assert (first.pass_rate, first.probe_pass_rate) == (0.25, 1.0)
    assert first.lead == pytest.approx((0.8 + 0.2 * 1.0) - 0.2 * 0.25)
    assert first.lr_scale == 1.0
    assert first.outcomes == {"passed": 8, "failed": 24}
    assert first.contexts == {"with_context": 32, "demonstration": 32}
    assert first.train == {"loss": 0.5}
    assert first.memory is not None
    assert set(first.seconds) >= {"rollout", "verify", "probe", "train"}
    assert report.recipe["evaluation"]["every"] == 2
    strategies, lessons = (
        [f"{kind} of {finished}, {passed} of 4" for passed in best]
        for kind, best in (("strategy", (4, 2, 1)), ("lesson", (4, 2)))
    )
    assert report.memory_samples["insight"] == strategies + lessons, "both kinds, the most evidence first"


def test_the_report_is_a_page_too(http: TestClient, finished: str) -> None:
    page = http.get(f"/v1/runs/{finished}/report", params={"format": "html"})
    assert page.headers["content-type"].startswith("text/html")
    assert finished in page.text


def test_a_step_is_told_when_only_its_scores_are_missing(
    http: TestClient, recipe_tree: Tree, fakes: Fakes, registry: Registry
) -> None:
    run = create(http, recipe_tree())["id"]
    fakes.holding["rollout"] = threading.Event()
    clients = fakes.clients()
    while not registry.state(run)[0].records.keys() >= {(0, "evaluate_verify")}:
        advance(registry, clients, run, "me", 0.05)
    steps = http.get(f"/v1/runs/{run}/report").json()["steps"]
    assert [step["step"] for step in steps] == [0]


def test_checkpoints_are_the_published_versions_with_their_scores(http: TestClient, finished: str) -> None:
    checkpoints = http.get(f"/v1/runs/{finished}/checkpoints").json()
    assert [(c["step"], c["weights"]["version"]) for c in checkpoints] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert [bool(c["evaluation"]) for c in checkpoints] == [True, False, True, True]


def test_checkpoints_are_those_that_were_kept(http: TestClient, recipe_tree: Tree, drive: Callable[..., int]) -> None:
    run = create(http, recipe_tree(schedule={"keep_weights": 0}))["id"]
    drive(run)
    assert [c["step"] for c in http.get(f"/v1/runs/{run}/checkpoints").json()] == [0, 2, 3]


def test_a_recipe_is_validated_without_starting_anything(http: TestClient, recipe_tree: Tree) -> None:
    answer = http.post("/v1/recipes:validate", json={"recipe": recipe_tree(method="sdpo")}).json()
    assert answer["recipe"]["teacher"]["ema"] == 0.05
    names = {step: [p["name"] for p in phases] for step, phases in answer["phases"].items()}
    assert names == {
        "0": ["publish", "evaluate", "evaluate_verify"],
        "1": ["rollout", "verify", "retrieve", "train", "publish"],
    }
    assert http.get("/v1/runs").json() == []
    wrong = http.post("/v1/recipes:validate", json={"recipe": recipe_tree(model="/nowhere")})
    assert wrong.json()["errors"][0]["field"] == "model"


def mixed(recipe_tree: Tree, problem_file: Path) -> dict[str, Any]:
    """A recipe whose file also holds a spec of no kind, and one that the verifier can't even read."""
    record = json.loads(problem_file.read_text().splitlines()[0])
    specs = {"odd": {"kind": "exct"}, "deep": {"kind": "unreadable"}}
    wrong = [record | {"id": id_, "verifier": spec} for id_, spec in specs.items()]
    problem_file.write_text("\n".join([problem_file.read_text(), *map(json.dumps, wrong)]))
    return recipe_tree(method="sdpo")


def test_problems_whose_spec_the_verifier_refuses_are_left_out(
    http: TestClient, registry: Registry, recipe_tree: Tree, problem_file: Path
) -> None:
    tree = mixed(recipe_tree, problem_file)
    said = http.post("/v1/recipes:validate", json={"recipe": tree}).raise_for_status().json()
    assert (said["problems"]["train"], said["bad_records"]) == (6, 2)
    assert said["bad_examples"] == [
        {"where": "problem odd", "field": "verifier.kind", "message": "unknown kind"},
        {"where": "problem deep", "field": "verifier", "message": "There was an error parsing the body"},
    ]
    run = create(http, tree)["id"]
    inputs = registry.state(run)[0].inputs
    assert (inputs.bad_records, "odd" in inputs.train, len(inputs.train)) == (2, False, 6)
    assert "problem odd: field 'verifier.kind': unknown kind" in inputs.bad_examples


def test_a_set_without_one_spec_that_the_verifier_takes_is_refused(
    http: TestClient, recipe_tree: Tree, problem_file: Path
) -> None:
    problem_file.write_text(problem_file.read_text().replace('"exact"', '"exct"'))
    answer = http.post("/v1/runs", json={"recipe": recipe_tree(method="sdpo")})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "problems.files"


def test_a_verifier_that_is_away_refuses_nothing(
    tmp_path: Path, woken: list[str], recipe_tree: Tree, problem_file: Path
) -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    settings = GatewaySettings(token=TOKEN, state_dir=tmp_path / "state")  # type: ignore[arg-type]
    app = create_app(settings, wake=woken.append, transports=edge() | {"verifier": httpx.MockTransport(away)})
    with TestClient(app, headers=AUTH) as http:
        said = http.post("/v1/recipes:validate", json={"recipe": mixed(recipe_tree, problem_file)}).json()
    assert (said["problems"]["train"], said["bad_records"]) == (8, 0)


def test_a_registry_and_a_disk_that_fail_are_named(
    http: TestClient, registry: Registry, recipe_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/demo")

    with monkeypatch.context() as patch:
        patch.setattr("pmd.gateway.api.creation.materialise", full)
        answer = http.post("/v1/runs", json={"recipe": recipe_tree()})
        assert (answer.status_code, answer.json()["title"]) == (
            503,
            "can't read or write /runs/demo: No space left on device",
        )
    with registry.database.write() as db:
        db.exec_driver_sql("ALTER TABLE runs RENAME TO gone")
    answer = http.get("/v1/runs")
    assert answer.status_code == 503
    assert "no such table: runs" in answer.json()["title"]


def test_a_registry_that_is_busy_says_when_to_come_again(
    http: TestClient, recipe_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(*_: object) -> None:
        raise Busy("database is locked")

    run = create(http, recipe_tree())["id"]
    monkeypatch.setattr(Registry, "ask", held)
    answer = http.post(f"/v1/runs/{run}:pause")
    assert (answer.status_code, answer.json()["title"]) == (503, "database is locked; try again")
    assert int(answer.headers["Retry-After"]) > 0


def test_metrics_count_runs(http: TestClient, recipe_tree: Tree) -> None:
    create(http, recipe_tree())
    text = http.get("/metrics").text
    assert 'pmd_runs{status="queued"} 1.0' in text
    assert 'pmd_free_bytes{place="runs"}' in text


def test_a_disk_that_is_nearly_full_stands_in_readyz_and_with_every_run(
    http: TestClient, recipe_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(http, recipe_tree())["id"]
    assert http.get("/readyz").json()["runs_free_gib"] > 0
    assert http.get(f"/v1/runs/{run}").json()["warnings"] == []
    for place in ("app", "runs"):
        monkeypatch.setattr(f"pmd.gateway.api.{place}.free_bytes", lambda _: 1 << 29)
    assert "0.50 GiB free" in http.get(f"/v1/runs/{run}").json()["warnings"][0]
    assert http.get("/readyz").json()["state_free_gib"] == 0.5


def test_every_route_has_an_example(http: TestClient) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    for path, verbs in paths.items():
        for verb, operation in verbs.items():
            if not path.startswith("/v1/"):
                continue
            text = json.dumps(operation)
            says_nothing = "204" in operation["responses"] and "requestBody" not in operation
            assert says_nothing or '"example' in text, f"{verb} {path}"
            assert operation["description"], f"{verb} {path}"


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/recipes:validate"])
def test_a_pipe_in_the_place_of_problems_is_refused_at_once(
    path: str, http: TestClient, recipe_tree: Tree, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for place in (tmp_path / "pipe.jsonl", tmp_path, Path("/dev/zero")):
        answer = http.post(path, json={"recipe": recipe_tree(problems={"files": [str(place)]})})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "problems.files")


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "tokenizer.json", "LICENSE"])
def test_a_pipe_in_a_model_folder_is_refused_at_once(
    name: str, http: TestClient, recipe_tree: Tree, model: Path
) -> None:
    (model / "spiece.model").write_bytes(b"a tokenizer of another kind")
    (model / name).unlink(missing_ok=True)
    for make in (os.mkfifo, lambda place: place.symlink_to("/dev/zero")):
        make(model / name)
        for path in ("/v1/runs", "/v1/recipes:validate"):
            answer = http.post(path, json={"recipe": recipe_tree()})
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "model")
            assert f"{name} is no regular file" in answer.text
        (model / name).unlink()


def test_a_name_that_no_file_system_takes_is_the_recipes_fault(
    http: TestClient, recipe_tree: Tree, tmp_path: Path
) -> None:
    for path in ("/v1/runs", "/v1/recipes:validate"):
        answer = http.post(path, json={"recipe": recipe_tree(model=str(tmp_path / ("a" * 300)))})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "model")
        assert "File name too long" in answer.text


def test_a_file_of_json_without_end_is_refused(http: TestClient, recipe_tree: Tree, model: Path) -> None:
    os.truncate(model / "config.json", 1 << 40)
    answer = http.post("/v1/runs", json={"recipe": recipe_tree()})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "model")
    assert "over 128 MB" in answer.text


@pytest.mark.parametrize(
    ("over", "field"),
    [
        ({"problems": {"files": ["problems.jsonl"]}}, "problems.files"),
        ({"problems": {"files": ["ftp://user:secret@host/problems.jsonl"]}}, "problems.files"),
        ({"problems": {"files": ["simplecache::http://host/problems.jsonl"]}}, "problems.files"),
        ({"model": "/etc"}, "model"),
        ({"generator": {"model": "m", "base_url": "http://user:secret@host/v1"}}, "generator.base_url"),
        ({"generator": {"model": "m", "base_url": "http://169.254.169.254/v1"}}, "generator.base_url"),
    ],
)
def test_a_recipe_names_only_what_the_installation_lists(
    over: dict[str, Any], field: str, http: TestClient, recipe_tree: Tree
) -> None:
    for path in ("/v1/runs", "/v1/recipes:validate"):
        answer = http.post(path, json={"recipe": recipe_tree(**over)})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
        assert "secret" not in answer.text
