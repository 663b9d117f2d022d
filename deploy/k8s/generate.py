"""Write what follows from the chart's values: `values.schema.json`, which knows no other, and the table in `README.md`.

`python deploy/k8s/generate.py`, after `values.yaml` or a service's settings have changed; a test says when. The names
that `settings` of a component may have are the fields of that service's settings class, but for those that the chart
sets.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from pmd.gateway.settings import GatewaySettings
from pmd.services.common.settings import PREFIX, ServiceSettings
from pmd.services.memory.settings import MemoryServiceSettings
from pmd.services.rollout.settings import RolloutSettings
from pmd.services.trainer.settings import TrainerSettings
from pmd.services.verifier.settings import VerifierSettings

CHART = Path(__file__).parent / "chart"

SETTINGS: dict[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "worker": GatewaySettings,
    "beat": GatewaySettings,
    "rollout": RolloutSettings,
    "replica": RolloutSettings,
    "verifier": VerifierSettings,
    "memory": MemoryServiceSettings,
    "trainer": TrainerSettings,
}
"""What reads the environment of each component."""

BY_THE_CHART = {
    "replica": {"PMD_ROLLOUT_ENGINE"},
    "trainer": {"PMD_TRAINER_LAUNCHER", "PMD_TRAINER_RUNTIME"},
    "memory": {
        *(
            "PMD_MEMORY_DATABASE_URL",
            "PMD_JOBS_URL",
            "PMD_ROLLOUT_URL",
            "PMD_ALLOWED_URLS",
            "PMD_MEMORY_INDEX",
            "PMD_MEMORY_GENERATOR_KEY",
        ),
        *("PMD_WEAVIATE_URL", "PMD_WEAVIATE_GRPC", "PMD_WEAVIATE_API_KEY", "PMD_MEMORY_EMBEDDER_KEY"),
    },
}
"""Settings of a component that other values decide, besides those that all services have."""

NOT_HERE = {
    # It holds a password, and these reach no database: what they make is on their own disks too.
    "rollout": {"PMD_JOBS_URL"},
    "replica": {"PMD_JOBS_URL", "PMD_ROLLOUT_REPLICAS"},  # it is one
    "trainer": {"PMD_JOBS_URL"},
    # Without isolation nothing is judged on a cluster; and the verifier reaches no address that these could name.
    "verifier": {"PMD_JOBS_URL", "PMD_SANDBOX_INSECURE", "PMD_ALLOWED_URLS", "PMD_VERIFIER_HTTP_KEYS"},
}
"""Settings that a cluster has no use for, or must not have."""


def names(settings: type[ServiceSettings]) -> set[str]:
    """The variables that a settings class reads."""
    return {PREFIX + name.upper() for name in settings.model_fields}


def free_settings(component: str) -> list[str]:
    """The settings that `settings` of a component may name."""
    taken = names(ServiceSettings) | BY_THE_CHART.get(component, set()) | NOT_HERE.get(component, set())
    return sorted(names(SETTINGS[component]) - taken)


TEXT = {"type": "string"}
NAME = {"type": "string", "minLength": 1}
POSITIVE = {"type": "integer", "minimum": 1}
QUANTITY = {"type": ["string", "integer"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
OBJECTS = {"type": "array", "items": {"type": "object"}}
BOUNDS = {"type": "object", "additionalProperties": QUANTITY, "required": ["cpu", "memory", "ephemeral-storage"]}
RULES = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"to": OBJECTS, "ports": OBJECTS},
        "required": ["to", "ports"],
        "additionalProperties": False,
    },
}
RESOURCES = {
    "type": "object",
    "properties": {"requests": BOUNDS, "limits": BOUNDS},
    "required": ["requests", "limits"],
    "additionalProperties": False,
}

BY_NAME: dict[str, dict[str, Any]] = {
    "resources": RESOURCES,
    "pod": {"$ref": "#/definitions/pod"},
    "egress": RULES,
    "apiServer": RULES,
    "gatewayEgress": RULES,
    "annotations": TEXTS,
    "labels": TEXTS,
    "nodeSelector": TEXTS,
    "affinity": {"type": "object"},
    "tolerations": OBJECTS,
    "extraVolumes": OBJECTS,
    "extraVolumeMounts": OBJECTS,
    "extraObjects": OBJECTS,
    "clients": OBJECTS,
    "metricsClients": OBJECTS,
    "dns": OBJECTS | {"minItems": 1},
    "dnsPorts": {"type": "array", "items": POSITIVE | {"maximum": 65535}, "minItems": 1},
    "pullSecrets": {"type": "array", "items": NAME},
    "allowedUrls": {"type": "array", "items": NAME},
    "allowedPaths": {"type": "array", "items": {"type": "string", "pattern": "^/"}},
    "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "tag": {"type": "string", "not": {"const": "latest"}},
    "accessMode": {"enum": ["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]},
    "kind": {"enum": ["none", "hpa", "keda"]},
    "engine": {"enum": ["transformers", "vllm"]},
    "index": {"enum": ["exact", "weaviate"]},
    "cpuPercent": {"type": "integer", "minimum": 1, "maximum": 100},
    "interval": {"type": "string", "pattern": "^[0-9]+(s|m)$"},
    "size": QUANTITY,
    "stateSize": QUANTITY,
    "shm": QUANTITY,
    "key": NAME,
    "restore": {"type": "string", "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]*)?$"},
}
"""Schemas by the last word of a key; all others follow from their default."""

IMAGE = {
    "type": "string",
    "pattern": r"^[a-z0-9][a-z0-9._/-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?$",
    "not": {"pattern": ":latest$"},
}


def schema_of(value: Any, path: tuple[str, ...], comments: dict[str, str]) -> dict[str, Any]:
    """The schema of a value, from its default and its name."""
    about = {"description": comments[".".join(path)]} if ".".join(path) in comments else {}
    if path[-1:] == ("settings",):
        known = dict.fromkeys(free_settings(path[0]), TEXT)
        return about | {"type": "object", "properties": known, "additionalProperties": False}
    if path[:1] == ("image",) and len(path) == 2 and path[1] not in {"registry", "tag", "pullPolicy", "pullSecrets"}:
        return about | IMAGE
    if path and path[-1] in BY_NAME:
        return about | BY_NAME[path[-1]]
    if isinstance(value, dict):
        properties = {name: schema_of(each, (*path, name), comments) for name, each in value.items()}
        return about | {"type": "object", "properties": properties, "additionalProperties": False}
    simple = {bool: {"type": "boolean"}, int: POSITIVE, str: TEXT}
    return about | simple[type(value)]


def read_comments(text: str) -> dict[str, str]:
    """By dotted key, the comment that stands before it and begins with `--`."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = stripped.removeprefix("# -- ")
        elif comment and stripped.startswith("#"):
            comment += " " + stripped.removeprefix("#").strip()
        elif key := re.match(r"( *)([\w-]+):", line):
            depth = len(key[1])
            path = [each for each in path if each[0] < depth] + [(depth, key[2])]
            if comment:
                found[".".join(name for _, name in path)] = comment
            comment = ""
    return found


