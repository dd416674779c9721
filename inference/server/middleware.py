"""Checks of every request around its route: the key, the size, the count.

They are plain ASGI applications around another one, because Starlette's `BaseHTTPMiddleware` hides
from a route that the client has gone away. What this leaves out: TLS and rates (a proxy's work).
"""

import hmac
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.server.api_errors import ApiError
from inference.server.metrics import Metrics

OPEN_PATHS = ("/", "/health", "/metrics")  # without a key
OPEN_FOLDER = "/page/"  # the files of the chat page


class RefusalCount:
    """Counts the responses that are errors."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and look at the status of its response."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                self.metrics.refused.labels(str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)


class KeyCheck:
    """Refuses requests without the key, if there is one."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self.app = app
        self.key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if it has the key."""
        if scope["type"] == "http" and self.key is not None and not _is_open(scope["path"]):
            header = dict(scope["headers"]).get(b"authorization", b"")
            scheme, _, sent = header.partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(sent.strip(), self.key):
                refusal = ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
                await refusal.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_open(path: str) -> bool:
    """Return whether a path needs no key; the chat page itself then asks for it."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


class BodyLimit:
    """Refuses bodies that are too large, also those that do not say how large they are."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and stop reading its body at the limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.most:
            await self._refusal().response()(scope, receive, send)
            return
        read = 0

        async def limited() -> dict[str, Any]:
            nonlocal read
            part = await receive()
            read += len(part.get("body", b""))
            if read > self.most:
                raise self._refusal()
            return dict(part)

        await self.app(scope, limited, send)

    def _refusal(self) -> ApiError:
        message = f"the request is larger than the {self.most:,} bytes that this server reads"
        return ApiError(413, message, code="request_too_large")
