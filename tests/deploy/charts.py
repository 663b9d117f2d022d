"""The chart as objects: what helm renders, and its containers."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "k8s" / "chart"
PRESETS = ("dev", "gpu", "cluster")
RELEASE = "rel"
KUBERNETES = "1.32.0"

Object = dict[str, Any]


class Refused(RuntimeError):
    """What helm says of values that it does not render."""


def helm() -> str:
    """The program; the test is skipped where there is none."""
    found = os.environ.get("HELM_BIN") or next(map(str, ROOT.glob(".tools/helm-*/helm")), None) or shutil.which("helm")
    if found is None:
        pytest.skip("no helm to render the chart with; `make helm` builds it, or name one in HELM_BIN")
    return found


@functools.cache
def _render(presets: tuple[str, ...], values: str, kubernetes: str, chart: Path) -> str:
    files = [word for preset in presets for word in ("--values", str(CHART / f"values-{preset}.yaml"))]
    command = [helm(), "template", RELEASE, str(chart), "--namespace", "pmd", "--kube-version", kubernetes, *files]
    done = subprocess.run([*command, "--values", "-"], input=values, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def render(*presets: str, values: Any = None, kubernetes: str = KUBERNETES, chart: Path = CHART) -> list[Object]:
    """The objects that helm makes of presets and values over them.

    Raises:
        Refused: helm does not render them.
    """
    text = _render(presets, json.dumps(values or {}), kubernetes, chart)
    return [each for each in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if each]


@functools.cache
def _definitions(version: str) -> tuple[Path, Any]:
    """The strict schemas of a version of Kubernetes, and what they have in common, crawled once."""
    module = pytest.importorskip("kubernetes_validate", reason="no schemas of Kubernetes; `make test` installs them")
    folder = Path(module.__file__).parent / "kubernetes-json-schema" / f"v{version}-local-strict"
    common = Resource.from_contents(json.loads((folder / "_definitions.json").read_text(encoding="utf-8")))
    return folder, (common @ Registry()).crawl()


@functools.cache
def _validator(version: str, api: str, kind: str) -> Draft202012Validator | None:
    folder, registry = _definitions(version)
    group, _, last = api.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], last)))
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    schema = json.loads(path.read_text(encoding="utf-8"))
    return Draft202012Validator(schema, registry=registry)


def faults(each: Object, version: str) -> list[str]:
    """What a version of Kubernetes has against an object: unknown keys too, all of them."""
    validator = _validator(version, each["apiVersion"], each["kind"])
    if validator is None:
        return [f"no kind {each['kind']} of {each['apiVersion']}"]
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(each)]


def one(objects: list[Object], kind: str, name: str) -> Object:
    """The object of this kind and name."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pods(objects: list[Object]) -> Iterator[tuple[Object, Object, Object]]:
    """Every pod's object, metadata and spec."""
    for each in objects:
        if each["kind"] == "Pod":
            yield each, each["metadata"], each["spec"]
        elif each["kind"] == "TrainingRuntime":  # a template of a JobSet, of Jobs, of pods
            for job in each["spec"]["template"]["spec"]["replicatedJobs"]:
                pod = job["template"]["spec"]["template"]
                yield each, pod["metadata"], pod["spec"]
        elif each["kind"] == "CronJob":
            template = each["spec"]["jobTemplate"]["spec"]["template"]
            yield each, template["metadata"], template["spec"]
        elif "template" in each.get("spec", {}):
            yield each, each["spec"]["template"]["metadata"], each["spec"]["template"]["spec"]


def containers(objects: list[Object]) -> Iterator[tuple[Object, Object, Object]]:
    """Every container with its object and its pod's spec."""
    for owner, _, spec in pods(objects):
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            yield owner, spec, container


def component(labels: dict[str, str]) -> str:
    """Which part of the installation labels say that a pod is."""
    return labels["app.kubernetes.io/component"]
