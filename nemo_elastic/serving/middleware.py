# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's middleware for a family: the `model` of a request becomes a member, before vLLM reads it.

An ASGI middleware, which vLLM takes by `--middleware`. It changes JSON in bodies of POST requests only, and writes
nothing to any log.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from nemo_elastic.errors import ElasticError, bad

from .answers import Answer, answering
from .arguments import NO_TEMPLATE, Settings, open_family, takes_messages
from .gate import App, Message, Receive, Send, path_of, read_body, refuse, replayed
from .names import AUTO, FIELD, Choice, Names
from .pairs import BUDGET, check_ends, read_budget

#: what answers as the member that a request names: its body has `vllm_xargs`
ANSWERS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/invocations")
#: paths among them that turn any input into messages
CHATS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
#: paths whose answer does not depend on the member
SAME = ("/tokenize", "/detokenize")
NOT_FOUND, BAD = HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST


class Refused(Exception):
    """A request that gets an error from here: a status of HTTP, a line, and the field of the request that is wrong."""

    def __init__(self, status: HTTPStatus, message: str, field: str) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field


class MemberReader:
    """Reads who answers from a request's body, and writes it there for the engine.

    Args:
        names: of the family.
        end: token ids that end the thinking of a pair.
        enforced: vLLM itself ends the thinking after `thinking_token_budget`, since it knows how it looks.
        chats: the server has a chat template.
        trusts: it takes one from a request.
    """

    def __init__(
        self, names: Names, end: tuple[int, ...] = (), enforced: bool = False, chats: bool = True, trusts: bool = False
    ) -> None:
        self.names, self.end, self.enforced, self.chats, self.trusts = names, end, enforced, chats, trusts

    def read(self, path: str, body: dict[str, Any]) -> Choice | None:
        """Write the member into the body; None where the path answers nothing. Raises `Refused`."""
        if (_under(path, CHATS) or "messages" in body) and not (
            self.chats or (self.trusts and body.get("chat_template"))
        ):
            raise Refused(BAD, f"messages: this family has {NO_TEMPLATE}", "messages")
        if path.endswith(SAME):
            return None
        try:
            choice = self.names.read(body.get("model"))
        except ElasticError as exc:
            raise Refused(NOT_FOUND, str(exc), "model") from None
        if not _under(path, ANSWERS):
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
        """The member that `vllm_xargs` names, where `model` names none but the family; or the cost of `auto`."""
        extra = body.get("vllm_xargs")
        if extra is None:
            return choice
        if not isinstance(extra, dict):
            raise ElasticError("vllm_xargs: must be a JSON object")
        if not extra.keys() & {"member", "then"}:
            return self.names.with_cost(choice, extra)
        given = self.names.from_extra(extra)
        names_nobody = (None, "", *self.names.aliases, *self.names.unlisted)
        if given.name != choice.name and body.get("model") not in names_nobody:
            raise ElasticError(f"vllm_xargs: {given.name!r} is not allowed; model says {choice.name!r}")
        return given

    def _write(self, choice: Choice, body: dict[str, Any]) -> None:
        if body.get("use_beam_search") and choice.name != self.names.largest:
            raise bad(
                "use_beam_search", True, f"only {self.names.largest} can search: vLLM's beams do not know members"
            )
        extra = {k: v for k, v in (body.get("vllm_xargs") or {}).items() if k not in ("member", "then", FIELD)}
        extra |= {"member": choice.member} if choice.cost is None else {"member": AUTO, FIELD: choice.cost}
        if body.get("model") in self.names.unlisted:
            body["model"] = choice.name
        if choice.then is not None and not self.enforced and body.get(BUDGET) is not None:
            extra[BUDGET] = body.pop(BUDGET)
        budget = read_budget(extra)
        if choice.then is not None:
            check_ends(self.end, body.get(BUDGET) if budget is None else budget, choice.name)
            extra["then"] = choice.then
        body["vllm_xargs"] = extra


class MemberMiddleware:
    """Reads `model`, writes `vllm_xargs`, and answers what names no member."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._reader: MemberReader | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if (raw := await read_body(scope, receive)) is None:  # the client disconnected
            return
        body = _parsed(raw)
        try:
            choice = self._open(scope).read(path_of(scope), body) if isinstance(body, dict) else None
        except Refused as refused:
            await refuse(send, refused.status, refused.message, refused.field)
            return
        if choice is None:
            await self.app(scope, replayed(raw, receive), send)
            return
        raw = json.dumps(body).encode()
        answer = Answer(choice, body)
        with answering(answer):
            await self.app(_of_length(scope, len(raw)), replayed(raw, receive), answer.naming(send))

    def _open(self, scope: Message) -> MemberReader:
        if self._reader is None:
            args = scope["app"].state.args
            try:
                opened = open_family(args.model, args.additional_config, args.tokenizer, args.served_model_name)
            except ElasticError as exc:  # to vLLM a ValueError is the client's mistake
                raise RuntimeError("the family cannot be opened") from exc
            assert opened is not None
            names, end = opened[0], Settings.read(opened[1]).end_ids
            enforced = bool(getattr(args, "reasoning_parser", None) or getattr(args, "reasoning_config", None))
            trusts = getattr(args, "trust_request_chat_template", False)
            self._reader = MemberReader(names, end, enforced, takes_messages(args), trusts)
        return self._reader


def _parsed(raw: bytes) -> Any:
    """A body's JSON; None if it is invalid, which vLLM reports."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _under(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _of_length(scope: Message, length: int) -> Message:
    headers = [(k, v) for k, v in scope["headers"] if k.lower() != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}
