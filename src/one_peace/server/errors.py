"""Errors as HTTP answers: one shape for all of them, OpenAI's, with a status that tells clients what to do."""

from __future__ import annotations

import errno
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from one_peace.data.lock import FolderBusyError
from one_peace.errors import InputError, MissingExtraError
from one_peace.search.manifest import LibraryError
from one_peace.search.queries import QueryError
from one_peace.search.stores.base import StoreError, StoreFullError
from one_peace.server.batcher import OverloadedError
from one_peace.server.schemas import ErrorBody

log = logging.getLogger(__name__)

CLOSE = {"connection": "close"}
"""The header of an answer after which nothing more is read."""

_NAMES = {
    400: "invalid_request",
    401: "no_valid_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    410: "gone",
    413: "too_large",
    415: "unsupported_type",
    416: "range_not_satisfiable",
    422: "invalid_request",
    429: "overloaded",
    500: "internal_error",
    501: "not_installed",
    503: "unavailable",
    504: "timed_out",
    507: "disk_full",
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "A request that cannot be understood.",
        401: "No API key, or an unknown one.",
        403: "Not from this host or origin, or the service is read-only.",
        404: "There is no such thing.",
        408: "The body did not arrive in time.",
        410: "The file is gone or has changed since it was indexed.",
        413: "More than is accepted.",
        416: "The file has no such range.",
        422: "An input that cannot be used; the message names it and says why.",
        429: "Too much to do. Try again after the seconds in Retry-After.",
        500: "A fault of the service; its log says more.",
        501: "Needs an optional package that is not installed on the server.",
        503: "Shutting down, another process writes to the library, or what keeps the library does not answer.",
        504: "Took too long.",
        507: "The server's disk is full.",
    }.items()
}
"""What any operation may answer beside its success, for the OpenAPI document."""


def error_response(
    status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Any = None
) -> JSONResponse:
    """An error as JSON."""
    body = {
        "message": message,
        "type": "server_error" if status >= 500 else "invalid_request_error",
        "param": param,
        "code": code or _NAMES.get(status, "error"),
    }
    return JSONResponse({"error": body}, status, headers=headers)


def overloaded(error: OverloadedError) -> JSONResponse:
    """429, with the time after which to try again."""
    return error_response(429, str(error), headers={"Retry-After": str(error.retry_after)})


def add_error_handlers(app: FastAPI) -> None:
    """Turns what may be raised below into answers."""

    def handles(kind: type[Exception], answer: Any) -> None:
        async def handler(request: Request, error: Any) -> JSONResponse:
            return answer(error)

        app.add_exception_handler(kind, handler)

    handles(HTTPException, lambda e: error_response(e.status_code, str(e.detail), headers=e.headers))
    handles(RequestValidationError, _invalid)
    handles(OverloadedError, overloaded)
    handles(QueryError, lambda e: error_response(422, str(e), param=e.field))
    handles(InputError, lambda e: error_response(422, str(e), param=e.source, code="bad_input"))
    handles(MissingExtraError, lambda e: error_response(501, str(e)))
    handles(FolderBusyError, lambda e: _busy())
    handles(LibraryError, _library)
    handles(TimeoutError, lambda e: error_response(504, "the request took longer than is allowed"))
    handles(StoreError, _store)
    handles(StoreFullError, lambda e: _full())
    handles(OSError, _disk)
    # Of this one alone Starlette answers and raises it again: the server logs it, and closes the connection.
    handles(Exception, lambda e: error_response(500, "a fault of the service; its log says more", headers=CLOSE))


def _invalid(error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(str(step) for step in first["loc"] if step != "body")
    status = 400 if first["type"] == "json_invalid" else 422
    return error_response(status, f"{place or 'body'}: {first['msg']}", param=place or None)


def _busy() -> JSONResponse:
    return error_response(503, "another process writes to the library; try again", headers={"Retry-After": "5"})


def _library(error: LibraryError) -> JSONResponse:
    log.error("the library cannot be used: %s", error)
    return error_response(503, "the library cannot be used as it is now; the service's log says more")


def _store(error: StoreError) -> JSONResponse:
    log.exception("the library's store failed", exc_info=error)
    return error_response(503, "what keeps the library does not answer; the service's log says more")


def _disk(error: OSError) -> JSONResponse:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full()
    log.exception("an operation on the server's disk failed", exc_info=error)
    return error_response(500, "an operation on the server's disk failed")


def _full() -> JSONResponse:
    return error_response(507, "the server's disk is full; nothing of this request was kept")
