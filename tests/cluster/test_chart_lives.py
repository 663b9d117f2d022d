"""The chart lives on a real cluster, from install to uninstall; the tests are one life, in their order."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pmd.gateway.recipes.files import load_recipe, merge
from tests.cluster.cluster import COMPONENTS, RELEASE, Cluster, Object, say, tell, until
from tests.cluster.conftest import home
from tests.deploy.charts import ROOT

EASY = {"problems": {"world": "easy"}}
STEPS = 48
SHORT = EASY | {
    "schedule": {"steps": STEPS, "problems_per_step": 8, "rollouts_per_problem": 4},
    "evaluation": {"every": 24},
}
"""Long enough for every pod to be killed and all of them to be replaced twice meanwhile."""
RUN_S = 3600.0
NODE_PORT = "from-outside"
REACH = (Path(__file__).parent / "reach.py").read_text(encoding="utf-8")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * RUN_S)]


def create(cluster: Cluster, name: str, over: Object) -> str:
    """Start the pocket recipe, with changes; the run's id."""
    recipe = merge(load_recipe(ROOT / "recipes" / "pocket.yaml"), over | {"name": name})
    run: str = cluster.call("POST", "/v1/runs", body={"recipe": recipe}, Idempotency_Key=name).json()["id"]
    return run


def view(cluster: Cluster, run: str) -> Object:
    """What the gateway says of a run."""
    seen: Object = cluster.call("GET", f"/v1/runs/{run}").json()
    return seen


def ended(cluster: Cluster, run: str) -> None:
    """Wait for a run's success."""

    def now() -> str:
        seen = view(cluster, run)
        return f"step {seen['step']} of {seen['steps']}, {seen['waiting'] or 'under way'}"

    until(lambda: view(cluster, run)["status"] not in {"queued", "running"}, f"{run} ends", RUN_S, now)
    seen = view(cluster, run)
    assert seen["status"] == "succeeded", seen
    tell(f"{run} has ended")


def weights(cluster: Cluster, run: str) -> dict[str, str]:
    """SHA-256 of every version's weights by version, of the files themselves."""
    script = (
        "import glob, hashlib, sys\n"
        "for path in sorted(glob.glob(f'/runs/{sys.argv[1]}/weights/v*/model.safetensors')):\n"
        "    print(path.split('/')[-2], hashlib.sha256(open(path, 'rb').read()).hexdigest())"
    )
    return dict(line.split() for line in cluster.python("worker", script, run).splitlines())


def scores(cluster: Cluster, run: str) -> dict[str, float]:
    """Pass rate of the last evaluation by split."""
    kept = cluster.call("GET", f"/v1/runs/{run}/checkpoints").json()
    last = [each["evaluation"] for each in kept if each["evaluation"]][-1]
    return {split: score["pass_rate"] for split, score in last.items()}


def note(cluster: Cluster, run: str) -> Object:
    """A strategy or lesson that the run has written; waited for."""
    until(lambda: view(cluster, run)["step"] >= 1, f"{run} ends a step", RUN_S)  # it has a memory from then on
    found: list[Object] = []

    def written() -> bool:
        found[:] = cluster.call("GET", f"/v1/runs/{run}/memory?level=insight&limit=1").json()["items"]
        return bool(found)

    until(written, f"{run} writes a note", RUN_S)
    return found[0]


def test_it_installs_in_a_restricted_namespace_and_tests_itself(cluster: Cluster) -> None:
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in cluster.pods()} == set(COMPONENTS)
    restarted = {
        each["name"]: each["restartCount"]
        for pod in cluster.pods()
        for each in pod["status"]["containerStatuses"]
        if each["restartCount"]
    }
    assert restarted == {}, "a process ends while it waits for another"
    cluster.helm("test", "--timeout", "300s")
    tell("helm test has passed")


