"""The chart, rendered: valid for the cluster, hardened, closed to what it does not need, and safe to upgrade."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pmd.services.common.serve import DRAIN_S, PORTS
from pmd.services.common.settings import load_settings
from tests.deploy.charts import (
    CHART,
    PRESETS,
    RELEASE,
    ROOT,
    Object,
    Refused,
    component,
    containers,
    faults,
    helm,
    one,
    pods,
    render,
)

TOKEN = "a-token-of-this-test"
SERVICES = {"gateway", "rollout", "replica", "verifier", "memory", "trainer"}
STORES = {"redis", "postgres", "weaviate"}
OTHERS_KINDS = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"),
}
"""Objects of other projects, whose schemas are not at hand; what is in them is looked at here."""

EVERYTHING = {
    "backup": {"existingClaim": "backups", "restore": "monday"},
    "image": {"registry": "registry.example/team", "tag": "1.2.3", "pullSecrets": ["pull"]},
    "gateway": {
        "pod": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
        "allowedUrls": ["https://models.example"],
    },
    "pods": {"nodeSelector": {"disk": "fast"}, "runtimeClassName": "kata", "affinity": {"nodeAffinity": {}}},
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-mine"}}],
}

NO_GPU = {"nvidia.com/gpu": 0}
TRAINING: Object = {
    "trainer": {
        "settings": {"PMD_TRAINER_NODES": "2", "PMD_TRAINER_NPROC": "8"},
        "resources": {"requests": NO_GPU, "limits": NO_GPU},
    },
    "training": {
        "enabled": True,
        "apiServer": [{"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"protocol": "TCP", "port": 6443}]}],
    },
}
"""Training in pods of TrainJobs."""


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "deploy" / "k8s" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=PRESETS)
def preset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[*PRESETS, "cluster, TrainJobs"])
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """What the chart makes of each preset, and of one with TrainJobs."""
    preset, _, training = request.param.partition(", ")
    return render(preset, values=TRAINING if training else None)


# -- valid


@pytest.mark.parametrize("kubernetes", ["1.28.0", "1.32.0", "1.37.0"])
def test_the_cluster_knows_every_key_of_every_object(preset: str, kubernetes: str) -> None:
    for each in render(preset, values=EVERYTHING, kubernetes=kubernetes):
        if (each["apiVersion"], each["kind"]) not in OTHERS_KINDS:
            assert faults(each, kubernetes) == [], each["metadata"]["name"]


def test_a_key_that_the_cluster_does_not_know_is_found_wherever_it_is() -> None:
    deployment = one(render("dev"), "Deployment", f"{RELEASE}-gateway")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["readynessProbe"] = {}
    deployment["spec"]["replica"] = 1
    assert len(faults(deployment, "1.32.0")) == 2


def test_no_two_objects_have_one_name(objects: list[Object]) -> None:
    named = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(named) == len(set(named))


def test_helm_finds_no_fault(preset: str) -> None:
    command = [helm(), "lint", "--strict", "--kube-version", "1.32.0", "--values", f"values-{preset}.yaml", "."]
    subprocess.run(command, cwd=CHART, check=True, capture_output=True)


def notes(tmp_path: Path, preset: str, values: Object | None = None) -> str:
    """What helm says after an install, which `helm template` leaves out."""
    chart = shutil.copytree(CHART, tmp_path / "chart")
    said = (chart / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    (chart / "templates" / "_notes.tpl").write_text('{{ define "notes" }}' + said + "{{ end }}", encoding="utf-8")
    shown = 'kind: Notes\napiVersion: v1\nmetadata: {name: notes}\nsaid: {{ include "notes" . | toJson }}\n'
    (chart / "templates" / "notes.yaml").write_text(shown, encoding="utf-8")
    return str(one(render(preset, values=values, chart=chart), "Notes", "notes")["said"])


def test_the_notes_say_what_to_do_next_and_what_to_mind(tmp_path: Path, preset: str) -> None:
    said = notes(tmp_path, preset)
    assert "helm -n pmd test rel" in said
    secret = {"dev": "rel", "gpu": "pmd-credentials", "cluster": "pmd-token"}[preset]
    assert f"get secret {secret} -o jsonpath='{{.data.token}}'" in said
    assert ("port-forward svc/rel-gateway 8700" in said) == (preset != "cluster")
    assert ("export PMD_URL=https://pmd.example\n" in said) == (preset == "cluster")
    assert ("made the passwords up" in said) == (preset == "dev")
    assert ("one pod each without a backup" in said) == (preset != "cluster")
    assert "Training is in TrainJobs" not in said
    assert "\n\n\n" not in said


def test_the_notes_say_whom_training_elsewhere_stops(tmp_path: Path) -> None:
    assert "runs that were active before it can't go on" in notes(tmp_path, "dev", TRAINING)


def test_the_schema_and_the_page_say_what_the_values_are(generate: ModuleType) -> None:
    """`python deploy/k8s/generate.py` writes both."""
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    assert (CHART / "values.schema.json").read_text(encoding="utf-8") == generate.make_schema(values)
    assert readme == generate.make_readme(values, readme)


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[str]:
    """The dotted keys of what a person sets."""
    if (
        isinstance(value, dict)
        and value
        and path[-1:] not in (("resources",), ("settings",), ("annotations",), ("labels",))
    ):
        return [leaf for name, each in value.items() for leaf in leaves(each, (*path, name))]
    return [".".join(path)]


def test_every_value_is_explained_and_read(generate: ModuleType) -> None:
    """A key that no template names does nothing."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    explained = generate.read_comments(text)
    templates = "".join(path.read_text(encoding="utf-8") for path in CHART.glob("templates/**/*.*"))
    for leaf in leaves(yaml.safe_load(text)):
        assert any(leaf == key or leaf.startswith(f"{key}.") for key in explained), leaf
        assert re.search(rf"\b{leaf.rpartition('.')[2]}\b", templates) or leaf.startswith(("image.", "credentials.")), (
            leaf
        )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"replicsa": 2}}, "replicsa"),
        ({"replica": {"settings": {"PMD_ROLLOUT_DTYP": "bf16"}}}, "PMD_ROLLOUT_DTYP"),
        ({"verifier": {"settings": {"PMD_SANDBOX_INSECURE": "true"}}}, "PMD_SANDBOX_INSECURE"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"image": {"redis": "redis:latest"}}, "redis"),
        ({"worker": {"autoscaling": {"kind": "both"}}}, "kind"),
        ({"trainer": {"resources": {"limits": {"ephemeral-storage": None}}}}, "ephemeral-storage"),
        ({"memory": {"egress": [{}]}}, "to"),
        ({"gateway": {"replicas": 0}}, "replicas"),
        ({"training": {"apiServer": [{"to": []}]}}, "ports"),
        ({"trainer": {"settings": {"PMD_TRAINER_LAUNCHER": "trainjob"}}}, "PMD_TRAINER_LAUNCHER"),
        ({"backup": {"existingClaim": "b", "restore": "../etc"}}, "restore"),
        ({"backup": {"existingClaim": "b", "restore": ".."}}, "restore"),
        ({"backup": {"existingClaim": "b", "deadlineSeconds": 0}}, "deadlineSeconds"),
    ],
)
def test_a_value_that_is_wrong_is_refused_by_its_name(values: Object, said: str) -> None:
    with pytest.raises(Refused, match=rf"(?s)don't meet the specifications.*{said}"):
        render("dev", values=values)


