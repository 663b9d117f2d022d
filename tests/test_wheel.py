"""A wheel holds our names and no other, and runs where no checkout is, beside folders of the same names."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
MINE = "raise SystemExit('imported what the user has here')\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # of its own, as building leaves a `build` folder behind
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "pmd", "services", "gateway", "recipes", "examples"):
        (source / name).symlink_to(ROOT / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        folder,
        source,
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def pmd(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pmd` of a new environment that holds the wheel, and finds what it depends on in this one."""
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--quiet", wheel], check=True)
    packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin" / "pmd"


def test_a_wheel_holds_our_package_alone_and_all_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"pmd"}
    assert {name.split("/")[1] for name in names if name.startswith("pmd/") and name.count("/") > 1} == {
        "services",
        "gateway",
        "examples",
        "recipes",
    }
    recorded = subprocess.run(
        ["git", "ls-files", "services", "gateway", "examples", "recipes"], cwd=ROOT, capture_output=True, check=True
    )
    data = [f"pmd/{name}" for name in recorded.stdout.decode().split() if not name.endswith((".md", ".ini"))]
    assert set(data) <= set(names)


def test_a_wheel_learns_in_an_empty_folder_beside_the_users_own_names(pmd: Path, tmp_path: Path) -> None:
    for name in ("services", "gateway", "pmd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(MINE)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PMD_") and k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    small = ("--set", "schedule.steps=1", "--set", "schedule.problems_per_step=4")
    done = subprocess.run(
        [pmd, "quickstart", *small], cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert list((tmp_path / "var" / "reports").glob("*.html"))
    assert {path.name for path in tmp_path.iterdir()} == {"services", "gateway", "pmd", "var"}, (
        "nothing is left beside var"
    )
