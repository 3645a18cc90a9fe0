# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The server's gate: who has no key gets no further, and no body of a request is larger than the server takes.

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

#: says whether the server is up, and nothing else: for what watches it and has no key
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


class Gone(Exception):
    """The client went away before its body was whole."""


class Gate:
    """Asks for the key, then reads the body, within bounds, and hands both on.

    Args:
        app: what is behind the gate.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._allowed: tuple[list[bytes], int] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):  # the start and the end of the server
            await self.app(scope, receive, send)
            return
        keys, most = self._read(scope["app"].state.args)
        if _is_health(scope) or _is_preflight(scope):
            await self.app(scope, again(b"", receive), send)
        elif not _has_key(scope, keys):
            await _turn_away(scope, send)
        elif scope["type"] == "websocket":
            await self.app(scope, receive, send)
        else:
            await self._let_in(scope, receive, send, most)

    def _read(self, args: Any) -> tuple[list[bytes], int]:
        """The keys, hashed, and the most bytes of a body."""
        if self._allowed is None:
            self._allowed = hashed_keys(args), Settings.read(args.additional_config).most_of_body
        return self._allowed

    async def _let_in(self, scope: Message, receive: Receive, send: Send, most: int) -> None:
        try:
            raw = await read_body(scope, receive, most)
        except Gone:
            return
        if raw is None:
            message = f"body: larger than {most} bytes, the most that this server takes"
            await _answer(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        else:
            await self.app(scope, again(raw, receive), send)


async def _turn_away(scope: Message, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": _POLICY})
        return
    await _answer(send, HTTPStatus.UNAUTHORIZED, "this server asks for a key: Authorization: Bearer KEY")


async def _answer(send: Send, status: HTTPStatus, message: str) -> None:
    # what the client still has to say is not waited for
    more = [(b"connection", b"close")]
    if status == HTTPStatus.UNAUTHORIZED:
        more.append((b"www-authenticate", b"Bearer"))
    await refuse(send, status, message, more=more)


def hashed_keys(args: Any) -> list[bytes]:
    """What a server lets in, as vLLM takes it from its arguments and the environment; none where all may come."""
    given = getattr(args, "api_key", None) or [os.environ.get("VLLM_API_KEY")]
    return [sha256(key.encode()).digest() for key in ([given] if isinstance(given, str) else given) if key]


async def refuse(
    send: Send, status: HTTPStatus, message: str, field: str | None = None, more: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer in the form of OpenAI's errors, as vLLM has them.

    Args:
        send: to the client.
        status: of HTTP.
        message: one line.
        field: of the request that is wrong, if it is one.
        more: headers.
    """
    error = {"message": message, "type": _KINDS[status], "param": field, "code": int(status)}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(scope: Message, receive: Receive, most: float = math.inf) -> bytes | None:
    """A request's body; None where it is larger than that, whatever its headers say of its length.

    Raises:
        Gone: there is no client any more.
    """
    length = header(scope, b"content-length") or b""
    if length.isdigit() and int(length[:18]) > most:
        return None
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def again(raw: bytes, receive: Receive) -> Receive:
    """Give a body once more; afterwards what the client does, such as going away."""
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


def _has_key(scope: Message, allowed: list[bytes]) -> bool:
    if not allowed:
        return True
    scheme, _, key = (header(scope, b"authorization") or b"").partition(b" ")
    # all of them, in a time that says nothing of where, or in which, they differ
    known = [compare_digest(sha256(key).digest(), digest) for digest in allowed]
    return any(known) and scheme.lower() == b"bearer"


def _is_health(scope: Message) -> bool:
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and path_of(scope) == HEALTH


def _is_preflight(scope: Message) -> bool:
    """A browser's question before a request, which it asks without a key; vLLM answers it before any route."""
    asks = scope["type"] == "http" and scope["method"] == "OPTIONS"
    return asks and None not in (header(scope, b"origin"), header(scope, b"access-control-request-method"))
