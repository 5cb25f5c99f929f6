"""The admin page: static files, which hold nothing secret; what they show comes from the admin routes."""

import hashlib
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.config import ServerConfig

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asked for again each time, and answered by a 304
}


class UiEndpoints:
    """Reads all files once: a request's path is only ever a key, and reaches no other file."""

    def __init__(self, config: ServerConfig) -> None:
        folder = _page_folder()
        self._grafana_url = config.grafana_url
        self._files = {
            path.relative_to(folder).as_posix(): (path.read_bytes(), MEDIA_TYPES[path.suffix])
            for path in sorted(folder.rglob("*"))
            if path.suffix in MEDIA_TYPES
        }

    async def to_page(self, request: Request) -> Response:
        """GET /admin"""
        return RedirectResponse("/admin/", 308)

    async def page(self, request: Request) -> Response:
        """GET /admin/"""
        return self._answer(request, "index.html")

    async def file(self, request: Request) -> Response:
        """GET /admin/ui/{name}"""
        return self._answer(request, request.path_params["name"])

    async def settings(self, request: Request) -> Response:
        """GET /admin/settings: what the page needs to know of the configuration."""
        operator_only(request)
        return json_response({"grafana_url": self._grafana_url})

    def _answer(self, request: Request, name: str) -> Response:
        if name not in self._files:
            raise HTTPException(404)
        content, media_type = self._files[name]
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {**HEADERS, "etag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers={**headers, "content-type": media_type})


def _page_folder() -> Path:
    """Within the package where it was installed, beside it in the source tree."""
    package = Path(__file__).parent.parent
    installed = package / "admin_ui"
    return installed if installed.is_dir() else package.parent / "admin_ui"
