"""The shell of every service: auth, problem-detail errors, health, metrics.

Invariants: every route but health and metrics wants the bearer token; a body larger than its kind may be is refused
before it is read; every 4xx names the field or the cause; no stack trace reaches a client; what may succeed later
(`Retryable`, a full disk) is 503 with `Retry-After`.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

from pmd.services.common.document import describe_refusals
from pmd.services.common.jobs import Retryable
from pmd.services.common.settings import ServiceSettings
from pmd.services.common.strict import explain_errors, nearest
from pmd.services.common.telemetry import REQUEST_SECONDS, REQUESTS
from pmd.services.common.waiting import Away, away

log = logging.getLogger(__name__)

PUBLIC = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"})

MAX_JSON_BYTES = 16 << 20
"""Largest JSON body unless a service says otherwise: it is parsed while all other requests wait."""
MAX_UPLOAD_BYTES = 256 << 20
"""Largest body that is no JSON."""

RETRY_AFTER_S = 5
"""When to repeat a request that can't be served now."""

Readiness = Callable[[], dict[str, Any]]
"""Facts that `/readyz` reports. Raise `NotReady` to answer 503."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class NotReady(Away):
    """The service runs but can't do its work yet; the message says what is missing."""


def problem(status: int, title: str, fields: list[dict[str, str]] | None = None) -> JSONResponse:
    """An error body (RFC 9457): `title` is cause and fix, `errors` names the fields."""
    body: dict[str, Any] = {"status": status, "title": title}
    if fields:
        body["errors"] = fields
    return JSONResponse(body, status, media_type="application/problem+json")


def known_query(request: Request) -> None:
    """Refuse query parameters that the route does not know: a filter that is ignored answers another question."""
    route = request.scope["route"]
    known = {parameter.alias for parameter in get_flat_dependant(route.dependant).query_params}
    errors = []
    for name in sorted(set(request.query_params) - known):
        guess = nearest(name, known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        errors.append({"field": f"query.{name}", "message": f"unknown key {name!r}{hint}"})
    if errors:
        raise HTTPException(422, errors)


def _oversized(request: Request, max_json_bytes: int) -> JSONResponse | None:
    """The refusal of a body that is too large, or may be."""
    length = request.headers.get("content-length")
    if length is None:
        return problem(411, "send a Content-Length") if "transfer-encoding" in request.headers else None
    is_json = request.headers.get("content-type", "").partition(";")[0].strip().endswith("json")
    limit = max_json_bytes if is_json else MAX_UPLOAD_BYTES
    if not length.isdecimal() or int(length) > limit:
        return problem(413, f"the body has {length} bytes; at most {limit} are taken")
    return None


def _later(request: Request, error: Retryable) -> JSONResponse:
    """The answer to a request that can't be served now."""
    log.warning("request not served now: %s", error, extra={"path": request.url.path})
    answer = problem(503, f"{error}; try again")
    answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer


def create_service(
    name: str,
    settings: ServiceSettings,
    *,
    ready: Readiness,
    lifespan: Lifespan | None = None,
    public: frozenset[str] = frozenset(),
    max_json_bytes: int = MAX_JSON_BYTES,
) -> FastAPI:
    """A FastAPI application with what all services share; the caller adds its routes.

    Args:
        ready: facts for `/readyz` (profile and versions in force); raises `NotReady` for 503.
        public: more paths that need no token.
        max_json_bytes: largest JSON body that is taken.
    """
    app = FastAPI(
        title=f"pmd {name}",
        version="0.1.0",
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    token = settings.token.get_secret_value()
    open_paths = PUBLIC | public

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.monotonic()
        if request.url.path not in open_paths:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
                return problem(401, "missing or wrong bearer token; send 'Authorization: Bearer <token>'")
        if (refusal := _oversized(request, max_json_bytes)) is not None:
            return refusal
        try:
            response = await call_next(request)
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

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        body = getattr(request.scope.get("route"), "body_field", None)
        model = body.field_info.annotation if body is not None else None
        known = isinstance(model, type) and issubclass(model, BaseModel)
        fields = explain_errors(error.errors(), model if known else None)
        return problem(422, "the request is not valid", fields)

    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        detail: Any = error.detail
        if isinstance(detail, list):
            return problem(error.status_code, "the request is not valid", detail)
        answer = problem(error.status_code, str(detail))
        if error.status_code == 503:
            answer.headers["Retry-After"] = str(RETRY_AFTER_S)
        return answer

    @app.exception_handler(Retryable)
    async def later(request: Request, error: Retryable) -> JSONResponse:
        return _later(request, error)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "service": name}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "not ready"}})
    async def readyz() -> dict[str, Any]:
        """The service can do its work; says which profile and versions are in force."""
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
