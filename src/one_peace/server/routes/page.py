"""The page: the files of `web/`, which the wheel has in `server/page/`. Served from memory, by exact name."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Response

HERE = Path(__file__).resolve().parent.parent
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}


def page_folder() -> Path:
    """Where the page's files are: beside this package in a wheel, at the top of a checkout."""
    built = HERE / "page"
    return built if built.is_dir() else HERE.parents[2] / "web"


def page_router() -> APIRouter:
    """Routes for the page, or for an explanation if its files are not there."""
    router = APIRouter(include_in_schema=False)
    folder = page_folder()
    files = {
        path.relative_to(folder).as_posix(): (path.read_bytes(), _TYPES[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TYPES
    }

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index() -> Response:
        return _file("index.html")

    @router.api_route("/page/{name:path}", methods=["GET", "HEAD"])
    async def file(name: str) -> Response:
        return _file(name)

    def _file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "there is no such file")
        contents, kind = files[name]
        return Response(contents, media_type=kind, headers={"cache-control": "no-cache"})

    return router
