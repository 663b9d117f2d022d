"""The Hugging Face hub, or a mirror of it: files of a repository at one commit, in the hub's own cache.

Invariants:
- The hub is the operator's (`HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`): a recipe names a repository only.
- What is handed back is a commit, not a branch: what a branch names later changes nothing.
- A download that was cut short goes on where it stopped: files that are whole in the cache are not fetched again.
- A hub that does not answer is given up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pmd.services.common import outgoing

CONNECT_S, ANSWER_S = 5.0, 20.0

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
    def cached(self) -> Path | None:
        """Where the cache has this commit, if the revision is one."""
        folder = cache_folder() / f"{self.kind}s--{self.id.replace('/', '--')}" / "snapshots" / self.revision
        return folder if _COMMIT.fullmatch(self.revision) and folder.is_dir() else None


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


def snapshot(
    repository: Repository, patterns: Sequence[str], ignored: Sequence[str] = (), bar: type[Any] | None = None
) -> Path:
    """The folder of a repository's files, which is named after their commit.

    Args:
        patterns: of the files that are wanted.
        ignored: of those among them that are not.
        bar: what is told how far it is, in the shape of tqdm's.

    Raises:
        HubError: there is no such repository or revision, or it is not open to us.
        HubAway: no hub answers, and the cache has not got them.
        OSError: the cache can't be written.
    """
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
            allow_patterns=list(patterns),
            ignore_patterns=list(ignored),
            **({"tqdm_class": bar} if bar else {}),
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


def names(repository: Repository) -> list[str]:
    """The files of a repository; none where the hub does not tell."""
    library = _library()
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 -- loaded by now

    if offline():
        return []
    api = library.HfApi(endpoint=endpoint())
    try:
        return sorted(api.list_repo_files(repository.id, repo_type=repository.kind, revision=repository.revision))
    except (HfHubHTTPError, OSError, ValueError):
        return []


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
