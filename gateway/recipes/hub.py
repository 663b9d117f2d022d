"""The Hugging Face hub, or a mirror of it: files of a repository at one commit, in the hub's own cache.

Invariants:
- The hub is the operator's (`HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`): a recipe names a repository only.
- What is handed back is a commit, not a branch: what a branch names later changes nothing.
- Files that are whole in the cache are not fetched again: a download that was cut short goes on with the others.
- What a repository holds is the hub's word, kept in the cache: a part of its files is never taken for all of them.
- A hub that does not answer is given up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pmd.services.common import outgoing

CONNECT_S, ANSWER_S = 5.0, 20.0
EVERYWHERE = ".gitattributes"
"""A small file that repositories have: to ask for it is to ask for their commit and their list of files."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_WORDS = {"model": "model", "dataset": "data set"}
_REMEDY = {
    "model": ("", "models", "copy that folder here and give its path as model"),
    "dataset": ("--repo-type dataset ", "data", "copy its files here and name them as problems.files"),
}


class HubError(ValueError):
    """The hub has no such thing; the message says what to do."""


class HubAway(HubError):
    """No hub answers, and the files are not in the cache: the same request may succeed later."""


class NotHere(HubError):
    """The hub has the files; nobody has fetched them yet."""


@dataclass(frozen=True)
class Repository:
    """A model or data set of the hub, at a revision."""

    id: str
    """`owner/name`."""
    kind: Literal["model", "dataset"] = "model"
    revision: str = "main"
    """Branch, tag or commit."""

    @property
    def page(self) -> str:
        """Its address, without credentials."""
        folder = "datasets/" if self.kind == "dataset" else ""
        return f"{outgoing.shown(endpoint())}/{folder}{self.id}"

    @property
    def folder(self) -> Path:
        """Where the cache keeps the files of the revision, which is a commit."""
        return cache_folder() / f"{self.kind}s--{self.id.replace('/', '--')}" / "snapshots" / self.revision

    @property
    def cached(self) -> Path | None:
        """Where the cache has this commit, if the revision is one."""
        return self.folder if _COMMIT.fullmatch(self.revision) and self.folder.is_dir() else None


@dataclass(frozen=True)
class Files:
    """Files of a repository."""

    repository: Repository
    patterns: tuple[str, ...]
    """Of the files that are wanted."""
    ignored: tuple[str, ...] = ()
    """Of those among them that are not."""

    @property
    def title(self) -> str:
        """For people."""
        return f"{_WORDS[self.repository.kind]} {self.name}"

    @property
    def name(self) -> str:
        """`owner/name@revision`."""
        return f"{self.repository.id}@{self.repository.revision}"


def endpoint() -> str:
    """Where names of the hub lead."""
    named: str = os.environ.get("HF_ENDPOINT") or _library().constants._HF_DEFAULT_ENDPOINT
    return named.rstrip("/")


def offline() -> bool:
    """Whether the operator wants nothing downloaded."""
    return (os.environ.get("HF_HUB_OFFLINE") or "").upper() in {"1", "ON", "YES", "TRUE"}


