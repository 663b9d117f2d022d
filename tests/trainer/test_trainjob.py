"""What the launcher of TrainJobs does where a cluster is slow, full or away; what pods do is done by the tests."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest
from fake_cluster import FakeCluster, Refusal
from pydantic import ValidationError
from tiny_run import TinyRun

from pmd.services.common.jobs import Cancelled, HandedOver, Retryable
from pmd.services.common.requests import TrainResult
from pmd.services.common.waiting import Away
from pmd.services.common.wire import Weights
from pmd.services.trainer.launchers import trainjob
from pmd.services.trainer.launchers.kubeflow import ENDING, Shape, job_name
from pmd.services.trainer.launchers.kubernetes import Kubernetes, NotInAPod
from pmd.services.trainer.launchers.trainjob import RESTARTS, TrainJobLauncher
from pmd.services.trainer.settings import TrainerSettings

BASE = Weights(version=0, uri="file:///base", sha256="0" * 64)
DONE = TrainResult(weights=BASE.model_copy(update={"version": 1}), metrics={})
NAME = job_name("rel-training", "tiny")
TRAINER_IS_DOWN = Refusal(500, 'failed calling webhook "validator.trainjob.trainer.kubeflow.org": connection refused')


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    """Without pods: what these do is done by the test."""
    made = FakeCluster(tmp_path)
    made.no_pods = True
    yield made
    made.close()


class Step:
    """The first step of a run, and a launcher that has it done."""

    def __init__(self, cluster: FakeCluster, folder: Path, *, start_s: float = 60.0, patience_s: float = 0.0) -> None:
        shape = Shape(runtime="rel-training", nodes=2, nproc=4, idle_s=60.0, start_s=start_s)
        self.cluster = cluster
        self.launcher = TrainJobLauncher(folder / "runs", cluster.client(), shape, patience_s=patience_s)
        self.spool = self.launcher.spool("tiny")
        self.request = TinyRun(folder, BASE).request(0)

    def is_done_by_its_pods(self) -> None:
        """As rank 0 does it: it holds the lock, and records the end."""
        if self.cluster.jobs and "deletionTimestamp" not in self.cluster.jobs[NAME]["metadata"]:
            self.spool.record(0, DONE)

    def until_it_ends(self, check: Callable[[], None]) -> TrainResult:
        """What comes of it when it is tried again for as long as it waits, as a job is."""
        for _ in range(200):
            try:
                return self.launcher.train(self.request, check)
            except Away:
                time.sleep(0.01)
        raise AssertionError("it waits for ever")

    def train(self) -> TrainResult:
        """The step, done by the pods of whichever TrainJob there is."""
        return self.until_it_ends(self.is_done_by_its_pods)

    def wait(self) -> str:
        """What it says that it waits for."""
        with pytest.raises(Away) as waits:
            self.launcher.train(self.request, lambda: None)
        return str(waits.value)

    def fail(self, check: Callable[[], None] = lambda: None) -> str:
        """What it says of its failure."""
        with pytest.raises(Retryable) as failure:
            self.until_it_ends(check)
        return str(failure.value)


@pytest.fixture
def step(cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Step:
    monkeypatch.setattr(trainjob, "LOOK_S", 0.01)
    return Step(cluster, tmp_path)


def asked(cluster: FakeCluster, method: str) -> int:
    return sum(each[0] == method for each in cluster.asked)


# -- made and adopted


def test_a_run_has_one_trainjob_that_says_what_to_run_and_whose_it_is(step: Step) -> None:
    step.wait()
    (job,) = step.cluster.made
    assert job["metadata"]["name"] == NAME
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("ServiceAccount", "rel-trainer", "uid-of-the-account")
    assert job["spec"]["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "TrainingRuntime",
        "name": "rel-training",
    }
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["command"][:4] == ["python", "-P", "-m", "torch.distributed.run"]
    assert trainer["command"][-4:] == ["--spool", str(step.spool.root), "--idle-s", "60.0"]


@pytest.mark.parametrize("run", ["a", "Demo_1.2-9f8e7d6c", "x" * 128, "..", "-", "UPPER"])
def test_a_name_is_a_label_that_leaves_room_for_those_of_999_pods(run: str) -> None:
    name = job_name("rel-training", run)
    assert re.fullmatch(r"[a-z][a-z0-9-]*[a-z0-9]", name)
    assert len(f"{name}-node-0-998-abcde") <= 63
    assert name != job_name("other-training", run)


def test_runs_whose_ids_look_alike_have_trainjobs_of_their_own() -> None:
    assert len({job_name("r", run) for run in ("a.b", "a-b", "A-B", "a_b")}) == 4


def test_another_service_finds_the_trainjob_and_adopts_it(step: Step, tmp_path: Path) -> None:
    step.wait()
    successor = Step(step.cluster, tmp_path)
    assert successor.train() == DONE
    assert len(step.cluster.made) == 1


def test_who_is_told_409_adopts(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another was quicker between the look and the making."""
    step.wait()
    monkeypatch.setattr(step.launcher._jobs, "get", lambda *_: None)
    assert "is starting" in step.wait()
    monkeypatch.undo()
    assert step.train() == DONE
    assert len(step.cluster.made) == 1


