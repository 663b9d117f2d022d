"""A Kubernetes API with Kubeflow Trainer, as small as a launcher needs it: HTTP on loopback, a process for a pod.

It does what the real ones were seen to do (Trainer 2.0.0): a pod runs the TrainJob's own command with the variables
that Trainer sets, a TrainJob that is deleted in the foreground stays until its pods are gone, a name that is there is
409. It is for the errors that the real ones can't be made to give, and for tests where there is no cluster; the real
ones are in `tests/cluster/test_trainjobs.py`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tiny_run import ROOT

from pmd.services.trainer.launchers.kubernetes import Kubernetes
from pmd.services.trainer.launchers.local import COMPUTE_ENVIRONMENT

Object = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"
TRAINER = {
    "runtimeRef": {},
    "suspend": {},
    "trainer": {"properties": {"command": {}, "numNodes": {}, "numProcPerNode": {}}},
}


class Refusal(Exception):
    """What the API answers instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FakeCluster:
    """The cluster; attributes say what is wrong with it."""

    def __init__(self, folder: Path) -> None:
        """Args:
        folder: where pods log, and the service account's token is.
        """
        self.jobs: dict[str, Object] = {}
        self.pods: dict[str, subprocess.Popen[bytes]] = {}
        self.made: list[Object] = []
        """Every TrainJob that was created."""
        self.asked: list[tuple[str, str]] = []
        self.events: list[Object] = []
        self.versions: list[str] = ["v1alpha1"]
        self.spec: Object = TRAINER
        self.refuses: dict[str, Refusal] = {}
        """By method."""
        self.no_pods = False
        """TrainJobs are accepted, and nothing comes of them."""
        self.lingers = threading.Event()
        """While it is set, the pods of deleted TrainJobs do not go away."""
        self._lock = threading.RLock()
        self._folder = folder
        self._token = folder / "token"
        claims = {"kubernetes.io": {"serviceaccount": {"name": "rel-trainer", "uid": "uid-of-the-account"}}}
        part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        self._token.write_text(f"head.{part}.signature\n")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def client(self) -> Kubernetes:
        """As a pod would have it."""
        return Kubernetes(f"http://127.0.0.1:{self._server.server_address[1]}", "ns", self._token)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for pod in self.pods.values():
            _kill(pod)

    def warn(
        self, name: str, reason: str, message: str, kind: str = "Pod", at: str = NOW, level: str = "Warning"
    ) -> None:
        """Let the cluster say something of an object."""
        event = {"involvedObject": {"kind": kind, "name": name}, "type": level, "reason": reason, "message": message}
        self.events.append(event | {"metadata": {"creationTimestamp": at}, "lastTimestamp": at})

    def kill_pod(self) -> None:
        """As `kubectl delete pod --force`: the only one there is."""
        (pod,) = [pod for pod in self.pods.values() if pod.poll() is None]
        _kill(pod)

    def end(self, kind: str, message: str) -> None:
        """Let the only TrainJob there is have ended, without a pod."""
        (job,) = self.jobs.values()
        condition = {"type": kind, "status": "True", "reason": "Said", "message": message}
        job["status"] = {"conditions": [condition]}

    def suspend(self, suspend: bool) -> None:
        """As a person or a queue does with the only TrainJob there is."""
        (name,) = self.jobs
        self._patch(name, {"spec": {"suspend": suspend}})

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Object) -> tuple[int, Object]:
        with self._lock:
            self.asked.append((method, path))
            if method in self.refuses:
                raise self.refuses[method]
            self._reconcile()
            if path == "/apis/trainer.kubeflow.org" and self.versions:
                return 200, {"versions": [{"version": version} for version in self.versions]}
            if path == "/openapi/v3/apis/trainer.kubeflow.org/v1alpha1":
                kinds = [{"group": "trainer.kubeflow.org", "kind": "TrainJob", "version": "v1alpha1"}]
                schema = {"x-kubernetes-group-version-kind": kinds, "properties": {"spec": {"properties": self.spec}}}
                return 200, {"components": {"schemas": {"TrainJob": schema}}}
            if path == "/api/v1/namespaces/ns/events":
                assert query == {}
                return 200, {"items": self.events}
            if path == "/apis/trainer.kubeflow.org/v1alpha1/namespaces/ns/trainjobs" and method == "POST":
                return 201, self._create(body)
            found = re.fullmatch(r"/apis/trainer\.kubeflow\.org/v1alpha1/namespaces/ns/trainjobs/([a-z0-9-]+)", path)
            if not found or found[1] not in self.jobs:
                raise Refusal(404, f"{path} not found")
            if method == "PATCH":
                self._patch(found[1], body)
            if method == "DELETE":
                return 200, self._delete(found[1], body)
            return 200, self.jobs[found[1]]

    def _create(self, job: Object) -> Object:
        name = job["metadata"]["name"]
        if name in self.jobs:
            raise Refusal(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        job["metadata"] |= {"uid": uuid.uuid4().hex, "creationTimestamp": NOW}
        self.jobs[name] = job
        self.made.append(job)
        self._reconcile()
        return job

    def _patch(self, name: str, change: Object) -> None:
        with self._lock:
            job = self.jobs[name]
            job["spec"] |= change.get("spec", {})
            job["metadata"]["annotations"] |= change.get("metadata", {}).get("annotations", {})
            self._reconcile()

    def _delete(self, name: str, options: Object) -> Object:
        job = self.jobs[name]
        if options["preconditions"]["uid"] != job["metadata"]["uid"]:
            raise Refusal(409, "the UID in the precondition does not match")
        assert options["propagationPolicy"] == "Foreground"
        assert job["spec"].get("suspend") or "status" in job or "PATCH" in self.refuses, (
            "would be given a second JobSet"
        )
        job["metadata"]["deletionTimestamp"] = NOW
        return job

    def _reconcile(self) -> None:
        """Trainer, JobSet, Job, kubelet and garbage collector."""
        for name, job in list(self.jobs.items()):
            pod = self.pods.get(name)
            deleted = "deletionTimestamp" in job["metadata"]
            if pod is not None and (deleted or job["spec"].get("suspend")):
                _kill(pod)
                pod = self.pods.pop(name)
                pod = None
            if deleted:
                if not self.lingers.is_set():
                    del self.jobs[name]
            elif job["spec"].get("suspend") or "status" in job or self.no_pods:
                continue
            elif pod is None:
                self.pods[name] = self._start(job["spec"]["trainer"])
            elif (code := pod.poll()) is not None:
                kind = "Failed" if code else "Complete"
                message = "jobset failed due to one or more job failures" if code else "all jobs completed"
                job["status"] = {"conditions": [{"type": kind, "status": "True", "message": message}]}
                del self.pods[name]

    def _start(self, trainer: Object) -> subprocess.Popen[bytes]:
        assert trainer["numNodes"] == 1, "one process is one pod here"
        ranks = {
            "PET_NNODES": "1",
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": "0",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(free_port()),
        }
        interpreters = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with (self._folder / "pod.log").open("ab") as output:
            return subprocess.Popen(
                trainer["command"],
                cwd=ROOT,
                env=dict(os.environ) | COMPUTE_ENVIRONMENT | ranks | {"PATH": interpreters},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def _kill(pod: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pod.pid, signal.SIGKILL)
    pod.wait()


def _handler(cluster: FakeCluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            asked = urlsplit(self.path)
            try:
                if not self.headers["Authorization"].startswith("Bearer head."):
                    raise Refusal(401, "Unauthorized")
                status, answer = cluster.answer(self.command, asked.path, parse_qs(asked.query), body)
            except Refusal as refusal:
                status, answer = refusal.status, {"kind": "Status", "message": str(refusal), "code": refusal.status}
            said = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 -- http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    return Handler
