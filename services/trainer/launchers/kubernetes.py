"""The Kubernetes API, as a pod with a service account's token speaks to it.

Plain httpx and not the official client: what is asked for is five calls on one resource, of which that client would
bring thousands, generated and without types.

Invariants:
- The token is read anew for each request: the kubelet replaces it about once an hour.
- What may pass is `Away`: no connection, 5xx (a webhook whose operator is down is one), 429, a token that is refused.
  What the cluster refuses is `Refused`, with the cluster's own sentence.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pmd.services.common import outgoing
from pmd.services.common.settings import SettingsError
from pmd.services.common.waiting import AWAY_STATUS, Away, retry_after

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token, its namespace and the API server's certificate authority."""

TIMEOUT_S = 15.0

Object = dict[str, Any]


class Refused(RuntimeError):
    """The cluster refuses a request. `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotInAPod(SettingsError):
    """Here is no service account to speak to a cluster with."""


@dataclass(frozen=True)
class Account:
    """The service account that a token is of."""

    name: str
    uid: str


class _Token(httpx.Auth):
    """The bearer token in a file, as it is now."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._file.read_text().strip()}"
        yield request


class Kubernetes:
    """A client of one cluster and namespace; thread-safe."""

    def __init__(self, url: str, namespace: str, token: Path, verify: ssl.SSLContext | bool = True) -> None:
        """Args:
        url: of the API server.
        namespace: where the pod is.
        token: file of the service account's token.
        verify: whose certificates are trusted.
        """
        self.namespace = namespace
        self._token = token
        self._http = outgoing.inside(base_url=url, auth=_Token(token), verify=verify, timeout=TIMEOUT_S)

    @staticmethod
    def of_this_pod(folder: Path = SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ) -> Kubernetes:
        """The cluster that this process runs in.

        Raises:
            NotInAPod: it runs in none, or in a pod without a token of its own.
        """
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
        token, namespace, authority = (folder / name for name in ("token", "namespace", "ca.crt"))
        if not host or not all(path.is_file() for path in (token, namespace, authority)):
            raise NotInAPod(
                f"no service account here (KUBERNETES_SERVICE_HOST, and token, namespace and ca.crt in {folder}): this"
                " must run in a pod that is given one"
            )
        where = f"[{host}]" if ":" in host else host
        context = ssl.create_default_context(cafile=str(authority))
        cluster = Kubernetes(f"https://{where}:{port}", namespace.read_text().strip(), token, context)
        cluster.account()
        return cluster

    def account(self) -> Account:
        """Whose token it is, by the token's own claims.

        Raises:
            NotInAPod: it is no token that a kubelet gives to a pod.
        """
        try:
            _, claims, _ = self._token.read_text().strip().split(".")
            read = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
            account = read["kubernetes.io"]["serviceaccount"]
            return Account(account["name"], account["uid"])
        except (ValueError, LookupError, TypeError):
            raise NotInAPod(
                f"{self._token} does not say of which service account it is: mount a projected token"
            ) from None

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object | None:
        """One request; None when there is no such object.

        Raises:
            Away: the API server does not answer, or what it needs for an answer does not.
            Refused: any other 4xx.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": content_type}
        try:
            answer = self._http.request(method, path, content=content, params=params, headers=headers)
        except httpx.TransportError as error:
            raise Away(f"the cluster's API server does not answer: {type(error).__name__}: {error}") from error
        if answer.is_success:
            try:
                read: Object = answer.json()
            except ValueError:
                raise Away("what answers in the API server's place is none") from None
            return read
        said = _message(answer)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.status_code in AWAY_STATUS or answer.is_server_error:
            raise Away(f"the cluster can't do it now: {said}", after_s=retry_after(answer.headers))
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise Away(f"the cluster refuses the service account's token: {said}")
        raise Refused(answer.status_code, said)


def _message(answer: httpx.Response) -> str:
    """What a refusal says: the API server answers a Status object, whatever stands before it anything."""
    try:
        return str(answer.json()["message"])
    except (ValueError, LookupError, TypeError):
        return f"HTTP {answer.status_code}"
