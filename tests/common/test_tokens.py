"""Tokens are rotated without a start and without a request that fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from pmd.services.common.app import create_service
from pmd.services.common.client import ServiceClient, ServiceUnavailable
from pmd.services.common.settings import ServiceSettings, SettingsError, load_settings
from pmd.services.common.tokens import Bearer, Tokens
from tests.common.processes import TOKEN, Process
from tests.reaped import reaped

OLD, NEW, NEWEST = TOKEN, "the-token-from-now-on", "the-token-after-that"
SPEC = {"items": [{"verifier": {"kind": "exact", "answer": "42"}, "completion": "42"}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "PMD_TOKEN"
    path.write_text(OLD)
    return path


def test_what_the_file_holds_counts_at_once(file: Path) -> None:
    tokens = Tokens(OLD, file)
    assert tokens.accepts(OLD)
    file.write_text(f"{NEW}\n{OLD}\n")
    assert tokens.current() == (NEW, OLD)
    assert tokens.accepts(NEW)
    assert tokens.accepts(OLD)
    file.write_text(NEW)
    assert not tokens.accepts(OLD)
    assert not tokens.accepts("")


@pytest.mark.parametrize("half", ["", "short", "no token: \x00 in it for sure", "über-ein-token-hinaus"])
def test_a_file_that_is_half_written_changes_nothing(file: Path, half: str) -> None:
    tokens = Tokens(OLD, file)
    file.write_text(half)
    assert tokens.current() == (OLD,)
    file.unlink()
    assert tokens.current() == (OLD,)
    file.write_text(NEW)
    assert tokens.current() == (NEW,)


def test_a_file_that_was_written_twice_within_a_tick_is_read_twice(file: Path) -> None:
    tokens = Tokens(OLD, file)
    same = time.time()
    for token in ("a" * 20, "b" * 20):
        file.write_text(token)
        os.utime(file, (same, same))
        assert tokens.current() == (token,)


def test_each_line_of_the_setting_is_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_TOKEN", f"{NEW}\n{OLD}")
    assert load_settings(ServiceSettings).tokens().current() == (NEW, OLD)
    monkeypatch.setenv("PMD_TOKEN", f"{NEW}\nshort")
    with pytest.raises(SettingsError, match=r"PMD_TOKEN: .*each line must be a token: 16 or more") as wrong:
        load_settings(ServiceSettings)
    assert "short" not in str(wrong.value)


def test_a_service_takes_the_old_token_until_it_is_gone_from_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PMD_TOKEN", raising=False)
    monkeypatch.setenv("PMD_SECRETS_DIR", str(file.parent))
    app = create_service("test", load_settings(ServiceSettings), ready=dict)
    app.get("/v1/work")(lambda: "done")

    def status(token: str) -> int:
        with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as http:
            return http.get("/v1/work").status_code

    assert (status(OLD), status(NEW)) == (200, 401)
    file.write_text(f"{NEW}\n{OLD}")
    assert (status(OLD), status(NEW)) == (200, 200)
    file.write_text(NEW)
    assert (status(OLD), status(NEW)) == (401, 200)


class Door(httpx.MockTransport):
    """A service that lets in whoever carries one of `accepted`."""

    def __init__(self, *accepted: str) -> None:
        super().__init__(self.answer)
        self.accepted = accepted
        self.shown: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.shown.append(request.headers["Authorization"].removeprefix("Bearer "))
        return httpx.Response(200 if self.shown[-1] in self.accepted else 401, json={"a": 1})


def test_a_client_shows_the_next_token_where_one_is_refused(file: Path) -> None:
    door = Door(OLD)
    service = ServiceClient("http://service", Tokens(OLD, file), transport=door)
    file.write_text(f"{NEW}\n{OLD}")
    for _ in range(2):
        assert service.call("PUT", "/v1/jobs/a", json={"b": 2}) == {"a": 1}
    assert door.shown == [NEW, OLD, OLD], "what was accepted is shown first"
    door.accepted = (NEW,)
    assert service.call("GET", "/v1/jobs/a") == {"a": 1}
    assert door.shown[3:] == [OLD, NEW]


def test_a_token_that_is_refused_is_waited_for(file: Path) -> None:
    service = ServiceClient("http://service", Tokens(OLD, file), transport=Door(NEW))
    with pytest.raises(
        ServiceUnavailable, match="http://service can't serve now: it refuses our token: PMD_TOKEN"
    ) as e:
        service.call("GET", "/v1/jobs/a")
    assert OLD not in str(e.value)
    file.write_text(NEW)
    assert service.call("GET", "/v1/jobs/a") == {"a": 1}


def test_a_body_that_is_gone_is_not_sent_again(file: Path) -> None:
    file.write_text(f"{NEW}\n{OLD}")
    door = Door(OLD)
    with httpx.Client(base_url="http://service", auth=Bearer(Tokens(OLD, file)), transport=door) as http:
        assert http.put("/file", content=iter([b"a", b"b"])).status_code == 401
    assert door.shown == [NEW]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    """A gateway and the verifier that it asks."""
    with ExitStack() as stack:
        verifier = Process(tmp_path, "pmd.services.verifier", PMD_SANDBOX_INSECURE="true", PMD_SANDBOX_WORKERS="1")
        gateway = Process(tmp_path, "pmd.gateway", PMD_VERIFIER_URL=verifier.url)
        for each in (verifier, gateway):
            stack.enter_context(reaped(each.process.pid))
            stack.callback(each.process.wait)
            stack.callback(each.process.terminate)
        for each in (verifier, gateway):
            each.ready()
        yield gateway, verifier


class Load:
    """Requests without a pause: to the gateway, which asks the verifier, and to the verifier as a worker asks it."""

    def __init__(self, gateway: Process, verifier: Process, worker: Path) -> None:
        self.answers: list[str] = []
        self.token = OLD
        self._over = threading.Event()
        self._http = httpx.Client(base_url=gateway.url, timeout=30)
        self._service = ServiceClient(verifier.url, Tokens(OLD, worker))
        self._threads = [threading.Thread(target=each) for each in (self._ask, self._ask, self._call)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._http.close()
        self._service.close()

    def _ask(self) -> None:
        while not self._over.is_set():
            answer = self._http.post("/v1/verify", json=SPEC, headers={"Authorization": f"Bearer {self.token}"})
            self.answers.append("ok" if answer.status_code == 200 else f"{answer.status_code} {answer.text}")

    def _call(self) -> None:
        while not self._over.is_set():
            try:
                self._service.call("POST", "/v1/verify", json=SPEC)
                self.answers.append("ok")
            except Exception as error:
                self.answers.append(repr(error))
            time.sleep(0.01)

    def goes_on(self, answers: int = 20) -> None:
        """Wait for some more answers."""
        until = time.monotonic() + 60
        wanted = len(self.answers) + answers
        while len(self.answers) < wanted:
            assert time.monotonic() < until, "no answers"
            time.sleep(0.02)


def test_tokens_are_rotated_under_load_with_no_failed_request(pair: tuple[Process, Process], file: Path) -> None:
    gateway, verifier = pair
    with Load(gateway, verifier, file) as load:
        load.goes_on()
        for old, new, order in ((OLD, NEW, (gateway, verifier)), (NEW, NEWEST, (verifier, gateway))):
            for process in order:  # each order: who is first shows the other a token that it does not know yet
                process.holds(new, old)
                load.goes_on()
            file.write_text(f"{new}\n{old}")
            load.token = new
            load.goes_on()
            for process in order:
                process.holds(new)
                load.goes_on()
            file.write_text(new)
            load.goes_on()
        # A hurry: nobody has both, and what is late by seconds is waited for.
        verifier.holds(OLD)
        late = threading.Timer(1.5, gateway.holds, (OLD, NEWEST))
        late.start()
        file.write_text(OLD)
        load.goes_on(40)
        late.join()  # a few fast answers are there before it
        load.token = OLD
        load.goes_on()
        gateway.holds(OLD)
        load.goes_on()
    failed = [answer for answer in load.answers if answer != "ok"]
    assert not failed, failed[:3]
    for token, status in ((NEWEST, 401), (OLD, 200)):
        for process in pair:
            headers = {"Authorization": f"Bearer {token}"}
            assert httpx.post(f"{process.url}/v1/verify", json=SPEC, headers=headers).status_code == status
