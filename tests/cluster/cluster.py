"""A Kubernetes cluster as the tests use it: through kubectl and helm, as an operator would."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from pmd.services.common.serve import PORTS
from tests.deploy.charts import CHART, ROOT, helm

RELEASE = "pmd"
INSTALL_S = 600
"""A pod's image may have to be pulled."""
PATIENCE_S = 300.0
"""How long what was killed or replaced may stay away."""
TARGETS = {"api": "api", "verifier": "verifier", "rollout": "rollout-cpu", "trainer": "trainer-cpu"}
STORES = ("postgres", "redis")
TAG = "k8s-test"
CLAIM = "backups"
COMPONENTS = ("gateway", "worker", "beat", "memory", "rollout", "replica", "verifier", "trainer", "postgres", "redis")

Object = dict[str, Any]


def missing() -> str | None:
    """What a cluster's tests lack here; None when nothing."""
    if not os.environ.get("KUBECONFIG"):
        return "no cluster: name one in KUBECONFIG and its images in PMD_K8S_LOAD or PMD_K8S_VALUES (docs/deploy.md)"
    if not shutil.which("kubectl"):
        return "no kubectl on the path; put that of the cluster's version there"
    if not os.environ.get("PMD_K8S_LOAD") and not os.environ.get("PMD_K8S_VALUES"):
        return "no images: PMD_K8S_LOAD is a command that puts one into the cluster, PMD_K8S_VALUES names those it has"
    return None


_BEGAN = time.monotonic()


def tell(what: str) -> None:
    """Say where the tests are: who waits for them waits long."""
    print(f"[{(time.monotonic() - _BEGAN) / 60:5.1f} min] {what}", flush=True)


def say(*command: str, stdin: str | None = None, timeout: float = 120, **env: str) -> str:
    """What a command says.

    Raises:
        AssertionError: it fails; with all that it said.
    """
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env=os.environ | env,
        cwd=ROOT,
    )
    assert done.returncode == 0, f"{' '.join(command)[:300]}: {done.stdout}\n{done.stderr}"
    return done.stdout


def images(folder: Path) -> tuple[str, ...]:
    """Files of values that name the images: built here, there already, or both."""
    values: tuple[str, ...] = ()
    if load := os.environ.get("PMD_K8S_LOAD"):
        values = (write_values(folder, build_and_load(load)),)
    return (*values, os.environ["PMD_K8S_VALUES"]) if os.environ.get("PMD_K8S_VALUES") else values


@contextlib.contextmanager
def namespace() -> Iterator[str]:
    """A namespace that enforces `restricted`, and is taken away."""
    name = f"pmd-test-{uuid.uuid4().hex[:6]}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    say("kubectl", "create", "--filename", "-", stdin=json.dumps(made))
    try:
        yield name
    finally:
        say("kubectl", "delete", "namespace", name, "--timeout", "300s", timeout=320)


@functools.cache
def build_and_load(load: str) -> Object:
    """Build every image that the dev preset wants and give each to `load`, a shell command, as its variable IMAGE.

    Once in a session.

    Returns:
        The values that name them.
    """
    docker = os.environ.get("DOCKER", "docker")
    network = ("--network", "host")
    base = os.environ.get("PMD_K8S_BASE", "")
    named: Object = {"registry": "localhost", "tag": TAG}
    made = []
    for key, target in TARGETS.items():
        named[key] = f"pmd/{target}"
        argument = ("--build-arg", f"PYTHON_IMAGE={base}") if base else ()
        made.append((f"localhost/pmd/{target}:{TAG}", target, ("-f", "deploy/docker/Dockerfile", *argument, ".")))
    for name in STORES:
        named[name] = f"{name}:{TAG}"
        argument = ("--build-arg", f"BASE_IMAGE={base}") if base else ()
        made.append((f"localhost/{name}:{TAG}", name, (*argument, "tests/cluster/stores")))
    for image, target, rest in made:
        tell(f"building {image}")
        say(docker, "build", *network, "--target", target, "-t", image, *rest, timeout=3600, DOCKER_BUILDKIT="1")
        say("bash", "-c", load, timeout=1800, IMAGE=image)
    return {"image": named}