def test_from_the_verifier_nothing_is_reached(cluster: Cluster) -> None:
    """Other services and pods, node ports, kubelet, API server, metadata, DNS. From the worker some are."""
    selector = {"app.kubernetes.io/component": "gateway", "app.kubernetes.io/instance": RELEASE}
    ports = [{"port": 8700, "targetPort": "http"}]
    spec = {"type": "NodePort", "selector": selector, "ports": ports}
    made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NODE_PORT}, "spec": spec}
    cluster.kubectl("create", "--filename", "-", stdin=json.dumps(made))
    try:
        places, dns = targets(cluster)
        arguments = (json.dumps(places), dns)
        control = set(json.loads(cluster.python("worker", REACH, *arguments)))
        assert {"names", "DNS over UDP", f"service {RELEASE}-verifier:8702"} <= control
        assert json.loads(cluster.python("verifier", REACH, *arguments)) == []
        assert json.loads(cluster.python("replica", REACH, *arguments)) == []
        assert json.loads(cluster.python("trainer", REACH, *arguments)) == []
        tell(f"of {len(places)} places the worker reaches {len(control)}; verifier, replica and trainer none")
    finally:
        cluster.kubectl("delete", "service", NODE_PORT)


def targets(cluster: Cluster) -> tuple[list[tuple[str, str, int]], str]:
    """What listens in the cluster, but for pods under test: name, address, port. And the name server."""

    def everywhere(kind: str) -> list[Object]:
        found: list[Object] = json.loads(say("kubectl", "get", kind, "--all-namespaces", "--output", "json"))["items"]
        return found

    places = [("the cloud's metadata", "169.254.169.254", 80)]
    dns = ""
    nodes = [
        each["address"]
        for node in everywhere("nodes")
        for each in node["status"]["addresses"]
        if each["type"] == "InternalIP"
    ]
    for service in everywhere("services"):
        name, address = service["metadata"]["name"], service["spec"].get("clusterIP")
        if service["metadata"].get("labels", {}).get("k8s-app") == "kube-dns":
            dns = address
        for port in service["spec"]["ports"]:
            if port.get("protocol", "TCP") != "TCP":
                continue
            if address not in {None, "", "None"}:
                places.append((f"service {name}:{port['port']}", address, port["port"]))
            if "nodePort" in port:
                places += [(f"node port of {name}", node, port["nodePort"]) for node in nodes]
    for ends in everywhere("endpoints"):
        if ends["metadata"]["name"] == "kubernetes":
            places += [
                ("the API server", each["ip"], port["port"])
                for subset in ends["subsets"]
                for each in subset["addresses"]
                for port in subset["ports"]
            ]
    places += [("a kubelet", node, 10250) for node in nodes]
    for pod in everywhere("pods"):
        mine = pod["metadata"].get("labels", {}).get("app.kubernetes.io/component") in {
            "verifier",
            "replica",
            "trainer",
        }
        for container in pod["spec"]["containers"]:
            for port in () if mine else container.get("ports", ()):
                if address := pod["status"].get("podIP"):
                    places.append((f"pod {pod['metadata']['name']}", address, port["containerPort"]))
    assert dns, "the cluster has no service with the label k8s-app=kube-dns"
    assert len(places) > 12
    return places, dns


def test_a_run_learns_while_its_memory_is_edited(cluster: Cluster, life: Object) -> None:
    run = create(cluster, "k8s-learns", EASY)
    life["calm"] = create(cluster, "k8s-calm", SHORT)  # beside it: what the next test compares with
    seen = note(cluster, run)
    item = f"/v1/runs/{run}/memory/{seen['id']}"
    answer = cluster.call("GET", item)
    text = f"{seen['text']} (read by a person)"
    edited = cluster.call("PATCH", item, body={"text": text}, If_Match=answer.headers["etag"]).json()
    assert edited["version"] == seen["version"] + 1
    with pytest.raises(AssertionError, match="412"):
        cluster.call("PATCH", item, body={"text": "late"}, If_Match=answer.headers["etag"])
    tell("a note was edited; a late edit was refused")
    ended(cluster, run)
    assert cluster.call("GET", item).json()["item"]["text"] == text, "what a person wrote stays"
    tell(f"it learnt: {scores(cluster, run)}")
    assert scores(cluster, run)["test"] >= 0.9, scores(cluster, run)


