"""Talk to policies through the gateway, and see which services answer."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from pmd.gateway.api import examples
from pmd.gateway.api.deps import Services
from pmd.gateway.views import ServiceView

routes = APIRouter()


@routes.post(
    "/v1/chat/completions",
    tags=["chat"],
    response_class=JSONResponse,
    responses=examples.refusals(404),
    openapi_extra=examples.CHAT,
)
async def chat_completions(request: Request, services: Services) -> Response:
    """Talk to a policy version, model `<run>@<version>`: OpenAI's protocol, no memory attached."""
    return await services.post("rollout", "/v1/chat/completions", request)


@routes.get("/v1/models", tags=["chat"], response_class=JSONResponse, responses=examples.MODELS)
async def list_models(services: Services) -> Response:
    """Models that can be talked to."""
    return await services.get("rollout", "/v1/models")


@routes.get("/v1/services", tags=["health"], responses=examples.SERVICES)
async def list_services(services: Services) -> list[ServiceView]:
    """Which services answer, and which profile and versions are in force there."""
    return await services.services()
