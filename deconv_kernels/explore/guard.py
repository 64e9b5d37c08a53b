"""Who may ask: this machine's own pages, and elsewhere those that know the token.

A page of another site that the user has open could otherwise send requests here, directly or under a name that it makes
resolve to this machine (DNS rebinding).
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "is_this_machine"]

_COOKIE = "deconv_kernels_explore"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def is_this_machine(host: str) -> bool:
    """Whether a name or an address means this machine and nothing else."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets requests through, or answers why not.

    Args:
        app: what is guarded.
        token: what has to be known, once in the address and from then on in a cookie. None where only this machine is
            listened to: then requests must be made under one of this machine's own names.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await (self._answer(scope) or self.app)(scope, receive, guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """What stands against a request, or the way in with a token; None: it may pass."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.token is None and not is_this_machine(_name_of(host)):
            return _refused(f"This page is served under the names of this machine only, not as {host!r}.")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and urlsplit(origin).netloc != host:
            return _refused("A page of another site may not ask here.")
        if site not in ("none", "same-origin") and not (scope["path"] == "/" and scope["method"] == "GET"):
            return _refused("A page of another site may not ask here.")
        return None if self.token is None else self._admitted(scope, headers)

    def _admitted(self, scope: Scope, headers: Headers) -> Response | None:
        assert self.token is not None
        if self._is_token(_cookie_of(headers.get("cookie", ""))):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._is_token(given):
            inside = RedirectResponse("/", status_code=303)
            inside.set_cookie(_COOKIE, self.token, httponly=True, samesite="strict")
            return inside
        return PlainTextResponse("Open the link that deconv-kernels explore printed: it holds a token.", 401)

    def _is_token(self, given: str) -> bool:
        assert self.token is not None
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def _refused(reason: str) -> Response:
    return PlainTextResponse(reason, 403)


def _name_of(host: str) -> str:
    """The name in `name`, `name:port` or `[address]:port`; empty if it is none of these."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie_of(header: str) -> str:
    try:
        found = SimpleCookie(header).get(_COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