def test_what_has_the_name_and_is_not_of_the_run_is_left_alone(step: Step) -> None:
    step.wait()
    step.cluster.jobs[NAME]["metadata"]["annotations"] = {}
    assert "is not of run tiny" in step.fail()
    assert NAME in step.cluster.jobs


def test_while_a_step_is_done_the_cluster_is_not_asked(step: Step) -> None:
    step.wait()
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks > 20:
            step.spool.record(0, DONE)

    before = len(step.cluster.asked)
    with step.spool.lock(0.0):
        assert step.launcher.train(step.request, check) == DONE
    assert len(step.cluster.asked) == before


# -- waited for


def test_without_kubeflow_trainer_it_says_what_to_install_and_goes_on_once_it_is_there(step: Step) -> None:
    step.cluster.versions = []
    with pytest.raises(Away, match="Kubeflow Trainer is not installed"):
        step.launcher.details()
    assert "Kubeflow Trainer is not installed" in step.wait()
    step.cluster.versions = ["v1", "v1beta1"]
    assert "the Kubeflow Trainer here has v1, v1beta1" in step.wait()
    step.cluster.versions = ["v1alpha1"]
    step.cluster.spec = {"runtimeRef": {}, "trainer": {"properties": {"command": {}, "numNodes": {}}}}
    assert "no spec.suspend, spec.trainer.numProcPerNode" in step.wait()
    assert step.cluster.made == []
    step.cluster.spec |= {
        "suspend": {},
        "trainer": {"properties": {key: {} for key in ("command", "numNodes", "numProcPerNode")}},
    }
    assert step.launcher.details()["trainjobs"] == "trainer.kubeflow.org/v1alpha1"
    assert step.train() == DONE


def test_while_trainer_is_down_a_step_waits_and_says_so(step: Step) -> None:
    step.cluster.refuses["POST"] = TRAINER_IS_DOWN
    assert "failed calling webhook" in step.wait()
    del step.cluster.refuses["POST"]
    assert step.train() == DONE


def test_while_the_api_server_is_away_a_step_waits_and_says_so(step: Step, tmp_path: Path) -> None:
    other = FakeCluster(tmp_path)
    gone = Step(other, tmp_path)
    other.close()
    assert "API server does not answer" in gone.wait()


def test_a_token_that_is_refused_is_waited_for(step: Step) -> None:
    step.cluster.refuses["GET"] = Refusal(401, "Unauthorized")
    assert "refuses the service account's token" in step.wait()


