"""docker-compose.yml: the same settings as the chart and the code, hardened, with one door."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pmd.gateway.settings import GatewaySettings
from pmd.services.common.serve import PORTS
from pmd.services.common.settings import ServiceSettings, load_settings
from pmd.services.memory.settings import MemoryServiceSettings
from pmd.services.rollout.settings import RolloutSettings
from pmd.services.trainer.settings import TrainerSettings
from pmd.services.verifier.settings import VerifierSettings
from tests.deploy.charts import ROOT, containers, one, render

SETTINGS: dict[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "worker": GatewaySettings,
    "beat": GatewaySettings,
    "memory": MemoryServiceSettings,
    "rollout": RolloutSettings,
    "replica-cpu": RolloutSettings,
    "replica-gpu": RolloutSettings,
    "verifier": VerifierSettings,
    "trainer-cpu": TrainerSettings,
    "trainer-gpu": TrainerSettings,
}
STORES = {"redis", "postgres", "weaviate"}
CHART_NAME = {"replica-cpu": "replica", "replica-gpu": "replica", "trainer-cpu": "trainer", "trainer-gpu": "trainer"}
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")

Service = dict[str, Any]


def filled(value: Any) -> str:
    """A value as compose reads it without an .env: `${NAME:-default}` is the default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    read: dict[str, Any] = yaml.safe_load(text)
    return read


@pytest.fixture(params=sorted(SETTINGS))
def ours(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_each_profile_has_every_service_once(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {*SETTINGS, *STORES}
    for profile, other in (("cpu", "gpu"), ("gpu", "cpu")):
        here = {name for name, service in compose["services"].items() if profile in service["profiles"]}
        assert here == {name for name in compose["services"] if not name.endswith(f"-{other}")}


def test_a_service_starts_with_the_settings_that_compose_gives_it(
    compose: dict[str, Any], ours: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service = compose["services"][ours]
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, filled(value))
    monkeypatch.setenv("PMD_SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("PMD_TOKEN", raising=False)
    for secret in service["secrets"]:
        (tmp_path / secret).write_text("a-token-of-this-test")
    assert load_settings(SETTINGS[ours]).runs_uri() == "file:///runs"


def test_compose_and_chart_give_a_service_the_same_settings(compose: dict[str, Any], ours: str) -> None:
    """But for those that only one of them has a use for."""
    name = CHART_NAME.get(ours, ours)
    kind = "Deployment" if name in {"gateway", "worker", "beat"} else "StatefulSet"
    objects = render("gpu")
    owner = one(objects, kind, f"rel-{name}")
    (container,) = [c for o, _, c in containers(objects) if o is owner]
    volumes = owner["spec"]["template"]["spec"]["volumes"]
    files = {
        item["path"]
        for volume in volumes
        for source in volume.get("projected", {}).get("sources", ())
        for item in source["secret"]["items"]
    }
    charts = {each["name"] for each in container["env"]} | files
    service = compose["services"][ours]
    composes = {*service["environment"], *service["secrets"]}
    optional = {"PMD_ROLLOUT_DTYPE", "PMD_ROLLOUT_ENGINE", "OMP_NUM_THREADS"}
    assert charts - optional == composes - optional


def test_every_container_is_hardened_and_bounded(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["user"].partition(":")[0]) >= 999, name
        assert service["pids_limit"], name
        assert service["mem_limit"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & service.keys(), name
        image = filled(service["image"])
        assert re.search(r":[\w.-]+$", image), name
        assert not image.endswith(":latest"), name


def test_a_folder_in_memory_belongs_to_who_writes_to_it(compose: dict[str, Any]) -> None:
    """Over a folder of the image, docker keeps that folder's mode, whatever is asked for, and root as its owner."""
    for name, service in compose["services"].items():
        for mount in service.get("tmpfs", ()):
            folder, _, options = mount.partition(":")
            user, _, group = service["user"].partition(":")
            if folder == "/state":
                assert {f"uid={user}", f"gid={group}"} <= set(options.split(",")), name


def test_only_the_gateway_has_a_port_and_a_way_out(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert ("ports" in service) == (name == "gateway"), name
        assert ("outside" in service["networks"]) == (name == "gateway"), name
    assert [filled(port) for port in compose["services"]["gateway"]["ports"]] == ["127.0.0.1:8700:8700"]
    closed = {name for name, network in compose["networks"].items() if network.get("internal")}
    assert closed == set(compose["networks"]) - {"outside"}


def test_the_verifier_sees_those_that_ask_it_and_no_store(compose: dict[str, Any]) -> None:
    assert compose["services"]["verifier"]["networks"] == ["judging"]
    beside = {name for name, service in compose["services"].items() if "judging" in service["networks"]}
    assert beside == {"gateway", "worker", "verifier"}


def test_who_asks_and_who_is_asked_share_a_network(compose: dict[str, Any]) -> None:
    services = compose["services"]
    aliases = {alias: name for name, s in services.items() for alias in ([name] if name in SETTINGS else [])}
    aliases |= {"replica": "replica-cpu", "trainer": "trainer-cpu", "redis": "redis", "postgres": "postgres"}
    aliases |= {"weaviate": "weaviate"}
    asked = set()
    for name, service in services.items():
        for value in service.get("environment", {}).values():
            for host, port in re.findall(r"http://([\w-]+):(\d+)", filled(value)):
                if host == "weaviate" or name in SETTINGS:
                    other = aliases[host]
                    assert {*service["networks"]} & {*services[other]["networks"]}, (name, other)
                    assert (
                        host == "weaviate"
                        or int(port) == PORTS[CHART_NAME.get(other, other).replace("replica", "rollout")]
                    )
                    asked.add(other)
    assert asked == {"rollout", "verifier", "memory", "trainer-cpu", "replica-cpu", "weaviate"}


def test_secrets_are_files_that_are_made_once(compose: dict[str, Any], tmp_path: Path) -> None:
    script = [sys.executable, ROOT / "deploy" / "docker" / "make_secrets.py", tmp_path / "secrets"]
    said = [subprocess.run(script, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert said[1] == "all secrets are there\n"
    made = {path.name: path for path in (tmp_path / "secrets").iterdir()}
    assert {Path(each["file"]).name for each in compose["secrets"].values()} == set(made)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.values()} == {0o444}
    assert made["postgres-password"].read_text() in made["PMD_DATABASE_URL"].read_text()
    assert made["redis-password"].read_text() in made["PMD_REDIS_URL"].read_text()
    declared = {name for service in compose["services"].values() for name in service.get("secrets", ())}
    assert declared == set(compose["secrets"])


def test_every_variable_of_the_file_is_told(compose: dict[str, Any]) -> None:
    used = set(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    told = set(re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    assert used == told


def test_what_is_built_is_a_target_and_what_it_runs_is_a_module(compose: dict[str, Any]) -> None:
    targets = set(re.findall(r"^FROM runtime(?:-gpu)? AS (?!runtime)([\w-]+)$", DOCKERFILE, re.MULTILINE))
    built = set()
    for service in compose["services"].values():
        if "build" in service:
            target = filled(service["build"]["target"])
            built.add(target)
            assert filled(service["image"]).startswith(f"pmd/{target}:")
            assert service["image"].partition(":$")[0] == f"pmd/{service['build']['target']}", "one word sets both"
        for word in service.get("command", ()):
            if str(word).startswith("pmd."):
                assert (ROOT / word.removeprefix("pmd.").replace(".", "/") / "__main__.py").is_file(), word
    assert built | {"api-gym"} == targets, "api-gym is api with more in it, which .env may name"
