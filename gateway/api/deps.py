"""What routes are given: the parts that the application is wired of, as `Annotated[..., Depends()]` aliases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from pmd.gateway.api.broker import Broker
from pmd.gateway.api.events import Tails
from pmd.gateway.api.forward import Forwarder
from pmd.gateway.api.reading import Reading
from pmd.gateway.recipes.downloads import Downloads
from pmd.gateway.registry.registry import Registry
from pmd.gateway.settings import GatewaySettings
from pmd.services.common.wire import Slug

RunId = Annotated[Slug, Path(description="Id of the run.", examples=["pocket-1f0c2a9b"])]

Wake = Callable[[str], None]
"""Asks for a run to be advanced soon."""


@dataclass(frozen=True)
class Parts:
    """What the gateway is wired of."""

    settings: GatewaySettings
    registry: Registry
    services: Forwarder
    wake: Wake
    broker: Broker | None
    """None where something else wakes runs up."""
    reading: Reading
    tails: Tails
    downloads: Downloads


async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def _registry(request: Request) -> Registry:
    return (await _parts(request)).registry


async def _services(request: Request) -> Forwarder:
    return (await _parts(request)).services


TheParts = Annotated[Parts, Depends(_parts)]
Runs = Annotated[Registry, Depends(_registry)]
Services = Annotated[Forwarder, Depends(_services)]