@pytest.mark.parametrize(
    ("preset", "values", "said"),
    [
        ("dev", {"credentials": {"generate": False}}, "credentials.token.existingSecret is empty"),
        ("dev", {"postgres": {"enabled": False}}, "no address can be made up for a server outside the release"),
        ("dev", {"storage": {"singleNode": False}}, "would wait for the folder of runs for ever"),
        ("dev", {"memory": {"index": "weaviate"}}, "set weaviate.enabled, or weaviate.url and weaviate.grpc"),
        ("dev", {"weaviate": {"enabled": True}}, "a server that nothing would ask"),
        ("dev", {"replica": {"engine": "vllm"}}, "set image.rollout to pmd/rollout-gpu"),
        ("dev", {"credentials": {"databaseUrl": {"existingSecret": "x"}}}, "the server must have the password"),
        ("dev", {"credentials": {"postgresPassword": {"existingSecret": "x"}}}, "so name one for it too"),
        ("dev", {"backup": {"schedule": "0 3 * * *"}}, "name the claim that backups are on in backup.existingClaim"),
        ("dev", {"backup": {"restore": "monday"}}, "name the claim that backups are on in backup.existingClaim"),
        ("gpu", {"weaviate": {"url": "http://x:1", "grpc": "x:2"}}, "name two servers"),
        ("cluster", {"ingress": {"tlsSecret": ""}}, "would send the token in the clear"),
        ("cluster", {"ingress": {"host": ""}}, "set ingress.host"),
        ("cluster", {"postgres": {"egress": []}}, "name its address in postgres.egress"),
        ("cluster", {"gateway": {"autoscaling": {"minReplicas": 9}}}, "minReplicas is more than maxReplicas"),
        ("cluster", {"training": {"enabled": True}}, "name its addresses in training.apiServer"),
        ("dev", {"trainer": {"settings": {"PMD_TRAINER_NODES": "2"}}}, "set training.enabled, or leave it out"),
        ("dev", {"trainer": {"settings": {"PMD_TRAINER_START_S": "60"}}}, "set training.enabled, or leave it out"),
        ("cluster", {"training": TRAINING["training"]}, "asks for nvidia.com/gpu, which would lie idle"),
    ],
)
def test_what_would_install_and_not_work_is_refused_in_a_sentence(preset: str, values: Object, said: str) -> None:
    with pytest.raises(Refused, match=re.escape(said)):
        render(preset, values=values)


