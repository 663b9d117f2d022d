"""The dashboard: files that `make dashboard` built from `dashboard/`, served to browsers at `/`.

Invariants: the files hold no secret, so they need no token; what they show comes from the routes of the API alone. A
page asks nobody but this gateway (Content-Security-Policy). Names of assets hold the hash of their content and may be
kept for ever; the page that names them may not.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import FileResponse

from pmd.gateway import dashboard

FOLDER = Path(dashboard.__file__).parent
PAGES = frozenset({"runs", "compare", "system"})
"""First parts of the addresses that the page itself makes something of: any address below opens it (deep links)."""
ASSETS = "assets"

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # the component library writes its variables into <style>
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}
ANEW = {"Cache-Control": "no-cache"}

routes = APIRouter(include_in_schema=False)


def is_file_of_page(path: str) -> bool:
    """Whether a path leads to the page or to one of its files, which need no token."""
    first = path.removeprefix("/").partition("/")[0]
    return path in {"/", "/icon.svg"} or first in PAGES or first == ASSETS


@routes.get(f"/{ASSETS}/{{name}}")
async def asset(name: str) -> Response:
    # Looked up among the names that are there, so what is asked for leads nowhere else.
    found = next((path for path in (FOLDER / ASSETS).glob("*") if path.name == name), None)
    if found is None:
        raise HTTPException(404, "no such file of the dashboard; load the page again, it may be newer")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return FileResponse(found, media_type=kind, headers=HEADERS | FOR_EVER)


@routes.get("/icon.svg")
async def icon() -> Response:
    return FileResponse(FOLDER / "icon.svg", media_type="image/svg+xml", headers=HEADERS | ANEW)


async def page() -> Response:
    """The page; what it shows it reads off its own address."""
    return FileResponse(FOLDER / "index.html", media_type="text/html", headers=HEADERS | ANEW)


routes.add_api_route("/", page)
for _first in sorted(PAGES):
    routes.add_api_route(f"/{_first}", page)
    routes.add_api_route(f"/{_first}/{{rest:path}}", page)
