"""The Hugging Face hub, or a mirror of it: files of a repository at one commit, in the hub's own cache.

Invariants:
- The hub is the operator's (`HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`): a recipe names a repository only.
- What is handed back is a commit, not a branch: what a branch names later changes nothing.
- A download that was cut short goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pmd.services.common import outgoing

HUB = "https://huggingface.co"
ANSWER_S = 20.0

RepoType = Literal["model", "dataset"]


class HubError(ValueError):
    """The hub has no such thing; the message says what to do."""


class HubAway(HubError):
    """No hub answers, and the files are not in the cache: the same request may succeed later."""


def endpoint() -> str:
    """Where names of the hub lead."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def offline() -> bool:
    """Whether the operator wants nothing downloaded."""
    return (os.environ.get("HF_HUB_OFFLINE") or "").upper() in {"1", "ON", "YES", "TRUE"}


def snapshot(repo_id: str, repo_type: RepoType, revision: str, patterns: Sequence[str]) -> tuple[Path, str]:
    """The folder that holds the files of a repository whose names match `patterns`, and the commit they are of.

    Args:
        revision: branch, tag or commit.

    Raises:
        HubError: there is no such repository or revision, or it is not open to us.
        HubAway: no hub answers, and the cache has not got them.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 -- a gateway without the hub still starts
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = "data set" if repo_type == "dataset" else "model"
    hub = outgoing.shown(endpoint())
    try:
        folder = Path(
            snapshot_download(
                repo_id,
                repo_type=repo_type,
                revision=revision,
                allow_patterns=list(patterns),
                endpoint=endpoint(),
                cache_dir=_cache(),
                etag_timeout=ANSWER_S,
                local_files_only=offline(),
            )
        )
    except GatedRepoError as error:
        raise HubError(f"{what} {repo_id} is gated: accept its terms on {hub}, then set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{what} {repo_id} has no revision {revision!r}; give a branch, a tag or a commit") from error
    except RepositoryNotFoundError as error:
        message = f"{hub} has no {what} {repo_id}, or it is private: check the name, or set HF_TOKEN"
        raise HubError(message) from error
    except LocalEntryNotFoundError as error:
        raise HubAway(_away(repo_id, repo_type, hub)) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status < 500 and status != 429:
            raise HubError(f"{hub} answers {status} for {what} {repo_id}") from error
        raise HubAway(_away(repo_id, repo_type, hub)) from error
    except OSError as error:  # every way in which a connection fails
        raise HubAway(_away(repo_id, repo_type, hub)) from error
    except ValueError as error:  # of the library's own checks: no such name can be
        raise HubError(f"{repo_id!r} is no name of the hub: {error}") from error
    return folder, folder.name


def names(repo_id: str, repo_type: RepoType, revision: str) -> list[str]:
    """The files of a repository; none where the hub does not tell."""
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    if offline():
        return []
    try:
        return sorted(HfApi(endpoint=endpoint()).list_repo_files(repo_id, repo_type=repo_type, revision=revision))
    except (HfHubHTTPError, OSError, ValueError):
        return []


def _cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def _away(repo_id: str, repo_type: RepoType, hub: str) -> str:
    flag = " --repo-type dataset" if repo_type == "dataset" else ""
    key = "problems.files" if repo_type == "dataset" else "model"
    cause = "HF_HUB_OFFLINE is set" if offline() else f"no hub answers at {hub}"
    return (
        f"{cause}, and {repo_id} is not in the cache: set HF_ENDPOINT to a mirror, or run `hf download{flag} {repo_id}"
        f" --local-dir DIR` where there is one and name what is in DIR as {key}"
    )