def make_schema(text: str) -> str:
    """`values.schema.json` of `values.yaml`."""
    values, comments = yaml.safe_load(text), read_comments(text)
    pod = schema_of(values["pods"], ("pods",), comments)
    pod["properties"]["spreadOver"] = TEXT
    own = pod | {"properties": pod["properties"] | {"spreadOver": NAME}}  # empty values don't win over those of `pods`
    own.pop("description", None)
    made = schema_of(values, (), comments)
    made["properties"]["pods"] = pod
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"pod": own}}
    return json.dumps(head | made, indent=1) + "\n"


def make_table(text: str) -> str:
    """The values as a table, a row for each that has a comment."""
    values = yaml.safe_load(text)
    rows = ["| value | default | |", "|---|---|---|"]
    for key, comment in read_comments(text).items():
        value = values
        for name in key.split("."):
            value = value[name]
        shown = "by component" if key.endswith("resources") else f"`{json.dumps(value)}`"
        rows.append(f"| `{key}` | {shown} | {comment.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


MARK = "<!-- generate.py writes what follows -->\n"


def make_readme(text: str, readme: str) -> str:
    """`README.md` with the table of now."""
    return readme.partition(MARK)[0] + MARK + "\n" + make_table(text)


if __name__ == "__main__":
    source = (CHART / "values.yaml").read_text(encoding="utf-8")
    (CHART / "values.schema.json").write_text(make_schema(source), encoding="utf-8")
    page = CHART / "README.md"
    page.write_text(make_readme(source, page.read_text(encoding="utf-8")), encoding="utf-8")
