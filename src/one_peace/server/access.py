"""Who may call: API keys, sessions of the page, and protection from other web sites that a visitor has open."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from one_peace.server.errors import error_response
from one_peace.server.settings import Settings, is_loopback

COOKIE = "one-peace-session"
_SESSION_SECONDS = 12 * 3600
_MOST_SESSIONS = 1000
_OPEN = ("/health", "/v1/session")  # without a key; so is the page, which holds nothing of the library


class Keys:
    """The keys that are accepted. Compared in constant time, by their hashes, all of them every time."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]
        self._sessions: dict[bytes, float] = {}  # digest of a token -> when it ends

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accepts(self, key: str) -> bool:
        """Whether this is one of the keys."""
        given = _digest(key)
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return found

    def open_session(self) -> str:
        """A new token that stands for a key, for some hours."""
        now = time.monotonic()
        self._sessions = {digest: end for digest, end in self._sessions.items() if end > now}
        while len(self._sessions) >= _MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = now + _SESSION_SECONDS
        return token

    def in_session(self, token: str) -> bool:
        """Whether a token is good. Found by its hash, so that the time it takes tells nothing of other tokens."""
        return self._sessions.get(_digest(token), 0.0) > time.monotonic()

    def close_session(self, token: str) -> None:
        """Forgets a token."""
        self._sessions.pop(_digest(token), None)


class AccessGate:
    """Lets through what comes to one of our names, from no foreign origin, and with a key where keys are asked for.

    The first two matter on loopback most of all: without them any web page that a visitor opens could read the
    library, by a request from the browser (refused by its Origin) or by a name that leads to 127.0.0.1 (refused by
    its Host).
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys) -> None:
        self._app = app
        self._keys = keys
        self._names = {"localhost", settings.host.strip("[]"), *settings.names}
        # Behind an address for everybody the key is what protects: a web page does not have it.
        self._any_name = bool(keys) and not is_loopback(settings.host) and not settings.names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if refusal := self._refuse(scope, headers):
            status, message = refusal
            extra = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            await error_response(status, message, headers=extra)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refuse(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        name = _name_of(host)
        if not (self._any_name or name in self._names or is_loopback(name)):
            return 403, f"this service is not called {name[:100]!r}; start it with --name to allow that"
        origin = headers.get("origin")
        if origin is not None and _host_of(origin) != host.lower():
            return 403, "requests from other web sites are refused"
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return 403, "requests from other web sites are refused"
        path = scope["path"]
        if self._keys and (path.startswith("/v1/") or path in ("/metrics", "/openapi.json")) and path not in _OPEN:
            key = key_of(headers)
            if not (self._keys.accepts(key) if key else self._keys.in_session(token_of(headers))):
                return 401, "an API key is needed: Authorization: Bearer KEY"
        return None


def key_of(headers: Headers) -> str:
    """The API key of a request, "" without one."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def token_of(headers: Headers) -> str:
    """The session token of a request, "" without one."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _host_of(origin: str) -> str:
    """host:port of an origin, "" for one that is opaque or malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name_of(host: str) -> str:
    """The Host header without its port."""
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if ":" in name else name


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