def test_a_step_that_is_done_needs_no_cluster(step: Step) -> None:
    step.wait()
    step.spool.record(0, DONE)
    step.cluster.refuses["GET"] = Refusal(503, "starting")
    assert step.launcher.train(step.request, lambda: None) == DONE


def test_a_trainjob_that_somebody_suspended_is_waited_for_and_not_ended(step: Step) -> None:
    step.wait()
    step.cluster.suspend(True)
    assert "is suspended, by somebody else" in step.wait()
    step.cluster.suspend(False)
    assert step.train() == DONE
    assert (len(step.cluster.made), asked(step.cluster, "DELETE")) == (1, 0)


def test_why_a_trainjob_does_not_start_is_said_in_the_words_of_its_events(step: Step) -> None:
    step.wait()
    assert "the cluster warns of nothing" in step.wait()
    step.cluster.warn("another-node-0-1-abcde", "Failed", "not of this run")
    step.cluster.warn(f"{NAME}0-node-0-1-abcde", "Failed", "of a longer name")
    step.cluster.warn(f"{NAME}-node-0-1-abcde", "Failed", "said long ago")
    step.cluster.events[-1]["lastTimestamp"] = "2025-12-31T00:00:00Z"
    assert "the cluster warns of nothing" in step.wait()
    step.cluster.warn(f"{NAME}-node-0", "FailedCreate", "violates PodSecurity", kind="Job")
    assert f"Job {NAME}-node-0: FailedCreate: violates PodSecurity" in step.wait()
    step.cluster.refuses["GET"] = Refusal(403, "events is forbidden")
    assert step.launcher._jobs.warning(NAME, "2026-01-01T00:00:00Z") is None


