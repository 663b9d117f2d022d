"""A model by its name: frozen by commit, fetched once and resumed, refused with the cause and what to do."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pmd.gateway.recipes.downloads import Coming, Downloads
from pmd.gateway.recipes.files import load_recipe
from pmd.gateway.recipes.models.resolve import HubAway, HubName, check_name, hub_name, locate, require
from pmd.gateway.recipes.models.shape import ModelError
from pmd.services.common.allowed import Allowed, NotAllowed
from tests.models.hub import NAME, LocalHub, files_of

POCKET = Path(__file__).parents[2] / "examples/pocket/base"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    started = LocalHub(files_of(POCKET))
    with started.chosen(monkeypatch, tmp_path / "home"):
        yield started


def fetched(downloads: Downloads, model: str = NAME) -> Path:
    """What `model` leads to once it is there."""
    for _ in range(600):
        try:
            return require(model, downloads.require).folder
        except Coming:
            time.sleep(0.05)
    raise AssertionError("never there")


def test_what_is_a_name_and_what_is_a_path() -> None:
    assert hub_name("Qwen/Qwen3-8B") == HubName("Qwen/Qwen3-8B", "main")
    assert hub_name("Qwen/Qwen3-8B@refs/pr/1") == HubName("Qwen/Qwen3-8B", "refs/pr/1")
    for path in ("/models/base", "../models/base", "./base", "base", "a/b/c", "file:///a/b", "owner/na me", "a/b@"):
        assert hub_name(path) is None


def test_a_bundled_model_is_found_on_whatever_machine_and_needs_no_leave(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: pmd:pocket\n")
    model = load_recipe(recipe)["model"]
    assert model == "pmd:pocket", "a path would be one of the machine that reads the file"
    check_name(model, Allowed(paths=()))
    located = locate(model)
    assert located.folder.samefile(POCKET)
    assert located.name == model
    with pytest.raises(NotAllowed):
        check_name(str(located.folder), Allowed(paths=()))
    with pytest.raises(ModelError):
        locate("pmd:other")


def test_a_folder_beside_the_recipe_goes_before_the_hub(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: owner/tiny\n")
    assert load_recipe(recipe)["model"] == "owner/tiny"
    (tmp_path / "owner/tiny").mkdir(parents=True)
    assert load_recipe(recipe)["model"] == str(tmp_path / "owner/tiny")


def test_looking_fetches_no_weights_and_a_run_gets_them_frozen_by_commit(hub: LocalHub) -> None:
    located = locate(NAME, whole=False)
    assert located.name == f"{NAME}@{hub.commit}"
    assert not any("safetensors" in asked for asked in hub.asked)
    folder = fetched(Downloads())
    held = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "chat_template.jinja"} <= held
    assert not {"pytorch_model.bin", "original", "README.md"} & held
    assert (folder / "model.safetensors").read_bytes() == (POCKET / "model.safetensors").read_bytes()


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub: LocalHub) -> None:
    hub.files["model.safetensors"] = weights = bytes(range(256)) * 120_000
    hub.cut_after = len(weights) // 2
    assert (fetched(Downloads()) / "model.safetensors").read_bytes() == weights
    ranges = [asked for asked in hub.asked if asked.startswith("GET") and "safetensors" in asked and "bytes=" in asked]
    begins = [int(asked.partition("bytes=")[2].partition("-")[0]) for asked in ranges]
    assert len(begins) == 1
    assert 0 < begins[0] <= len(weights) // 2


def test_a_commit_that_is_here_needs_no_hub_nor_does_a_name_when_none_answers(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetched(Downloads())
    seen = len(hub.asked)
    assert locate(f"{NAME}@{hub.commit}").folder == folder
    assert len(hub.asked) == seen
    hub.close()
    assert locate(NAME).name == f"{NAME}@{hub.commit}"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate(NAME).folder == folder


def refused(hub: LocalHub, model: str, said: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        locate(model, whole=False)
    assert said in str(caught.value)
    return caught.value


def test_each_refusal_says_cause_and_remedy(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(hub, "owner/nothing", "does not exist, or is private")
    refused(hub, f"{NAME}@v9", "has no revision 'v9'")
    hub.gated = True
    refused(hub, NAME, "accept them there, and set HF_TOKEN")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert isinstance(refused(hub, "owner/other", "HF_HUB_OFFLINE is set"), HubAway)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub.close()
    away = refused(hub, "owner/other", f"no hub answers at {hub.url}")
    assert isinstance(away, HubAway)
    assert "hf download owner/other --revision main --local-dir models/other" in str(away)


def test_a_download_that_fails_is_told_once_and_tried_again(hub: LocalHub) -> None:
    weights = hub.files.pop("model.safetensors")
    downloads = Downloads()
    with pytest.raises(ModelError, match=r"holds no \*.safetensors"):
        fetched(downloads)
    hub.files["model.safetensors"], hub.commit = weights, "b" * 40
    assert fetched(downloads).is_dir()


def test_an_index_says_which_weights_there_are(hub: LocalHub, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(POCKET, folder)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}, "metadata": {"total_size": 9}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks model-2.safetensors of its index"):
        locate(str(folder))


@pytest.fixture
def check(hub: LocalHub) -> Callable[..., None]:
    return lambda model, urls="", paths="/": check_name(model, Allowed.of(urls, paths))


def test_names_are_free_where_paths_are_and_listed_where_they_are(hub: LocalHub, check: Callable[..., None]) -> None:
    check("Qwen/Qwen3-8B")
    check("Qwen/Qwen3-8B@main", urls=f"{hub.url}/Qwen", paths="/models")
    for urls in ("", f"{hub.url}/other"):
        with pytest.raises(NotAllowed):
            check("Qwen/Qwen3-8B", urls=urls, paths="/models")