def cache_folder() -> Path:
    """Where the hub's files are kept on this machine."""
    home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def snapshot(files: Files, came: Callable[[int], None] = lambda _: None) -> Path:
    """The folder of a repository's files, which is named after their commit; what is not here is fetched.

    Args:
        came: told of the bytes that have come since it was told last, and with 0 that another file begins; what it
            raises ends the download.

    Raises:
        HubError: there is no such repository or revision, or it is not open to us.
        HubAway: no hub answers, and the cache has not got them.
        OSError: the cache can't be written.
    """
    repository = files.repository
    library = _library()
    from httpx2 import HTTPError  # noqa: PLC0415 -- loaded by now
    from huggingface_hub import errors  # noqa: PLC0415

    page, what = repository.page, _WORDS[repository.kind]
    try:
        folder = library.snapshot_download(
            repository.id,
            repo_type=repository.kind,
            revision=repository.revision,
            cache_dir=cache_folder(),
            endpoint=endpoint(),
            local_files_only=offline(),
            allow_patterns=list(files.patterns),
            ignore_patterns=list(files.ignored),
            tqdm_class=_bar(came),
        )
    except errors.GatedRepoError as error:
        raise HubError(
            f"{page} is behind conditions: accept them there, and set HF_TOKEN where the gateway runs"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{page} has no revision {repository.revision!r}; its page lists branches, tags and commits"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{page} does not exist, or is private: look at the spelling, or set HF_TOKEN where the gateway runs. If"
            " you mean a folder, there is none of that name beside the recipe"
        ) from error
    except errors.HFValidationError as error:
        raise HubError(f"{repository.id!r} is no name of the hub: {error}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, HTTPError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and status < 500 and status != 429:
            raise HubError(
                f"{page} is refused ({status}): set an HF_TOKEN that may read this {what} where the gateway runs"
            ) from error
        raise HubAway(_away(repository, error)) from error
    return Path(folder)


def _bar(came: Callable[[int], None]) -> type[Any]:
    """What the library reports to: a bar of its own kind, as it tells others not what it counts, that shows nothing."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # noqa: PLC0415 -- half a second

    class Bar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.pop("name", "") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **(kwargs | {"disable": True}))  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts:
                came(int(n or 0))
            return None

        def refresh(self, *_: Any, **__: Any) -> bool | None:
            return self.update(0)

    return Bar


def at_commit(repository: Repository) -> Repository:
    """`repository` at the commit that its revision names, by the hub's word, or the cache's where none answers.

    Raises:
        HubError, HubAway, OSError: as `snapshot` has them.
    """
    if repository.cached is not None and _tree(repository) is not None:
        return repository
    return replace(repository, revision=snapshot(Files(repository, (EVERYWHERE,))).name)


def sizes(repository: Repository) -> dict[str, int]:
    """Bytes by name of all files of a repository at a commit; of those in the cache where the hub's list is not."""
    tree = _tree(repository)
    if tree is not None:
        return tree
    folder = repository.folder
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def absent(files: Files) -> dict[str, int]:
    """Bytes by name of those of `files`, at a commit, that are not in the cache."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # noqa: PLC0415 -- half a second

    known, folder = sizes(files.repository), files.repository.folder
    wanted = filter_repo_objects(known, allow_patterns=list(files.patterns), ignore_patterns=list(files.ignored))
    return {name: known[name] for name in wanted if not (folder / name).is_file()}


def here(files: Files) -> Path:
    """The folder of `files`, at a commit, all of which are in the cache.

    Raises:
        NotHere: some are not.
    """
    if lacking := absent(files):
        raise NotHere(
            f"{files.name} is not here yet: {len(lacking)} files, {sum(lacking.values()) / 1e6:,.1f} MB;"
            " `pmd runs create` fetches it (POST /v1/recipes:fetch)"
        )
    return files.repository.folder


def _tree(repository: Repository) -> dict[str, int] | None:
    """Bytes of each file by the hub's list, as the cache keeps it; None where it does not."""
    library = _library()
    from huggingface_hub.errors import CachedRepoTreeNotFoundError  # noqa: PLC0415 -- loaded by now

    try:
        listed = library.get_cached_repo_tree(
            repository.id, repo_type=repository.kind, revision=repository.revision, cache_dir=cache_folder()
        )
    except CachedRepoTreeNotFoundError:
        return None
    return {each.path: each.size for each in listed}


def _away(repository: Repository, error: Exception) -> str:
    if offline():
        cause = "HF_HUB_OFFLINE is set"
    else:
        cause = f"no hub answers at {outgoing.shown(endpoint())} ({type(error.__cause__ or error).__name__})"
    flag, folder, then = _REMEDY[repository.kind]
    return (
        f"{cause}, and {repository.id} is not whole in {cache_folder()}. Set HF_ENDPOINT to a hub that can be reached,"
        f" or bring it: `hf download {flag}{repository.id} --revision {repository.revision} --local-dir"
        f" {folder}/{repository.id.rpartition('/')[2]}` where there is one, {then}"
    )


@cache
def _library() -> Any:
    """`huggingface_hub`, with clients that give up: its own wait for ever."""
    import httpx2  # noqa: PLC0415 -- half a second, and a laptop with a folder needs none of it
    import huggingface_hub  # noqa: PLC0415

    def client() -> httpx2.Client:
        here = outgoing.is_here(httpx2.URL(endpoint()).host)  # no proxy reaches this machine
        timeout = httpx2.Timeout(ANSWER_S, connect=CONNECT_S)
        return httpx2.Client(follow_redirects=True, timeout=timeout, trust_env=not here)

    huggingface_hub.set_client_factory(client)
    return huggingface_hub
