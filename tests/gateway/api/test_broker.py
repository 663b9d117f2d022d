"""A run that nobody advances says why: its broker is away, or no worker comes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pmd.gateway.api import broker as broker_module
from pmd.gateway.api.broker import Broker, redis
from tests.gateway.api.person import create

URL = "redis://:a-secret-word@127.0.0.1:9/0"


def with_broker(app: FastAPI, ping: Callable[[], None]) -> None:
    app.state.parts = dataclasses.replace(app.state.parts, broker=Broker(URL, ping))


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.time() + seconds
    monkeypatch.setattr(broker_module.time, "time", lambda: now)


def test_a_broker_that_is_away_is_named_without_its_password(
    app: FastAPI, http: TestClient, recipe_tree: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_broker(app, redis(URL))
    run = create(http, recipe_tree())["id"]
    assert http.get(f"/v1/runs/{run}").json()["waiting"] is None, "a wake-up may be on its way"
    later(monkeypatch, broker_module.IDLE_S + 1)
    for view in (http.get(f"/v1/runs/{run}").json(), http.get("/v1/runs").json()[0]):
        assert view["waiting"].startswith("the broker at redis://127.0.0.1:9/0 does not answer (ConnectionError")
        assert "a-secret-word" not in view["waiting"]
    assert http.get(f"/v1/runs/{run}/report").json()["run"]["waiting"] is not None


def test_a_run_without_a_worker_says_so(
    app: FastAPI, http: TestClient, recipe_tree: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_broker(app, lambda: None)
    run = create(http, recipe_tree())["id"]
    later(monkeypatch, broker_module.NO_WORKER_S - 1)
    assert http.get(f"/v1/runs/{run}").json()["waiting"] is None
    later(monkeypatch, broker_module.NO_WORKER_S + 1)
    assert "no worker advances the run" in http.get(f"/v1/runs/{run}").json()["waiting"]


def test_a_run_that_has_ended_waits_for_nothing(
    app: FastAPI, http: TestClient, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_broker(app, redis(URL))
    later(monkeypatch, 3600)
    assert http.get(f"/v1/runs/{finished}").json()["waiting"] is None
