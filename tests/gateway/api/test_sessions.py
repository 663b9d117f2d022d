"""Sign-in of a browser: what the cookie opens, what it does not, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from pmd.gateway.api.app import create_app
from pmd.gateway.api.sessions import CODE_S, MAX_BYTES, SESSION_S, Sessions, cookie_of
from pmd.gateway.registry.codes import spend
from pmd.gateway.settings import GatewaySettings
from pmd.services.common.tokens import Tokens
from tests.gateway.api.conftest import edge
from tests.gateway.api.person import AUTH
from tests.gateway.fakes import TOKEN

OURS = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def browser(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


@pytest.fixture
def signed_in(browser: TestClient) -> TestClient:
    assert browser.post("/v1/session", json={"token": TOKEN}, headers=OURS).status_code == 200
    return browser


def test_the_token_buys_a_cookie_that_no_script_reads_and_no_other_site_sends(browser: TestClient) -> None:
    answer = browser.post("/v1/session", json={"token": TOKEN}, headers=OURS)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert f"max-age={SESSION_S}" in cookie
    assert "secure" not in cookie, "the laptop speaks plain http"
    assert TOKEN not in cookie
    assert browser.get("/v1/runs").status_code == 200


def test_over_https_the_cookie_stays_there(app: FastAPI) -> None:
    with TestClient(app, base_url="https://gateway") as client:
        assert "secure" in client.post("/v1/session", json={"token": TOKEN}).headers["set-cookie"].lower()


@pytest.mark.parametrize("body", [{"token": "wrong-token-0123456789"}, {"code": "1.2.3"}, {"code": "é"}])
def test_nothing_else_does(body: dict[str, str], browser: TestClient) -> None:
    answer = browser.post("/v1/session", json=body)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert browser.get("/v1/runs").status_code == 401


@pytest.mark.parametrize("body", [{}, {"token": TOKEN, "code": "x"}, {"tokn": TOKEN}])
def test_what_is_neither_is_named(body: dict[str, str], browser: TestClient) -> None:
    assert browser.post("/v1/session", json=body).status_code == 422


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://elsewhere"},
        {"Origin": "null"},
        {},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"},
    ],
)
def test_with_the_cookie_only_our_own_page_changes_anything(headers: dict[str, str], signed_in: TestClient) -> None:
    for method, path in [("POST", "/v1/runs"), ("POST", "/v1/runs/r:cancel"), ("DELETE", "/v1/runs/r/bank")]:
        assert signed_in.request(method, path, json={}, headers=headers).status_code == 403
    assert signed_in.get("/v1/runs", headers=headers).status_code == 200, "reading gives another site nothing"


@pytest.mark.parametrize("headers", [OURS, {"Origin": "http://testserver"}])
def test_our_own_page_does(headers: dict[str, str], signed_in: TestClient) -> None:
    assert signed_in.post("/v1/runs/nobody-1:cancel", headers=headers).status_code == 404


def test_the_token_needs_no_page(browser: TestClient) -> None:
    answer = browser.post("/v1/runs/nobody-1:cancel", headers={**AUTH, "Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 404


def test_another_sites_page_signs_nobody_in(browser: TestClient) -> None:
    answer = browser.post("/v1/session", json={"token": TOKEN}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def test_signing_out_takes_the_cookie(signed_in: TestClient) -> None:
    assert signed_in.get("/v1/session").json()["ends"] > 0
    assert signed_in.delete("/v1/session", headers=OURS).status_code == 204
    assert not signed_in.cookies
    assert signed_in.get("/v1/runs").status_code == 401


def test_a_code_signs_one_browser_in_once(app: FastAPI) -> None:
    with TestClient(app) as first:
        second = TestClient(app)
        code = first.post("/v1/session:code", headers=AUTH).json()["code"]
        assert first.post("/v1/session", json={"code": code}).status_code == 200
        assert first.get("/v1/runs").status_code == 200
        assert second.post("/v1/session", json={"code": code}).status_code == 401


def test_a_code_is_no_cookie_and_a_cookie_no_code(app: FastAPI) -> None:
    sessions: Sessions = app.state.sessions
    with TestClient(app, cookies={cookie_of(TOKEN): sessions.signed("code", 60)}) as client:
        assert client.get("/v1/runs").status_code == 401
        assert client.post("/v1/session", json={"code": sessions.signed("session", 60)}).status_code == 401


def test_a_code_is_used_up_at_all_replicas(app: FastAPI, tmp_path: Path) -> None:
    settings = GatewaySettings(token=TOKEN, state_dir=tmp_path / "state")  # type: ignore[arg-type]
    replica = create_app(settings, wake=lambda _: None, transports=edge())
    with TestClient(app) as first, TestClient(replica) as second:
        code = first.post("/v1/session:code", headers=AUTH).json()["code"]
        assert second.post("/v1/session", json={"code": code}).status_code == 200
        assert first.post("/v1/session", json={"code": code}).status_code == 401
    ended = app.state.parts.registry.database
    assert spend(ended, "a", 0.0, 60.0)
    assert not spend(ended, "a", 59.0, 60.0)
    assert spend(ended, "a", 60.0, 90.0), "what has ended is forgotten"


def test_installations_on_one_host_leave_each_other_signed_in(app: FastAPI, tmp_path: Path) -> None:
    other = "another-token-0123456789"
    settings = GatewaySettings(token=other, state_dir=tmp_path / "other")  # type: ignore[arg-type]
    second = create_app(settings, wake=lambda _: None, transports=edge())
    with TestClient(app) as here, TestClient(second) as there:
        assert here.post("/v1/session", json={"token": TOKEN}).status_code == 200
        there.cookies = here.cookies  # a browser has the cookies of a host, whatever the port
        assert there.post("/v1/session", json={"token": other}).status_code == 200
        here.cookies = there.cookies
        assert [each.get("/v1/runs").status_code for each in (here, there)] == [200, 200]
        assert there.delete("/v1/session", headers=OURS).status_code == 204
        here.cookies = there.cookies
        assert [each.get("/v1/runs").status_code for each in (here, there)] == [200, 401]


def test_a_session_outlives_the_turn_of_tokens_until_its_own_is_withdrawn() -> None:
    old, new = "old-token-0123456789", "new-token-0123456789"
    name, value = Sessions(Tokens(old), never).sign_in(old)
    browser = Request({"type": "http", "headers": [(b"cookie", f"{name}={value}".encode())]})
    assert Sessions(Tokens(f"{new}\n{old}"), never).session(browser)
    assert Sessions(Tokens(new), never).session(browser) is None


def test_who_is_not_signed_in_sends_little(browser: TestClient) -> None:
    large = browser.post("/v1/session", json={"token": "t" * MAX_BYTES}, headers=OURS)
    assert (large.status_code, f"at most {MAX_BYTES}" in large.json()["title"]) == (413, True)
    small = browser.post("/v1/session", json={"token": "t" * 4000}, headers=OURS)
    assert small.status_code == 401


def never(*_: object) -> bool:
    """No code can be used."""
    return False


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_both_end_with_their_time_and_with_the_token() -> None:
    clock = Clock()
    sessions = Sessions(Tokens("old-token-0123456789\nnew-token-0123456789"), never, clock)
    cookie = sessions.signed("session", SESSION_S, "old-token-0123456789")
    code = sessions.signed("code", CODE_S)
    assert sessions.ends("session", cookie) == clock.now + SESSION_S
    clock.now += CODE_S
    assert not sessions.use(code)
    assert sessions.ends("session", cookie)
    withdrawn = Sessions(Tokens("new-token-0123456789"), never, clock)
    assert withdrawn.ends("session", cookie) is None
    clock.now += SESSION_S
    assert sessions.ends("session", cookie) is None


def _flipped(value: str, at: int) -> str:
    return value[:at] + ("0" if value[at] != "0" else "1") + value[at + 1 :]


def test_a_cookie_that_was_tampered_with_is_none() -> None:
    sessions = Sessions(Tokens("a-token-0123456789"), never)
    cookie = sessions.signed("session", SESSION_S)
    wrong: list[Any] = [_flipped(cookie, at) for at in range(len(cookie)) if cookie[at] != "."]
    assert all(sessions.ends("session", each) is None for each in [*wrong, "", "..", "9" * 400, cookie + "0"])