# -- hardened


def test_every_pod_may_live_where_the_namespace_is_restricted(objects: list[Object]) -> None:
    """Pod Security `restricted`, and more: a read-only root, a numeric user, no token of the cluster."""
    seen = 0
    for owner, spec, container in containers(objects):
        name = owner["metadata"]["name"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] >= 999, name
        assert spec["securityContext"]["runAsGroup"] >= 999, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert spec["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "projected", "persistentVolumeClaim", "configMap"}, name
        assert all(volume["emptyDir"].get("sizeLimit") for volume in spec["volumes"] if "emptyDir" in volume), name
        seen += 1
    assert seen >= len(SERVICES) + 2


def test_every_container_is_bounded(objects: list[Object]) -> None:
    for owner, _, container in containers(objects):
        for bound in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"][bound].keys(), owner["metadata"][
                "name"
            ]


def test_every_process_that_stays_is_asked_whether_it_lives_and_works(objects: list[Object]) -> None:
    for owner, spec, container in containers(objects):
        if owner["kind"] in {"Deployment", "StatefulSet"}:
            assert {"livenessProbe", "readinessProbe"} <= container.keys(), owner["metadata"]["name"]
            assert spec["terminationGracePeriodSeconds"] > DRAIN_S
        else:
            assert spec["restartPolicy"] == "Never", owner["metadata"]["name"]


def test_a_process_that_a_full_node_starves_is_not_killed_for_it(objects: list[Object]) -> None:
    """A probe of the pulse is a Python of its own on the CPU of beat, whose request is a fiftieth of one."""
    for name in ("worker", "beat"):
        (container,) = one(objects, "Deployment", f"{RELEASE}-{name}")["spec"]["template"]["spec"]["containers"]
        probe = container["livenessProbe"]
        assert probe["timeoutSeconds"] >= 60
        assert probe["failureThreshold"] * probe["periodSeconds"] >= 180


def test_a_worker_gives_its_messages_back_before_it_is_killed(objects: list[Object]) -> None:
    from pmd.gateway.controller.tasks import SOFT_SHUTDOWN_S

    spec = one(objects, "Deployment", f"{RELEASE}-worker")["spec"]["template"]["spec"]
    assert {"name": "REMAP_SIGTERM", "value": "SIGQUIT"} in spec["containers"][0]["env"]
    assert spec["terminationGracePeriodSeconds"] > SOFT_SHUTDOWN_S + 10


def test_no_image_is_latest_and_all_come_from_the_registry_that_is_named(preset: str) -> None:
    for owner, _, container in containers(render(preset, values=EVERYTHING)):
        assert container["image"].startswith("registry.example/team/"), owner["metadata"]["name"]
        tag = container["image"].rpartition(":")[2]
        assert tag != "latest"
        assert "/" not in tag, "a tag is named"
        ours = "/pmd/" in container["image"]
        assert not ours or tag == "1.2.3"


def test_the_release_has_no_rights_in_the_cluster(preset: str) -> None:
    objects = render(preset)
    assert not [each["kind"] for each in objects if "Role" in each["kind"] or "rbac" in each["apiVersion"]]
    assert not [volume for _, _, spec in pods(objects) for volume in spec["volumes"] if volume["name"] == "cluster"]