class Cluster:
    """A namespace of the cluster, and the release in it."""

    def __init__(self, namespace: str, values: tuple[str, ...], service: str = "gateway") -> None:
        """Args:
        values: files over the preset's.
        service: what is called.
        """
        self.namespace = namespace
        self._service = service
        self.values = values
        self._values = [word for file in (str(CHART / "values-dev.yaml"), *values) for word in ("--values", file)]
        self._forward: subprocess.Popen[str] | None = None
        self._url = ""
        self._token = ""

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 120) -> str:
        """What kubectl says in the namespace."""
        return say("kubectl", "--namespace", self.namespace, *words, stdin=stdin, timeout=timeout)

    def get(self, kinds: str, *words: str) -> list[Object]:
        """Objects of the namespace."""
        found: list[Object] = json.loads(self.kubectl("get", kinds, *words, "--output", "json"))["items"]
        return found

    def pods(self, component: str = "") -> list[Object]:
        """The release's pods that are not being ended, of one component or of all."""
        labels = f"app.kubernetes.io/instance={RELEASE}"
        labels += f",app.kubernetes.io/component={component}" if component else ""
        return [pod for pod in self.get("pods", "--selector", labels) if "deletionTimestamp" not in pod["metadata"]]

    def python(self, component: str, script: str, *arguments: str, timeout: float = 300) -> str:
        """What a Python program says in the first pod of a component."""
        (pod, *_) = self.pods(component)
        return self.kubectl("exec", pod["metadata"]["name"], "--", "python", "-c", script, *arguments, timeout=timeout)

    def helm(self, verb: str, *words: str, timeout: float = INSTALL_S + 60) -> str:
        """What helm says of the release."""
        return say(helm(), verb, RELEASE, "--namespace", self.namespace, *words, timeout=timeout)

    def apply(self, verb: str, *words: str) -> None:
        """`helm install` or `helm upgrade` with the test's values; it waits until all is ready."""
        try:
            self.helm(verb, str(CHART), *self._values, *words, "--wait", "--timeout", f"{INSTALL_S}s")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubectl('get', 'events')}") from None

    def back_up(self) -> str:
        """Make a backup by hand, as an operator does; its name on the claim."""
        self.kubectl("create", "job", "by-hand", f"--from=cronjob/{RELEASE}-backup")
        try:
            self.kubectl("wait", "--for=condition=complete", "job/by-hand", "--timeout=300s", timeout=320)
        finally:
            said = self.kubectl("logs", "job/by-hand", "--tail=20") + self.kubectl("describe", "job/by-hand")
            tell(f"the backup: {said.strip().splitlines()[0]}")
        self.kubectl("delete", "job", "by-hand")
        return said.partition(":")[0].rpartition("/")[2]

    def courier(self) -> Object:
        """A pod like the worker's that has the claim of backups and does nothing: for `tar`."""
        (worker,) = self.get("deployments", "--selector", "app.kubernetes.io/component=worker")
        spec = worker["spec"]["template"]["spec"]
        kept = ("image", "imagePullPolicy", "securityContext", "resources")
        container = {key: spec["containers"][0][key] for key in kept} | {
            "name": "courier",
            "command": ["sleep", "infinity"],
            "volumeMounts": [{"name": "backup", "mountPath": "/backup"}],
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "courier"},
            "spec": {
                "automountServiceAccountToken": False,
                "securityContext": spec["securityContext"],
                "terminationGracePeriodSeconds": 1,
                "volumes": [{"name": "backup", "persistentVolumeClaim": {"claimName": CLAIM}}],
                "containers": [container],
            },
        }

    def start(self, pod: Object) -> None:
        """Create a pod and wait until it is ready."""
        self.kubectl("create", "--filename", "-", stdin=json.dumps(pod))
        self.kubectl("wait", "--for=condition=Ready", f"pod/{pod['metadata']['name']}", "--timeout=120s", timeout=130)

    def kill(self, component: str) -> None:
        """End a component's pods at once."""
        names = [pod["metadata"]["name"] for pod in self.pods(component)]
        assert names, f"no pod of {component} to kill"
        self.kubectl("delete", "pod", *names, "--grace-period=0", "--force")

    def all_ready(self) -> bool:
        """Whether each component has a pod, and all of them take requests."""
        pods = self.pods()
        there = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods}
        return there == set(COMPONENTS) and all(map(ready, pods))

    def call(self, method: str, path: str, *, body: Any = None, **headers: str) -> httpx.Response:
        """Ask the service, through a port of this machine that is opened again when its pod goes.

        Raises:
            AssertionError: it refuses, or does not answer for as long as a pod may stay away.
        """
        self._token = self._token or self._secret("token")
        given = {"Authorization": f"Bearer {self._token}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = httpx.request(method, self._at() + path, json=body, headers=given, timeout=60, trust_env=False)
                if answer.status_code not in {502, 503}:
                    assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
                    return answer
                said = answer.text
            except (httpx.TransportError, AssertionError) as error:
                if isinstance(error, AssertionError):
                    raise
                said = repr(error)
                self.close()
            assert time.monotonic() < deadline, f"{method} {path}: {said}"
            time.sleep(1)

    def report(self) -> None:
        """Say how the pods are and what they said last: the namespace is about to go."""
        print(self.kubectl("get", "pods,jobs,persistentvolumeclaims", "--output", "wide"))
        for pod in self.get("pods"):
            name = pod["metadata"]["name"]
            command = ("kubectl", "--namespace", self.namespace, "logs", name, "--tail=25", "--timestamps")
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            print(f"--- {name}\n{done.stdout}{done.stderr}", flush=True)

    def close(self) -> None:
        """Close the port to the service."""
        if self._forward is not None:
            self._forward.kill()
            self._forward.communicate()
        self._forward, self._url = None, ""

    def _secret(self, key: str) -> str:
        (secret,) = [each for each in self.get("secrets") if each["metadata"]["name"] == RELEASE]
        return base64.b64decode(secret["data"][key]).decode()

    def _at(self) -> str:
        if self._forward is None or self._forward.poll() is not None:
            self.close()
            target = (f"service/{RELEASE}-{self._service}", f":{PORTS[self._service]}")
            command = ("kubectl", "--namespace", self.namespace, "port-forward", *target)
            self._forward = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert self._forward.stdout is not None
            found = re.search(r"127\.0\.0\.1:(\d+)", self._forward.stdout.readline())
            if found is None:
                raise httpx.ConnectError(f"no port-forward to the {self._service}")
            self._url = f"http://127.0.0.1:{found[1]}"
        return self._url


def ready(pod: Object) -> bool:
    """Whether a pod takes requests."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))


def until(
    holds: Callable[[], bool], what: str, seconds: float = PATIENCE_S, now: Callable[[], str] = lambda: "waiting"
) -> None:
    """Wait for something, and say every half minute how far it is.

    Raises:
        AssertionError: it does not come.
    """
    deadline, told = time.monotonic() + seconds, time.monotonic()
    while not holds():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what}; {now()}"
        if time.monotonic() > told + 30:
            tell(f"until {what}: {now()}")
            told = time.monotonic()
        time.sleep(1)


def write_values(folder: Path, values: Object) -> str:
    """A new file of values."""
    path = folder / f"values-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return str(path)
