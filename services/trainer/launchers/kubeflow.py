"""The TrainJob of a run: Kubeflow Trainer's object, what is read of it, and how it is ended.

Written for Trainer 2.0.0, whose habits decide what is done here:

- A TrainJob whose name was free an instant ago takes over the end of the one before, so a name is used again only once
  nothing is left of that: a TrainJob is deleted in the foreground, which keeps the object until its JobSet, Job and
  pods are gone.
- Deleted so while it runs, it would be given a second JobSet. It is suspended first: that one has no pods then. An
  annotation tells this from a suspension by somebody else, to whoever finds the object after a kill.
- What it refuses after admission, or the cluster refuses of its pods, shows in events alone.

Each TrainJob is owned by the service account that made it: when that goes with its release, the TrainJobs go too.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pmd.services.common.waiting import Away
from pmd.services.trainer.launchers.kubernetes import Kubernetes, Object, Refused

log = logging.getLogger(__name__)

GROUP = "trainer.kubeflow.org"
VERSION = "v1alpha1"
ENDING = "pmd/ending"
"""Annotation of a TrainJob that we are about to delete."""
RUN = "pmd/run"
"""Annotation: the run that it trains."""
LABELS = {"app.kubernetes.io/name": "pmd", "app.kubernetes.io/component": "training"}
READABLE = 28
"""Characters of a run's id in a TrainJob's name. Pods are called after it, and their names end at 63."""

SECONDS = len("2026-01-01T00:00:00")

SAID_AGAIN = timedelta(minutes=15)
"""Longer than the scheduler, or a Job, lets pass before it tries again and says what is lacking."""

FIELDS = ("runtimeRef", "suspend", "trainer.command", "trainer.numNodes", "trainer.numProcPerNode")
"""What is set in a TrainJob's spec."""


@dataclass(frozen=True)
class Shape:
    """What the processes of a run are."""

    runtime: str
    """Name of the TrainingRuntime that pods are made of."""
    nodes: int
    """Pods."""
    nproc: int
    """Processes a pod."""
    idle_s: float
    """Seconds without work after which they end."""
    start_s: float
    """Seconds that the pods of a run wait for each other."""


@dataclass(frozen=True)
class Seen:
    """A TrainJob as it was seen."""

    uid: str
    created: str
    """RFC 3339, as the cluster's clock says."""
    ours: bool
    ending: bool
    deleted: bool
    """It is there only until its pods are gone."""
    suspended: bool
    end: str
    """Complete, Failed, or empty."""
    message: str
    """Of its end."""


@dataclass(frozen=True)
class Warned:
    """The newest warning about a TrainJob or what was made of it."""

    text: str
    full: bool
    """The cluster has no room for a pod now; that may pass by itself."""


def job_name(runtime: str, run: str) -> str:
    """The name of a run's TrainJob: a DNS label, the same each time, and no other's in the namespace."""
    readable = re.sub(r"[^a-z0-9]+", "-", run.lower())[:READABLE].strip("-")
    return f"pmd-{readable}-{hashlib.sha256(f'{runtime}/{run}'.encode()).hexdigest()[:10]}"


def command(spool: Path, shape: Shape) -> list[str]:
    """What each pod runs; which rank it is and where the first is, torchrun reads from variables that Trainer sets."""
    torchrun = ["python", "-P", "-m", "torch.distributed.run", "--log-dir", str(spool / "log"), "--tee", "3"]
    together = ["--rdzv-conf", f"timeout={max(1, round(shape.start_s))}"]
    job = ["-m", "pmd.services.trainer.job.job", "--spool", str(spool), "--idle-s", str(shape.idle_s)]
    return [*torchrun, *together, *job]


def manifest(name: str, run: str, spool: Path, shape: Shape, owner: Object) -> Object:
    """The TrainJob of a run."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "labels": LABELS | {"app.kubernetes.io/managed-by": "pmd-trainer"},
            "annotations": {RUN: run},
            "ownerReferences": [owner],
        },
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": shape.runtime},
            "trainer": {
                "numNodes": shape.nodes,
                "numProcPerNode": shape.nproc,
                "command": command(spool, shape),
            },
        },
    }


def read(job: Object, run: str) -> Seen:
    """What a TrainJob's object says."""
    about, spec = job["metadata"], job.get("spec", {})
    annotations = about.get("annotations", {})
    true = {each["type"]: each for each in job.get("status", {}).get("conditions", ()) if each["status"] == "True"}
    end = next((kind for kind in ("Failed", "Complete") if kind in true), "")
    return Seen(
        uid=about["uid"],
        created=about["creationTimestamp"],
        ours=annotations.get(RUN) == run,
        ending=ENDING in annotations or "deletionTimestamp" in about,
        deleted="deletionTimestamp" in about,
        suspended=bool(spec.get("suspend")),
        end=end,
        message=str(true[end].get("message", "")) if end else "",
    )


def newest_warning(events: list[Object], name: str, since: str) -> Warned | None:
    """The newest warning about TrainJob, JobSet, Job or pods. That there is no room comes before what else is said, as
    long as it is the last word about its object: others of the run then wait for that one.

    Args:
        events: normal ones too: that a pod was scheduled is said by one of them.
        name: of the TrainJob and the JobSet; Job and pods are called after it.
        since: RFC 3339; what was said of an earlier TrainJob of this name is left out.
    """
    about = [event for event in events if f"{event['involvedObject'].get('name')}-node-".startswith(f"{name}-node-")]
    about = sorted((event for event in about if _time(event) >= since[:SECONDS]), key=_time)
    latest = {(event["involvedObject"].get("kind"), event["involvedObject"].get("name")): event for event in about}
    newest = max(map(_time, about), default="")
    lacking = [event for event in latest.values() if _no_room(event) and _still_said(event, newest)]
    warnings = lacking or [event for event in about if event.get("type") == "Warning"]
    if not warnings:
        return None
    last = max(warnings, key=_time)
    where = last["involvedObject"]
    said = f"{where.get('kind')} {where.get('name')}: {last.get('reason')}: {last.get('message', '')}"
    return Warned(said, bool(lacking))


