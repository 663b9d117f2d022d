"""Routes that a service answers, as a table: one row a route, one function for all.

Invariants: a row names the models of the service's own contract, so the document says exactly what the service takes
and answers; what the row's models refuse is refused here, and everything else is passed on byte for byte.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from pmd.gateway.api import examples
from pmd.gateway.api.deps import Services
from pmd.services.common.curation import JSON_LINES

FILE = "a file of JSON lines"
"""A body or an answer that is held in nobody's memory: it is passed on as it comes."""


@dataclass(frozen=True)
class Row:
    """One route and where it leads."""

    name: str
    method: str
    path: str
    target: str
    """Path at the service, with the names of `path`."""
    summary: str
    answer: Any = FILE
    """Its model, or `FILE`."""
    query: type | None = None
    body: Any = None
    """Its model, or `FILE`."""
    headers: Mapping[str, Any] | None = None
    """Headers that are passed on, by their Python names."""
    status: int = 200
    refuses: tuple[int, ...] = (404,)
    example: Any = None
    """Of the body."""

    @property
    def streams(self) -> bool:
        """Whether a file goes either way."""
        return FILE in (self.answer, self.body)


def add_rows(routes: APIRouter, service: str, rows: Iterable[Row], names: Mapping[str, Any], guard: Any) -> None:
    """Register `rows`.

    Args:
        names: types of the names in paths.
        guard: dependency that refuses what the service is not to be asked.
    """
    for row in rows:
        extra: dict[str, Any] = {}
        if row.body == FILE:
            extra = {"requestBody": {"required": True, "content": JSON_LINES}}
        elif row.example is not None:
            extra = {"requestBody": {"content": {"application/json": {"example": row.example}}}}
        answers = examples.refusals(*row.refuses)
        if row.answer == FILE:
            answers[row.status] = {"description": "JSON lines", "content": JSON_LINES}
        routes.add_api_route(
            row.path,
            _passes_on(service, row, names),
            methods=[row.method],
            name=row.name,
            tags=[service],
            description=row.summary,
            status_code=row.status,
            response_model=None if row.answer == FILE else row.answer,
            response_class=Response if row.answer == FILE else JSONResponse,
            responses=answers,
            dependencies=[guard],
            openapi_extra=extra,
        )


def _passes_on(service: str, row: Row, names: Mapping[str, Any]) -> Any:
    """The function of a route; what FastAPI is to read, check and document is its signature."""

    async def forward(request: Request, services: Services, **_: Any) -> Response:
        target = row.target.format(**request.path_params)
        return await services.same(service, target, request, streams=row.streams)

    keyword = inspect.Parameter.KEYWORD_ONLY
    declared: dict[str, Any] = {name: kind for name, kind in names.items() if f"{{{name}}}" in row.path}
    if row.query is not None:
        declared["asked"] = Annotated[row.query, Query()]
    if row.body not in (None, FILE):
        declared["body"] = row.body
    given = list(inspect.signature(forward, eval_str=True).parameters.values())[:2]
    given += [inspect.Parameter(name, keyword, annotation=kind) for name, kind in declared.items()]
    for name, kind in (row.headers or {}).items():
        optional = type(None) in get_args(get_args(kind)[0])
        default = None if optional else inspect.Parameter.empty
        given.append(inspect.Parameter(name, keyword, annotation=kind, default=default))
    forward.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
    return forward
