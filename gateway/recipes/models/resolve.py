"""Where a recipe's `model` leads: to a folder of this machine, or to a name of a model hub, frozen by its commit.

Invariants:
- A run's model is a folder with all its weights; a name is one only when its commit is known and complete here.
- What decides is asked once, when a run is created: what a revision names later changes no run.
- The hub is the operator's (`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN`): a recipe names no server.
- A download that was cut short goes on where it stopped: files that are whole in the hub's cache are not fetched again.
- No code that comes with a model is run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pmd.gateway.recipes.models.shape import (
    ELSEWHERE,
    INDEX,
    MODEL_FILES,
    SAME_WEIGHTS_AGAIN,
    ModelError,
    weight_files,
)
from pmd.services.common import outgoing
from pmd.services.common.allowed import Allowed
from pmd.services.common.artifacts import ArtifactError, local_path

log = logging.getLogger(__name__)

HUB = "https://huggingface.co"
"""Where names lead unless `HF_ENDPOINT` says otherwise."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Files one of which every tokenizer has."""
CONNECT_S, ANSWER_S = 5.0, 20.0

_NAME = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


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
class HubName:
    """A model of the hub."""

    id: str
    """`owner/name`."""
    revision: str = "main"
    """Branch, tag or commit."""

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}"


@dataclass(frozen=True)
class Located:
    """A model with its files."""

    folder: Path
    name: str
    """For people and manifests: the folder, or `owner/name@commit`."""


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


def hub_name(model: str) -> HubName | None:
    """The name that `model` is; None for a path or a URI."""
    found = _NAME.fullmatch(model)
    return HubName(found["id"], found["revision"] or "main") if found else None


def check_name(model: str, allowed: Allowed) -> None:
    """Whether the installation lets recipes name `model`.

    Names are free where paths are. An installation that lists folders lists names too, as addresses of its hub:
    `https://huggingface.co/Qwen` in `PMD_ALLOWED_URLS` stands for all of that owner's.

    Raises:
        NotAllowed: it does not.
    """
    name = hub_name(model)
    if name is None:
        allowed.check_file(model)
    elif "/" not in allowed.paths:
        allowed.check_url(f"{Hub.here().endpoint}/{name.id}")


def locate(model: str, *, whole: bool = True) -> Located:
    """The files of `model`: its folder, or what the hub's cache has of a name. Of a name, small files are fetched.

    Args:
        whole: with the weights; else config and tokenizer do.

    Raises:
        ModelError: there is none, or it is no Hugging Face folder with safetensors and a tokenizer.
        HubAway: no hub answers, and its files are not here.
    """
    name = hub_name(model)
    located = _folder(model) if name is None else Hub.here().look(name)
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


@dataclass(frozen=True)
class Hub:
    """A model hub and its cache on this machine."""

    endpoint: str
    cache: Path
    offline: bool = False

    @staticmethod
    def here() -> Hub:
        """As the environment says."""
        home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
        off = (os.environ.get("HF_HUB_OFFLINE") or "").upper() in {"1", "ON", "YES", "TRUE"}
        endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
        return Hub(endpoint, Path(os.environ.get("HF_HUB_CACHE") or home / "hub"), off)

    def look(self, name: HubName) -> Located:
        """All of a model but its weights, fetched or from the cache; a few megabytes.

        Raises:
            ModelError, HubAway: as `locate` has them.
        """
        small = [pattern for pattern in MODEL_FILES if not pattern.endswith(".safetensors")]
        known = self.cache / f"models--{name.id.replace('/', '--')}" / "snapshots" / name.revision
        if _COMMIT.fullmatch(name.revision) and complete(known):
            return Located(known, str(name))  # a commit that is here whole: nobody need be asked
        return self._snapshot(name, small)

    def fetch(self, name: HubName, progress: Progress) -> Located:
        """All of a model, fetched or from the cache.

        Raises:
            ModelError, HubAway: as `locate` has them.
            OSError: the cache can't be written.
        """
        return self._snapshot(name, MODEL_FILES, progress)

    def _snapshot(self, name: HubName, patterns: Sequence[str], progress: Progress | None = None) -> Located:
        library = _library()
        from httpx2 import HTTPError  # noqa: PLC0415
        from huggingface_hub import errors  # noqa: PLC0415 -- loaded by now

        try:
            folder = library.snapshot_download(
                name.id,
                revision=name.revision,
                cache_dir=self.cache,
                endpoint=self.endpoint,
                local_files_only=self.offline,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*", *SAME_WEIGHTS_AGAIN, *ELSEWHERE],
                tqdm_class=_bar(progress),
            )
        except errors.GatedRepoError as error:
            raise ModelError(
                f"{self._page(name)} is behind conditions: accept them there, and set HF_TOKEN where the gateway runs"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise ModelError(
                f"{self._page(name)} has no revision {name.revision!r}; its page lists branches, tags and commits"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise ModelError(
                f"{self._page(name)} does not exist, or is private: look at the spelling, or set HF_TOKEN where the"
                " gateway runs. If you mean a folder, there is none of that name beside the recipe"
            ) from error
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, HTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in {401, 403}:
                raise ModelError(
                    f"{self._page(name)} is refused ({status}): set an HF_TOKEN that may read it where the gateway runs"
                ) from error
            raise HubAway(self._away(name, error)) from error
        commit = Path(folder).name
        return Located(Path(folder), f"{name.id}@{commit}")

    def _page(self, name: HubName) -> str:
        return f"{outgoing.shown(self.endpoint)}/{name.id}"

    def _away(self, name: HubName, error: Exception) -> str:
        if self.offline:
            cause = "HF_HUB_OFFLINE is set"
        else:
            cause = f"no hub answers at {outgoing.shown(self.endpoint)} ({type(error.__cause__ or error).__name__})"
        return (
            f"{cause}, and {name} is not whole in {self.cache}. Set HF_ENDPOINT to a hub that can be reached, or bring"
            f" the model: `hf download {name.id} --revision {name.revision} --local-dir models/{name.id.split('/')[1]}`"
            " where there is one, copy that folder here and give its path"
        )


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
                    target=self._download, args=(Hub.here(), progress), daemon=True, name=f"fetch {located.name}"
                )
                progress.thread.start()
        raise Coming(progress)

    @staticmethod
    def _download(hub: Hub, progress: Progress) -> None:
        id_, _, commit = progress.name.partition("@")
        try:
            log.info("model download begins", extra={"model": progress.name, "bytes": progress.total})
            located = hub.fetch(HubName(id_, commit), progress)
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


@cache
def _library() -> Any:
    """`huggingface_hub`, with clients that give up: its own wait for ever."""
    import httpx2  # noqa: PLC0415 -- half a second, and a laptop with a folder needs none of it
    import huggingface_hub  # noqa: PLC0415

    def client() -> httpx2.Client:
        here = outgoing.is_here(httpx2.URL(Hub.here().endpoint).host)  # no proxy reaches this machine
        timeout = httpx2.Timeout(ANSWER_S, connect=CONNECT_S)
        return httpx2.Client(follow_redirects=True, timeout=timeout, trust_env=not here)

    huggingface_hub.set_client_factory(client)
    return huggingface_hub


def _bar(progress: Progress | None) -> type[Any]:
    """What the library reports to, in the shape of a progress bar that shows nothing."""
    from tqdm import tqdm  # type: ignore[import-untyped] # noqa: PLC0415

    class Bar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.pop("name", "") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            if progress is not None and self._counts:
                progress.done += int(n or 0)
                progress.total = max(progress.total, int(self.total or 0))
            return None

    return Bar
