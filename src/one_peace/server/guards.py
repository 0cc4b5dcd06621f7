"""What protects the service from too much, too slow and too long; and the headers that protect its visitors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from one_peace.server.batcher import OverloadedError
from one_peace.server.errors import CLOSE, error_response, overloaded
from one_peace.server.settings import Limits

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; font-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; manifest-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
}


class _RefusedError(Exception):
    """A body that is not read to its end; `answer` says why."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer


class LoadGate:
    """Bounds on requests at the same time, on the size of a body and on time, before anything is parsed.

    A body over its limit is refused by the length that it states, or when that much has come.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._in_flight = self._uploads = self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ("/health", "/metrics"):  # always to be seen from outside
            await self._app(scope, receive, send)
            return
        upload = scope["method"] == "POST" and scope["path"] == "/v1/items"
        limits = self._limits
        if self._in_flight >= limits.in_flight or (upload and self._uploads >= limits.uploads):
            await overloaded(OverloadedError(1.0))(scope, receive, send)
            return
        self._in_flight += 1
        self._uploads += upload
        try:
            await self._guarded(scope, receive, send, upload)
        finally:
            self._in_flight -= 1
            self._uploads -= upload

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, upload: bool) -> None:
        limits = self._limits
        most = limits.upload_bytes if upload else limits.request_bytes
        seconds = limits.upload_seconds if upload else limits.request_seconds
        headers = Headers(scope=scope)
        stated = headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > most:
            await _too_large(most)(scope, receive, send)
            return
        chunked = "content-length" not in headers and scope["method"] in ("POST", "PUT", "PATCH")
        held = 0 if upload else most if chunked else int(stated)
        if self._held + held > limits.held_bytes:
            await overloaded(OverloadedError(1.0))(scope, receive, send)
            return
        self._held += held
        try:
            await self._timed(scope, receive, send, most, seconds)
        finally:
            self._held -= held

    async def _timed(self, scope: Scope, receive: Receive, send: Send, most: int, seconds: float) -> None:
        limits = self._limits
        begun = False
        clock: asyncio.Timeout
        refusal: _RefusedError | None = None
        come, more = 0, True

        async def bounded_receive() -> Message:
            nonlocal come, more, refusal
            try:
                async with asyncio.timeout(limits.idle_seconds if more else None):
                    message = await receive()
            except TimeoutError:
                slow = f"no byte of the body came for {limits.idle_seconds:g} s"
                refusal = _RefusedError(error_response(408, slow, headers=CLOSE))
                raise refusal from None
            if message["type"] == "http.request":
                come += len(message.get("body", b""))
                more = message.get("more_body", False)
                if come > most:
                    refusal = _RefusedError(_too_large(most))
                    raise refusal
            return message

        async def watched_send(message: Message) -> None:
            nonlocal begun
            if refusal is not None and not begun:
                return  # what the application says of a body that we cut off is not the reason
            if not begun:
                begun = True
                clock.reschedule(None)  # a slow reader of a big file is no slow answer
            await send(message)

        try:
            async with asyncio.timeout(seconds) as clock:
                await self._app(scope, bounded_receive, watched_send)
        except TimeoutError:
            if not begun:
                await error_response(504, f"the request took longer than {seconds:g} s")(scope, receive, send)
        except _RefusedError:
            pass  # answered below; most often the application has turned it into an error of its own
        if refusal is not None and not begun:
            await refusal.answer(scope, receive, send)


class Headered:
    """Adds security headers to every answer that does not set them itself, and tells `observe` of each answer.

    `observe` is called with the route (not the address, of which there are too many), method, status and seconds.
    """

    def __init__(self, app: ASGIApp, observe: Callable[[str, str, int, float], Any]) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, scope["method"], status, time.perf_counter() - started)


def _too_large(most: int) -> Any:
    return error_response(413, f"the body is larger than the {most} bytes that are accepted here", headers=CLOSE)