def test_with_trainjobs_the_trainer_may_make_and_end_them_and_nobody_else_may_anything(preset: str) -> None:
    objects = render(preset, values=TRAINING)
    rights = [each for each in objects if "rbac" in each["apiVersion"]]
    assert {each["kind"] for each in rights} == {"Role", "RoleBinding"}, "within the namespace"
    (role,) = [each for each in rights if each["kind"] == "Role"]
    assert role["rules"] == [
        {
            "apiGroups": ["trainer.kubeflow.org"],
            "resources": ["trainjobs"],
            "verbs": ["create", "get", "patch", "delete"],
        },
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
    ]
    (binding,) = [each for each in rights if each["kind"] == "RoleBinding"]
    account = {"kind": "ServiceAccount", "name": f"{RELEASE}-trainer", "namespace": "pmd"}
    assert (binding["subjects"], binding["roleRef"]["name"]) == ([account], role["metadata"]["name"])
    bearers = {
        (owner["metadata"]["name"], spec["serviceAccountName"])
        for owner, _, spec in pods(objects)
        for volume in spec["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        if "serviceAccountToken" in source
    }
    assert bearers == {(f"{RELEASE}-trainer", f"{RELEASE}-trainer")}
    others = {
        spec["serviceAccountName"] for owner, _, spec in pods(objects) if "trainer" not in owner["metadata"]["name"]
    }
    assert others == {RELEASE}


def test_kubeflow_trainer_finds_in_the_runtime_what_it_sets(preset: str) -> None:
    """By names and a label: where one is another, 2.0.0 ignores command and nodes without a word."""
    runtime = one(render(preset, values=TRAINING), "TrainingRuntime", f"{RELEASE}-training")
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 1, "torch": {}}
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert (job["name"], job["replicas"]) == ("node", 1)
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert job["template"]["spec"]["backoffLimit"] == 0, "the trainer counts, per step"
    pod = job["template"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["name"] == "node"
    assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"], "where the spool is"
    as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": pod["metadata"], "spec": pod["spec"]}
    assert faults(as_pod, "1.32.0") == []
    assert [each["name"] for each in container["env"]] == ["OMP_NUM_THREADS"], "its CPUs, not the node's"
    assert container["env"][0]["valueFrom"]["resourceFieldRef"]["containerName"] == "node"
    variables, _ = environment(render(preset, values=TRAINING), "trainer")
    assert variables["PMD_TRAINER_RUNTIME"] == runtime["metadata"]["name"]
    assert variables["PMD_TRAINER_LAUNCHER"] == "trainjob"


def test_the_values_that_the_docs_give_for_trainjobs_render() -> None:
    said = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").partition("two nodes of eight GPUs a run:")[2]
    assert one(render("cluster", values=yaml.safe_load(said.split("```")[1])), "TrainingRuntime", f"{RELEASE}-training")


def test_ranks_reach_each_other_and_names_and_the_trainer_the_api_alone(preset: str) -> None:
    objects = render(preset, values=TRAINING)
    mine = {"app.kubernetes.io/name": "pmd", "app.kubernetes.io/instance": RELEASE}
    peers = [{"podSelector": {"matchLabels": mine | {"app.kubernetes.io/component": "training"}}}]
    ports = [{"protocol": "TCP", "port": 1024, "endPort": 65535}]
    ranks = one(objects, "NetworkPolicy", f"{RELEASE}-training")["spec"]
    assert ranks["ingress"] == [{"from": peers, "ports": ports}]
    names, each_other = ranks["egress"]
    assert {port["port"] for port in names["ports"]} == {53, 1053, 5353}
    assert each_other == {"to": peers, "ports": ports}
    assert one(objects, "NetworkPolicy", f"{RELEASE}-trainer")["spec"]["egress"] == TRAINING["training"]["apiServer"]


def test_no_secret_is_a_value_or_in_an_environment(preset: str) -> None:
    """What is looked up by name is all that there is; generated ones are in a Secret alone."""
    objects = render(preset)
    made = {str(value) for each in objects if each["kind"] == "Secret" for value in each["data"].values()}
    assert bool(made) == (preset == "dev")
    shown = json.dumps([each for each in objects if each["kind"] != "Secret"])
    assert not [value for value in made if value in shown]
    for owner, _, container in containers(objects):
        for variable in container.get("env", ()):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                assert owner["metadata"]["name"] == f"{RELEASE}-weaviate", "which reads its keys from nowhere else"
            assert not re.search(r"(TOKEN|PASSWORD|_KEY)$", variable["name"]), variable["name"]
            assert "@" not in variable.get("value", ""), variable["name"]


def test_only_the_gateway_can_be_reached_from_outside(objects: list[Object]) -> None:
    assert {each["spec"]["type"] for each in objects if each["kind"] == "Service"} == {"ClusterIP"}
    backends = {
        path["backend"]["service"]["name"]
        for each in objects
        if each["kind"] == "Ingress"
        for rule in each["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert backends <= {f"{RELEASE}-gateway"}


def test_streams_of_events_pass_the_ingress() -> None:
    annotations = one(render("cluster"), "Ingress", RELEASE)["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert int(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"]) >= 3600


# -- closed


def selects(policy: Object, labels: dict[str, str]) -> bool:
    """Whether a policy is about pods with these labels."""
    wanted: dict[str, str] = policy["spec"]["podSelector"].get("matchLabels", {})
    return wanted.items() <= labels.items()


def test_nothing_goes_in_or_out_of_a_pod_that_no_rule_names(objects: list[Object]) -> None:
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    for _, metadata, _ in pods(objects):
        mine = [each for each in policies if selects(each, metadata["labels"])]
        assert {f"{RELEASE}-deny", f"{RELEASE}-{component(metadata['labels'])}"} == {
            p["metadata"]["name"] for p in mine
        }
    for each in policies:
        assert set(each["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        for rule in (*each["spec"].get("ingress", ()), *each["spec"].get("egress", ())):
            assert rule.get("ports"), "a rule without ports is for all of them"
            assert rule.get("from") or rule.get("to"), "a rule without peers is for the world"


@pytest.mark.parametrize("name", ["verifier", "replica", "trainer", "verifier-isolation", "deny"])
def test_what_runs_programs_or_models_reaches_nothing_and_resolves_nothing(preset: str, name: str) -> None:
    assert "egress" not in one(render(preset), "NetworkPolicy", f"{RELEASE}-{name}")["spec"]


def test_every_door_has_another_side(objects: list[Object]) -> None:
    """Who may be reached by a component is one that this may go to, on the same port."""
    policies = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "NetworkPolicy"}

    def flows(direction: str, key: str) -> set[tuple[str, str, int]]:
        found = set()
        for name, spec in policies.items():
            for rule in spec.get(direction, ()):
                for peer in rule[key]:
                    other = peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component")
                    if other:
                        ports = {
                            {"http": 8080, "grpc": 50051}.get(port["port"], port["port"]) for port in rule["ports"]
                        }
                        pair = (name, f"{RELEASE}-{other}") if direction == "egress" else (f"{RELEASE}-{other}", name)
                        found |= {(*pair, port) for port in ports}
        return found

    assert flows("ingress", "from") == flows("egress", "to")


def test_the_verifier_is_asked_by_the_gateway_and_its_controller_alone(objects: list[Object]) -> None:
    (rule,) = one(objects, "NetworkPolicy", f"{RELEASE}-verifier")["spec"]["ingress"]
    ours = {component(peer["podSelector"]["matchLabels"]) for peer in rule["from"] if "podSelector" in peer}
    assert ours == {"gateway", "worker"}
    assert rule["ports"] == [{"protocol": "TCP", "port": PORTS["verifier"]}]


def test_the_test_of_isolation_fails_where_something_can_be_reached() -> None:
    """Run here, where loopback plays the gateway and the API server."""
    (spec,) = [
        spec for owner, _, spec in pods(render("dev")) if owner["metadata"]["name"] == f"{RELEASE}-test-isolation"
    ]
    python, option, script, variable = spec["containers"][0]["command"]
    assert (python, option) == ("python", "-c")
    assert spec["enableServiceLinks"] is True
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = str(server.getsockname()[1])
        hosts = {variable: "127.0.0.1", "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
        command = [sys.executable, "-c", script, variable]
        done = subprocess.run(command, env=hosts, capture_output=True, text=True, check=False)
    assert "FAILED the API server can be reached from the verifier" in done.stdout, done.stderr
    assert done.returncode == 1


# -- configured


def environment(objects: list[Object], name: str) -> tuple[dict[str, str], set[str]]:
    """The variables of a component's container, and the settings that are files."""
    (found,) = [(s, c) for owner, s, c in containers(objects) if owner["metadata"]["name"] == f"{RELEASE}-{name}"]
    spec, container = found
    variables = {each["name"]: each.get("value", "") for each in container.get("env", ())}
    sources = [s for volume in spec["volumes"] if volume["name"] == "secrets" for s in volume["projected"]["sources"]]
    return variables, {item["path"] for source in sources for item in source["secret"]["items"]}


@pytest.mark.parametrize("name", ["gateway", "worker", "beat", "rollout", "replica", "verifier", "memory", "trainer"])
def test_a_service_starts_with_the_settings_that_the_chart_gives_it(
    objects: list[Object], name: str, generate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the service's own class: what it does not know, or misses, is an error."""
    variables, files = environment(objects, name)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PMD_SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("PMD_TOKEN", raising=False)
    for file in files:
        (tmp_path / file).write_text(TOKEN)
    settings = load_settings(generate.SETTINGS[name])
    assert settings.token.get_secret_value() == TOKEN
    assert settings.runs_uri() == "file:///runs"


def test_services_find_each_other(objects: list[Object]) -> None:
    ports = {
        each["metadata"]["name"]: {p["port"] for p in each["spec"]["ports"]}
        for each in objects
        if each["kind"] == "Service"
    }
    asked = set()
    for name in ("gateway", "worker", "rollout", "memory"):
        variables, _ = environment(objects, name)
        for value in variables.values():
            for host, port in re.findall(rf"http://((?:{RELEASE})[\w.-]*):(\d+)", value):
                service = host.rpartition(".")[2]
                assert int(port) in ports[service], value
                asked.add(service.removeprefix(f"{RELEASE}-"))
    assert {"rollout", "replica", "verifier", "memory", "trainer"} <= asked


def test_every_replica_is_asked_by_a_name_that_it_keeps(preset: str) -> None:
    objects = render(preset, values={"replica": {"replicas": 3}})
    variables, _ = environment(objects, "rollout")
    urls = variables["PMD_ROLLOUT_REPLICAS"].split(",")
    assert urls == [f"http://{RELEASE}-replica-{n}.{RELEASE}-replica:8701" for n in range(3)]
    assert one(objects, "StatefulSet", f"{RELEASE}-replica")["spec"]["replicas"] == 3
    service = one(objects, "Service", f"{RELEASE}-replica")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True


def test_settings_that_a_component_may_be_given_arrive(generate: ModuleType) -> None:
    for name in ("replica", "verifier", "memory", "trainer"):
        given = dict.fromkeys(generate.free_settings(name), "value")
        values = TRAINING | {name: {"settings": given}}
        variables, _ = environment(render("dev", values=values), name)
        assert given.items() <= variables.items()


def test_a_component_is_placed_by_its_own_word_before_that_of_all() -> None:
    values = {
        "pods": {"priorityClassName": "all", "nodeSelector": {"a": "1"}},
        "replica": {"pod": {"priorityClassName": "mine", "tolerations": [{"operator": "Exists"}]}},
    }
    placed = {owner["metadata"]["name"]: spec for owner, _, spec in pods(render("dev", values=values))}
    assert placed[f"{RELEASE}-replica"]["priorityClassName"] == "mine"
    assert placed[f"{RELEASE}-gateway"]["priorityClassName"] == "all"
    assert all(spec["nodeSelector"] == {"a": "1"} for spec in placed.values())
    assert "tolerations" not in placed[f"{RELEASE}-gateway"]


# -- scaled


def scalers(objects: list[Object]) -> list[str]:
    """What sets the number of pods, by the name of what it scales."""
    return sorted(
        each["spec"]["scaleTargetRef"]["name"]
        for each in objects
        if each["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}
    )


@pytest.mark.parametrize("kind", ["none", "hpa", "keda"])
def test_one_scaler_at_most_owns_the_number_of_workers(kind: str) -> None:
    objects = render("dev", values={"worker": {"autoscaling": {"kind": kind}}})
    assert scalers(objects) == ([] if kind == "none" else [f"{RELEASE}-worker"])
    assert ("replicas" in one(objects, "Deployment", f"{RELEASE}-worker")["spec"]) == (kind == "none")


def test_workers_are_scaled_by_a_metric_that_the_gateway_has(objects: list[Object]) -> None:
    metrics = (ROOT / "gateway" / "api" / "metrics.py").read_text(encoding="utf-8")
    for each in objects:
        if each["kind"] == "ScaledObject":
            (trigger,) = each["spec"]["triggers"]
            assert trigger["metadata"]["url"] == f"http://{RELEASE}-gateway.pmd:8700/metrics"
            name, label = re.fullmatch(r"(\w+)\{(\w+)=\"running\"\}", trigger["metadata"]["valueLocation"]).groups()  # type: ignore[union-attr]
            assert f'"{name}"' in metrics
            assert f'labels=["{label}"]' in metrics


def test_a_drain_waits_for_nothing_that_can_not_happen(objects: list[Object]) -> None:
    """A budget for one pod would hold a drain up for ever."""
    scaled = scalers(objects)
    for each in objects:
        if each["kind"] == "PodDisruptionBudget":
            assert each["spec"]["maxUnavailable"] == 1
            assert each["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
            name = each["metadata"]["name"]
            (owner,) = [
                o for o in objects if o["metadata"]["name"] == name and o["kind"] in {"Deployment", "StatefulSet"}
            ]
            assert name in scaled or owner["spec"]["replicas"] > 1


def test_what_keeps_its_jobs_on_a_disk_of_its_own_is_one(objects: list[Object]) -> None:
    """Until job stores are shared: a second pod would not know the first one's jobs."""
    for name in ("rollout", "verifier", "memory", "trainer"):
        assert one(objects, "StatefulSet", f"{RELEASE}-{name}")["spec"]["replicas"] == 1


def test_metrics_are_read_where_they_are(objects: list[Object]) -> None:
    for each in objects:
        if each["kind"] == "ServiceMonitor":
            (expression,) = each["spec"]["selector"]["matchExpressions"]
            assert set(expression["values"]) == SERVICES
            (endpoint,) = each["spec"]["endpoints"]
            for service in (o for o in objects if o["kind"] == "Service"):
                if component(service["metadata"]["labels"]) in SERVICES:
                    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


# -- upgraded

MAY_CHANGE = {
    "Deployment": {"replicas", "strategy", "template"},
    "StatefulSet": {"replicas", "template", "updateStrategy"},
    "Service": {"ports"},
}
"""Fields of a spec that a cluster lets change."""


def fixed(objects: list[Object]) -> dict[str, Any]:
    """What can't be changed once it is installed, by kind and name."""
    found: dict[str, Any] = {}
    for each in objects:
        kind = each["kind"]
        if kind in MAY_CHANGE:
            kept = {key: value for key, value in each["spec"].items() if key not in MAY_CHANGE[kind]}
            found[f"{kind}/{each['metadata']['name']}"] = kept
        elif kind == "PersistentVolumeClaim":
            found[f"{kind}/{each['metadata']['name']}"] = each["spec"]
    return found


LATER = {
    "image": {"tag": "9.9.9"},
    "worker": {"runsAtOnce": 3},
    "replica": {"replicas": 7, "shm": "2Gi", "settings": {"PMD_ROLLOUT_BATCH_ROWS": "64"}},
    "pods": {"labels": {"another": "label"}, "annotations": {"another": "note"}, "priorityClassName": "other"},
    "networkPolicy": {"enabled": False},
    "serviceMonitor": {"enabled": True},
    "grafanaDashboard": {"enabled": True},
    "backup": {"existingClaim": "backups", "schedule": "0 3 * * *"},
    **TRAINING,
}
"""What an upgrade may change, and turn on."""


def test_an_upgrade_changes_no_field_that_a_cluster_keeps(preset: str) -> None:
    before, after = fixed(render(preset)), fixed(render(preset, values=LATER))
    assert before == {name: after[name] for name in before}


def test_what_was_installed_by_an_earlier_release_can_be_upgraded(preset: str) -> None:
    """`immutable.json` is what the first release had; a difference needs a way to migrate, told in the changelog."""
    first = json.loads((Path(__file__).parent / "immutable.json").read_text(encoding="utf-8"))[preset]
    now = fixed(render(preset))
    assert first == {name: now.get(name) for name in first}


def test_the_database_is_migrated_before_any_pod_is_replaced(objects: list[Object]) -> None:
    jobs = [each for each in objects if each["kind"] == "Job"]
    assert {job["metadata"]["annotations"]["helm.sh/hook"] for job in jobs} == {"pre-upgrade"}
    modules = {c["args"][0] for job in jobs for c in job["spec"]["template"]["spec"]["containers"]}
    assert modules == {"pmd.gateway.registry", "pmd.services.memory.ledger"}
    for module in modules:
        assert (ROOT / module.removeprefix("pmd.").replace(".", "/") / "__main__.py").is_file()


def test_the_migration_of_the_upgrade_that_turns_it_on_can_reach_the_database() -> None:
    """Hooks run before an upgrade changes policies, so the one for them is there from the start."""
    objects = render("dev", values={"migrations": {"enabled": False}})
    assert not [each for each in objects if each["kind"] == "Job"]
    assert one(objects, "NetworkPolicy", f"{RELEASE}-migrate")["spec"]["egress"]


# -- backed up


def test_a_backup_has_what_it_is_to_keep_where_it_looks_for_it(preset: str) -> None:
    """As the program does: from the settings and files of its pod, below its state folder."""
    from pmd.gateway.local.backup import Places

    objects = render(preset, values={"backup": {"existingClaim": "mine", "restore": "monday"}})
    found = {owner["kind"]: (owner, spec) for owner, _, spec in pods(objects) if owner["kind"] == "CronJob"}
    found["Job"] = next((o, s) for o, _, s in pods(objects) if o["metadata"]["name"] == f"{RELEASE}-restore")
    for owner, spec in found.values():
        (container,) = spec["containers"]
        variables = {each["name"]: each["value"] for each in container["env"]}
        claims = {
            v["name"]: v["persistentVolumeClaim"]["claimName"]
            for v in spec["volumes"]
            if len(v) > 1 and "persistentVolumeClaim" in v
        }
        mounts = {
            each["mountPath"]: (claims.get(each["name"]), each.get("subPath")) for each in container["volumeMounts"]
        }
        places = Places.of(Path(variables["PMD_STATE_DIR"]), variables)
        assert mounts[str(places.runs)] == (f"{RELEASE}-runs", None)
        assert mounts[str(places.spools.parent)] == (f"state-{RELEASE}-trainer-0", "trainer")
        assert mounts[str(places.published.parent)] == (f"state-{RELEASE}-rollout-0", "rollout")
        assert mounts["/backup"] == ("mine", None)
        sources = [
            s for volume in spec["volumes"] if volume["name"] == "secrets" for s in volume["projected"]["sources"]
        ]
        files = {item["path"] for source in sources for item in source["secret"]["items"]}
        assert files == {"PMD_DATABASE_URL", "PMD_MEMORY_DATABASE_URL"}
        # One term: a pod counts that meets all of them, so of two components none would.
        (near,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert component(near["labelSelector"]["matchLabels"]) == "trainer"
        assert owner["metadata"]["name"] in {f"{RELEASE}-backup", f"{RELEASE}-restore"}
    assert found["Job"][0]["metadata"]["annotations"]["helm.sh/hook"] == "post-install"
    assert found["Job"][1]["containers"][0]["command"] == ["pmd", "restore", "/backup/monday"]


@pytest.mark.parametrize("schedule", ["", "0 3 * * *"])
def test_backups_are_made_when_it_is_said(schedule: str) -> None:
    objects = render("dev", values={"backup": {"existingClaim": "mine", "schedule": schedule}})
    spec = one(objects, "CronJob", f"{RELEASE}-backup")["spec"]
    assert spec["suspend"] == (not schedule)
    assert not schedule or spec["schedule"] == schedule
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 21600, "one that hangs keeps others from being made"
    without = [each for each in render("dev") if "backup" in each["metadata"]["name"]]
    assert without == []
    (rule,) = one(render("dev"), "NetworkPolicy", f"{RELEASE}-postgres")["spec"]["ingress"]
    assert "backup" not in {component(peer["podSelector"]["matchLabels"]) for peer in rule["from"]}


def test_with_backups_rollout_is_near_the_trainer_where_it_can_be(preset: str) -> None:
    """A pod that mounts the disks of both must be on the node of both; but disks that are elsewhere stay of use."""
    values = {"backup": {"existingClaim": "mine"}, "rollout": {"pod": {"affinity": {"nodeAffinity": {}}}}}
    affinity = one(render(preset, values=values), "StatefulSet", f"{RELEASE}-rollout")["spec"]["template"]["spec"][
        "affinity"
    ]
    (term,) = affinity["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert component(term["podAffinityTerm"]["labelSelector"]["matchLabels"]) == "trainer"
    assert "nodeAffinity" in affinity
    assert "affinity" not in one(render(preset), "StatefulSet", f"{RELEASE}-rollout")["spec"]["template"]["spec"]


def test_what_runs_have_made_outlives_the_release(objects: list[Object]) -> None:
    """And so does the password that a volume has."""
    kept = [each for each in objects if each["kind"] in {"PersistentVolumeClaim", "Secret"}]
    assert f"{RELEASE}-runs" in {each["metadata"]["name"] for each in kept}
    for each in kept:
        assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", each["metadata"]["name"]


def test_a_secret_of_yours_takes_the_place_of_each_that_is_made() -> None:
    mine = {name: {"existingSecret": f"my-{name.lower()}"} for name in ("databaseUrl", "postgresPassword", "token")}
    objects = render("dev", values={"credentials": mine})
    (secret,) = [each for each in objects if each["kind"] == "Secret"]
    assert set(secret["data"]) == {"redis-password", "redis-url"}
    text = json.dumps(objects)
    assert all(f"my-{name.lower()}" in text for name in mine)
