"""Where a recipe's `model` leads: to a bundled model, a folder of this machine, or a hub's name, frozen by its commit.

Invariants:
- A run's model is a folder with all its weights; a name is one only when its commit is known and complete here.
- What decides is asked once, when a run is created: what a revision names later changes no run.
- No code that comes with a model is run.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pmd.gateway.recipes import hub
from pmd.gateway.recipes.models.names import HubName, bundled, hub_name
from pmd.gateway.recipes.models.shape import (
    ELSEWHERE,
    INDEX,
    MODEL_FILES,
    SAME_WEIGHTS_AGAIN,
    ModelError,
    weight_files,
)
from pmd.services.common.allowed import Allowed
from pmd.services.common.artifacts import ArtifactError, local_path
from pmd.services.common.waiting import away

log = logging.getLogger(__name__)

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Files one of which every tokenizer has."""


class HubAway(ModelError):
    """No hub answers, and what is asked for isn't here: the same request may succeed later."""


class Coming(Exception):
    """The model is being downloaded; `progress` says how far it is."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(
            f"model {progress.name} is being downloaded, {progress.said()}; ask again, or follow it with"
            " POST /v1/base-models:fetch"
        )
        self.progress = progress


@dataclass(frozen=True)
class Located:
    """A model with its files."""

    folder: Path
    name: str
    """For people and manifests: the folder, `owner/name@commit`, or what a bundled model is called."""


@dataclass
class Progress:
    """How far a download is."""

    name: str
    """`owner/name@commit`."""
    done: int = 0
    """Bytes that are here."""
    total: int = 0
    """Bytes in all, as far as known."""
    error: ModelError | OSError | None = None
    over: bool = False
    thread: threading.Thread | None = field(default=None, repr=False)

    def said(self) -> str:
        """In words."""
        share = f", {100 * self.done / self.total:.0f} %" if self.total else ""
        return f"{self.done / 1e9:.2f} of {max(self.total, self.done) / 1e9:.2f} GB{share}"


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
    return _snapshot(name, [pattern for pattern in MODEL_FILES if not pattern.endswith(".safetensors")])


def _snapshot(name: HubName, patterns: Sequence[str], progress: Progress | None = None) -> Located:
    ignored = ["*/*", *SAME_WEIGHTS_AGAIN, *ELSEWHERE]
    try:
        folder = hub.snapshot(name.repository, patterns, ignored, _bar(progress) if progress else None)
    except hub.HubAway as error:
        raise HubAway(str(error)) from error
    except hub.HubError as error:
        raise ModelError(str(error)) from error
    return Located(folder, f"{name.id}@{folder.name}")


class Downloads:
    """Downloads of models into the hub's cache, in the background, one of each name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, Progress] = {}

    def require(self, model: str) -> Located:
        """The files of `model`, weights and all.

        Raises:
            Coming: they are being downloaded; this call starts that.
            ModelError, HubAway: as `locate` has them; of a download that failed, once.
        """
        name = hub_name(model)
        if name is None:
            return locate(model)
        located = locate(model, whole=False)
        progress = self._running.get(located.name)
        if progress is not None and progress.over:
            with self._lock:
                self._running.pop(located.name, None)
            if progress.error is not None:
                raise progress.error
        if complete(located.folder):
            return located
        with self._lock:
            progress = self._running.get(located.name)
            if progress is None:
                progress = self._running[located.name] = Progress(located.name, total=_size(located.folder))
                progress.thread = threading.Thread(
                    target=self._download, args=(progress,), daemon=True, name=f"fetch {located.name}"
                )
                progress.thread.start()
        raise Coming(progress)

    @staticmethod
    def _download(progress: Progress) -> None:
        id_, _, commit = progress.name.partition("@")
        try:
            log.info("model download begins", extra={"model": progress.name, "bytes": progress.total})
            located = _snapshot(HubName(id_, commit), MODEL_FILES, progress)
            if not complete(located.folder):
                raise ModelError(f"{progress.name} holds no *.safetensors; give a model that is kept in that form")
            log.info("model downloaded", extra={"model": progress.name, "bytes": progress.done})
        except (ModelError, OSError) as error:
            log.warning("model not downloaded", extra={"model": progress.name}, exc_info=True)
            progress.error = error
        except Exception as error:  # of the library or its transport; whoever asks is told
            log.exception("model not downloaded", extra={"model": progress.name})
            progress.error = HubAway(f"the download of {progress.name} broke off ({type(error).__name__}: {error})")
        finally:
            progress.over = True


def _size(folder: Path) -> int:
    """Bytes of the weights as their index says; 0 where there is none."""
    try:
        return int(json.loads((folder / INDEX).read_bytes())["metadata"]["total_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _bar(progress: Progress) -> type[Any]:
    """What the library reports to, in the shape of a progress bar that shows nothing."""
    from tqdm import tqdm  # type: ignore[import-untyped] # noqa: PLC0415

    class Bar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.pop("name", "") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts:
                progress.done += int(n or 0)
                progress.total = max(progress.total, int(self.total or 0))
            return None

    return Bar
