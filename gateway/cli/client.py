"""The gateway as the command line sees it: where it is, what it answers, and errors that say what to do."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

import httpx

from pmd.gateway.local.launcher import default_state_dir
from pmd.gateway.local.supervisor import read_state
from pmd.services.common import outgoing

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
UPLOAD_TIMEOUT_S = 600.0
GENERATION_TIMEOUT_S = 600.0
"""An answer comes in one piece, after whatever the engine draws for runs."""
SILENCE_S = 45.0
"""An event stream that is silent for three heartbeats is dead."""


PAGE = 500
"""Runs that the gateway is asked for at once."""
_RUN_IN_PATH = re.compile(r"/v1/runs/([^/:?]+)")
_COMMANDS = {
    r"GET /v1/runs lists them": "`pmd runs list` shows them",
    r"GET /v1/runs/(\S+)/rollouts lists them": r"`pmd runs samples \1` shows them",
    r"GET /v1/models lists what there is": "`pmd runs list` shows the runs",
    r"GET /v1/services": "`pmd status`",
    r"GET /v1/downloads lists them": "`pmd runs downloads` shows them",
    r"or follow it with POST /v1/recipes:fetch": "`pmd runs create` follows it",
    r" \(POST /v1/recipes:fetch\)": "",
    r"(?<![\w`]):(pause|resume|cancel)\b": r"`pmd runs \1`",
    r"DELETE /v1/runs/(\S+) finishes that": r"`pmd runs delete \1` finishes that",
    r"or set force=true": "or give --force",
    r"use a new (Idempotency-Key|key)\b": "create it under another name",
}
"""How the gateway's words for who speaks its API read for who types commands."""