def _no_room(event: Object) -> bool:
    return event.get("reason") == "FailedScheduling" or "exceeded quota" in str(event.get("message", ""))


def _still_said(event: Object, now: str) -> bool:
    """Whether an event is young enough to hold: the scheduler, and a Job at its quota, say it again and again."""
    return datetime.fromisoformat(now) - datetime.fromisoformat(_time(event)) <= SAID_AGAIN


def _time(event: Object) -> str:
    """When an event was seen last, to the second: the two APIs that write events put it in different places."""
    seen = (event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(seen or event["metadata"]["creationTimestamp"])[:SECONDS]


class TrainJobs:
    """The TrainJobs of one namespace; thread-safe."""

    def __init__(self, cluster: Kubernetes, shape: Shape) -> None:
        self._cluster = cluster
        self._shape = shape
        self._path = f"/apis/{GROUP}/{VERSION}/namespaces/{cluster.namespace}/trainjobs"
        self._checked = False

    @property
    def namespace(self) -> str:
        return self._cluster.namespace

    def check(self) -> None:
        """See that the cluster has a Trainer that we can speak to; asked once.

        Raises:
            Away: with what is missing.
        """
        if self._checked:
            return
        try:
            self._check()
        except Refused as refused:
            raise Away(f"the cluster does not say whether it has Kubeflow Trainer: {refused}") from refused
        self._checked = True

    def _check(self) -> None:
        group = self._cluster.call("GET", f"/apis/{GROUP}")
        if group is None:
            raise Away(
                f"Kubeflow Trainer is not installed: the cluster knows no {GROUP}. Install Trainer 2.0 or newer with"
                " JobSet, or train in the trainer's own pod (PMD_TRAINER_LAUNCHER=local)"
            )
        served = [each["version"] for each in group["versions"]]
        if VERSION not in served:
            raise Away(f"this speaks {GROUP}/{VERSION}; the Kubeflow Trainer here has {', '.join(served)}")
        schema = self._cluster.call("GET", f"/openapi/v3/apis/{GROUP}/{VERSION}") or {}
        lacking = [field for field in FIELDS if not _has(_spec(schema), field.split("."))]
        if lacking:
            raise Away(
                f"the TrainJob of the Kubeflow Trainer here has no spec.{', spec.'.join(lacking)}: it is another"
                f" {VERSION} than that of 2.0.0, which this was written for"
            )

    def get(self, name: str, run: str) -> Seen | None:
        """A run's TrainJob, or None.

        Raises:
            Refused: what has this name was made by somebody else.
        """
        job = self._cluster.call("GET", f"{self._path}/{name}")
        if job is None:
            return None
        seen = read(job, run)
        if not seen.ours:
            raise Refused(409, f"TrainJob {name} in {self.namespace} is not of run {run}; delete or rename it")
        return seen

    def create(self, name: str, run: str, spool: Path) -> bool:
        """Make a run's TrainJob; False when there is one already, which is then the run's."""
        account = self._cluster.account()
        owner = {"apiVersion": "v1", "kind": "ServiceAccount", "name": account.name, "uid": account.uid}
        try:
            made = self._cluster.call("POST", self._path, body=manifest(name, run, spool, self._shape, owner))
        except Refused as refused:
            if refused.status == 409:
                return False
            raise
        if made is None:
            self._checked = False  # Trainer was taken away meanwhile
            raise Away(f"the cluster knows no TrainJobs any more: {GROUP} is gone")
        return True

    def delete(self, name: str, seen: Seen) -> None:
        """Have a TrainJob ended, with its pods; the object is there until they are gone."""
        if seen.deleted:
            return
        if not seen.end and not seen.ending:
            change = {"metadata": {"annotations": {ENDING: "deleted next"}}, "spec": {"suspend": True}}
            try:
                merge = "application/merge-patch+json"
                self._cluster.call("PATCH", f"{self._path}/{name}", body=change, content_type=merge)
            except (Away, Refused) as error:
                # Without Trainer, or without its runtime, nobody makes a second JobSet.
                log.info("deleted without being suspended", extra={"trainjob": name, "reason": str(error)})
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": seen.uid}}
        try:
            self._cluster.call("DELETE", f"{self._path}/{name}", body=options)
        except Refused as refused:
            if refused.status != 409:  # another of this name by now
                raise

    def warning(self, name: str, since: str) -> Warned | None:
        """The newest warning about a TrainJob or what was made of it; None where events may not be read.

        Raises:
            Away: the API server does not answer.
        """
        try:
            events = self._cluster.call("GET", f"/api/v1/namespaces/{self.namespace}/events") or {}
        except Refused:
            return None
        return newest_warning(events.get("items", []), name, since)


def _spec(document: Object) -> Any:
    """The schema of a TrainJob's spec in an OpenAPI document of the API server."""
    for schema in document.get("components", {}).get("schemas", {}).values():
        kinds = {each.get("kind") for each in schema.get("x-kubernetes-group-version-kind", ())}
        if "TrainJob" in kinds:
            return schema.get("properties", {}).get("spec", {})
    return {}


def _has(schema: Any, path: list[str]) -> bool:
    """Whether a schema has a property, by its path."""
    for name in path:
        if name not in schema.get("properties", {}):
            return False
        schema = schema["properties"][name]
    return True
