"""The shell of every service: auth, problem-detail errors, health, metrics.

Invariants: every route but health and metrics wants the bearer token; a body larger than its kind may be is refused, by
what arrives and not by what its head says (`pmd.services.common.bodies`); every 4xx names the field or the cause; no
stack trace reaches a client; what may succeed later (`Retryable`, a full disk) is 503 with
`Retry-After`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from pmd.services.common.bodies import Admit, BodyLimit, anyone, problem
from pmd.services.common.document import describe_refusals
from pmd.services.common.jobs import Retryable
from pmd.services.common.settings import ServiceSettings
from pmd.services.common.strict import explain_errors, nearest
from pmd.services.common.telemetry import REQUEST_SECONDS, REQUESTS
from pmd.services.common.tokens import Tokens
from pmd.services.common.waiting import Away, away

log = logging.getLogger(__name__)

PUBLIC = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"})
DOCS_FILES = "/docs/files"
"""Script and style of `/docs`, which is to work where there is no internet."""

MAX_JSON_BYTES = 16 << 20
"""Largest body unless a service says otherwise: it is parsed while all other requests wait."""
MAX_UPLOAD_BYTES = 256 << 20
"""Largest upload."""

NO_PRECONDITION = 'send If-Match with the ETag that you saw (or "*" for whatever is there)'
"""Said with 428."""

RETRY_AFTER_S = 5
"""When to repeat a request that can't be served now."""

Readiness = Callable[[], dict[str, Any]]
"""Facts that `/readyz` reports. Raise `NotReady` to answer 503."""

Entrance = Callable[[Request], Response | None]
"""Looks at a request before any route does: its refusal, or None to let it in."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class NotReady(Away):
    """The service runs but can't do its work yet; the message says what is missing."""


def known_query(request: Request) -> None:
    """Refuse query parameters that the route does not know: a filter that is ignored answers another question."""
    route = request.scope["route"]
    known: set[str] = set()
    for parameter in get_flat_dependant(route.dependant).query_params:
        declared: Any = parameter.field_info.annotation
        as_model = isinstance(declared, type) and issubclass(declared, BaseModel)
        known |= set(declared.model_fields) if as_model else {parameter.alias}
    errors = []
    for name in sorted(set(request.query_params) - known):
        guess = nearest(name, known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        errors.append({"field": f"query.{name}", "message": f"unknown key {name!r}{hint}"})
    if errors:
        raise HTTPException(422, errors)


def bears(request: Request, tokens: Tokens) -> bool:
    """Whether a request carries a token that is in force."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and tokens.accepts(given)


def by_token(tokens: Tokens) -> Entrance:
    """Lets in who carries a token that is in force."""

    def entrance(request: Request) -> Response | None:
        if bears(request, tokens):
            return None
        title = "missing or wrong bearer token; send 'Authorization: Bearer <token>'"
        return problem(401, title, headers={"WWW-Authenticate": "Bearer"})

    return entrance


def _later(request: Request, error: Retryable) -> JSONResponse:
    """The answer to a request that can't be served now."""
    log.warning("request not served now: %s", error, extra={"path": request.url.path})
    answer = problem(503, f"{error}; try again")
    answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer


def _methods(request: Request) -> str:
    """What the path of a request takes, by all its routes: Starlette says the methods of the first."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    matching = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return ", ".join(sorted({method for route in matching for method in route.methods or ()}))


def refuse_as_problems(app: FastAPI) -> None:
    """Have what an application refuses answered as `application/problem+json` (RFC 9457)."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        body = getattr(request.scope.get("route"), "body_field", None)
        model = body.field_info.annotation if body is not None else None
        known = isinstance(model, type) and issubclass(model, BaseModel)
        errors = error.errors()
        if [(each["type"], each["loc"]) for each in errors] == [("missing", ("header", "If-Match"))]:
            return problem(428, NO_PRECONDITION)
        return problem(422, "the request is not valid", explain_errors(errors, model if known else None))

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        detail: Any = error.detail
        if isinstance(detail, list):
            return problem(error.status_code, "the request is not valid", detail, error.headers)
        headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status_code == 503 else {}
        headers |= dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _methods(request)
        return problem(error.status_code, str(detail), headers=headers)

    @app.exception_handler(Retryable)
    async def later(request: Request, error: Retryable) -> JSONResponse:
        return _later(request, error)


def create_service(
    name: str,
    settings: ServiceSettings,
    *,
    ready: Readiness,
    lifespan: Lifespan | None = None,
    public: frozenset[str] = frozenset(),
    entrance: Entrance | None = None,
    max_json_bytes: int = MAX_JSON_BYTES,
    max_bytes_of: Mapping[str, int] = {},
    admit: Admit = anyone,
) -> FastAPI:
    """A FastAPI application with what all services share; the caller adds its routes.

    Args:
        ready: details for `/readyz` (profile and versions in force); raises `NotReady` for 503.
        public: more paths that need no token.
        entrance: who is let in to the others; who bears a token, unless given.
        max_json_bytes: largest body that is taken, but for uploads.
        max_bytes_of: a smaller largest body, by path.
        admit: entered for each request with a body; refuses it, or what comes of it, by an `HTTPException`.
    """
    app = FastAPIOffline(
        redoc_url=None,
        static_url=DOCS_FILES,
        title=f"pmd {name}",
        version="0.1.0",
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    refusal = entrance or by_token(settings.tokens())
    open_paths = PUBLIC | public

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.monotonic()
        path = request.url.path
        is_open = path in open_paths or path.startswith(f"{DOCS_FILES}/")
        if not is_open and (refused := refusal(request)) is not None:
            return refused
        try:
            response = await call_next(request)
        except ClientDisconnect:
            response = problem(400, "the body broke off")  # nobody may be there to read it
        except Exception as error:
            lacking = away(error)
            if lacking is None:
                log.exception("request failed", extra={"path": request.url.path})
                response = problem(500, "internal error; the service's log has the cause")
            else:
                response = _later(request, lacking)
        route = getattr(request.scope.get("route"), "path", "-")
        REQUESTS.labels(name, request.method, route, response.status_code).inc()
        REQUEST_SECONDS.labels(name, route).observe(time.monotonic() - began)
        return response

    app.add_middleware(
        BodyLimit, max_json_bytes=max_json_bytes, max_bytes=MAX_UPLOAD_BYTES, max_bytes_of=max_bytes_of, admit=admit
    )

    refuse_as_problems(app)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "service": name}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "not ready"}})
    def readyz() -> dict[str, Any]:
        """The service can do its work; says which profile and versions are in force."""
        # Not on the event loop: it takes a thread of those that requests take, and says so when there is none.
        try:
            return {"status": "ready", "service": name, **ready()}
        except NotReady as reason:
            raise HTTPException(503, str(reason)) from reason

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    describe_refusals(app, open_paths)
    return app
