"""The OpenAPI document of a service, completed: FastAPI knows neither the token nor how the services refuse.

Invariants: a refusal is `application/problem+json` of one shape on every route; a route names every status that its
callers have to expect, those that the shell answers included.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

REFUSAL: dict[str, Any] = {
    "title": "Refusal",
    "description": "An error body (RFC 9457); some have members of their own.",
    "type": "object",
    "required": ["status", "title"],
    "properties": {
        "status": {"type": "integer"},
        "title": {"type": "string", "description": "Cause and fix."},
        "errors": {
            "type": "array",
            "description": "Fields that are not valid, by dotted path.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
UNAUTHORIZED = {401: "missing or wrong bearer token"}
LATER = {503: "can't be served at the moment; try again"}
OF_BODIES = {
    400: "the body can't be read",
    408: "the body does not arrive",
    413: "the body is too large",
}
INVALID = "the request is not valid; `errors` names the fields"


def describe_refusals(app: FastAPI, public: frozenset[str]) -> None:
    """Say in the document which routes want the token, all but the `public` ones, and how each refuses."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document["security"] = [{"token": []}]
        parts = document.setdefault("components", {})
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schemas = parts.setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own shape of a 422, which is not ours
            schemas.pop(unused, None)
        schemas["Refusal"] = REFUSAL
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path in public:
                    operation["security"] = []
                _describe(operation, {} if path in public else UNAUTHORIZED | LATER)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _describe(operation: dict[str, Any], common: dict[int, str]) -> None:
    answers = operation["responses"]
    of_body = OF_BODIES | {422: INVALID} if "requestBody" in operation else {}
    for code, description in (common | of_body).items():
        answers.setdefault(str(code), {"description": description})
    for code, answer in answers.items():
        if code < "400":
            continue
        given = answer.get("content", {}).get("application/problem+json", {})
        schema = {"$ref": "#/components/schemas/Refusal"}
        answer["content"] = {"application/problem+json": {**given, "schema": schema}}
        if answer["description"] == "Validation Error":  # FastAPI's
            answer["description"] = INVALID
