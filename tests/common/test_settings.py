"""Settings that are wrong are one sentence before anything is started, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pmd.services.common.settings import SettingsError, load_settings
from pmd.services.memory.settings import MemoryServiceSettings

TOKEN = "a-token-of-this-test"
CELERY = ("celery", "-A", "pmd.gateway.controller.tasks")
PROGRAMS = {
    "gateway": ("pmd.gateway",),
    "memory": ("pmd.services.memory",),
    "reindex": ("pmd.services.memory", "reindex"),
    "verifier": ("pmd.services.verifier",),
    "worker": (*CELERY, "worker"),
    "beat": (*CELERY, "beat"),
}


def start(*module: str, **environment: str) -> subprocess.CompletedProcess[str]:
    outer = {k: v for k, v in os.environ.items() if not k.startswith("PMD_")}
    argv = [sys.executable, "-m", *module]
    return subprocess.run(argv, env=outer | environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "PMD_TOKEN: missing; it must be given"),
        ({"PMD_TOKEN": TOKEN, "PMD_GATEWAY_PORT": "abc"}, "unknown setting PMD_GATEWAY_PORT"),
        ({"PMD_TOKEN": "short"}, "PMD_TOKEN: "),
    ],
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_with_wrong_settings_ends_with_a_sentence(
    program: str, environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    ended = start(*PROGRAMS[program], PMD_STATE_DIR=str(tmp_path), **environment)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PMD_MEMORY_INDEX", "qdrant", "PMD_MEMORY_INDEX: must be 'exact' or 'weaviate'"),
        ("PMD_MEMORY_EMBEDDER_DIM", "many", "PMD_MEMORY_EMBEDDER_DIM: .* valid integer"),
        ("PMD_MEMORY_EMBEDDER", "openai", "PMD_MEMORY_EMBEDDER=openai wants PMD_MEMORY_EMBEDDER_URL"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMD_TOKEN", TOKEN)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        load_settings(MemoryServiceSettings)


def test_no_value_of_a_setting_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_TOKEN", "secret")
    with pytest.raises(SettingsError) as caught:
        load_settings(MemoryServiceSettings)
    assert "secret" not in str(caught.value)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a cluster mounts a secret: names are links into a folder that is replaced as a whole."""
    data = tmp_path / "..2026_11_29"
    data.mkdir()
    (data / "PMD_TOKEN").write_text(f"{TOKEN}\n")
    (tmp_path / "..data").symlink_to(data.name)
    (tmp_path / "PMD_TOKEN").symlink_to("..data/PMD_TOKEN")
    monkeypatch.delenv("PMD_TOKEN", raising=False)
    monkeypatch.setenv("PMD_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_a_setting_may_be_a_file(files: Path) -> None:
    (files / "PMD_WEAVIATE_API_KEY").write_text("key")
    settings = load_settings(MemoryServiceSettings)
    assert settings.token.get_secret_value() == TOKEN
    assert settings.weaviate_api_key.get_secret_value() == "key"


def test_a_file_that_nothing_reads_is_named(files: Path) -> None:
    (files / "PMD_WEAVIATE_APIKEY").write_text("key")
    with pytest.raises(SettingsError, match="unknown setting PMD_WEAVIATE_APIKEY; did you mean PMD_WEAVIATE_API_KEY"):
        load_settings(MemoryServiceSettings)


def test_a_setting_in_two_places_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_TOKEN", "another-token-of-this-test")
    with pytest.raises(SettingsError, match="PMD_TOKEN is set in the environment and in PMD_SECRETS_DIR"):
        load_settings(MemoryServiceSettings)


def test_a_folder_of_settings_that_is_not_there_is_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_SECRETS_DIR", str(files / "nowhere"))
    with pytest.raises(SettingsError, match=r"PMD_SECRETS_DIR: .*nowhere can't be read: No such file"):
        load_settings(MemoryServiceSettings)
