"""A run is deleted with all that was made of it, however often the deletion is interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient

from pmd.gateway.api import deletion as deleting
from pmd.gateway.api.app import create_app
from pmd.gateway.registry.deletion import PARTS
from pmd.gateway.registry.registry import Registry
from pmd.gateway.settings import GatewaySettings
from pmd.gateway.views import RunStatus
from pmd.services.common.app import create_service, problem
from pmd.services.common.holdings import holdings
from pmd.services.common.settings import ServiceSettings
from pmd.services.common.waiting import Away
from tests.gateway.api.conftest import edge
from tests.gateway.api.person import AUTH, Tree, create
from tests.gateway.fakes import TOKEN


class Edge:
    """Services that keep something for a run, by name."""

    def __init__(self) -> None:
        self.kept = {"rollout", "trainer", "memory"}
        self.busy = ""

    def forget(self, service: str) -> int:
        if self.busy == service:
            raise Away("a job process trains the run")
        self.kept.discard(service)
        return 1000

    def transports(self) -> dict[str, httpx.AsyncBaseTransport]:
        options = ServiceSettings(token=TOKEN)  # type: ignore[arg-type]
        found = edge()
        for name in ("rollout", "trainer"):
            service = create_service(name, options, ready=dict)
            service.include_router(holdings(release=lambda _: None, forget=lambda _, name=name: self.forget(name)))
            found[name] = httpx.ASGITransport(service)
        memory = create_service("memory", options, ready=dict)

        @memory.get("/v1/banks/{bank}")
        async def counts(bank: str) -> Response:
            if "memory" not in self.kept:
                return problem(404, f"no bank {bank!r}")
            return Response('{"seq": 3, "experience": 5, "insight": 2, "behavior": 1}', media_type="application/json")

        @memory.delete("/v1/banks/{bank}", status_code=204)
        async def delete(bank: str) -> None:
            self.forget("memory")

        found["memory"] = httpx.ASGITransport(memory)
        return found


@pytest.fixture
def services() -> Edge:
    return Edge()


@pytest.fixture
def app(tmp_path: Path, woken: list[str], services: Edge, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr("pmd.gateway.api.forward.PATIENCE_S", 0.0)
    settings = GatewaySettings(token=TOKEN, state_dir=tmp_path / "state")  # type: ignore[arg-type]
    return create_app(settings, wake=woken.append, transports=services.transports())


@pytest.fixture
def http(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, headers=AUTH, raise_server_exceptions=False) as client:
        yield client


def rows(registry: Registry, run: str) -> int:
    with registry.database.read() as db:
        return sum(len(db.execute(table.select().where(table.c.run_id == run)).all()) for table in PARTS)


def folder(run: str, tmp_path: Path) -> Path:
    return tmp_path / "state" / "runs" / run


def test_a_run_goes_with_all_that_was_made_of_it_and_nothing_else_does(
    http: TestClient, finished: str, recipe_tree: Tree, registry: Registry, services: Edge, tmp_path: Path
) -> None:
    other = create(http, recipe_tree())["id"]
    (folder(finished, tmp_path) / "shared").write_bytes(b"s" * 4096)
    os.link(folder(finished, tmp_path) / "shared", folder(other, tmp_path) / "shared")
    looked = http.delete(f"/v1/runs/{finished}", params={"dry_run": True}).json()
    assert (looked["done"], looked["versions"], looked["memory"]) == (
        False, 4, {"experience": 5, "insight": 2, "behavior": 1},
    )  # fmt: skip
    assert folder(finished, tmp_path).is_dir(), "a look removes nothing"
    held = {path: path.stat() for path in folder(finished, tmp_path).rglob("*") if path.is_file()}
    own = sum(stat.st_size for stat in held.values() if stat.st_nlink == 1)
    assert (looked["files"], looked["bytes"]) == (len(held), own), "what another run holds too is not freed"

    done = http.delete(f"/v1/runs/{finished}").json()
    assert (done["done"], done["bytes"]) == (True, own + 2000), "with what the services kept"
    assert not folder(finished, tmp_path).exists()
    assert services.kept == set()
    assert rows(registry, finished) == 0
    assert http.get(f"/v1/runs/{finished}").status_code == 404
    assert http.get(f"/v1/runs/{other}").is_success
    assert (folder(other, tmp_path) / "shared").read_bytes() == b"s" * 4096
    again = http.delete(f"/v1/runs/{finished}")
    assert (again.status_code, again.json()["done"]) == (200, True), "there is nothing left to do"
    assert http.delete("/v1/runs/nobody-1").status_code == 404


def test_a_run_that_may_go_on_is_deleted_by_force_only_and_after_its_end(
    http: TestClient, recipe_tree: Tree, woken: list[str], registry: Registry, drive: Callable[..., int], tmp_path: Path
) -> None:
    run = str(create(http, recipe_tree())["id"])
    refused = http.delete(f"/v1/runs/{run}")
    assert (refused.status_code, refused.json()["title"]) == (
        409,
        f"run {run!r} is queued; cancel it first, or set force=true",
    )
    woken.clear()
    first = http.delete(f"/v1/runs/{run}", params={"force": True})
    assert (first.status_code, first.json()["waiting"]) == (202, "the run is being cancelled")
    assert woken == [run]
    assert folder(run, tmp_path).is_dir(), "it may be written to"
    lease = registry.claim(run, "owner")
    assert lease is not None
    registry.finish(lease, RunStatus.CANCELLED)
    held = http.delete(f"/v1/runs/{run}")
    assert (held.status_code, held.json()["done"]) == (202, False)
    assert held.json()["waiting"] == "what holds something for the run has to free it first: memory, rollout, trainer"
    drive(run)  # the services answer
    assert http.delete(f"/v1/runs/{run}").json()["done"]


@pytest.mark.parametrize("dies", ["rollout", "trainer", "memory", "files", "rows"])
def test_a_deletion_that_is_interrupted_is_finished_by_the_next(
    dies: str,
    http: TestClient,
    finished: str,
    services: Edge,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def killed(*_: object) -> None:
        raise SystemError("killed here")

    with monkeypatch.context() as patch:
        if dies in services.kept:
            services.busy = dies
        elif dies == "files":
            patch.setattr(deleting, "_remove", killed)
        else:
            patch.setattr(deleting.deletion, "finish", killed)
        broken = http.delete(f"/v1/runs/{finished}")
        assert broken.status_code >= 500
    services.busy = ""
    view = http.get(f"/v1/runs/{finished}").json()
    assert view["warnings"][-1] == f"run {finished!r} is being deleted; DELETE /v1/runs/{finished} finishes that"
    resumed = http.post(f"/v1/runs/{finished}:resume")
    assert (resumed.status_code, "is being deleted" in resumed.json()["title"]) == (409, True)
    assert http.delete(f"/v1/runs/{finished}").json()["done"]
    assert (services.kept, rows(registry, finished), folder(finished, tmp_path).exists()) == (set(), 0, False)


@pytest.mark.parametrize("at", ["look", "files", "rows"])
def test_two_requests_at_once_delete_it_once(
    at: str, http: TestClient, finished: str, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = {"look": "_files", "files": "_remove", "rows": "finish"}[at]
    room = deleting.deletion if at == "rows" else deleting
    real = getattr(room, whole)

    def second_first(*given: object) -> object:
        monkeypatch.setattr(room, whole, real)
        assert http.delete(f"/v1/runs/{finished}").json()["done"], "the other one"
        return real(*given)

    monkeypatch.setattr(room, whole, second_first)
    answer = http.delete(f"/v1/runs/{finished}")
    assert (answer.status_code, answer.json()["done"]) == (200, True), answer.text
    assert (rows(registry, finished), folder(finished, tmp_path).exists()) == (0, False)


def test_files_that_vanish_while_they_are_counted_or_removed_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run-1"
    root.mkdir()
    (root / "a").write_bytes(b"a")
    real = os.walk
    monkeypatch.setattr(deleting.os, "walk", lambda path: [(str(path), [], ["a", "gone"])])
    assert deleting._files(f"file://{root}") == {f"{root}/a": 1}
    monkeypatch.setattr(deleting.os, "walk", real)
    fs = type(fsspec.filesystem("file"))
    remove = fs.rm

    def races(self: object, path: str, **how: object) -> None:
        monkeypatch.setattr(fs, "rm", remove)
        raise FileNotFoundError(path)

    monkeypatch.setattr(fs, "rm", races)
    deleting._remove(f"file://{root}", "run-1")
    assert not root.exists()


def test_a_key_whose_run_is_deleted_makes_another_run(http: TestClient, recipe_tree: Tree, registry: Registry) -> None:
    key = {"Idempotency-Key": "monday"}
    first = create(http, recipe_tree(method="base"), **key)["id"]
    lease = registry.claim(first, "owner")
    assert lease is not None
    registry.renew(lease)
    registry.finish(lease, RunStatus.SUCCEEDED)
    for service, job in registry.owed(first):
        registry.released(first, service, job)
    assert http.delete(f"/v1/runs/{first}").json()["done"]
    second = create(http, recipe_tree(method="base"), **key)["id"]
    assert second != first, "services remember the jobs of the first"
    assert create(http, recipe_tree(method="base"), **key)["id"] == second


def test_files_that_lie_in_no_folder_of_the_run_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    with pytest.raises(Exception, match="is not its folder"):
        deleting._remove(f"file://{tmp_path / 'precious'}", "run-1")
    assert (tmp_path / "precious").is_dir()