def test_what_the_cluster_has_no_room_for_is_waited_for_as_long_as_it_takes(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    step = Step(cluster, tmp_path, start_s=0.0)
    for reason, message in (("FailedScheduling", "0/3 nodes are available"), ("FailedCreate", "exceeded quota: gpus")):
        step.cluster.events = []
        step.cluster.warn(f"{NAME}-node-0-0-abcde", reason, message)
        step.wait()
        assert message in step.wait()
    assert asked(cluster, "DELETE") == 0


def test_a_pod_without_room_is_what_the_others_wait_for_whatever_they_say(cluster: FakeCluster, tmp_path: Path) -> None:
    step = Step(cluster, tmp_path, start_s=0.0)
    cluster.warn(f"{NAME}-node-0-1-abcde", "FailedScheduling", "1 Insufficient nvidia.com/gpu")
    cluster.warn(f"{NAME}-node-0-0-abcde", "FailedMount", "timed out", at="2026-01-01T00:10:00Z")
    step.wait()
    assert "Insufficient nvidia.com/gpu" in step.wait()
    assert asked(cluster, "DELETE") == 0
    cluster.warn(f"{NAME}-node-0-0-abcde", "FailedMount", "timed out", at="2026-01-01T00:16:00Z")
    assert "FailedMount" in step.fail(), "what is not said again has passed"


def test_the_time_to_start_begins_when_there_is_room(step: Step, tmp_path: Path) -> None:
    late = Step(step.cluster, tmp_path, start_s=0.3)
    pod = f"{NAME}-node-0-0-abcde"
    step.cluster.warn(pod, "FailedScheduling", "1 Insufficient cpu")
    late.wait()
    time.sleep(0.4)
    assert "Insufficient cpu" in late.wait()
    step.cluster.warn(pod, "FailedMount", "not yet", at="2026-01-01T00:00:01Z")
    assert "not yet" in late.wait(), "it has just found its node"
    assert asked(step.cluster, "DELETE") == 0


def test_trainjobs_whose_ranks_waited_in_vain_for_one_without_room_are_no_tries(step: Step) -> None:
    step.cluster.warn(f"{NAME}-node-0-1-abcde", "FailedScheduling", "1 Insufficient nvidia.com/gpu")
    for _ in range(5):
        step.wait()
        step.cluster.end("Failed", "jobset failed due to one or more job failures")
        assert "is made anew" in step.wait()
    step.cluster.events = []
    step.wait()
    step.cluster.end("Failed", "jobset failed due to one or more job failures")
    assert "is made anew" in step.wait(), "its first"
    assert step.train() == DONE


def test_trainjobs_that_found_room_and_crash_are_tries(step: Step) -> None:
    """A node that an autoscaler brings, or that is freed, comes after a while without room: each time."""
    pod = f"{NAME}-node-0-1-abcde"
    step.cluster.warn(pod, "FailedScheduling", "1 Insufficient nvidia.com/gpu")
    step.cluster.warn(pod, "Scheduled", "assigned to node-7", at="2026-01-01T00:00:05Z", level="Normal")
    for _ in range(RESTARTS):
        step.wait()
        step.cluster.end("Failed", "jobset failed due to one or more job failures")
        assert "is made anew" in step.wait()
    step.wait()
    step.cluster.end("Failed", "jobset failed due to one or more job failures")
    assert f"ended {RESTARTS + 1} times" in step.fail()


def test_whether_there_is_room_is_not_known_while_the_api_server_is_away(step: Step) -> None:
    """Else what waits for room would be taken for what does not start."""
    step.cluster.refuses["GET"] = Refusal(503, "starting")
    with pytest.raises(Away, match="starting"):
        step.launcher._jobs.warning(NAME, "2026-01-01T00:00:00Z")


def test_a_try_that_did_not_start_in_time_leaves_no_count_to_the_next(step: Step, tmp_path: Path) -> None:
    late = Step(step.cluster, tmp_path, start_s=0.05)
    for _ in range(3):
        assert "it was deleted" in late.fail()
    late.wait()
    step.cluster.end("Failed", "jobset failed due to one or more job failures")
    assert "is made anew" in late.wait(), "its first"


# -- failed


def test_what_does_not_start_in_time_has_failed_for_the_reason_that_is_known(step: Step, tmp_path: Path) -> None:
    late = Step(step.cluster, tmp_path, start_s=0.05)
    late.wait()
    step.cluster.warn(f"{NAME}-node-0", "FailedCreate", "violates PodSecurity", kind="Job")
    said = late.fail()
    assert "violates PodSecurity" in said
    assert "it was deleted" in said
    assert late.train() == DONE, "the next try makes another"


def test_what_the_cluster_refuses_has_failed_with_its_sentence(step: Step) -> None:
    step.cluster.refuses["POST"] = Refusal(403, "specified trainingRuntime must be created before the TrainJob")
    assert "specified trainingRuntime must be created" in step.fail()


def test_a_trainjob_that_failed_is_made_anew_three_times_at_each_try(step: Step) -> None:
    for _ in range(2):
        made = len(step.cluster.made)

        def fails() -> None:
            if NAME in step.cluster.jobs and "status" not in step.cluster.jobs[NAME]:
                step.cluster.end("Failed", "jobset failed due to one or more job failures")

        said = step.fail(fails)
        assert "ended 3 times" in said
        assert "one or more job failures" in said
        assert str(step.spool.root / "log") in said
        assert len(step.cluster.made) == made + 3


def test_a_trainjob_that_ended_before_it_took_the_step_is_made_anew(step: Step) -> None:
    step.wait()
    step.cluster.end("Complete", "it had no work")
    assert "is made anew" in step.wait()
    assert step.train() == DONE
    assert len(step.cluster.made) == 2


def test_a_step_that_was_recorded_just_before_its_trainjob_ended_is_done(step: Step) -> None:
    step.wait()
    step.cluster.end("Complete", "it was the last")
    step.spool.record(0, DONE)
    assert step.train() == DONE
    assert len(step.cluster.made) == 1


# -- ended


def test_a_step_that_is_cancelled_ends_its_pods_and_one_that_goes_on_elsewhere_does_not(step: Step) -> None:
    def stops() -> None:
        raise HandedOver

    def cancelled() -> None:
        raise Cancelled

    step.wait()
    with pytest.raises(HandedOver):
        step.launcher.train(step.request, stops)
    assert asked(step.cluster, "DELETE") == 0
    step.cluster.lingers.set()
    with pytest.raises(Cancelled):
        step.launcher.train(step.request, cancelled)
    job = step.cluster.jobs[NAME]
    assert job["spec"]["suspend"] is True, "or it is given a second JobSet, with pods"
    assert ENDING in job["metadata"]["annotations"]
    assert "deletionTimestamp" in job["metadata"]


def test_a_name_is_used_again_only_once_nothing_is_left_of_it(step: Step) -> None:
    step.wait()
    step.cluster.lingers.set()
    step.launcher.release("tiny")
    for _ in range(3):
        assert "its pods must be gone first" in step.wait()
    assert len(step.cluster.made) == 1
    step.cluster.lingers.clear()
    assert step.train() == DONE
    assert len(step.cluster.made) == 2


def test_what_a_killed_service_had_begun_to_end_is_ended(step: Step, tmp_path: Path) -> None:
    """It was suspended for that, which nobody would take back."""
    step.wait()
    step.cluster.refuses["DELETE"] = Refusal(503, "away")
    with pytest.raises(Away):
        step.launcher.release("tiny")
    del step.cluster.refuses["DELETE"]
    successor = Step(step.cluster, tmp_path)
    assert "is being deleted" in successor.wait()
    assert successor.train() == DONE
    assert len(step.cluster.made) == 2


def test_without_trainer_a_trainjob_is_deleted_all_the_same(step: Step) -> None:
    step.wait()
    step.cluster.refuses["PATCH"] = TRAINER_IS_DOWN
    step.launcher.release("tiny")
    assert asked(step.cluster, "DELETE") == 1


def test_releasing_a_run_that_has_no_trainjob_does_nothing(step: Step) -> None:
    step.launcher.release("tiny")
    step.launcher.release("tiny")
    assert asked(step.cluster, "DELETE") == 0


def test_no_more_trainjobs_are_prepared_than_runs_may_train(step: Step) -> None:
    for run in ("a", "b", "a", "c"):
        step.launcher.prepare(run, 2)
    assert [job["metadata"]["annotations"]["pmd/run"] for job in step.cluster.made] == ["a", "b"]
    step.launcher.release("a")
    step.launcher.prepare("c", 2)
    assert len(step.cluster.made) == 3


# -- in a pod


def test_outside_of_a_pod_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotInAPod, match="must run in a pod"):
        Kubernetes.of_this_pod(tmp_path, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})


def test_a_token_that_is_no_pods_is_refused_at_the_start(tmp_path: Path) -> None:
    for name in ("namespace", "token"):
        (tmp_path / name).write_text("one.two")
    (tmp_path / "ca.crt").write_text(Path(certifi.where()).read_text())
    here = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    with pytest.raises(NotInAPod, match="mount a projected token"):
        Kubernetes.of_this_pod(tmp_path, here)


def test_the_token_is_read_anew_for_each_request(step: Step, tmp_path: Path) -> None:
    step.launcher.details()
    (tmp_path / "token").write_text((tmp_path / "token").read_text().replace("head.", "other."))
    with pytest.raises(Away, match="refuses the service account's token"):
        step.launcher._jobs.get(NAME, "tiny")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trainer_launcher": "trainjob"}, "PMD_TRAINER_RUNTIME is empty"),
        ({"trainer_nodes": 2}, "are for PMD_TRAINER_LAUNCHER=trainjob alone"),
        ({"trainer_launcher": "trainjob", "trainer_runtime": "r", "trainer_nodes": 0}, "trainer_nodes"),
    ],
)
def test_settings_that_start_nothing_or_do_nothing_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainerSettings(token="t" * 32, **given)  # type: ignore[arg-type]
