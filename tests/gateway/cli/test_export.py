"""`pmd export`: a checkpoint taken away, wherever it is put."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pmd.services.common.artifacts import seal_weights
from tests.gateway.cli.conftest import Api, Pmd


def published(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "model.safetensors").chmod(0o600)  # as safetensors writes it
    (folder / "config.json").write_text("{}")
    return {"step": 2, "weights": seal_weights(folder, 2, {}).model_dump(), "evaluation": {}}


@pytest.fixture
def shared_umask() -> Iterator[None]:
    """The usual umask, whatever the one of the machine: new files may be read by others."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("shared_umask")
def test_an_export_is_the_published_folder_without_bookkeeping(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2")]
    result = pmd("export", "r", "--to", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o044, "whoever serves it can read it"
    assert "not an empty folder" in pmd("export", "r", "--to", str(tmp_path / "out")).stderr
    assert "there are 2" in pmd("export", "r", "--step", "9", "--to", str(tmp_path / "x")).stderr


def test_a_damaged_checkpoint_is_not_exported(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2")]
    (tmp_path / "v2" / "model.safetensors").write_bytes(hashlib.sha256(b"other").digest())
    result = pmd("export", "r", "--to", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "model.safetensors" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_export_fills_an_empty_folder_in_place(
    api: Api, pmd: Pmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount, or where the caller stands, can't be replaced by another folder."""
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2")]
    here = tmp_path / "here"
    here.mkdir()
    before = here.stat().st_ino
    monkeypatch.chdir(here)
    assert pmd("export", "r", "--to", ".").exit_code == 0
    assert here.stat().st_ino == before
    assert sorted(p.name for p in here.iterdir()) == ["config.json", "model.safetensors"]


def test_a_neighbour_is_left_alone(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2")]
    (tmp_path / "out.part").mkdir()
    assert pmd("export", "r", "--to", str(tmp_path / "out")).exit_code == 0
    assert (tmp_path / "out.part").is_dir()


def test_an_export_that_fails_leaves_nothing(
    api: Api, pmd: Pmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2")]

    def full(source: Any, target: Any, **_: Any) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    result = pmd("export", "r", "--to", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_can_not_become_a_folder_is_named(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2")]
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for to, code in (("file", 2), ("dangling", 2), ("file/below", 1)):
        result = pmd("export", "r", "--to", str(tmp_path / to))
        assert result.exit_code == code
        assert "error: " in result.stderr
        assert to.partition("/")[0] in result.stderr
