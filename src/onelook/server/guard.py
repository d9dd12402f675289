"""The door of every server of Onelook: who may ask what, how much and how slowly, and what a browser may do with it.

* Host: a page of another site cannot reach a server on this machine by a name of its own (DNS rebinding).
* Origin and Sec-Fetch-Site: a page of another site cannot ask anything in the name of the person. No CORS header is
  ever sent. Programs that are no browser send neither header, and are let in.
* Token: needed wherever others than this machine can connect; compared in constant time.
* Size, time and number of requests are limited; slow sockets are the business of `server.listen`.
* Answers carry a strict Content-Security-Policy: scripts and styles come from files of the server only, never inline.
"""

import asyncio
import base64
import binascii
import hmac
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onelook.server.settings import Limits, Listening

COOKIE = "onelook-token"
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Content-Security-Policy of every answer."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
"""Headers of every answer that does not set them itself."""


@dataclass
class Guard:
    """ASGI middleware that refuses what the module's docstring names, before the application sees it."""

    app: ASGIApp
    listening: Listening
    limits: Limits = Limits()
    open_paths: frozenset[str] = frozenset()
    """Paths that need no token."""
    _underway: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close"})
        elif (refusal := self._refuse(scope)) is not None:
            await refusal(scope, receive, _Sender(send))
        else:
            await self._admit(scope, receive, _Sender(send))

    def _refuse(self, scope: Scope) -> Response | None:
        """Answer to a request that the application must not see."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.listening.knows_host(hosts[0]):
            return refusal(421, "The Host header names another server than this one.")
        if not _is_plain(scope["path"]):
            return refusal(400, "The address holds parts that no address of this server has.")
        if _is_foreign(scope["method"], headers, hosts[0]):
            return refusal(403, "A page of another site asked for this.")
        if scope["path"] not in self.open_paths and not self._accepts(headers):
            return self._sign_in(scope) or refusal(
                401, "This server asks for its token.", {"www-authenticate": 'Bearer, Basic realm="onelook"'}
            )
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            return refusal(400, "The Content-Length is no number.")
        if int(length) > self.limits.body:
            return refusal(413, _too_large(self.limits.body))
        if self._underway >= self.limits.requests or self._bytes + int(length) > self.limits.bodies:
            return refusal(503, "The server is busy; try again in a second.", {"retry-after": "1"})
        return None

    def _accepts(self, headers: Headers) -> bool:
        """Whether a request carries the token: as Bearer or Token, as a password, or in the cookie of a page."""
        token = self.listening.token
        if token is None:
            return True
        return any(hmac.compare_digest(one.encode(), token.encode()) for one in _given_tokens(headers))

    def _sign_in(self, scope: Scope) -> Response | None:
        """Redirect of a browser that was given the token in the address, which moves it into a cookie."""
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        given = [value for name, value in query if name == "token"]
        if scope["method"] != "GET" or len(given) != 1 or self.listening.token is None:
            return None
        if not hmac.compare_digest(given[0].encode(), self.listening.token.encode()):
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        path = "/" + scope["path"].lstrip("/")  # two slashes would lead to another host
        answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(COOKIE, self.listening.token, httponly=True, samesite="strict")
        return answer

    async def _admit(self, scope: Scope, receive: Receive, sender: "_Sender") -> None:
        body = _Body(self, receive, time.monotonic() + self.limits.send_seconds)
        self._underway += 1
        try:
            await self.app(scope, body, sender)
        except HTTPException as error:  # raised by the body, where the application does not answer to it
            if sender.has_started:
                raise
            await refusal(error.status_code, error.detail)(scope, receive, sender)
        finally:
            self._underway -= 1
            self._bytes -= body.size


@dataclass
class _Body:
    """The body of a request, as far as the limits allow. Raises HTTPException: 408, 413 or 503."""

    guard: Guard
    receive: Receive
    deadline: float
    size: int = 0
    is_whole: bool = False

    async def __call__(self) -> Message:
        if self.is_whole:  # the application waits for the client to go
            return await self.receive()
        try:
            async with asyncio.timeout(self.deadline - time.monotonic()):
                message = await self.receive()
        except TimeoutError:
            raise HTTPException(408, "The request did not arrive in time.", {"connection": "close"}) from None
        n, limits = len(message.get("body", b"")), self.guard.limits
        self.size += n
        self.guard._bytes += n
        self.is_whole = not message.get("more_body", False)
        if self.size > limits.body:
            raise HTTPException(413, _too_large(limits.body), {"connection": "close"})
        if self.guard._bytes > limits.bodies:
            raise HTTPException(503, "The server is busy; try again in a second.", {"connection": "close"})
        return message


@dataclass
class _Sender:
    """Sends an answer with HEADERS."""

    send: Send
    has_started: bool = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self.send(message)


def refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Answer to a request that is not served; the connection ends, as its body may not have been read."""
    return JSONResponse({"error": sentence}, status, headers={"connection": "close", **(headers or {})})


def _is_plain(path: str) -> bool:
    """Whether a path, with its escapes resolved, has no part that could lead elsewhere."""
    return path.isprintable() and "\\" not in path and not {"..", "."} & set(path.split("/"))


def _is_foreign(method: str, headers: Headers, host: str) -> bool:
    """Whether a page of another site asks. A link to this server may be followed from anywhere."""
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
    is_link = method in SAFE_METHODS and mode == "navigate" and headers.get("sec-fetch-dest") == "document"
    if site not in ("none", "same-origin") and not is_link:
        return True
    return any(one.lower().partition("://")[2] != host.lower() for one in headers.getlist("origin"))


def _given_tokens(headers: Headers) -> Iterable[str]:
    for one in headers.getlist("authorization"):
        scheme, _, value = one.partition(" ")
        if scheme.lower() in ("bearer", "token"):
            yield value.strip()
        elif scheme.lower() == "basic":
            try:
                yield base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                continue
    try:
        cookies: Any = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return
    if COOKIE in cookies:
        yield cookies[COOKIE].value


def _too_large(limit: int) -> str:
    return f"The request is larger than {limit:,} bytes; send less at once."
