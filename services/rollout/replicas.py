"""Replicas: rollout services that share the work of one, and which of them can be given work.

Invariants:
- A replica is given work of a policy only when it says that it has loaded that version and holds it for the desired one
  (Law 9); one that has not is told to, and is out of the pool until it has.
- What a replica can't do now (away, full, starting) is no failure: it rests for a while, and others do its share.
- Every call is an idempotent one of the job protocol, so that a replica which comes back finds its work as it was.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import httpx
from pydantic import BaseModel

from pmd.services.common import outgoing
from pmd.services.common.client import ServiceClient, ServiceRefused, ServiceUnavailable
from pmd.services.common.jobs import ENDS, Cancelled, Job, JobStatus, Retryable
from pmd.services.common.requests import PublishRequest
from pmd.services.common.tokens import Tokens
from pmd.services.common.waiting import Away
from pmd.services.common.wire import Policy

POLL_S = 2.0
"""Longest wait for a job before looking whether it is still wanted."""
LOST_S = 10.0
"""A replica that is away for longer loses what it was doing to others; one that is started again in time keeps it."""
REST_S = 5.0
"""How long a replica that could not do its work gets none."""
RESOLVE_S = 5.0
"""How often names are looked up."""
PROBE_S = 2.0
"""Longest wait for what a replica says of itself."""

Check = Callable[[], None]
"""Raises `Cancelled` when the work is not wanted any more."""


class Replica:
    """One rollout service; safe to use from several threads."""

    def __init__(self, url: str, tokens: Tokens, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url
        self.client = ServiceClient(url, tokens, transport=transport)
        self._probe = outgoing.inside(base_url=url, timeout=PROBE_S, transport=transport)
        self.reason = ""
        """Why it rests."""
        self._until = 0.0
        self._owed: set[str] = set()
        self._loading = threading.Lock()

    @property
    def rests(self) -> bool:
        """Whether it is given no work now."""
        return time.monotonic() < self._until

    def rest(self, reason: str, after_s: float = 0.0) -> None:
        """Give it no work for a while, which is `after_s` seconds where it asks for more."""
        self.reason, self._until = reason, time.monotonic() + max(REST_S, after_s)

    def says(self) -> dict[str, Any]:
        """Its `/readyz`.

        Raises:
            ServiceUnavailable: it is away or not ready; the message says which.
            ServiceRefused: it is no rollout service of ours.
        """
        details: dict[str, Any] = self.client.call("GET", "/readyz")
        return details

    def probe(self) -> dict[str, Any]:
        """Its `/readyz`, asked once and not waited for; `error` says why there is none."""
        try:
            answer = self._probe.get("/readyz")
            details: dict[str, Any] = answer.json()
        except (httpx.TransportError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return details if answer.is_success else {"error": str(details.get("title", answer.status_code))}

    def bring(self, policy: Policy, check: Check) -> None:
        """Have `policy` loaded, as the desired version of its run.

        Raises:
            Away: not now.
            Retryable: it was tried and failed.
            Cancelled: as `check` does.
        """
        with self._loading:
            run = self.says()["runs"].get(policy.run)
            self._settle()
            if run and run["ready"] and run["desired"] == policy.weights.version:
                return
            key = f"pool.{policy.model}.{policy.weights.sha256[:12]}.{uuid.uuid4().hex[:8]}"
            self.finish(key, "publish", PublishRequest(policy=policy), check)

    def know(self, policy: Policy, desired: Policy, check: Check) -> None:
        """Let chat name `policy`, which may be an older version than the desired one.

        Raises:
            As `bring` does.
        """
        names = {model["id"] for model in self.client.call("GET", "/v1/models")["data"]}
        if policy.model not in names:
            self.bring(policy, check)
        self.bring(desired, check)

    def finish(self, key: str, kind: str, request: BaseModel, check: Check) -> Job:
        """The job `key`, succeeded. One that is given up is cancelled when the replica is back.

        Raises:
            As `bring` does.
        """
        lost: float | None = None
        try:
            job = self.client.submit(key, kind, request)
            while job.status not in ENDS:
                check()
                try:
                    job = self._look(key, kind, request)
                    lost = None
                except ServiceUnavailable:
                    lost = lost or time.monotonic()
                    if time.monotonic() - lost > LOST_S:
                        raise
                if job.waiting and time.time() - (job.waiting_since or 0.0) > LOST_S:
                    raise Away(f"{self.url} waits: {job.waiting}")
        except Away:
            self._owed.add(key)
            raise
        except Cancelled:
            self._owed.add(key)
            self._settle()
            raise
        if job.status is JobStatus.CANCELLED:  # given up before this process was started again
            raise Away(f"{self.url}: job {key} was cancelled")
        if job.error is not None:
            raise Retryable(f"{self.url}: {job.error.message}")
        return job

    def _look(self, key: str, kind: str, request: BaseModel) -> Job:
        try:
            return self.client.poll(key, POLL_S)
        except ServiceRefused as error:
            if error.status != 404:
                raise
            return self.client.submit(key, kind, request)  # it has lost its disk

    def _settle(self) -> None:
        """Cancel what was given up."""
        for key in list(self._owed):
            try:
                self.client.cancel(key)
            except ServiceUnavailable:
                return
            except ServiceRefused:
                pass  # it knows no such job
            self._owed.discard(key)


def addresses(url: str) -> list[str]:
    """The replicas behind a URL: one for each address that its name has, the URL itself where that is one.

    Raises:
        OSError: the name can't be looked up.
    """
    parsed = httpx.URL(url)
    if parsed.scheme != "http":
        return [url]  # a certificate is for the name
    found = socket.getaddrinfo(parsed.host, parsed.port or 80, type=socket.SOCK_STREAM)
    family = min(each[0] for each in found)  # not both: one machine often has an address of either
    hosts = sorted({str(each[4][0]) for each in found if each[0] == family})
    return [url] if len(hosts) == 1 else [str(parsed.copy_with(host=host)) for host in hosts]


class Replicas:
    """Those there are at the moment, by URL."""

    def __init__(
        self,
        urls: Iterable[str],
        tokens: Tokens,
        *,
        resolve: Callable[[str], list[str]] = addresses,
        transports: Callable[[str], httpx.BaseTransport | None] = lambda _: None,
    ) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._tokens = tokens
        self._resolve = resolve
        self._transports = transports
        self._known: dict[str, list[str]] = {}
        self._replicas: dict[str, Replica] = {}
        self._looked_up = -RESOLVE_S
        self._lock = threading.Lock()

    def all(self) -> list[Replica]:
        """All members. One that its name does not resolve to any more gets no new work and ends what it has."""
        with self._lock:
            if time.monotonic() - self._looked_up >= RESOLVE_S:
                for url in self._urls:
                    try:
                        self._known[url] = self._resolve(url)
                    except OSError:  # names that can't be looked up now still mean what they did
                        self._known.setdefault(url, [url])
                for url in (each for urls in self._known.values() for each in urls):
                    if url not in self._replicas:
                        self._replicas[url] = Replica(url, self._tokens, self._transports(url))
                self._looked_up = time.monotonic()
            return [self._replicas[url] for urls in self._known.values() for url in dict.fromkeys(urls)]

    def willing(self) -> list[Replica]:
        """Members that do not rest."""
        return [replica for replica in self.all() if not replica.rests]

    def for_chat(self, key: str, tried: set[str]) -> Replica | None:
        """The member for a request: always the same for one `key` while the members are (rendezvous hashing)."""

        def rank(replica: Replica) -> bytes:
            return hashlib.sha256(f"{key}/{replica.url}".encode()).digest()

        return max((each for each in self.willing() if each.url not in tried), key=rank, default=None)

    def why(self) -> str:
        """Why none can be given work."""
        return "no replica can draw now: " + "; ".join(f"{each.url}: {each.reason}" for each in self.all())
