"""Where a recipe's `model` leads: to a bundled model, a folder of this machine, or a hub's name, frozen by its commit.

Invariants:
- A run's model is a folder with all its weights; a name is one only when its commit is known and complete here.
- What decides is asked once, when a run is created: what a revision names later changes no run.
- No code that comes with a model is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pmd.gateway.recipes import hub
from pmd.gateway.recipes.downloads import Fetch
from pmd.gateway.recipes.models.names import HubName, bundled, hub_name
from pmd.gateway.recipes.models.shape import (
    ELSEWHERE,
    MODEL_FILES,
    SAME_WEIGHTS_AGAIN,
    ModelError,
    weight_files,
)
from pmd.services.common.allowed import Allowed
from pmd.services.common.artifacts import ArtifactError, local_path
from pmd.services.common.waiting import away

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Files one of which every tokenizer has."""
IGNORED = ("*/*", *SAME_WEIGHTS_AGAIN, *ELSEWHERE)


class HubAway(ModelError):
    """No hub answers, and what is asked for isn't here: the same request may succeed later."""


@dataclass(frozen=True)
class Located:
    """A model with its files."""

    folder: Path
    name: str
    """For people and manifests: the folder, `owner/name@commit`, or what a bundled model is called."""


def check_name(model: str, allowed: Allowed) -> None:
    """Whether the installation lets recipes name `model`.

    Bundled models are free, names of a hub where paths are. An installation that lists folders lists names too, as
    addresses of its hub: the hub's address with `/Qwen` after it in `PMD_ALLOWED_URLS` stands for all of that owner's.

    Raises:
        NotAllowed: it does not.
    """
    if bundled(model):
        return
    name = hub_name(model)
    if name is None:
        allowed.check_file(model)
    elif "/" not in allowed.paths:
        allowed.check_url(f"{hub.endpoint()}/{name.id}")


def locate(model: str, *, whole: bool = True) -> Located:
    """The files of `model`: its folder, or what the hub's cache has of a name. Of a name, small files are fetched.

    Args:
        whole: with the weights; else config and tokenizer do.

    Raises:
        ModelError: there is none, or it is no Hugging Face folder with safetensors and a tokenizer.
        HubAway: no hub answers, and its files are not here.
    """
    try:
        return _located(model, whole=whole)
    except OSError as error:
        if away(error) is not None:
            raise
        raise ModelError(f"{model} can't be read: {error.strerror or error}") from error


def _located(model: str, *, whole: bool) -> Located:
    name = hub_name(model)
    located = _folder(model) if name is None else _look(name)
    for path in located.folder.iterdir():  # before any is opened: a pipe that nobody writes to never ends
        special = path.exists() and not path.is_file() and not path.is_dir()
        if special and any(path.match(pattern) for pattern in MODEL_FILES):
            raise ModelError(f"{path} is no regular file; give the Hugging Face folder of the base model")
    for patterns in (("config.json",), TOKENIZERS):
        if not any((located.folder / pattern).is_file() for pattern in patterns):
            raise ModelError(f"{located.name} holds no {patterns[0]}; give the Hugging Face folder of the base model")
    if (whole or name is None) and not complete(located.folder):
        missing = [each for each in weight_files(located.folder) if not (located.folder / each).is_file()]
        lacks = f"lacks {', '.join(missing[:3])} of its index" if missing else "holds no *.safetensors"
        raise ModelError(f"{located.name} {lacks}; give the Hugging Face folder of the base model, whole")
    return located


def complete(folder: Path) -> bool:
    """Whether all weights of a model folder are there."""
    names = weight_files(folder)
    return bool(names) and all((folder / name).is_file() for name in names)


def _folder(model: str) -> Located:
    if own := bundled(model):
        return Located(own, model)
    try:
        folder = local_path(model)
    except ArtifactError as error:
        raise ModelError(str(error)) from error
    if not folder.is_absolute():
        raise ModelError(f"{model!r} is a relative path; send an absolute one, or a name of the hub: owner/name")
    if not folder.is_dir():
        raise ModelError(
            f"no folder {folder}; give the Hugging Face folder of the base model, or a name of the hub: owner/name"
        )
    return Located(folder, str(folder))


def _look(name: HubName) -> Located:
    """All of a model but its weights, fetched or from the cache; a few megabytes."""
    known = name.repository.cached
    if known is not None and complete(known):
        return Located(known, str(name))  # a commit that is here whole: nobody need be asked
    light = tuple(pattern for pattern in MODEL_FILES if not pattern.endswith(".safetensors"))
    return _fetched(hub.Files(name.repository, light, IGNORED), hub.snapshot)


def _fetched(files: hub.Files, fetch: Fetch) -> Located:
    try:
        folder = fetch(files)
    except hub.HubAway as error:
        raise HubAway(str(error)) from error
    except hub.HubError as error:
        raise ModelError(str(error)) from error
    return Located(folder, f"{files.repository.id}@{folder.name}")


def require(model: str, fetch: Fetch) -> Located:
    """The files of `model`, weights and all.

    Args:
        fetch: what a name's files lead to.

    Raises:
        ModelError, HubAway: as `locate` has them.
        Exception: what `fetch` raises.
    """
    located = locate(model, whole=False)
    name = hub_name(model)
    if name is None or complete(located.folder):
        return located
    frozen = hub.Repository(name.id, "model", located.folder.name)
    located = _fetched(hub.Files(frozen, MODEL_FILES, IGNORED), fetch)
    if not complete(located.folder):
        raise ModelError(f"{located.name} holds no *.safetensors; give a model that is kept in that form")
    return located
