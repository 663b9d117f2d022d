"""Training in TrainJobs, by the chart's trainer service and the real Kubeflow Trainer, two ranks in two pods.

Of the release there is what training needs: the trainer, what pods are made of, volumes, policies, rights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.cluster import RELEASE, Cluster, Object, images, missing, namespace, say, until, write_values
from tests.deploy.charts import CHART, ROOT, helm

TEMPLATES = ("secret", "shared", "trainer", "training", "networkpolicies")
START_S = 900.0
"""How long pods may take to come and to join, on a machine that does other things too."""
OPERATOR = ("deployment/kubeflow-trainer-controller-manager", "--namespace", "kubeflow-system")
LARGE = {"problems": 160, "samples": 8, "completion": 180}
"""A step that lasts long enough to be disturbed: 230,000 tokens."""
MADE = "trainjobs.trainer.kubeflow.org,jobsets.jobset.x-k8s.io,jobs.batch,pods"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(4 * START_S)]

MAKE = """
import json, sys
from pathlib import Path
sys.path.insert(0, "/runs/made")
from pmd.services.common.wire import Weights
from tiny_run import TinyRun, make_base
run, size = sys.argv[1], json.loads(sys.argv[2])
kept = Path("/runs/made/base.json")
if not kept.exists():
    kept.write_text(make_base(Path("/runs/made/base/v0000")).model_dump_json())
Path("/runs", run).mkdir(exist_ok=True)
made = TinyRun(Path("/runs", run), Weights.model_validate_json(kept.read_text()))
sizes = {int(version): each for version, each in size.items()}
requests = [made.request(version, run=run, size=sizes.get(version, {})) for version in range(3)]
print(json.dumps([each.model_dump(mode="json") for each in requests]))
"""

WEIGHTS = """
import glob, hashlib, sys
for path in sorted(glob.glob(f"/runs/{sys.argv[1]}/weights/v*/model.safetensors")):
    print(path.split("/")[-2], hashlib.sha256(open(path, "rb").read()).hexdigest())
"""


class Training:
    """The trainer service of a release, and what it has made."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def requests(self, run: str) -> list[Object]:
        """Three steps of a run; the second lasts."""
        size = json.dumps({1: LARGE})
        made: list[Object] = json.loads(self.cluster.python("trainer", MAKE, run, size, timeout=600))
        return made

    def submit(self, request: Object, job: str = "") -> str:
        """Ask for a step; the job's key."""
        key = job or f"{request['run']}.s{request['from_version']}"
        self.cluster.call("PUT", f"/v1/jobs/{key}", body={"kind": "train", "request": request})
        return key

    def view(self, key: str) -> Object:
        seen: Object = self.cluster.call("GET", f"/v1/jobs/{key}").json()
        return seen

    def done(self, key: str) -> None:
        """Wait for a step's success."""
        until(lambda: self.view(key)["status"] not in {"queued", "running"}, f"{key} ends", START_S)
        assert self.view(key)["status"] == "succeeded", self.view(key)

    def says(self, key: str, what: str) -> None:
        """Wait until a step says what it waits for."""
        until(lambda: what in str(self.view(key)["waiting"]), f"{key} says {what!r}: {self.view(key)}", START_S)

    def of(self, run: str, kinds: str = "trainjobs.trainer.kubeflow.org") -> list[Object]:
        """What there is of a run's TrainJob, by names that begin with its own."""
        return [each for each in self.cluster.get(kinds) if each["metadata"]["name"].startswith(f"pmd-{run}-")]

    def running(self, run: str) -> list[Object]:
        """Its pods that run and are not being ended."""
        return [
            pod
            for pod in self.of(run, "pods")
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]

    def weights(self, run: str) -> dict[str, str]:
        """SHA-256 of every version's weights."""
        return dict(line.split() for line in self.cluster.python("trainer", WEIGHTS, run).splitlines())


def api_server() -> list[Object]:
    """Egress rules towards the API server's endpoints."""
    found: Object = json.loads(say("kubectl", "get", "endpoints", "kubernetes", "--namespace", "default", "-o", "json"))
    return [
        {
            "to": [{"ipBlock": {"cidr": f"{each['ip']}/32"}} for each in subset["addresses"]],
            "ports": [{"protocol": "TCP", "port": port["port"]} for port in subset["ports"]],
        }
        for subset in found["subsets"]
    ]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The chart's objects that training needs, as one text."""
    if reason := missing():
        pytest.skip(reason)
    groups = say("kubectl", "api-versions").split()
    if "trainer.kubeflow.org/v1alpha1" not in groups or "jobset.x-k8s.io/v1alpha2" not in groups:
        pytest.skip("no Kubeflow Trainer on the cluster; install it with JobSet (docs/deploy.md)")
    folder = tmp_path_factory.mktemp("trainjobs")
    small = {"cpu": "50m", "memory": "256Mi", "ephemeral-storage": "64Mi"}
    bounds = {"requests": small, "limits": {"cpu": "1", "memory": "2Gi", "ephemeral-storage": "1Gi"}}
    values: Any = {
        "trainer": {"settings": {"PMD_TRAINER_NODES": "2", "PMD_TRAINER_START_S": str(START_S)}, "resources": bounds},
        "training": {"enabled": True, "apiServer": api_server(), "shm": "256Mi", "resources": bounds},
    }
    files = (str(CHART / "values-dev.yaml"), *images(folder), write_values(folder, values))
    command = [helm(), "template", RELEASE, str(CHART), "--kube-version", "1.32.0"]
    command += [word for file in files for word in ("--values", file)]
    return say(*command, *(word for name in TEMPLATES for word in ("--show-only", f"templates/{name}.yaml")))


