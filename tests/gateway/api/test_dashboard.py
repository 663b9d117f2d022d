"""The page and its files: open to all, from this gateway alone, built from the sources that are here."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pmd.gateway.api import dashboard
from pmd.gateway.api.document import contract

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "dashboard"
BUILT = dashboard.FOLDER
FROM = ("index.html", "openapi.json", "package-lock.json", "package.json", "public", "scripts/build.mjs", "src")
FROM += ("tsconfig.json", "vite.config.ts")
GENERATED = {"src/api/schema.d.ts"}
MOST_BYTES = 3_000_000
REBUILD = "run `make dashboard` and commit what it changed"


@pytest.fixture
def anonymous(app: FastAPI) -> TestClient:
    return TestClient(app)


@pytest.mark.parametrize("path", ["/", "/runs", "/runs/r-1", "/runs/r-1/memory/i-1?x=1", "/compare?run=a", "/system"])
def test_every_address_of_the_page_opens_it_without_a_token_and_is_asked_for_anew(
    path: str, anonymous: TestClient
) -> None:
    answer = anonymous.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.content == (BUILT / "index.html").read_bytes()


def test_what_the_page_loads_comes_from_here_and_may_be_kept(anonymous: TestClient) -> None:
    page = anonymous.get("/").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {Path(path).suffix for path in loaded} >= {".js", ".css", ".svg"}
    for path in (each for each in loaded if each != "/docs"):
        answer = anonymous.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        if path.startswith("/assets/"):
            assert re.search(r"-[\w-]{8}\.(js|css)$", path), "a name that is kept for ever holds a hash"
            assert "immutable" in answer.headers["cache-control"]


def test_the_page_may_run_no_script_but_its_own_and_ask_nobody_else(anonymous: TestClient) -> None:
    answer = anonymous.get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert not re.search(r"<script(?![^>]*\bsrc=)", answer.text), "an inline script, which the policy forbids"
    assert not re.search(r"\bon\w+=", answer.text)


@pytest.mark.parametrize("path", ["/assets/..%2findex.html", "/assets/../__init__.py", "/assets/__init__.py"])
def test_no_other_file_is_served(path: str, anonymous: TestClient) -> None:
    assert anonymous.get(path).status_code in {401, 404}


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/curves?run=a", "/elsewhere", "/runsx", "/v1/session:code"])
def test_what_is_no_file_of_the_page_still_wants_a_token(path: str, anonymous: TestClient) -> None:
    assert anonymous.get(path).status_code == 401


def test_no_file_names_an_address_that_a_browser_would_ask(anonymous: TestClient) -> None:
    """Names of XML's own vocabularies, and of pages that errors point to, are no requests."""
    styles = "".join(path.read_text() for path in (BUILT / "assets").glob("*.css"))
    assert not re.search(r"url\(\s*['\"]?https?:|@import", styles)
    assert "http" not in (BUILT / "index.html").read_text()


def _sources_hash() -> str:
    """As `dashboard/scripts/build.mjs` computes it."""
    found = []
    for name in FROM:
        path = SOURCES / name
        found += [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    names = sorted({path.relative_to(SOURCES).as_posix() for path in found} - GENERATED)
    whole = hashlib.sha256()
    for name in names:
        whole.update(f"{name}\0{hashlib.sha256((SOURCES / name).read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def test_the_built_files_are_those_of_the_sources() -> None:
    assert (BUILT / "sources.sha256").read_text().strip() == _sources_hash(), REBUILD


def test_the_pages_types_are_made_of_the_api_as_it_is() -> None:
    assert json.loads((SOURCES / "openapi.json").read_text()) == contract(), REBUILD


def test_what_is_bundled_is_small_and_says_its_licences() -> None:
    assert sum(path.stat().st_size for path in BUILT.rglob("*") if path.is_file()) < MOST_BYTES
    bundled = json.loads((SOURCES / "package.json").read_text())["dependencies"]
    told = (BUILT / "licences.txt").read_text()
    for name, version in bundled.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), f"{name} is not pinned"
        assert f"\n{name} {version}: " in told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_building_anew_gives_the_committed_files(tmp_path: Path) -> None:
    if shutil.which("node") is None or not (SOURCES / "node_modules").exists():
        pytest.skip("no Node, or what it builds with is not there; `npm --prefix dashboard ci` runs this")
    copy = tmp_path / "dashboard"
    shutil.copytree(SOURCES, copy, symlinks=True, ignore=shutil.ignore_patterns("node_modules"))
    (copy / "node_modules").symlink_to(SOURCES / "node_modules")
    (tmp_path / "gateway" / "dashboard").mkdir(parents=True)
    subprocess.run(["node", "scripts/build.mjs"], cwd=copy, check=True, capture_output=True, timeout=800)
    rebuilt = tmp_path / "gateway" / "dashboard"
    new = {path.relative_to(rebuilt): path.read_bytes() for path in rebuilt.rglob("*") if path.is_file()}
    old = {path.relative_to(BUILT): path.read_bytes() for path in BUILT.rglob("*") if path.is_file()}
    python = {path for path in old if path.suffix in {".py", ".pyc"}}
    assert new == {path: content for path, content in old.items() if path not in python}


def test_the_contract_is_written_by_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pmd.gateway.api.document"], capture_output=True, check=True, cwd=ROOT, timeout=120
    )
    assert done.stdout == (SOURCES / "openapi.json").read_bytes(), REBUILD
