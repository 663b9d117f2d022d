"""Bearer tokens of this installation, and their rotation: the file is read anew, so no process starts again for it.

Invariants:
- A line is a token. A service accepts each of them; a client sends the first, and where that is refused the next: with
  the new and the old in the file, processes that have seen the change and those that haven't yet understand each other.
- What the file holds counts at the next request, also that a token is gone. What can't be read or is no token changes
  nothing: a file may be seen half-written.
- A request that was refused for its token was not looked at, so sending it again is safe.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Generator
from pathlib import Path

import httpx

log = logging.getLogger(__name__)

TOKEN_CHARS = 16
"""Shortest token."""

REFUSED = "it refuses our token: PMD_TOKEN there and here must have a line in common"
"""Why a service can't be asked, for people."""

SETTLED_S = 1.0
"""Age at which a file can't have been written again within one tick of its clock."""


def lines(text: str) -> tuple[str, ...]:
    """The tokens of a setting or a file, one a line; empty lines are none.

    Raises:
        ValueError: a line is no token, or there is none. It shows nothing of them.
    """
    found = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not found or not all(len(each) >= TOKEN_CHARS and each.isascii() and each.isprintable() for each in found):
        raise ValueError(f"each line must be a token: {TOKEN_CHARS} or more characters that a header can hold")
    return found


class Tokens:
    """The tokens that are in force; thread-safe."""

    def __init__(self, given: str, file: Path | None = None) -> None:
        """Args:
        given: the tokens at the start.
        file: where they stand, if in a file.

        Raises:
            ValueError: as `lines` does.
        """
        self._lines = lines(given)
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._wrong = ""

    def current(self) -> tuple[str, ...]:
        """What is accepted, the one that is sent first."""
        if self._file is None:
            return self._lines
        try:
            stat = self._file.stat()
            seen = stat.st_ino, stat.st_mtime_ns, stat.st_size
            if seen == self._seen:
                return self._lines
            found = lines(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if str(error) != self._wrong:
                self._wrong = str(error)
                log.warning("the file of tokens can't be used; those that were read stay", extra={"reason": str(error)})
            return self._lines
        if found != self._lines:
            log.info("the tokens have changed", extra={"tokens": len(found)})
        self._lines, self._wrong = found, ""
        self._seen = seen if time.time() - stat.st_mtime > SETTLED_S else None
        return found

    def accepts(self, token: str) -> bool:
        """Whether a request that carries `token` is let in."""
        return any(hmac.compare_digest(token.encode(), each.encode()) for each in self.current())


class Bearer(httpx.Auth):
    """What a client of one service sends: the token that was accepted last, else one after the other."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._accepted = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The request with each token in turn until one is not refused. The answer to the last is the caller's."""
        tried: set[str] = set()
        whole = isinstance(request.stream, httpx.ByteStream)  # else its body is gone with the first try
        while left := [each for each in self._tokens.current() if each not in tried]:
            token = self._accepted if self._accepted in left else left[0]
            request.headers["Authorization"] = f"Bearer {token}"
            answer = yield request
            if answer.status_code != httpx.codes.UNAUTHORIZED:
                self._accepted = token
                return
            if not whole:
                return
            tried.add(token)
