"""Sign-in of a browser: a cookie that a token bought.

Invariants:
- The cookie is signed with the token that bought it: it ends with its time, and when that token is withdrawn. No server
  keeps it, so any replica knows it; signing out takes it from the browser.
- No script reads it (HttpOnly) and no other site's page sends it (SameSite=Strict). What changes something is moreover
  refused unless the browser says that our own page asks: a sibling of our host is the same site too.
- Its name says by which token it was bought: installations that share a host share a browser's cookies, whatever their
  ports, and none takes another's away.
- A code signs one browser in, once, within a minute: for links, which stay in histories. The registry knows the used
  ones, so it is once for all replicas.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, model_validator

from pmd.gateway.api import examples
from pmd.services.common.app import bears, known_query
from pmd.services.common.bodies import problem
from pmd.services.common.strict import Strict
from pmd.services.common.tokens import Tokens

COOKIE = "pmd_session_"
"""Begins the name of each cookie."""
SESSION_S = 12 * 3600
CODE_S = 60
MAX_BYTES = 16 << 10
"""Largest body of a sign-in, which anybody may send: a few tokens long."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
PATH = "/v1/session"

Purpose = Literal["session", "code"]
Spend = Callable[[str, float, float], bool]
"""Notes that a code is used, by its hash, the time, and when the code ends; False when it was used before."""


class Sessions:
    """Signs cookies and codes, and knows its own; thread-safe."""

    def __init__(self, tokens: Tokens, spend: Spend, clock: Callable[[], float] = time.time) -> None:
        self._tokens, self._spend, self._clock = tokens, spend, clock

    def signed(self, purpose: Purpose, lasts_s: float, token: str = "") -> str:
        """A new cookie or code: when it ends, a random part, and the signature of both.

        Args:
            token: what it is signed with; the first in force unless given.
        """
        said = f"{int(self._clock() + lasts_s)}.{secrets.token_urlsafe(12)}"
        return f"{said}.{_mac(token or self._tokens.current()[0], purpose, said)}"

    def ends(self, purpose: Purpose, value: str) -> float | None:
        """When a cookie or code that this signed ends, in Unix seconds; None of any other, and when it has ended."""
        said, _, mac = value.rpartition(".")
        end = said.partition(".")[0]
        if not (value.isascii() and end.isdecimal() and len(value) < 200):
            return None
        known = any(hmac.compare_digest(mac, _mac(token, purpose, said)) for token in self._tokens.current())
        return float(end) if known and float(end) > self._clock() else None

    def use(self, code: str) -> bool:
        """Whether a code is good; it is not any more afterwards."""
        end = self.ends("code", code)
        return end is not None and self._spend(hashlib.sha256(code.encode()).hexdigest(), self._clock(), end)

    def cookies(self) -> tuple[str, ...]:
        """The names that a cookie of ours may have now."""
        return tuple(map(cookie_of, self._tokens.current()))

    def session(self, request: Request) -> float | None:
        """When the session of a browser ends, in Unix seconds; None when it has none."""
        found = (self.ends("session", request.cookies.get(name, "")) for name in self.cookies())
        return max((end for end in found if end is not None), default=None)

    def sign_in(self, token: str = "") -> tuple[str, str]:
        """Name and value of a new cookie.

        Args:
            token: what bought it; the first in force unless given.
        """
        token = token or self._tokens.current()[0]
        return cookie_of(token), self.signed("session", SESSION_S, token)

    def accepts(self, token: str) -> bool:
        """Whether a token is in force."""
        return self._tokens.accepts(token)

    def refusal(self, request: Request) -> Response | None:
        """Why a request is not let in: it bears no token and no session, or another site's page sent it."""
        if bears(request, self._tokens):
            return None
        if self.session(request) is None:
            title = (
                "missing or wrong bearer token, and no session; send 'Authorization: Bearer <token>', or sign in at /"
            )
            return problem(401, title, headers={"WWW-Authenticate": "Bearer"})
        if request.method not in SAFE and not same_origin(request):
            title = "a signed-in browser may change things from the dashboard's own pages alone; send the token instead"
            return problem(403, title)
        return None


def same_origin(request: Request) -> bool:
    """Whether the browser says that a page of ours sent a request."""
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = request.headers.get("origin", "")
    return bool(origin) and origin.partition("://")[2] == request.headers.get("host")


def cookie_of(token: str) -> str:
    """The name of the cookies that a token buys; tells nothing of it."""
    return f"{COOKIE}{_mac(token, 'cookie', '')[:12]}"


def _mac(token: str, purpose: str, said: str) -> str:
    return hmac.digest(token.encode(), f"pmd {purpose} {said}".encode(), hashlib.sha256).hex()


async def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


TheSessions = Annotated[Sessions, Depends(_sessions)]

routes = APIRouter(dependencies=[Depends(known_query)], tags=["session"])


class SignIn(Strict):
    """What a browser signs in with: the token, or a code that the token bought."""

    token: str | None = Field(default=None, max_length=4096)
    code: str | None = Field(default=None, max_length=200)

    @model_validator(mode="after")
    def _one(self) -> SignIn:
        if (self.token is None) == (self.code is None):
            raise ValueError("give token or code, one of them")
        return self


class SessionView(Strict):
    """A session of a browser."""

    ends: float
    """Unix seconds."""


class CodeView(Strict):
    """A code that signs one browser in, once: `/#code=<code>`."""

    code: str
    ends: float
    """Unix seconds."""


@routes.post(PATH, responses=examples.SIGN_IN)
async def sign_in(body: SignIn, request: Request, response: Response, sessions: TheSessions) -> SessionView:
    """Sign a browser in: the answer sets a cookie that no script can read."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise HTTPException(403, "another site's page may not sign a browser in")
    if body.code is not None and not await run_in_threadpool(sessions.use, body.code):
        raise HTTPException(401, "this code was used, or is older than a minute; `pmd dashboard` makes another")
    if body.token is not None and not sessions.accepts(body.token.strip()):
        raise HTTPException(401, "no token of this installation; `pmd up` wrote it to var/token")
    name, value = sessions.sign_in((body.token or "").strip())
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    response.set_cookie(name, value, max_age=SESSION_S, path="/", secure=secure, httponly=True, samesite="strict")
    response.headers["Cache-Control"] = "no-store"
    return SessionView(ends=sessions.ends("session", value) or 0.0)


@routes.get(PATH, responses=examples.SESSION)
async def get_session(request: Request, sessions: TheSessions) -> SessionView:
    """Until when this browser is signed in."""
    end = sessions.session(request)
    if end is None:
        raise HTTPException(404, "no session: this browser is not signed in")
    return SessionView(ends=end)


@routes.delete(PATH, status_code=204)
async def sign_out(response: Response, sessions: TheSessions) -> None:
    """Take the cookie from this browser."""
    for name in sessions.cookies():
        response.delete_cookie(name, path="/", httponly=True, samesite="strict")


@routes.post(f"{PATH}:code", responses=examples.CODE)
async def make_code(sessions: TheSessions, response: Response) -> CodeView:
    """A code that signs one browser in, once, within a minute; `pmd dashboard` makes its link of it."""
    code = sessions.signed("code", CODE_S)
    response.headers["Cache-Control"] = "no-store"
    return CodeView(code=code, ends=sessions.ends("code", code) or 0.0)
