"""Verifiers of other people that completions may be sent to, as the installation lists them.

Invariants:
- Only what `PMD_ALLOWED_URLS` names is asked, and its redirects are not followed.
- A credential is the installation's: a spec names none, and each goes to its own endpoint alone.
- What an endpoint answers is bounded before it is read, and a message holds its address and status, never its words.
- Each wait has an end, and can be cut short by whoever no longer wants the verdict.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from pmd.services.common import outgoing
from pmd.services.common.allowed import Allowed, NotAllowed
from pmd.services.common.waiting import retry_after

MAX_ANSWER_BYTES = 64 << 10
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LOOK_S = 0.5
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""


class EndpointError(RuntimeError):
    """The endpoint gave no verdict; the message is for the operator."""


class _MayPass(EndpointError):
    """It may give one if it is asked again."""

    def __init__(self, message: str, pause_s: float | None = None) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class Endpoints:
    """The endpoints of an installation; thread-safe."""

    def __init__(self, allowed: Allowed, credentials: Mapping[str, str]) -> None:
        """Args:
        credentials: by URL, the name of the environment variable that holds the bearer token for it and all below.
        """
        self._allowed = allowed
        self._credentials = [(Allowed((url,)), name) for url, name in credentials.items()]
        self._clients: dict[str, httpx.Client] = {}
        self._lock = threading.Lock()

    def refusal(self, url: str) -> str | None:
        """Why `url` must not be asked, if so."""
        if not url.startswith(("http://", "https://")):
            return "an endpoint begins with http:// or https://"
        try:
            self._allowed.check_url(url)
        except NotAllowed as error:
            return str(error)
        return None

    def ask(self, url: str, body: Any, *, timeout_s: float, attempts: int, check: Callable[[], None]) -> Any:
        """The JSON that the endpoint answers to a POST of `body`.

        Args:
            timeout_s: for each attempt as a whole.
            check: raises when nobody wants the answer any more.

        Raises:
            EndpointError: it must not be asked, or there is no answer.
        """
        if (refusal := self.refusal(url)) is not None:
            raise EndpointError(refusal)
        pause_s = FIRST_PAUSE_S
        for left in reversed(range(attempts)):
            check()
            try:
                return self._once(url, body, timeout_s)
            except _MayPass as error:
                if not left:
                    raise
                wait_s = pause_s * random.uniform(0.5, 1.0) if error.pause_s is None else error.pause_s
            _wait(min(wait_s, LONGEST_PAUSE_S), check)
            pause_s *= 2
        raise AssertionError("attempts is at least 1")

    def _once(self, url: str, body: Any, timeout_s: float) -> Any:
        until = time.monotonic() + timeout_s
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **self._credential(url)}
        where = outgoing.shown(url)
        try:
            with self._client(url).stream("POST", url, json=body, headers=headers, timeout=timeout_s) as answer:
                if answer.status_code in PASSING:
                    raise _MayPass(f"{where} answers {answer.status_code}", retry_after(answer.headers) or None)
                if answer.status_code != 200:
                    raise EndpointError(f"{where} answers {answer.status_code}; a verdict comes with 200")
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise EndpointError(f"{where} compresses its answer, which it was not asked to")
                data = b""
                for chunk in answer.iter_raw(8192):
                    data += chunk
                    if len(data) > MAX_ANSWER_BYTES:
                        raise EndpointError(f"{where} answers with more than {MAX_ANSWER_BYTES >> 10} KB")
                    if time.monotonic() > until:
                        raise _MayPass(f"{where} takes longer than {timeout_s} s")
        except httpx.TimeoutException as error:
            raise _MayPass(f"{where} takes longer than {timeout_s} s") from error
        except httpx.HTTPError as error:
            raise _MayPass(f"{where} can't be reached: {type(error).__name__}") from error
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise EndpointError(f"{where} answers with what is no JSON") from error

    def _credential(self, url: str) -> dict[str, str]:
        """The header for the entry that `url` is at or below; of several the longest."""
        names = []
        for entry, name in self._credentials:
            try:
                entry.check_url(url)
            except NotAllowed:
                continue
            names.append((len(entry.urls[0]), name))
        if not names:
            return {}
        name = max(names)[1]
        if not (secret := os.environ.get(name, "")):
            raise EndpointError(f"the verifier's environment has no {name}, which PMD_VERIFIER_HTTP_KEYS names; set it")
        return {"Authorization": f"Bearer {secret}"}

    def _client(self, url: str) -> httpx.Client:
        host = str(httpx.URL(url).copy_with(path="/", query=None))
        with self._lock:
            if host not in self._clients:
                self._clients[host] = outgoing.outside(host, follow_redirects=False)
            return self._clients[host]

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()


def _wait(seconds: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(left, LOOK_S))
