# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The server's gate: every path except the health check needs the key, and request bodies are bounded.

An ASGI middleware, which vLLM takes by `--middleware`, around all that vLLM has: its own check of keys knows some
paths only, and other middleware may have read the body before it. Nothing is asked of a path but whether it is the
health check, so that no way of writing one goes around the key.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from hashlib import sha256
from hmac import compare_digest
from http import HTTPStatus
from typing import Any

from .arguments import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

#: health check for monitoring without a key; it only says whether the server is up
HEALTH = "/health"
#: of OpenAI's errors, by status
_KINDS = {
    HTTPStatus.BAD_REQUEST: "BadRequestError",
    HTTPStatus.UNAUTHORIZED: "AuthenticationError",
    HTTPStatus.NOT_FOUND: "NotFoundError",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RequestTooLargeError",
}
#: a websocket is closed for this reason before it is open: the client gets a 403
_POLICY = 1008
#: close the connection: the rest of the body is not read
_CLOSE = (b"connection", b"close")


class Gate:
    """Checks the key, reads the body within bounds, and passes the request on."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):  # the start and the end of the server
            await self.app(scope, receive, send)
        elif _needs_no_key(scope):
            await self.app(scope, replayed(b"", receive), send)
        elif not _has_key(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": _POLICY})
                return
            message = "this server asks for a key: Authorization: Bearer KEY"
            await refuse(send, HTTPStatus.UNAUTHORIZED, message, more=[_CLOSE, (b"www-authenticate", b"Bearer")])
        elif scope["type"] == "websocket":
            await self.app(scope, receive, send)
        else:
            most = Settings.read(scope["app"].state.args.additional_config).max_body
            if (raw := await read_body(scope, receive, most)) is not None:
                await self.app(scope, replayed(raw, receive), send)
                return
            message = f"body: larger than {most} bytes, the most that this server takes"
            await refuse(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, more=[_CLOSE])


async def refuse(
    send: Send, status: HTTPStatus, message: str, field: str | None = None, more: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer in the form of OpenAI's errors, as vLLM has them; `field` of the request is wrong, `more` are headers."""
    error = {"message": message, "type": _KINDS[status], "param": field, "code": int(status)}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(scope: Message, receive: Receive, most: float = math.inf) -> bytes | None:
    """A request's body; None where it is larger than that, whatever its headers say of its length.

    None too where the client went away before it was whole, to which no answer gets any more.
    """
    length = header(scope, b"content-length") or b""
    if length.isdigit() and int(length[:18]) > most:
        return None
    parts: list[bytes] = []
    size = 0
    while (message := await receive())["type"] != "http.disconnect":
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)
    return None


def replayed(raw: bytes, receive: Receive) -> Receive:
    """Receive a body once more; afterwards the client's further messages, such as a disconnect."""
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": raw, "more_body": False}

    return once


def header(scope: Message, name: bytes) -> bytes | None:
    """The first header of a name, in small letters."""
    return next((value for key, value in scope["headers"] if key.lower() == name), None)


def path_of(scope: Message) -> str:
    """The path as the server's routes see it: without that under which a proxy has the server."""
    path, root = scope["path"], scope.get("root_path", "")
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


def _has_key(scope: Message) -> bool:
    """Whether a request has one of the keys that vLLM takes from its arguments or the environment, if there is one."""
    given = getattr(scope["app"].state.args, "api_key", None) or [os.environ.get("VLLM_API_KEY")]
    allowed = [key for key in ([given] if isinstance(given, str) else given) if key]
    scheme, _, key = (header(scope, b"authorization") or b"").partition(b" ")
    # compare hashes of all keys in constant time
    known = [compare_digest(sha256(key).digest(), sha256(key_allowed.encode()).digest()) for key_allowed in allowed]
    return not allowed or (any(known) and scheme.lower() == b"bearer")


def _needs_no_key(scope: Message) -> bool:
    """The health check, and a browser's question before a request (CORS), which vLLM answers before any route."""
    if scope["type"] != "http":
        return False
    asks = None not in (header(scope, b"origin"), header(scope, b"access-control-request-method"))
    is_health = scope["method"] in ("GET", "HEAD") and path_of(scope) == HEALTH
    return is_health or (asks and scope["method"] == "OPTIONS")
