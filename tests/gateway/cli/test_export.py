"""`pmd export`: a checkpoint taken away, wherever it is put."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from pmd.gateway.cli.card import front_matter, recipe_hash
from pmd.gateway.cli.precision import precisions, read_header
from pmd.services.common.artifacts import seal_weights
from tests.gateway.cli.conftest import Api, Pmd

RECIPE = {
    "name": "mine",
    "method": "pmd",
    "model": "/home/somebody/models/small",
    "seed": 3,
    "schedule": {"steps": 60},
    "problems": {"source": "jsonl", "files": ["/home/somebody/problems.jsonl"]},
}
SCORE = {"problems": 64, "rollouts": 512, "pass_rate": 0.75, "pass_at": {}, "reward": 0.75}
VALUES = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -3e38, np.inf, 1e-40], dtype=np.float32)


def published(folder: Path, **facts: Any) -> dict[str, Any]:
    folder.mkdir()
    save_file({"a": VALUES, "b": np.arange(6, dtype=np.int64)}, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o600)  # as safetensors writes it
    (folder / "config.json").write_text('{"dtype": "float32"}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    return {"step": 2, "weights": seal_weights(folder, 2, facts).model_dump(), "evaluation": {"test": SCORE}}


@pytest.fixture(autouse=True)
def report(api: Api) -> dict[str, Any]:
    """What the gateway answers of run `r`; its recipe can be changed in place."""
    answer: dict[str, Any] = {"recipe": dict(RECIPE), "run": {"id": "r-12345678"}}
    api.answers["GET /v1/runs/r/report"] = answer
    return answer


def half_precision_base(folder: Path) -> str:
    folder.mkdir()
    header = {"a": {"dtype": "BF16", "shape": [6], "data_offsets": [0, 12]}}
    data = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(12))
    return f"file://{folder}"


FILES = ["README.md", "config.json", "generation_config.json", "model.safetensors"]


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
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
    for same in ("model.safetensors", "generation_config.json"):
        assert (tmp_path / "out" / same).read_bytes() == (tmp_path / "v2" / same).read_bytes()
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
    assert sorted(p.name for p in here.iterdir()) == FILES


def test_a_neighbour_is_left_alone(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2")]
    (tmp_path / "out.part").mkdir()
    assert pmd("export", "r", "--to", str(tmp_path / "out")).exit_code == 0
    assert (tmp_path / "out.part").is_dir()


def test_an_export_that_fails_leaves_nothing(
    api: Api, pmd: Pmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2")]

    def full(source: Any, target: Any) -> None:
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


def test_a_run_of_a_bf16_base_is_exported_in_bf16(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    """What was published stays fp32: the trainer's truth."""
    base = half_precision_base(tmp_path / "v0")
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2", base=base)]
    assert pmd("export", "r", "--to", str(tmp_path / "out")).exit_code == 0
    header = read_header(tmp_path / "out" / "model.safetensors")
    assert {name: facts["dtype"] for name, facts in header.items() if name != "__metadata__"} == {
        "a": "BF16",
        "b": "I64",
    }
    assert header["__metadata__"] == {"format": "pt"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert precisions(tmp_path / "v2") == {"a": "F32"}
    assert pmd("export", "r", "--to", str(tmp_path / "wide"), "--dtype", "fp32").exit_code == 0
    assert precisions(tmp_path / "wide") == {"a": "F32"}


def test_a_value_that_float16_can_not_hold_is_refused(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2")]
    refused = pmd("export", "r", "--to", str(tmp_path / "out"), "--dtype", "fp16")
    assert refused.exit_code == 1
    assert "a holds values that float16 can't" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_gone_says_what_to_do(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2", base=f"file://{tmp_path}/gone")]
    refused = pmd("export", "r", "--to", str(tmp_path / "out"))
    assert "gone holds no safetensors" in refused.stderr
    assert "--dtype" in refused.stderr
    assert pmd("export", "r", "--to", str(tmp_path / "out"), "--dtype", "bf16").exit_code == 0


def test_the_card_tells_what_was_recorded_and_no_path(
    api: Api, pmd: Pmd, tmp_path: Path, report: dict[str, Any]
) -> None:
    made = published(tmp_path / "v2")
    api.answers["GET /v1/runs/r/checkpoints"] = [made]
    assert pmd("export", "r", "--to", str(tmp_path / "out")).exit_code == 0
    text = (tmp_path / "out" / "README.md").read_text()
    for said in ("`small`", "`pmd`", "step 2 of 60, seed 3", "float32", recipe_hash(RECIPE), "problems.jsonl", "75"):
        assert said in text
    assert "somebody" not in text
    head = front_matter(tmp_path / "out" / "README.md")
    assert head["library_name"] == "transformers"
    assert "pmd" in head["tags"]
    assert "base_model" not in head, "a folder is no name of a hub"
    assert "license" not in head
    assert "names no licence" in text


def test_the_card_names_a_hub_model_and_keeps_its_licence(
    api: Api, pmd: Pmd, tmp_path: Path, report: dict[str, Any]
) -> None:
    report["recipe"]["model"] = "Qwen/Qwen3-8B@0123abc"
    made = published(tmp_path / "v2")
    card = {"license": "apache-2.0", "language": ["en"], "tags": ["chat"]}
    (tmp_path / "v2" / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n# Qwen3\n")
    made["weights"] = seal_weights(tmp_path / "v2", 2, {}).model_dump()
    api.answers["GET /v1/runs/r/checkpoints"] = [made]
    assert pmd("export", "r", "--to", str(tmp_path / "out")).exit_code == 0
    head = front_matter(tmp_path / "out" / "README.md")
    assert (head["base_model"], head["license"], head["language"]) == ("Qwen/Qwen3-8B", "apache-2.0", ["en"])
    assert "chat" not in head["tags"]
    assert "revision `0123abc`" in (tmp_path / "out" / "README.md").read_text()


def published_adapter(folder: Path, base: str) -> dict[str, Any]:
    folder.mkdir()
    save_file({"base_model.model.q.lora_A.weight": VALUES[:2].reshape(1, 2)}, folder / "adapter_model.safetensors")
    facts = {"base_model_name_or_path": base.removeprefix("file://"), "revision": None, "r": 8, "lora_alpha": 16}
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    sealed = seal_weights(folder, 2, {"base": base, "adapter_of": {"version": 0, "uri": base, "sha256": "0"}})
    return {"step": 2, "weights": sealed.model_dump(), "evaluation": {}}


def test_an_adapter_is_exported_as_one_and_its_card_says_so(
    api: Api, pmd: Pmd, tmp_path: Path, report: dict[str, Any]
) -> None:
    """By default in the precision of its base, whose terms it has; by the base's name, where it has one."""
    base = half_precision_base(tmp_path / "v0")
    (tmp_path / "v0" / "README.md").write_text("---\nlicense: mit\n---\n")
    api.answers["GET /v1/runs/r/checkpoints"] = [published_adapter(tmp_path / "v2", base)]
    assert pmd("export", "r", "--to", str(tmp_path / "out")).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors")
    ]
    assert set(precisions(tmp_path / "out").values()) == {"BF16"}
    head = front_matter(tmp_path / "out" / "README.md")
    assert (head["library_name"], head["license"]) == ("peft", "mit")
    assert "bfloat16, an adapter of the base (LoRA of rank 8, alpha 16)" in (tmp_path / "out" / "README.md").read_text()
    report["recipe"]["model"] = "Qwen/Qwen3-8B@0123abc"
    assert pmd("export", "r", "--to", str(tmp_path / "named")).exit_code == 0
    config = json.loads((tmp_path / "named" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("Qwen/Qwen3-8B", "0123abc")


def test_a_stray_file_makes_no_adapter(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "v2")]
    (tmp_path / "v2" / "adapter_config.json").write_text("{}")  # the manifest knows nothing of it
    assert pmd("export", "r", "--dtype", "fp32", "--to", str(tmp_path / "out")).exit_code == 0
    assert front_matter(tmp_path / "out" / "README.md")["library_name"] == "transformers"


def test_what_can_not_be_merged_leaves_nothing(api: Api, pmd: Pmd, tmp_path: Path) -> None:
    api.answers["GET /v1/runs/r/checkpoints"] = [published(tmp_path / "whole")]
    assert "is a whole model" in pmd("export", "r", "--merge", "--to", str(tmp_path / "out")).stderr
    api.answers["GET /v1/runs/r/checkpoints"] = [published_adapter(tmp_path / "v2", f"file://{tmp_path}/gone")]
    refused = pmd("export", "r", "--merge", "--dtype", "fp32", "--to", str(tmp_path / "out"))
    assert refused.exit_code == 1
    assert "can't be merged" in refused.stderr
    assert not (tmp_path / "out").exists()
