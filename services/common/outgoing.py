"""Every HTTP client of the project is made here.

Invariants:
- A call inside the installation takes nothing from the environment: no proxy, no certificates, no `.netrc`. What a
  developer's shell sets for the internet must not decide whether two processes of one machine can talk.
- An endpoint outside keeps them, unless it is on this machine, which no proxy reaches.
- What is printed of a URL holds no credentials.
"""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Any

import httpx


def inside(**options: Any) -> httpx.Client:
    """A client for services of this installation; `options` are `httpx.Client`'s."""
    return httpx.Client(trust_env=False, **options)


def inside_async(**options: Any) -> httpx.AsyncClient:
    """`inside` for an event loop."""
    return httpx.AsyncClient(trust_env=False, **options)


def outside(base_url: str, **options: Any) -> httpx.Client:
    """A client for somebody else's endpoint, reached as the environment says."""
    return httpx.Client(base_url=base_url, trust_env=not is_here(httpx.URL(base_url).host), **options)


def is_here(host: str) -> bool:
    """Whether a host is this machine, by name or address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def shown(url: str | httpx.URL) -> str:
    """A URL as it may be printed: without user, password, query and fragment, all of which may be secrets."""
    try:
        return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
    except httpx.InvalidURL:
        return "(no URL)"