@pytest.fixture(scope="module")
def training(rendered: str) -> Iterator[Training]:
    """The trainer in a namespace that enforces `restricted`."""
    with namespace() as name:
        cluster = Cluster(name, (), service="trainer")
        objects = rendered.replace("namespace: default", f"namespace: {name}")  # of the binding's subject
        cluster.kubectl("apply", "--filename", "-", stdin=objects)
        try:
            cluster.kubectl("rollout", "status", f"statefulset/{RELEASE}-trainer", "--timeout=300s", timeout=320)
            tiny = (ROOT / "tests" / "trainer" / "tiny_run.py").read_text(encoding="utf-8")
            cluster.python(
                "trainer",
                "import sys; from pathlib import Path; p = Path('/runs/made/tiny_run.py');"
                " p.parent.mkdir(exist_ok=True); p.write_text(sys.argv[1])",
                tiny,
            )
            yield Training(cluster)
        finally:
            cluster.close()
            cluster.kubectl("delete", "--filename", "-", "--ignore-not-found", "--wait=false", stdin=objects)


@pytest.fixture(scope="module")
def calm(training: Training) -> dict[str, str]:
    """The weights of a run that nobody disturbs."""
    for request in training.requests("calm"):
        training.done(training.submit(request))
    return training.weights("calm")


def test_the_trainer_says_what_it_trains_with(training: Training) -> None:
    said = training.cluster.call("GET", "/readyz").json()
    assert (said["launcher"], said["nodes"], said["trainjobs"]) == ("trainjob", 2, "trainer.kubeflow.org/v1alpha1")


def test_two_ranks_in_two_pods_without_a_token_do_steps(training: Training, calm: dict[str, str]) -> None:
    assert list(calm) == ["v0001", "v0002", "v0003"]
    (job,) = training.of("calm")
    assert job["spec"]["trainer"]["numNodes"] == 2
    pods = training.running("calm")
    assert len(pods) == 2
    token = "import os; print(os.path.exists('/var/run/secrets/kubernetes.io'))"
    for pod in pods:
        said = training.cluster.kubectl("exec", pod["metadata"]["name"], "--", "python", "-c", token)
        assert said.strip() == "False"
    saved = (
        "import glob; print(sorted(p.split('/')[-1] for p in glob.glob('/runs/calm/spool/checkpoints/v0000003/rank*')))"
    )
    assert training.cluster.python("trainer", saved).strip() == "['rank0of2.pt', 'rank1of2.pt']"


def test_the_service_may_do_what_it_needs_and_no_more(training: Training) -> None:
    def may(verb: str, what: str) -> bool:
        account = f"system:serviceaccount:{training.cluster.namespace}:{RELEASE}-trainer"
        try:
            training.cluster.kubectl("auth", "can-i", verb, what, "--as", account)
        except AssertionError:
            return False
        return True

    trainjobs = "trainjobs.trainer.kubeflow.org"
    assert all(may(verb, trainjobs) for verb in ("create", "get", "patch", "delete"))
    wrong = [(verb, trainjobs) for verb in ("list", "watch", "update", "deletecollection")]
    wrong += [
        (verb, kind) for verb in ("get", "list", "create", "delete") for kind in ("pods", "secrets", "jobs.batch")
    ]
    wrong += [
        ("create", "pods/exec"),
        ("get", "pods/log"),
        ("create", "events"),
        ("get", "trainingruntimes.trainer.kubeflow.org"),
    ]
    assert not [each for each in wrong if may(*each)]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_whose_pod_is_killed_in_a_step_ends_with_equal_weights(
    training: Training, calm: dict[str, str], rank: int
) -> None:
    run = f"killed{rank}"
    first, second, third = training.requests(run)
    training.done(training.submit(first))
    (before,) = training.of(run)
    (pod,) = [each for each in training.running(run) if f"-node-0-{rank}-" in each["metadata"]["name"]]
    key = training.submit(second)
    training.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    training.done(key)
    (after,) = training.of(run)
    assert after["metadata"]["uid"] != before["metadata"]["uid"], "it was killed too late"
    training.done(training.submit(third))
    assert training.weights(run) == calm


