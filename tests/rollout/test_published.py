"""Law 9: which version a run desires, and when that becomes it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from services.common.jobs import JobContext, Retryable
from services.common.requests import PublishRequest
from services.common.wire import Policy, Weights
from services.rollout.handlers import job_kinds
from services.rollout.published import Published, UnknownModel


def policy(version: int, run: str = "demo") -> Policy:
    return Policy(run=run, weights=Weights(version=version, uri=f"file:///{run}/{version}", sha256=str(version)))


def test_law_9_the_desired_version_is_the_one_that_was_published_last_not_the_highest(tmp_path: Path) -> None:
    published = Published(tmp_path / "published.db")
    for version in (1, 2, 1):
        published.publish(policy(version))
    published.publish(policy(7, "other"))
    for known in (published, Published(tmp_path / "published.db")):
        assert known.desired() == {"demo": policy(1), "other": policy(7, "other")}
        assert (known.find("demo"), known.find("demo@2")) == (policy(1), policy(2))
        with pytest.raises(UnknownModel, match=r"did you mean 'demo@\d'"):
            known.find("demo@9")


def test_law_9_a_version_that_can_not_be_loaded_is_not_desired_and_a_disk_that_fails_may_pass(tmp_path: Path) -> None:
    class Engine:
        def load(self, _: Policy) -> None:
            raise OSError("the disk is full")

    engine: Future[Any] = Future()
    engine.set_result(Engine())
    published = Published(tmp_path / "published.db")
    kind = job_kinds(engine, published)["publish"]
    with pytest.raises(Retryable, match="the disk is full"):
        kind.run(PublishRequest(policy=policy(1)), JobContext("k", threading.Event()))
    assert published.desired() == {}
