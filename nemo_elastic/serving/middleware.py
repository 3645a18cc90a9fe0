# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The server's front door: the `model` of a request becomes a member, before vLLM reads it.

An ASGI middleware, which vLLM takes by `--middleware`. It changes JSON in bodies of POST requests only, and writes
nothing to any log.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from nemo_elastic.errors import ElasticError, bad

from .arguments import server_names
from .counters import Requests
from .names import AUTO, DIAL, Choice, Names
from .settings import Settings
from .thinking import BUDGET, check_ends, read_budget

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

#: what answers as the member that a request names: its body has `vllm_xargs`
ANSWERS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
#: what gives the same whichever member is named
SAME = ("/tokenize", "/detokenize")
NOT_FOUND, BAD = HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST


class Refused(Exception):
    """A request that gets an answer from here.

    Args:
        status: of HTTP.
        message: one line.
        field: of the request that is wrong.
    """

    def __init__(self, status: HTTPStatus, message: str, field: str) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field

    def body(self) -> bytes:
        """In the form of OpenAI's errors, as vLLM has them."""
        kind = "NotFoundError" if self.status == NOT_FOUND else "BadRequestError"
        error = {"message": self.message, "type": kind, "param": self.field, "code": int(self.status)}
        return json.dumps({"error": error}).encode()


class Door:
    """What is done with a body.

    Args:
        names: of the family.
        end: token ids that end the thinking of a pair.
        enforced: vLLM itself ends the thinking after `thinking_token_budget`, since it knows how it looks.
    """

    def __init__(self, names: Names, end: tuple[int, ...] = (), enforced: bool = False) -> None:
        self.names, self.end, self.enforced = names, end, enforced

    def read(self, path: str, body: dict[str, Any]) -> Choice | None:
        """Write the member into the body; None where the path answers nothing.

        Raises:
            Refused: no such member, or nothing that ends a pair's thinking.
        """
        if path.endswith(SAME):
            return None
        try:
            choice = self.names.read(body.get("model"))
        except ElasticError as exc:
            raise Refused(NOT_FOUND, str(exc), "model") from None
        answers = any(path == known or path.startswith(f"{known}/") for known in ANSWERS)
        if not answers:
            if "model" in body and choice.name != self.names.largest:
                message = f"model: {choice.name!r} is not allowed; {path} answers as {self.names.largest} only"
                raise Refused(BAD, message, "model")
            return None
        try:
            choice = self._with_extra(choice, body)
            self._write(choice, body)
        except ElasticError as exc:
            raise Refused(BAD, str(exc), "vllm_xargs") from None
        return choice

    def _with_extra(self, choice: Choice, body: dict[str, Any]) -> Choice:
        """The member that `vllm_xargs` names, where `model` names none but the family; or the dial of `auto`."""
        extra = body.get("vllm_xargs")
        if extra is None:
            return choice
        if not isinstance(extra, dict):
            raise ElasticError("vllm_xargs: must be a JSON object")
        if not extra.keys() & {"member", "then"}:
            return self.names.turned(choice, extra)
        told = self.names.from_extra(extra)
        if told != choice and body.get("model") in (*self.names.shapes, *self.names.autos):
            raise ElasticError(f"vllm_xargs: {told.name!r} is not allowed; model says {choice.name!r}")
        return told

    def _write(self, choice: Choice, body: dict[str, Any]) -> None:
        if body.get("use_beam_search") and choice.name != self.names.largest:
            raise bad("use_beam_search", True, f"only {self.names.largest} searches: vLLM's beams know no member")
        extra = {k: v for k, v in (body.get("vllm_xargs") or {}).items() if k not in ("member", "then", DIAL)}
        extra |= {"member": choice.member} if choice.cost is None else {"member": AUTO, DIAL: choice.cost}
        if body.get("model") in self.names.unlisted:
            body["model"] = choice.name
        if choice.then is not None:
            if not self.enforced and body.get(BUDGET) is not None:
                extra[BUDGET] = body.pop(BUDGET)
            budget = read_budget(extra)
            check_ends(self.end, body.get(BUDGET) if budget is None else budget, choice.name)
            extra["then"] = choice.then
        body["vllm_xargs"] = extra


class MemberMiddleware:
    """Reads `model`, writes `vllm_xargs`, answers what names no member, and counts.

    Args:
        app: what is behind the door.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.requests = Requests()
        self._door: Door | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or _is_form(scope):
            await self.app(scope, receive, send)
            return
        raw, path = await _whole(receive), scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            body = json.loads(raw)
            choice = self._open(scope).read(path, body) if isinstance(body, dict) else None
        except (ValueError, RecursionError):  # no JSON: vLLM says so
            await self.app(scope, _again(raw, receive), send)
            return
        except Refused as refused:
            await self._refuse(refused, scope, receive, send)
            return
        if choice is None:
            await self.app(scope, _again(raw, receive), send)
            return
        raw = json.dumps(body).encode()
        with self.requests.asked(choice.name) as answered:
            await self.app(_of_length(scope, len(raw)), _again(raw, receive), _watched(send, answered))

    def _open(self, scope: Message) -> Door:
        if self._door is None:
            args = scope["app"].state.args
            names = server_names(args)
            assert names is not None
            enforced = bool(getattr(args, "reasoning_parser", None) or getattr(args, "reasoning_config", None))
            self._door = Door(names, Settings.read(args.additional_config).end_ids, enforced)
        return self._door

    async def _refuse(self, refused: Refused, scope: Message, receive: Receive, send: Send) -> None:
        """Answer from here, but only whom the server lets in: what checks keys is behind this door.

        So it is asked with an empty body. If it turns the client away, that is the answer.
        """
        turned_away = False

        async def told(message: Message) -> None:
            nonlocal turned_away
            if message["type"] == "http.response.start":
                turned_away = message["status"] in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
            if turned_away:
                await send(message)

        await self.app(_of_length(scope, 2), _again(b"{}", receive), told)
        if turned_away:
            return
        body = refused.body()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        self.requests.refused(int(refused.status))
        await send({"type": "http.response.start", "status": int(refused.status), "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _is_form(scope: Message) -> bool:
    """A form has no JSON; everything else is looked at, whatever its headers say it is."""
    kind = next((v for k, v in scope["headers"] if k.lower() == b"content-type"), b"")
    return kind.lower().startswith((b"multipart/", b"application/x-www-form-urlencoded"))


async def _whole(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(raw: bytes, receive: Receive) -> Receive:
    """Give a body once more; afterwards what the client does, such as going away."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": raw, "more_body": False}

    return again


def _of_length(scope: Message, length: int) -> Message:
    headers = [(k, v) for k, v in scope["headers"] if k.lower() != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}


def _watched(send: Send, answered: Callable[[int], None]) -> Send:
    async def watched(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered(message["status"])
        await send(message)

    return watched