class CliError(Exception):
    """Shown as one clear line, cause and fix; ends the command with `code`."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(CliError):
    """No gateway answers at the moment; a caller that has time tries again."""


class Gateway:
    """A client of the gateway's REST API."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        answer_s: float = ANSWER_TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._ids: dict[str, str] = {}
        try:
            self._http = outgoing.inside(
                base_url=url.rstrip("/"),
                headers={"Authorization": f"Bearer {token}"},
                timeout=httpx.Timeout(answer_s, connect=min(answer_s, CONNECT_TIMEOUT_S)),
                transport=transport,
            )
        except httpx.InvalidURL as error:
            raise CliError(f"{url!r} is no address of a gateway: {error}; mend PMD_URL", code=2) from error
        self.url = outgoing.shown(url).rstrip("/")

    def get(self, path: str, **params: Any) -> Any:
        """GET, answered JSON; parameters that are None are left out."""
        return self._call("GET", path, params={k: v for k, v in params.items() if v is not None})

    def post(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """POST, answered JSON."""
        return self._call("POST", path, json=body, headers=headers)

    def patch(self, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        """PATCH, answered JSON."""
        return self._call("PATCH", path, json=body, headers=headers)

    def delete(self, path: str, headers: Mapping[str, str], **params: Any) -> Any:
        """DELETE, answered JSON or nothing; parameters that are None are left out."""
        given = {k: v for k, v in params.items() if v is not None}
        answer = self._answer("DELETE", path, params=given, headers=headers)
        return answer.json() if answer.content else None

    def upload(self, path: str, content: bytes | IO[bytes], headers: Mapping[str, str] | None = None) -> Any:
        """POST of a file, answered JSON."""
        return self._call("POST", path, content=content, timeout=UPLOAD_TIMEOUT_S, headers=headers)

    def download(self, path: str, file: IO[bytes], **params: Any) -> None:
        """GET of a file, written to `file` as it comes."""
        given = {k: v for k, v in params.items() if v is not None}
        try:
            with self._http.stream("GET", self._whole(path), params=given, timeout=UPLOAD_TIMEOUT_S) as answer:
                if answer.is_error:
                    answer.read()
                    if self._meant(path, answer):
                        return self.download(path, file, **params)
                    raise explain(answer, self.url)
                for chunk in answer.iter_bytes():
                    file.write(chunk)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def stream(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float = SILENCE_S,
        beats: bool = False,
    ) -> Iterator[str]:
        """The `data` of each server-sent event, until the server ends the stream; `silence_s` without a byte is an
        error. With `beats` a heartbeat is an empty text."""
        try:
            timeout = httpx.Timeout(silence_s, connect=CONNECT_TIMEOUT_S)
            accept = {"Accept": "text/event-stream", **(headers or {})}
            with self._http.stream(method, self._whole(path), json=body, headers=accept, timeout=timeout) as answer:
                if answer.is_error:
                    answer.read()
                    raise explain(answer, self.url)
                data: list[str] = []
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        data.append(line.removeprefix("data:").removeprefix(" "))
                    elif beats and line.startswith(":"):
                        yield ""
                    elif not line and data:
                        yield "\n".join(data)
                        data = []
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        answer = self._answer(method, path, **kwargs)
        try:
            return answer.json()
        except ValueError as error:
            raise CliError(f"what answers at {self.url} is no gateway: it sends no JSON; mend PMD_URL") from error

    def _answer(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, self._whole(path), **kwargs)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if answer.is_error:
            if self._meant(path, answer):
                content = kwargs.get("content")
                if content is not None and not isinstance(content, bytes):
                    content.seek(0)  # the request that was refused has read it
                return self._answer(method, path, **kwargs)
            raise explain(answer, self.url)
        return answer

    def _whole(self, path: str) -> str:
        """`path` with a run's whole id where it has the beginning of one that is known."""
        named = _RUN_IN_PATH.match(path)
        return f"/v1/runs/{self._ids.get(named[1], named[1])}{path[named.end() :]}" if named else path

    def _meant(self, path: str, refusal: httpx.Response) -> bool:
        """Whether a request was refused because its path has only the beginning of a run's id, which is known now.

        Raises:
            CliError: when several runs begin so.
        """
        named = _RUN_IN_PATH.match(path)
        if named is None or named[1] in self._ids or f"no run {named[1]!r}" not in refusal.text:
            return False
        ids: list[str] = []
        page = self._page()
        while page:
            ids += [run for run in page if run.startswith(named[1])]
            page = self._page(page[-1]) if len(page) == PAGE else []
        if len(ids) > 1:
            raise CliError(f"{named[1]!r} begins {len(ids)} ids: {', '.join(ids[:5])}; give more of it", code=2)
        if ids:
            self._ids[named[1]] = ids[0]
        return bool(ids)

    def _page(self, after: str | None = None) -> list[str]:
        answer = self._http.get("/v1/runs", params={"limit": PAGE} | ({"after": after} if after else {}))
        try:
            return [str(view["id"]) for view in answer.json()] if answer.is_success else []
        except (ValueError, TypeError, KeyError):
            return []

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        return Unreachable(
            f"no gateway answers at {self.url} ({type(error).__name__}); start one with `pmd up`, or set PMD_URL"
        )


def explain(answer: httpx.Response, url: str) -> CliError:
    """A refusal as an error that names cause and fix. Of an answer that is no gateway's only the status is repeated."""
    try:
        body = json.loads(answer.text)
        title = str(body["title"])
        lines = [f"{each['field']}: {each['message']}" for each in body.get("errors", [])]
    except (ValueError, LookupError, TypeError, AttributeError):
        title, lines = f"HTTP {answer.status_code}; is it a gateway that answers at {url}?", []
    title, *lines = (in_commands(text) for text in (title, *lines))
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return CliError(f"the gateway at {url} refuses the token; set PMD_TOKEN to the one it was started with")
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR and not lines:  # else it is the gateway that says so
        return Unreachable(f"the gateway at {url} can't answer: {title}")
    code = 2 if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY else 1
    return CliError("\n  ".join([title, *lines]), code)


def in_commands(text: str) -> str:
    """What the gateway says, for who types commands."""
    for route, command in _COMMANDS.items():
        text = re.sub(route, command, text)
    return text


def connect(answer_s: float = ANSWER_TIMEOUT_S) -> Gateway:
    """The gateway at `PMD_URL`, else the one that `pmd up` started in the state folder.

    Args:
        answer_s: how long it may take to answer.

    Raises:
        Unreachable: when none runs here and no other is named.
        CliError: when there is no token for it.
    """
    state_dir = default_state_dir()
    url, token = os.environ.get("PMD_URL", ""), os.environ.get("PMD_TOKEN", "")
    if not url:
        state = read_state(state_dir)
        if state is None:
            raise Unreachable(f"nothing runs in {state_dir}; start it with `pmd up`, or set PMD_URL and PMD_TOKEN")
        url = str(state["url"])
    if not token:
        try:
            token = (state_dir / "token").read_text(encoding="utf-8").strip()
        except OSError:
            raise CliError(f"no token for {url}; set PMD_TOKEN to the one that its gateway was started with") from None
    if not (token.isascii() and token.isprintable()):
        raise CliError("PMD_TOKEN is no token: it holds what a header can't; set it to the gateway's", code=2)
    return Gateway(url, token, answer_s=answer_s)
