"""What a recipe may name outside the run: one list of URLs and one of paths, both the installation's.

Invariants:
- A URL is allowed by an entry with the same scheme, host and port whose path it is at or below. It holds no
  credentials, no query and nothing that two readers of URLs could read in two ways.
- A path is allowed by an entry that it is in once every link is followed.
- A refusal shows no credentials.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_URL = re.compile(
    r"(?P<at>[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?)(?P<path>(?:/[\w.~=+-]*)*)", re.ASCII
)
_LOCAL = re.compile(r"(?:file|local)://(?=/)")


class NotAllowed(ValueError):
    """The installation does not let recipes name this."""


@dataclass(frozen=True)
class Allowed:
    """The lists. An entry is an absolute path, or a URL such as `https://models.example/v1` or `s3://bucket/sets`."""

    urls: tuple[str, ...] = ()
    paths: tuple[str, ...] = ("/",)

    @staticmethod
    def of(urls: str, paths: str = "/") -> Allowed:
        """Read the lists as settings write them: separated by commas or white space."""
        return Allowed(*(tuple(part for part in re.split(r"[,\s]+", text) if part) for text in (urls, paths)))

    def check_url(self, url: str) -> None:
        """Raises:
        NotAllowed: `url` is on no list, or can't be read safely.
        """
        asked = _read(url)
        if asked is None:
            raise NotAllowed("write a URL as scheme://host:port/path, without user, password, query and escapes")
        for entry in map(_read, self.urls):
            if entry and entry[0] == asked[0] and _within(asked[1], entry[1]):
                return
        raise NotAllowed(f"{url} is not on this installation's list; the operator adds it to PMD_ALLOWED_URLS")

    def check_file(self, uri: str) -> None:
        """Follows links, and waits for a file system that hangs.

        Raises:
            NotAllowed: the file or folder `uri` is on no list, or its name is relative.
        """
        path = local(uri)
        if path is None:
            self.check_url(uri)
            return
        if not path.is_absolute():
            raise NotAllowed(f"{str(path)!r} is a relative path; send an absolute one")
        real = os.path.realpath(path)
        if not any(Path(real).is_relative_to(os.path.realpath(entry)) for entry in self.paths):
            raise NotAllowed(
                f"{path} is not in a folder that recipes may name; the operator adds it to PMD_ALLOWED_PATHS"
            )


def local(uri: str) -> Path | None:
    """The path that `uri` names on this machine; None when it names something elsewhere."""
    if found := _LOCAL.match(uri):
        return Path(uri[found.end() :])
    return None if "://" in uri or "::" in uri else Path(uri)


def _read(url: str) -> tuple[str, str] | None:
    """Scheme with host and port, and path; None for what two readers could take for different things."""
    found = _URL.fullmatch(url)
    if found is None or ".." in found["path"].split("/"):
        return None
    at = found["at"]
    default = {"http": ":80", "https": ":443"}.get(at.partition(":")[0], "")
    return at.removesuffix(default) if default else at, found["path"].rstrip("/")


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