def test_killed_pods_an_upgrade_and_a_rollback_change_no_weight(cluster: Cluster, life: Object) -> None:
    calm = life.get("calm") or create(cluster, "k8s-calm", SHORT)
    ended(cluster, calm)
    theirs = life["weights"] = weights(cluster, calm)
    assert len(theirs) == STEPS + 1
    run = life["run"] = create(cluster, "k8s-disturbed", SHORT)
    item = f"/v1/runs/{run}/memory/{note(cluster, run)['id']}"
    for component in COMPONENTS:
        cluster.kill(component)
        still_on(cluster, run, f"{component} was killed")
        # a remark changes nothing that the run reads
        cluster.call("POST", f"{item}:annotate", body={"text": f"after {component}"}, Idempotency_Key=component)
    until(cluster.all_ready, "all pods are back")
    still_on(cluster, run, "all pods were back")
    before = {pod["metadata"]["uid"] for pod in cluster.pods()}
    cluster.apply("upgrade", "--set-string", "pods.annotations.round=2", "--set", "worker.runsAtOnce=3")
    still_on(cluster, run, "the upgrade was done")
    assert not before & {pod["metadata"]["uid"] for pod in cluster.pods()}, "all pods are replaced"
    cluster.helm("rollback", "--wait", "--timeout", "600s")
    still_on(cluster, run, "the rollback was done")
    life["step"] = view(cluster, run)["step"]
    life["backup"] = cluster.back_up()
    still_on(cluster, run, "the backup was made")
    ended(cluster, run)
    remarks = cluster.call("GET", item).json()["annotations"]
    assert [each["text"] for each in remarks] == [f"after {component}" for component in COMPONENTS]
    assert weights(cluster, run) == theirs
    tell(f"the weights of all {STEPS + 1} versions are those of the undisturbed run")


def still_on(cluster: Cluster, run: str, what: str) -> None:
    """A disturbance that came after the run's end would show nothing."""
    seen = view(cluster, run)
    assert seen["status"] == "running", f"{run} is {seen['status']} when {what}: {seen['error'] or 'it was too short'}"
    tell(f"{what}; the run is in step {seen['step']}")


def test_what_is_left_by_an_uninstall_is_volumes(cluster: Cluster, life: Object) -> None:
    claims = {each["metadata"]["name"] for each in cluster.get("persistentvolumeclaims")}
    cluster.close()
    life["courier"] = cluster.courier()
    cluster.helm("uninstall", "--wait", "--cascade", "foreground", "--timeout", "300s")
    kinds = say("kubectl", "api-resources", "--namespaced", "--verbs", "list,delete", "--output", "name").split()
    kinds = [kind for kind in kinds if not re.match(r"(events|endpoints|endpointslices|.*metrics\.k8s\.io)", kind)]
    left = {(each["kind"], each["metadata"]["name"]) for each in cluster.get(",".join(kinds))}
    left -= {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}
    # The made-up Secret is kept on purpose: Postgres's volume has its password.
    assert left == {("PersistentVolumeClaim", name) for name in claims} | {("Secret", RELEASE)}
    tell(f"the uninstall left {len(claims)} volumes and the Secret")


def test_a_backup_that_is_restored_elsewhere_goes_on_with_the_same_weights(cluster: Cluster, life: Object) -> None:
    name, run = life["backup"], life["run"]
    with home(cluster.values) as elsewhere:
        for each in (cluster, elsewhere):
            each.start(life["courier"])
        tar = "kubectl -n {} exec -i courier -- tar -C /backup"
        out, into = (tar.format(each.namespace) for each in (cluster, elsewhere))
        say("bash", "-o", "pipefail", "-c", f"{out} -c {name} | {into} -x", timeout=600)
        elsewhere.kubectl("delete", "pod", "courier")
        tell("the backup is carried to another namespace; installing there")
        elsewhere.apply("install", "--set", f"backup.restore={name}")
        seen = view(elsewhere, run)
        tell(f"restored: {run} is {seen['status']} in step {seen['step']}; the backup was made in step {life['step']}")
        assert seen["step"] >= life["step"]
        ended(elsewhere, run)
        assert weights(elsewhere, run) == life["weights"]
        cluster.kubectl("delete", "pod", "courier")
    tell("the weights are those of the undisturbed run")