def test_a_trainjob_outlives_the_service_and_is_adopted_by_the_next(training: Training, calm: dict[str, str]) -> None:
    first, second, third = training.requests("adopted")
    training.done(training.submit(first))
    (before,) = training.of("adopted")
    key = training.submit(second)
    training.cluster.kill("trainer")
    training.done(key)
    training.done(training.submit(third))
    (after,) = training.of("adopted")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert training.weights("adopted") == calm


def test_a_step_that_is_cancelled_ends_its_pods_and_may_be_asked_for_again(
    training: Training, calm: dict[str, str]
) -> None:
    first, second, third = training.requests("cancelled")
    training.done(training.submit(first))
    key = training.submit(second, "cancelled.first-try")
    training.cluster.call("DELETE", f"/v1/jobs/{key}")
    until(lambda: training.of("cancelled", MADE) == [], "nothing is left", START_S)
    assert training.view(key)["status"] == "cancelled"
    for request in (second, third):
        training.done(training.submit(request))
    assert training.weights("cancelled") == calm


def test_a_trainjob_that_somebody_suspends_is_waited_for(training: Training, calm: dict[str, str]) -> None:
    first, second, third = training.requests("held")
    training.done(training.submit(first))
    (job,) = training.of("held")
    name = job["metadata"]["name"]

    def suspend(yes: bool) -> None:
        change = json.dumps({"spec": {"suspend": yes}})
        training.cluster.kubectl("patch", "trainjob", name, "--type", "merge", "--patch", change)

    suspend(True)
    until(lambda: not training.of("held", "pods"), "its pods are gone", START_S)
    key = training.submit(second)
    training.says(key, "is suspended, by somebody else")
    suspend(False)
    training.done(key)
    training.done(training.submit(third))
    (after,) = training.of("held")
    assert after["metadata"]["uid"] == job["metadata"]["uid"]
    assert training.weights("held") == calm


def test_a_run_that_is_released_leaves_nothing_and_goes_on(training: Training, calm: dict[str, str]) -> None:
    first, second, third = training.requests("released")
    training.done(training.submit(first))
    training.cluster.call("PUT", "/v1/runs/released/release")
    key = training.submit(second)  # at once: it waits until the pods are gone
    training.done(key)
    training.done(training.submit(third))
    assert training.weights("released") == calm
    training.cluster.call("PUT", "/v1/runs/released/release")
    until(lambda: training.of("released", MADE) == [], "nothing is left", START_S)


def test_what_the_cluster_refuses_of_pods_is_said_by_the_step(training: Training) -> None:
    """A quota that has no room for them: waited for, in the Job's own words."""
    for run in ("calm", "held", "adopted", "cancelled", "killed0", "killed1"):
        training.cluster.call("PUT", f"/v1/runs/{run}/release")
    until(lambda: training.cluster.get("trainjobs.trainer.kubeflow.org") == [], "all are gone", START_S)
    request = training.requests("crowded")[0]
    training.cluster.kubectl("create", "quota", "none", "--hard", "count/pods=1")
    try:
        key = training.submit(request)
        training.says(key, "exceeded quota")
    finally:
        training.cluster.kubectl("delete", "quota", "none")
    training.done(key)


def test_while_trainer_is_away_a_new_run_waits_and_says_so_and_an_old_one_works(training: Training) -> None:
    first, second, _ = training.requests("old")
    training.done(training.submit(first))
    new = training.requests("new")[0]
    say("kubectl", "scale", *OPERATOR, "--replicas=0")
    try:
        selector = ("--selector", "app.kubernetes.io/name=trainer,app.kubernetes.io/component=manager")
        say("kubectl", "wait", "pods", *OPERATOR[1:], *selector, "--for=delete", "--timeout=120s", timeout=130)
        key = training.submit(new)
        training.says(key, "failed calling webhook")
        training.done(training.submit(second))
    finally:
        say("kubectl", "scale", *OPERATOR, "--replicas=1")
        say("kubectl", "rollout", "status", *OPERATOR, "--timeout=300s", timeout=320)
    training.done(key)


def test_trainjobs_go_with_the_release(training: Training, rendered: str) -> None:
    """They are owned by the service account; else the runtime, which they use, could not go."""
    assert training.of("old")
    training.cluster.close()
    objects = rendered.replace("namespace: default", f"namespace: {training.cluster.namespace}")
    training.cluster.kubectl("delete", "--filename", "-", "--wait=false", stdin=objects)
    kinds = f"{MADE},trainingruntimes.trainer.kubeflow.org,serviceaccounts,roles,rolebindings"
    until(
        lambda: {each["metadata"]["name"] for each in training.cluster.get(kinds)} <= {"default"},
        "nothing is left",
        START_S,
    )
