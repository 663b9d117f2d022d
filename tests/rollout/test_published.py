"""Law 9: which version a run desires, and when that becomes it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from pmd.services.common.jobs import JobContext
from pmd.services.common.requests import PublishRequest
from pmd.services.common.wire import Policy, Weights
from pmd.services.rollout.handlers import job_kinds
from pmd.services.rollout.parts import Parts
from pmd.services.rollout.published import Published, UnknownModel


def policy(version: int, run: str = "demo") -> Policy:
    return Policy(run=run, weights=Weights(version=version, uri=f"file:///{run}/{version}", sha256=str(version)))


def test_law_9_the_desired_version_is_the_one_that_was_published_last_not_the_highest(tmp_path: Path) -> None:
    published = Published(tmp_path / "published.db")
    for version in (1, 2, 10, 1):
        for run in ("a", "b"):
            published.publish(policy(version, run))
    for known in (published, Published(tmp_path / "published.db")):
        assert [each.model for each in known.all()] == ["b@1", "a@1", "b@10", "a@10", "b@2", "a@2"]
        assert list(known.desired().items()) == [("b", policy(1, "b")), ("a", policy(1, "a"))]


def test_a_run_that_is_deleted_has_no_name_here_any_more(tmp_path: Path) -> None:
    published = Published(tmp_path / "published.db")
    for run in ("demo", "demo-2"):
        published.publish(policy(1, run))
    for _ in range(2):
        published.forget("demo")
    assert [each.model for each in Published(tmp_path / "published.db").all()] == ["demo-2@1"]
    with pytest.raises(UnknownModel):
        published.find("demo@1")


def test_a_policy_is_found_by_run_or_version(tmp_path: Path) -> None:
    published = Published(tmp_path / "published.db")
    for version in (1, 2, 1):
        published.publish(policy(version))
    assert (published.find("demo"), published.find("demo@2")) == (policy(1), policy(2))
    for name in ("demo@02", "demo@", "@", "c"):
        with pytest.raises(UnknownModel):
            published.find(name)
    with pytest.raises(UnknownModel, match=r"did you mean 'demo@\d'"):
        published.find("demo@9")


def test_law_9_a_version_that_can_not_be_loaded_is_not_desired_and_a_disk_that_fails_may_pass(tmp_path: Path) -> None:
    class Engine:
        def load(self, _: Policy) -> None:
            raise OSError("the disk is full")

    engine: Any = Engine()
    published = Published(tmp_path / "published.db")
    kind = job_kinds(lambda: engine, published, Parts(tmp_path / "parts.db"))["publish"]
    with pytest.raises(OSError, match="the disk is full"):
        kind.run(PublishRequest(policy=policy(1)), JobContext("k", threading.Event()))
    assert published.desired() == {}
